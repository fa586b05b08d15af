"""Public facts of a run and of a round, as the records that are shown and written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from fedpdpo_secure.budget import BudgetPlan
from fedpdpo_secure.checkpoint import GlobalState
from fedpdpo_secure.config import Config
from fedpdpo_secure.config.masking import graph_parameters
from fedpdpo_secure.local.plan import LocalPlan
from fedpdpo_secure.masking_cost import predicted
from fedpdpo_secure.prepare import Prepared
from fedpdpo_secure.progress import RunInfo
from fedpdpo_secure.report import Drop, RoundReport
from fedpdpo_secure.round import RoundOutcome, vector_plan
from fedpdpo_secure.shares import distributed
from fedpdpo_secure.vector import ShareVectorPlan, VectorPlan
from privacy.accounting import ENGINE, Bound
from privacy.events import NonPrivate
from privacy.views import views
from secagg.cost import Rates

ADVERSARIES = {
    "semi-honest": "honest-but-curious server, other clients, readers of the adapter",
    "malicious-server": "a server that may lie about keys and survivors, other clients, readers of the adapter",
}
PUBLIC_DATA = "public data: budgets of several runs are not composed"


UNITS = {
    "pair": "one preference pair of the training set, add or remove one",
    "client": "one client's whole contribution, present or zero; the roster is public",
    "none": "none",
}
RELATIONS = {"pair": "add or remove one pair", "client": "zero out one client", "none": "none"}


def noise_kind(config: Config, budget: BudgetPlan) -> str:
    """`local` or `distributed` for cryptographic noise, `seeded` for tests, `none`."""
    if budget.noise_multiplier == 0:
        return "none"
    return config.privacy.noise if config.privacy.insecure_seed is None else "seeded"


def accountant_text(bound: Bound | None) -> str:
    """Which bound is reported, and whose code computed it (tested against dp-accounting and exact values)."""
    return f"{bound.accountant if bound else 'none'} ({ENGINE})"


def finite_epsilon(bound: Bound | None) -> float | None:
    """The bound's epsilon, None where it is infinite or there is none."""
    return None if bound is None or not math.isfinite(bound.epsilon) else bound.epsilon


def adversary(config: Config) -> str:
    """Against whom the claim of this run holds."""
    if config.method.name == "centralized":
        return "readers of the adapter; whoever pools the pairs sees them all and is trusted"
    if not distributed(config):
        return ADVERSARIES[config.secagg.mode]
    helpers = config.privacy.colluding
    if not config.secagg.enabled:
        who = f"up to {helpers} clients together, " if helpers else ""
        return f"{who}readers of the adapter who took no part; the server sees every client's vector and is trusted"
    server = ADVERSARIES[config.secagg.mode].split(", ")[0]
    return f"{server}{f' with up to {helpers} clients' if helpers else ''}, readers of the adapter who took no part"


def _noise_text(config: Config, budget: BudgetPlan) -> str:
    if config.method.name == "centralized":
        return "Noise by the trusted curator of the pooled pairs: central DP, no federation."
    if budget.shares is None:
        return "Noise at every client: it holds even if aggregation fails; the federation's is the largest client's."
    shares, own = budget.shares, own_epsilon(config, budget)
    alone = "no finite epsilon" if own is None or math.isinf(own) else f"epsilon {own:.4g}"
    return (
        f"As if a trusted server had added the noise, for at most {shares.lost} missing shares and {shares.colluding} "
        f"colluding clients; if aggregation fails, a client's own share alone gives {alone} over the planned "
        "rounds of this run."
    )


def noise_by(config: Config, budget: BudgetPlan) -> str:
    """Who adds the noise that is charged."""
    if budget.shares is None:
        return "the curator of the pooled pairs" if config.method.name == "centralized" else "every client"
    shares = budget.shares
    least = shares.clients - shares.lost - shares.colluding
    return f"the shares of at least {least} honest clients together (of {shares.clients})"


def own_epsilon(config: Config, budget: BudgetPlan) -> float | None:
    """After all rounds, against someone who sees one client's vector: its own share alone."""
    if budget.shares is None or isinstance(budget.event, NonPrivate):
        return None
    return views([budget.shares.event()] * config.federation.rounds, config.privacy.delta).own.epsilon


def claim_text(config: Config, budget: BudgetPlan, spent: Bound | None) -> str:
    """What may be said of the released adapter, in words: epsilon never without what it means."""
    privacy = config.privacy
    if isinstance(budget.event, NonPrivate) or spent is None or not math.isfinite(spent.epsilon):
        reason = budget.event.reason if isinstance(budget.event, NonPrivate) else "what the ledger holds is not private"
        return f"NOT PRIVATE: {reason}."
    unit = UNITS[privacy.unit]
    lines = [
        f"epsilon {spent.epsilon:.4g} at delta {privacy.delta:g} against: {adversary(config)}. Unit: {unit}. "
        f"{_noise_text(config, budget)} Accountant: {accountant_text(spent)}; "
        f"sampler: {_sampler(config)}; clip norm {privacy.clip_norm:g}; "
        f"noise multiplier {budget.noise_multiplier:.4g}.",
        "Chosen on private data and not charged: "
        + ("; ".join(privacy.unaccounted_releases) or "nothing declared")
        + ".",
    ]
    return "\n".join([*lines, *([f"{PUBLIC_DATA}."] if config.data.public else [])])


def make_info(
    config: Config, prepared: Prepared, budget: BudgetPlan, state: GlobalState, folder: Path, projected: Bound | None
) -> RunInfo:
    """What is known before the first round; `projected` is the worst ledger's bound after the last one."""
    federation, privacy, method = config.federation, config.privacy, prepared.task.method
    vectors = vector_plan(config, prepared.task, 1, prepared.clients, budget.shares)
    private = privacy.unit != "none"
    return RunInfo(
        task=config.task,
        method=method.name,
        personal=config.method.personal or "free",
        model=config.model_name_or_path,
        dataset=config.dataset_name,
        device=str(prepared.task.backbone.device),
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
        sampler=_sampler(config),
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
        epsilon_own=own_epsilon(config, budget),
        public_data=config.data.public,
        output_dir=str(folder),
    )


def _sampler(config: Config) -> str:
    if config.privacy.unit == "pair":
        return f"Poisson, rate {config.privacy.sample_rate:g}"
    return "every client in every round" if config.privacy.unit == "client" else "shuffled passes"


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
        return "no sum: nothing is sent" if config.method.name == "local" else "no sum: pairs are pooled"
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
    prepared: Prepared,
    outcome: RoundOutcome,
    plan: LocalPlan,
    *,
    before: Bound | None,
    spent: Bound | None,
    budget: BudgetPlan,
    released: Mapping[str, float],
    local: Mapping[str, float],
    rates: Rates | None,
    seconds: float,
) -> RoundReport:
    """The record of a finished round."""
    total = outcome.total
    costs = None
    if total is not None and rates is not None:
        costs = predicted(config, total.vector.size, outcome.state.round_index, rates)
    names = [client.name for client in prepared.clients]
    now, earlier = finite_epsilon(spent), finite_epsilon(before)
    left = None if now is None or math.isinf(budget.budget) else max(0.0, budget.budget - now)
    return RoundReport(
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
        released=released,
        local=local,
    )
