"""A whole run: prepare, rounds, finish. Stops before the round that would overspend; resumes between rounds."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

from fedpdpo_secure.artefacts import claim_folder, discard_unstarted, keep_base, save_adapter, write_config
from fedpdpo_secure.budget import BudgetPlan, ClientLedgers, check_delta, keeps_ledgers, plan_budget
from fedpdpo_secure.checkpoint import GlobalState, load_checkpoint, save_checkpoint
from fedpdpo_secure.config import Config, config_digest
from fedpdpo_secure.finish import finish
from fedpdpo_secure.identities import load_identities
from fedpdpo_secure.local.plan import local_plan
from fedpdpo_secure.masking_cost import machine_rates
from fedpdpo_secure.measurement import measure_round
from fedpdpo_secure.prepare import BUILTIN_MODEL, Prepared, prepare
from fedpdpo_secure.progress import Progress
from fedpdpo_secure.report import LOCAL, RunResult, append_report, read_reports, write_reports
from fedpdpo_secure.round import run_round
from fedpdpo_secure.run_info import claim_text, make_info, round_report
from fedpdpo_secure.sampling import sampler_verdicts
from fedpdpo_secure.shares import distributed
from privacy.accounting import Bound
from privacy.entropy import Entropy
from privacy.ledger import BudgetExceeded
from secagg.cost import Rates


@dataclass(frozen=True)
class Run:
    """What stays the same over the rounds of a run."""

    config: Config
    folder: Path
    digest: str
    prepared: Prepared
    budget: BudgetPlan
    ledgers: ClientLedgers | None
    entropy: Entropy
    base: str
    progress: Progress
    rates: Rates | None  # of this machine, for predicted costs; None where nothing is masked


def run_training(config: Config, *, resume: bool, progress: Progress) -> RunResult:
    """Run `config` to its end or to its budget and return what was made.

    Raises ConfigError, DataError or RunFolderError before anything is trained; NonFiniteError, secagg.SecAggError or
    KeyboardInterrupt from a round leave a valid folder that can be resumed. A spent budget is no error here:
    `RunResult.stopped` says so.
    """
    folder = claim_folder(config, resume=resume)
    try:
        load_identities(config)  # wrong files are refused before anything is spent
        early = None if distributed(config) else plan_budget(config)  # refused before the model is made
        prepared = prepare(config, folder, progress, fresh=not resume)
        budget = early or plan_budget(config, prepared.task.layout(1).size)
        check_delta(config, prepared.task.layout(1).size)
        run = _make_run(config, folder, prepared, budget, progress)
        write_config(folder, config)
    except BaseException:
        discard_unstarted(folder)
        raise
    state = _first_state(run, resume=resume)
    left = config.federation.rounds - state.round_index
    projected = run.ledgers.projected(left) if run.ledgers is not None else None
    progress.started(make_info(config, prepared, budget, state, folder, projected))
    if projected is not None and math.isfinite(budget.budget) and projected.epsilon > budget.budget:
        progress.note(
            f"the ledgers of {config.data.id} are not empty: all rounds would end at epsilon {projected.epsilon:.4g}, "
            f"above the budget of {budget.budget:g}, so the run will stop early. Noise is calibrated for an unused "
            "ledger; set privacy.noise_multiplier, or raise the budget with privacy.raise_budget_reason"
        )
    try:
        state, spent, stopped = _rounds(run, state)
    finally:
        if run.ledgers is not None:
            run.ledgers.export()
    verdicts = sampler_verdicts(prepared.task, prepared.clients, config)
    if verdicts["rejected"] and run.ledgers is not None:
        spent = run.ledgers.without_sampling()
        progress.note(
            f"{verdicts['rejected']} clients' samples were not Poisson (privacy.attestation): epsilon is reported "
            f"without amplification, {spent.epsilon:.4g}"
        )
    return finish(
        run.prepared, run.folder, state, budget=budget, spent=spent, stopped=stopped, base=run.base,
        verdicts=verdicts, progress=progress,
    )  # fmt: skip


def _rounds(run: Run, state: GlobalState) -> tuple[GlobalState, Bound | None, str | None]:
    """All rounds that are left: (last state, spent, why the run stopped early)."""
    spent = run.ledgers.spent() if run.ledgers is not None else None
    while state.round_index < run.config.federation.rounds:
        try:
            state, spent = _one_round(run, state, spent)
        except BudgetExceeded as error:
            return state, spent, str(error)
    return state, spent, None


def _make_run(config: Config, folder: Path, prepared: Prepared, budget: BudgetPlan, progress: Progress) -> Run:
    ledgers = None
    if keeps_ledgers(config, prepared.task.method):
        ledgers = ClientLedgers(config, budget, folder, prepared.federation)
    base = prepared.base_path
    if config.model_name_or_path == BUILTIN_MODEL:
        base = keep_base(folder, base)
    rates = machine_rates() if config.secagg.enabled and prepared.task.method.aggregated else None
    seed = config.privacy.insecure_seed
    entropy = Entropy.os() if seed is None else Entropy.seeded(seed)
    return Run(config, folder, config_digest(config), prepared, budget, ledgers, entropy, base, progress, rates)


def _first_state(run: Run, *, resume: bool) -> GlobalState:
    """The checkpoint to go on from, with everything of a round that was cut removed; or the public initial state."""
    state = GlobalState(0, run.prepared.initial)
    if resume:
        state = load_checkpoint(run.folder, run.digest) or state
    for client in run.prepared.clients:
        run.prepared.task.states.discard_after(client.name, state.round_index)
    write_reports(run.folder, [r for r in read_reports(run.folder) if r.round_index <= state.round_index])
    if not resume:
        save_checkpoint(run.folder, state, run.digest)
    _save_adapter(run, state, run.ledgers.spent() if run.ledgers is not None else None)
    return state


def _save_adapter(run: Run, state: GlobalState, spent: Bound | None) -> None:
    claim = claim_text(run.config, run.budget, spent)
    save_adapter(run.folder, run.prepared.task, state, base=run.base, claim=claim)


def _one_round(run: Run, state: GlobalState, before: Bound | None) -> tuple[GlobalState, Bound | None]:
    """Train, sum, measure, record one round; on disk in an order from which a crash never under-reports."""
    started = time.perf_counter()
    round_index = state.round_index + 1
    plan = local_plan(run.config, round_index, run.budget.noise_multiplier, run.budget.shares)
    outcome = run_round(
        run.prepared.task,
        state,
        run.prepared.clients,
        plan,
        run.ledgers,
        planned_event=run.budget.event if run.ledgers is not None else None,
        entropy=run.entropy,
        done=lambda done, total, name: run.progress.client(round_index, done, total, name),
        transcripts=run.folder / "transcript" if run.config.secagg.transcript else None,
    )
    if outcome.clipped:
        run.progress.note(f"round {round_index}: {outcome.clipped} coordinates beyond secagg.value_range ({LOCAL})")
    if outcome.total is not None and outcome.total.misfits:
        run.progress.note(f"round {round_index}: shares that did not fit, (holder, owner): {outcome.total.misfits}")
    spent = run.ledgers.spent() if run.ledgers is not None else None
    released, local = measure_round(run.prepared, outcome)
    released = {**released, **outcome.released}
    report = round_report(
        run.config, run.prepared, outcome, plan,
        before=before, spent=spent, budget=run.budget, released=released, local=local, rates=run.rates,
        seconds=time.perf_counter() - started,
    )  # fmt: skip
    append_report(run.folder, report)
    _save_adapter(run, outcome.state, spent)
    save_checkpoint(run.folder, outcome.state, run.digest)
    for client in run.prepared.clients:
        run.prepared.task.states.prune(client.name, round_index)
    run.progress.round(report)
    return outcome.state, spent
