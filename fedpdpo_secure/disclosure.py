"""What a run discloses about its privacy: the plan before its first round, the statement at every end of it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from fedpdpo_secure.checkpoint import CheckpointError, GlobalState
from fedpdpo_secure.histories import charged, distinct
from fedpdpo_secure.published_plan import PublishedPlan, check_committed, publish, published
from fedpdpo_secure.report import read_reports
from fedpdpo_secure.run_context import Run
from fedpdpo_secure.run_info import make_info
from fedpdpo_secure.sampling import sampler_verdicts
from fedpdpo_secure.statement import RunFacts, State
from privacy.errors import BudgetExceeded
from privacy.events import NonPrivate


def announce(run: Run, state: GlobalState) -> None:
    """Tell the listener what is planned, and where the ledgers would end."""
    config, budget = run.config, run.budget
    left = config.federation.rounds - state.round_index
    projected = run.ledgers.projected(left) if run.ledgers is not None else None
    histories = distinct(charged(run.records()))
    run.progress.started(
        make_info(
            config, run.prepared, budget, state, run.folder, projected, histories=histories,
            plan_digest=run.plan.digest, verdicts=run.known_verdicts,
        )
    )  # fmt: skip
    if projected is not None and math.isfinite(budget.budget) and projected.epsilon > budget.budget:
        run.progress.note(
            f"the ledgers of {config.data.id} are not empty: all rounds would end at epsilon {projected.epsilon:.4g}, "
            f"above the budget of {budget.budget:g}, so the run will stop early. Noise is calibrated for an unused "
            "ledger; set privacy.noise_multiplier, or raise the budget with privacy.raise_budget_reason"
        )


def check_first_round(run: Run) -> None:
    """Refuse a run whose first round the ledgers would not allow, before anything is made. Raises BudgetExceeded."""
    if run.ledgers is None or not math.isfinite(run.budget.budget) or isinstance(run.budget.event, NonPrivate):
        return  # where nothing is promised the ledgers only record
    first = run.ledgers.projected(1)
    if first.epsilon > run.budget.budget:
        raise BudgetExceeded(
            f"the ledgers of {run.config.data.id} leave no room for one round: epsilon would be {first.epsilon:.4g}, "
            f"above the budget of {run.budget.budget:g}; nothing was made"
        )


def publish_plan(run: Run, state: GlobalState) -> PublishedPlan:
    """The plan of the run, published before its first round; of a resumed one, with what was done so far compared.

    Raises RunFolderError or AdaptiveParameters where the two differ, before anything more is charged.
    """
    rounds = run.config.federation.rounds
    plan = published(run.folder, run.budget, rounds)
    if plan is None and state.round_index:
        raise CheckpointError(f"--resume {run.folder}: has finished rounds, but no plan was published before them")
    if plan is None:
        return publish(run.folder, run.budget, rounds, run.records())
    check_committed(plan, run.records(), run_name=run.folder.name, config_digest=run.digest)
    return plan


def verdicts_of(run: Run) -> Mapping[str, int]:
    """Clients by their samplers' verdict; one that was rejected before a resume stays so."""
    found = sampler_verdicts(run.prepared.task, run.prepared.clients, run.config)
    return {**found, "rejected": max(found["rejected"], run.rejected)} if run.rejected else found


def run_facts(
    run: Run, state: State, *, verdicts: Mapping[str, int] | None = None, stopped: str | None = None
) -> RunFacts:
    return RunFacts(
        config=run.config,
        budget=run.budget,
        folder=run.folder,
        records=run.records(),
        reports=read_reports(run.folder),
        plan_digest=run.plan.digest,
        state=state,
        stopped=stopped,
        verdicts=verdicts,
        logs_from=run.first_round,
    )
