"""What the round, the run and the reports need of a task: FedPDPO and PluralLLM are two implementations.

`Task` is what a round trains and sums; `PreparedTask` is a task with its data, ready for its first round, and knows how
it is measured and kept.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from fedpdpo_secure.config import Config
from fedpdpo_secure.local.plan import LocalPlan, LocalUpdate
from fedpdpo_secure.local.state import StateFolder
from fedpdpo_secure.methods import Method
from fedpdpo_secure.model.layout import ParamLayout
from fedpdpo_secure.owners import Owners
from fedpdpo_secure.progress import Progress
from privacy.entropy import Entropy
from privacy.sample_log import SampleLog

if TYPE_CHECKING:
    from fedpdpo_secure.checkpoint import GlobalState
    from fedpdpo_secure.round import RoundOutcome
    from fedpdpo_secure.task import Client


class Task(Protocol):
    """One model in memory, written to and read as one vector; clients' own states are on disk."""

    config: Config
    method: Method
    states: StateFolder
    sample_logs: MutableMapping[str, SampleLog]  # of each client's private samples, for its own attestation

    def layout(self, round_index: int) -> ParamLayout:
        """Names and shapes of the round's update vector."""

    def noised_size(self) -> int:
        """Most coordinates that a private step noises: a public number of the model's shape."""

    def weight_bound(self, clients: Sequence[Client]) -> int:
        """Public bound on a client's weight in a run without DP."""

    def with_update(
        self, shared: NDArray[np.float64], round_index: int, update: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """float64[F]: `shared` plus `update` on the coordinates that this round trains."""

    def train_locally(
        self, shared: NDArray[np.float64], client: Client, plan: LocalPlan, entropy: Entropy
    ) -> LocalUpdate:
        """Train `client` from `shared`. Raises NonFiniteError naming client, round and step."""


@dataclass(frozen=True, slots=True)
class FinalMeasures:
    """What is measured at the end; `served` and `shared` are simulation means over clients, local."""

    served: Mapping[str, float]
    shared: Mapping[str, float]
    untrained: Mapping[str, float]
    released: Mapping[str, float]
    served_as: str  # what `served` is of, in words


class PreparedTask(Protocol):
    """A task with its data."""

    @property
    def task(self) -> Task: ...

    @property
    def owners(self) -> Owners: ...

    @property
    def clients(self) -> tuple[Client, ...]:
        """Who trains: the federation's clients, or one that pools them."""

    @property
    def initial(self) -> NDArray[np.float64]:
        """[F], the shared part's public initial value."""

    @property
    def device(self) -> str: ...

    def keep_base(self, folder: Path) -> str:
        """Keep beside the result what it needs to load, and return the path or id it loads on."""

    def measure_round(self, outcome: RoundOutcome) -> tuple[Mapping[str, float], Mapping[str, float]]:
        """(released, local) metrics after a round."""

    def save_shared(self, folder: Path, state: GlobalState, *, base: str, claim: str) -> Path:
        """Write the shared part for its users, with the claim on its card."""

    def final(self, state: GlobalState, progress: Progress) -> FinalMeasures:
        """Serving copies where asked, and the last measurements."""


def prepare_task(config: Config, folder: Path, progress: Progress, *, fresh: bool) -> PreparedTask:
    """Load and check everything that `config` names, for a run in `folder`; raises ConfigError or DataError.

    `fresh` forgets what an earlier run that never began left there.
    """
    if config.task == "pluralllm":
        from fedpdpo_secure.pluralllm.prepare import prepare_plural

        return prepare_plural(config, folder, progress)
    from fedpdpo_secure.dpo_run import DpoRun
    from fedpdpo_secure.prepare import prepare

    return DpoRun(prepare(config, folder, progress, fresh=fresh))
