"""What a run tells whoever watches it: one Protocol, one frozen record for the start of a run.

A run calls these methods and never prints; the command line draws them, tests record them. Nothing here may
change a run: implementations must not raise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from fedpdpo_secure.report import PRIVATE_NOISE, RoundReport


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """The claim and the size of a run, known before its first round; every value is public."""

    task: str
    method: str
    personal: str  # frozen, joint or free
    model: str
    dataset: str
    device: str
    clients: int
    rounds: int  # planned in all, those done before a resume included
    first_round: int  # 1, or the next round of a resumed run
    parameters: int  # shared coordinates, D
    unit: str  # pair, client or none
    noise: str  # local, distributed, seeded or none
    delta: float | None
    budget: float | None  # epsilon that may be spent; None: no finite budget
    epsilon_projected: float | None  # after all planned rounds; None: infinite
    accountant: str  # e.g. "pld (privacy.accounting 2)"
    sampler: str  # e.g. "Poisson, rate 0.5"
    noise_multiplier: float
    clip_norm: float
    sample_rate: float
    expected_batch: float | None
    local_steps: int | None
    secagg: str  # one line: off, or members, threshold and the proof that the sum cannot wrap
    upload_bytes: int  # one client, one round
    adversary: str = "honest-but-curious server, other clients, readers of the adapter"
    relation: str = "add or remove one pair"
    noise_by: str = "every client"
    epsilon_own: float | None = None  # distributed noise: after all rounds, if aggregation fails
    moves: int = 1  # clip norms by which one unit can move a client's sum
    public_data: bool = False
    output_dir: str = ""
    plan_digest: str = ""  # of the plan published in plan.json before the first round

    @property
    def private(self) -> bool:
        """Whether a finite epsilon may be printed for this run."""
        return self.unit != "none" and self.noise in PRIVATE_NOISE and self.epsilon_projected is not None


class Progress(Protocol):
    """Listener of one run; methods are called in the order of the run, from one thread."""

    def warm_start(self, step: int, total: int, loss: float) -> None:
        """The built-in model has done `step` of `total` steps on public text."""

    def started(self, info: RunInfo) -> None:
        """Data, model and ledger are ready; the first round follows."""

    def client(self, round_index: int, done: int, total: int, name: str) -> None:
        """`name` has finished its local work, as the `done`-th of `total` in this round."""

    def round(self, report: RoundReport) -> None:
        """A round is finished, its ledger records are committed and its report is on disk."""

    def serving(self, done: int, total: int) -> None:
        """`done` of `total` clients have tuned and measured their serving copy."""

    def note(self, text: str) -> None:
        """One line worth saying, such as a warning or a resumed round."""


class SilentProgress:
    """A listener that ignores everything."""

    def warm_start(self, step: int, total: int, loss: float) -> None:
        return None

    def started(self, info: RunInfo) -> None:
        return None

    def client(self, round_index: int, done: int, total: int, name: str) -> None:
        return None

    def round(self, report: RoundReport) -> None:
        return None

    def serving(self, done: int, total: int) -> None:
        return None

    def note(self, text: str) -> None:
        return None
