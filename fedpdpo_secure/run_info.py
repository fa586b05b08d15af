"""Public facts of a run and of a round, as the records that are shown and written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from fedpdpo_secure.budget import BudgetPlan
from fedpdpo_secure.checkpoint import GlobalState
from fedpdpo_secure.claims import (
    accountant_text,
    adversary,
    finite_epsilon,
    noise_by,
    noise_kind,
    own_epsilon,
    sampler_text,
)
from fedpdpo_secure.config import Config
from fedpdpo_secure.config.masking import graph_parameters
from fedpdpo_secure.config.units import moves
from fedpdpo_secure.local.plan import LocalPlan
from fedpdpo_secure.masking_cost import predicted
from fedpdpo_secure.progress import RunInfo
from fedpdpo_secure.report import RELATIONS, Drop, RoundReport
from fedpdpo_secure.round import RoundOutcome, vector_plan
from fedpdpo_secure.tasks import PreparedTask
from fedpdpo_secure.vector import ShareVectorPlan, VectorPlan
from privacy.accounting import Bound
from privacy.events import Event
from privacy.views import Views
from secagg.cost import Rates
from secagg.transcript import read_transcript, transcript_path
from secagg.transcript_json import line_hash


def make_info(
    config: Config,
    prepared: PreparedTask,
    budget: BudgetPlan,
    state: GlobalState,
    folder: Path,
    projected: Bound | None,
    *,
    histories: tuple[tuple[Event, ...], ...] = ((),),
    plan_digest: str = "",
    verdicts: Mapping[str, int] | None = None,
) -> RunInfo:
    """What is known before the first round.

    `projected` is the worst ledger's bound after the last one, `histories` what ledgers hold so far, `verdicts` what
    is known of the samplers.
    """
    federation, privacy, method = config.federation, config.privacy, prepared.task.method
    vectors = vector_plan(config, prepared.task, 1, prepared.clients, budget.shares)
    private = privacy.unit != "none"
    return RunInfo(
        task=config.task,
        method=method.name,
        personal=config.method.personal or "free",
        model=config.model_name_or_path if config.task == "fedpdpo" else "preference predictor",
        dataset=config.dataset_name,
        device=prepared.device,
        clients=federation.clients,
        rounds=federation.rounds,
        first_round=state.round_index + 1,
        parameters=vectors.size,
        unit=privacy.unit,
        noise=noise_kind(config, budget),
        delta=budget.delta if private else None,
        budget=None if math.isinf(budget.budget) else budget.budget,
        epsilon_projected=finite_epsilon(projected),
        accountant=accountant_text(projected),
        sampler=sampler_text(config, verdicts),
        noise_multiplier=budget.noise_multiplier,
        clip_norm=privacy.clip_norm,
        sample_rate=privacy.sample_rate,
        expected_batch=privacy.expected_batch,
        local_steps=federation.local_steps,
        secagg=_secagg_line(config, _ring_line(vectors), summed=method.aggregated),
        upload_bytes=vectors.dim * config.secagg.bits // 8 if method.aggregated else 0,
        adversary=adversary(config),
        relation=RELATIONS[privacy.unit],
        noise_by=noise_by(config, budget),
        epsilon_own=own_epsilon(config, budget, histories, federation.rounds - state.round_index),
        plan_digest=plan_digest,
        moves=moves(config),
        public_data=config.data.public,
        output_dir=str(folder),
    )


def _ring_line(vectors: VectorPlan | ShareVectorPlan) -> str:
    if isinstance(vectors, VectorPlan):
        return vectors.encoding.proof()
    shares = vectors.shares
    return (
        f"clip norm = {shares.levels} grid units, {shares.clients} shares of standard deviation "
        f"{math.sqrt(shares.share):.4g}, chance of a wrap below 2^-40 a round"
    )


def _secagg_line(config: Config, proof: str, *, summed: bool) -> str:
    if not summed:
        return "no sum: nothing is sent" if config.method.name == "local" else "no sum: all data are pooled"
    if not config.secagg.enabled:
        return f"OFF: the server sees every client's update; {proof}"
    return f"on, {config.secagg.mode}, {graph_line(config)}; {proof}"


def graph_line(config: Config) -> str:
    """Who holds whose shares, in words."""
    graph = graph_parameters(config)
    if graph.complete:
        return f"threshold {config.secagg.threshold} of {config.federation.clients}"
    return f"{graph.neighbors} random neighbours of {config.federation.clients - 1}, threshold {graph.threshold}"


def round_report(
    config: Config,
    prepared: PreparedTask,
    outcome: RoundOutcome,
    plan: LocalPlan,
    *,
    before: Bound | None,
    spent: Bound | None,
    seen: Views | None = None,
    budget: BudgetPlan,
    released: Mapping[str, float],
    local: Mapping[str, float],
    rates: Rates | None,
    seconds: float,
    transcript_head: str | None = None,
) -> RoundReport:
    """The record of a finished round; `seen` are the ledgers' bounds by adversary."""
    total = outcome.total
    costs = None
    if total is not None and rates is not None:
        costs = predicted(config, total.vector.size, outcome.state.round_index, rates)
    names = [client.name for client in prepared.clients]
    now, earlier = finite_epsilon(spent), finite_epsilon(before)
    left = None if now is None or math.isinf(budget.budget) else max(0.0, budget.budget - now)
    return RoundReport(
        task=config.task,
        round_index=outcome.state.round_index,
        clients=len(names),
        survivors=len(total.survivors) if total is not None else len(names),
        dropped=tuple(Drop(names[index], stage.value) for index, stage in total.dropped) if total is not None else (),
        recovered=total.recovered_mask_keys + total.recovered_self_masks if total is not None else 0,
        steps=plan.steps or 0,
        epsilon_round=None if now is None else now - (earlier or 0.0),
        epsilon=now,
        epsilon_pld=spent.pld if spent is not None and now is not None else None,
        epsilon_rdp=spent.rdp if spent is not None and now is not None else None,
        epsilon_left=left,
        epsilon_own=_column(config, None if seen is None else seen.own),
        epsilon_sum=_column(config, None if seen is None else seen.total),
        delta=budget.delta if config.privacy.unit != "none" else None,
        noise_multiplier=budget.noise_multiplier,
        sample_rate=config.privacy.sample_rate,
        clip_norm=config.privacy.clip_norm,
        unit=config.privacy.unit,
        noise=noise_kind(config, budget),
        upload_bytes=sum(total.upload_bytes.values()) if total is not None else 0,
        secagg_client_seconds=sum(total.client_seconds.values()) if total is not None else 0.0,
        secagg_server_seconds=total.server_seconds if total is not None else 0.0,
        secagg_predicted_client_seconds=len(total.survivors) * costs.client_seconds if total and costs else 0.0,
        secagg_predicted_server_seconds=costs.server_seconds if costs else 0.0,
        seconds=seconds,
        transcript_head=transcript_head,
        released=released,
        local=local,
    )


def _column(config: Config, bound: Bound | None) -> float | None:
    """A column by adversary; pooled pairs have neither a message of their own nor a sum."""
    return None if config.method.name == "centralized" else finite_epsilon(bound)


def transcript_head(config: Config, folder: Path, outcome: RoundOutcome) -> str | None:
    """The hash of the last line of the round's transcript, which stands for all of it; None where none is kept."""
    if outcome.total is None or not (config.secagg.enabled and config.secagg.transcript):
        return None
    return line_hash(read_transcript(transcript_path(folder / "transcript", outcome.state.round_index))[-1])
