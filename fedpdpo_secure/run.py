"""A whole run: prepare, rounds, finish. Stops before the round that would overspend; resumes between rounds."""

from __future__ import annotations

import time
from dataclasses import replace

from fedpdpo_secure.artefacts import claim_folder, discard_unstarted, write_config
from fedpdpo_secure.budget import check_delta, needs_dim, plan_budget
from fedpdpo_secure.checkpoint import GlobalState, load_checkpoint, save_checkpoint
from fedpdpo_secure.claims import claim_text
from fedpdpo_secure.config import Config
from fedpdpo_secure.disclosure import announce, check_first_round, publish_plan, run_facts, verdicts_of
from fedpdpo_secure.finish import finish
from fedpdpo_secure.histories import charged, columns
from fedpdpo_secure.identities import load_identities
from fedpdpo_secure.local.plan import local_plan
from fedpdpo_secure.progress import Progress
from fedpdpo_secure.published_plan import (
    check_committed,
    check_next,
    planned_event,
)
from fedpdpo_secure.report import LOCAL, RunResult, append_report, read_reports, write_reports
from fedpdpo_secure.round import run_round
from fedpdpo_secure.run_context import Run, make_run
from fedpdpo_secure.run_info import round_report, transcript_head
from fedpdpo_secure.statement import State, ledger_views, rejected_before, write_statement
from fedpdpo_secure.tasks import prepare_task
from privacy.accounting import Bound
from privacy.ledger import BudgetExceeded
from privacy.views import Views


def run_training(config: Config, *, resume: bool, progress: Progress) -> RunResult:
    """Run `config` to its end or to its budget and return what was made.

    Raises ConfigError, DataError or RunFolderError before anything is trained; NonFiniteError, secagg.SecAggError or
    KeyboardInterrupt from a round leave a valid folder that can be resumed. A spent budget is no error here:
    `RunResult.stopped` says so.
    """
    folder = claim_folder(config, resume=resume)
    try:
        load_identities(config)  # wrong files are refused before anything is spent
        early = None if needs_dim(config) else plan_budget(config)  # refused before the model is made
        prepared = prepare_task(config, folder, progress, fresh=not resume)
        budget = early or plan_budget(config, prepared.task.noised_size())
        check_delta(config, prepared.task.noised_size())
        run = make_run(config, folder, prepared, budget, progress)
        if not resume:
            check_first_round(run)
        write_config(folder, config)
    except BaseException:
        discard_unstarted(folder)
        raise
    state = _first_state(run, resume=resume)
    run = replace(
        run, plan=publish_plan(run, state), first_round=state.round_index + 1, rejected=rejected_before(folder)
    )
    announce(run, state)
    ended: State = "interrupted"
    try:
        state, spent, stopped = _rounds(run, state)
        ended = "finished" if stopped is None else "stopped"
    finally:
        if run.ledgers is not None:
            run.ledgers.export()
        if ended == "interrupted":  # whatever ended it; what was reserved is charged and stated
            write_statement(run_facts(run, ended, verdicts=verdicts_of(run)))
    facts = run_facts(run, ended, verdicts=verdicts_of(run), stopped=stopped)
    seen = ledger_views(facts)
    if facts.rejected and run.ledgers is not None:
        run.ledgers.reject_samples()  # later runs on these ledgers must know
        run.ledgers.export()
        spent = run.ledgers.without_sampling()
        progress.note(
            f"{(facts.verdicts or {})['rejected']} clients' samples were not Poisson (privacy.attestation): epsilon is "
            f"reported without amplification, {spent.epsilon:.4g}"
        )
    return finish(
        run.prepared, run.folder, state, budget=budget, spent=spent, stopped=stopped, base=run.base,
        verdicts=facts.verdicts or {}, progress=progress, own=None if seen is None else seen.own,
        statement=write_statement(facts), plan_digest=facts.plan_digest,
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
    _save_shared(run, state, run.ledgers.spent() if run.ledgers is not None else None, run.views())
    return state


def _save_shared(run: Run, state: GlobalState, spent: Bound | None, seen: Views | None) -> None:
    own = None if seen is None else seen.own
    claim = claim_text(run.config, run.budget, spent, own=own, verdicts=run.known_verdicts)
    run.prepared.save_shared(run.folder, state, base=run.base, claim=claim)


def _one_round(run: Run, state: GlobalState, before: Bound | None) -> tuple[GlobalState, Bound | None]:
    """Train, sum, measure, record one round; on disk in an order from which a crash never under-reports."""
    started = time.perf_counter()
    round_index = state.round_index + 1
    plan = local_plan(
        run.config, round_index, run.budget.noise_multiplier, run.budget.shares, integer=run.budget.integer
    )
    check_next(run.plan, round_index, planned_event(plan, run.budget))
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
        run.progress.note(
            f"round {round_index}: {outcome.clipped} coordinates beyond secagg.value_range ({LOCAL}) were cut to it; "
            "raise it, or lower the learning rate"
        )
    if outcome.total is not None and outcome.total.misfits:
        run.progress.note(f"round {round_index}: shares that did not fit, (holder, owner): {outcome.total.misfits}")
    spent, seen = run.ledgers.spent() if run.ledgers is not None else None, None
    if run.ledgers is not None:
        found = run.records()
        check_committed(run.plan, found, run_name=run.folder.name, config_digest=run.digest)
        seen = columns(charged(found), run.budget.delta)
    released, local = run.prepared.measure_round(outcome)
    released = {**released, **outcome.released}
    report = round_report(
        run.config, run.prepared, outcome, plan,
        before=before, spent=spent, seen=seen, budget=run.budget, released=released, local=local, rates=run.rates,
        seconds=time.perf_counter() - started, transcript_head=transcript_head(run.config, run.folder, outcome),
    )  # fmt: skip
    append_report(run.folder, report)
    _save_shared(run, outcome.state, spent, seen)
    save_checkpoint(run.folder, outcome.state, run.digest)
    for client in run.prepared.clients:
        run.prepared.task.states.prune(client.name, round_index)
    write_statement(run_facts(run, "running", verdicts=run.known_verdicts))
    run.progress.round(report)
    return outcome.state, spent
