"""What a run may claim, in words: against whom, of which unit, by whose noise. Epsilon never without what it means."""

from __future__ import annotations

import math
from collections.abc import Mapping

from fedpdpo_secure.budget import BudgetPlan
from fedpdpo_secure.config import Config
from fedpdpo_secure.config.units import sampled
from fedpdpo_secure.shares import distributed
from privacy.accounting import ENGINE, Bound
from privacy.events import Event, NonPrivate
from privacy.views import views

ADVERSARIES = {
    "semi-honest": "honest-but-curious server, other clients, readers of the adapter",
    "malicious-server": "a server that may lie about keys and survivors, other clients, readers of the adapter",
}
PUBLIC_DATA = "public data: budgets of several runs are not composed"
REJECTED = "REJECTED by attestation; reported without amplification"
UNITS = {
    "pair": "one preference pair of the training set, add or remove one",
    "client": "one client's whole contribution, present or zero; the roster is public",
    "question": "one group's answers to one question, add or remove them",
    "none": "none",
}
_PLURAL_WORDS = (("pairs", "answers"), ("adapter", "predictor"))


def fitted(config: Config, text: str) -> str:
    """`text`, which is about pairs and an adapter, in the words of the task."""
    if config.task == "fedpdpo":
        return text
    for word, own in _PLURAL_WORDS:
        text = text.replace(word, own)
    return text


def noise_kind(config: Config, budget: BudgetPlan) -> str:
    """`local`, `distributed` or `central` for cryptographic noise, `seeded` for tests, `none`."""
    if budget.noise_multiplier == 0:
        return "none"
    if config.privacy.insecure_seed is not None:
        return "seeded"
    return "central" if config.method.name == "centralized" else config.privacy.noise


def accountant_text(bound: Bound | None) -> str:
    """Which bound is reported, and whose code computed it (tested against dp-accounting and exact values)."""
    return f"{bound.accountant if bound else 'none'} ({ENGINE})"


def finite_epsilon(bound: Bound | None) -> float | None:
    """The bound's epsilon, None where it is infinite or there is none."""
    return None if bound is None or not math.isfinite(bound.epsilon) else bound.epsilon


def sampler_text(config: Config, verdicts: Mapping[str, int] | None = None) -> str:
    """The sampling that the bound assumes; `verdicts` are the attestation's, clients by verdict."""
    if sampled(config):
        if verdicts is not None and verdicts.get("rejected", 0):
            return REJECTED
        return f"Poisson, rate {config.privacy.sample_rate:g}"
    return "every client in every round" if config.privacy.unit == "client" else "shuffled passes"


def adversary(config: Config) -> str:
    """Against whom the claim of this run holds."""
    return fitted(config, _adversary(config))


def _adversary(config: Config) -> str:
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


def noise_by(config: Config, budget: BudgetPlan) -> str:
    """Who adds the noise that is charged."""
    if budget.shares is None:
        return "the curator of the pooled pairs" if config.method.name == "centralized" else "every client"
    shares = budget.shares
    least = shares.clients - shares.lost - shares.colluding
    return f"the shares of at least {least} honest clients together (of {shares.clients})"


def own_epsilon(
    config: Config, budget: BudgetPlan, histories: tuple[tuple[Event, ...], ...] = ((),), rounds: int | None = None
) -> float | None:
    """After `rounds` more rounds (None: all planned) on the worst of `histories`, against someone who sees one client's
    vectors: its own share alone. None where noise is not shared or nothing is promised."""
    if budget.shares is None or isinstance(budget.event, NonPrivate):
        return None
    left = config.federation.rounds if rounds is None else rounds
    return max(views([*history, *[budget.event] * left], budget.delta).own.epsilon for history in histories)


def why_not_private(budget: BudgetPlan, spent: Bound | None) -> str | None:
    """Why nothing may be claimed; None where a finite epsilon holds."""
    if isinstance(budget.event, NonPrivate):
        return budget.event.reason
    if spent is None or not math.isfinite(spent.epsilon):
        return "what the ledger holds is not private"
    return None


def claim_text(
    config: Config,
    budget: BudgetPlan,
    spent: Bound | None,
    *,
    own: Bound | None = None,
    verdicts: Mapping[str, int] | None = None,
) -> str:
    """What may be said of the released adapter, in words.

    `spent` and `own` are the worst ledger's bounds over its whole history, against the claim's adversary and against
    someone who sees one client's own vectors; `verdicts` are the samplers'.
    """
    privacy = config.privacy
    reason = why_not_private(budget, spent)
    if reason is not None or spent is None:
        return f"NOT PRIVATE: {reason}."
    lines = [
        f"epsilon {spent.epsilon:.4g} at delta {privacy.delta:g} against: {adversary(config)}. "
        f"Unit: {UNITS[privacy.unit]}. {_noise_text(config, budget, own)} Accountant: {accountant_text(spent)}; "
        f"sampler: {sampler_text(config, verdicts)}; clip norm {privacy.clip_norm:g}; "
        f"noise multiplier {budget.noise_multiplier:.4g}.",
        "Chosen on private data and not charged: "
        + ("; ".join(privacy.unaccounted_releases) or "nothing declared")
        + ".",
    ]
    return "\n".join([*lines, *([f"{PUBLIC_DATA}."] if config.data.public else [])])


def _noise_text(config: Config, budget: BudgetPlan, own: Bound | None) -> str:
    if config.method.name == "centralized":
        return "Noise by the trusted curator of the pooled pairs: central DP, no federation."
    if budget.shares is None:
        return "Noise at every client: it holds even if aggregation fails; the federation's is the largest client's."
    shares = budget.shares
    alone = "no finite epsilon" if finite_epsilon(own) is None or own is None else f"epsilon {own.epsilon:.4g}"
    return (
        f"As if a trusted server had added the noise, for at most {shares.lost} missing shares and {shares.colluding} "
        f"colluding clients; if aggregation fails, a client's own share alone gives {alone} over the whole history "
        "of its ledger."
    )
