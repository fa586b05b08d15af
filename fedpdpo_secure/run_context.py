"""What stays the same over the rounds of a run, and what it keeps: ledgers, base model, entropy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedpdpo_secure.budget import BudgetPlan, ClientLedgers, keeps_ledgers
from fedpdpo_secure.config import Config, config_digest
from fedpdpo_secure.histories import charged, columns, read_ledgers
from fedpdpo_secure.masking_cost import machine_rates
from fedpdpo_secure.progress import Progress
from fedpdpo_secure.published_plan import NO_PLAN, PublishedPlan
from fedpdpo_secure.tasks import PreparedTask
from privacy.entropy import Entropy
from privacy.ledger_record import Record
from privacy.views import Views
from secagg.cost import Rates


@dataclass(frozen=True)
class Run:
    """What stays the same over the rounds of a run."""

    config: Config
    folder: Path
    digest: str
    prepared: PreparedTask
    budget: BudgetPlan
    ledgers: ClientLedgers | None
    entropy: Entropy
    base: str
    progress: Progress
    rates: Rates | None  # of this machine, for predicted costs; None where nothing is masked
    plan: PublishedPlan = NO_PLAN  # published when the state to begin from is known
    first_round: int = 1  # of this process
    rejected: int = 0  # clients whose sampler was rejected before a resume: that is not forgotten

    def records(self) -> dict[str, tuple[Record, ...]]:
        """Every client's ledger as it now is; empty where none is kept."""
        if self.ledgers is None:
            return {}
        return read_ledgers(self.config, self.folder, self.prepared.owners.clients)

    @property
    def known_verdicts(self) -> dict[str, int] | None:
        """What is known of the samplers before this process has tested them."""
        return {"rejected": self.rejected} if self.rejected else None

    def views(self) -> Views | None:
        """The worst ledger's bounds by adversary, over its whole history; None where none is kept."""
        return None if self.ledgers is None else columns(charged(self.records()), self.budget.delta)


def make_run(config: Config, folder: Path, prepared: PreparedTask, budget: BudgetPlan, progress: Progress) -> Run:
    """The run in `folder`, with its ledgers opened once. Raises ConfigError or LedgerError where they cannot serve."""
    ledgers = None
    if keeps_ledgers(config, prepared.task.method):
        ledgers = ClientLedgers(config, budget, folder, prepared.owners)
    base = prepared.keep_base(folder)
    rates = machine_rates() if config.secagg.enabled and prepared.task.method.aggregated else None
    seed = config.privacy.insecure_seed
    entropy = Entropy.os() if seed is None else Entropy.seeded(seed)
    return Run(config, folder, config_digest(config), prepared, budget, ledgers, entropy, base, progress, rates)
