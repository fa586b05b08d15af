"""The numbers of a privacy statement: what the ledgers' events give, by delta, by adversary, by person; what was done.

Every epsilon is the worst client's over the whole history of its ledger. An infinite one is None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from scipy.optimize import brentq

from fedpdpo_secure.budget import BudgetPlan
from fedpdpo_secure.claims import REJECTED, finite_epsilon, sampler_text
from fedpdpo_secure.config import Config
from fedpdpo_secure.config.units import declared_size, sampled
from fedpdpo_secure.histories import Histories
from fedpdpo_secure.report import RoundReport, finite
from privacy.accounting import ENGINE, Bound, epsilon, worst
from privacy.bounds import gaussian_epsilon
from privacy.events import Event
from privacy.units import person, replaced
from privacy.views import Views

CURVE = (100.0, 10.0, 1.0, 0.1, 0.01)  # times the delta of the claim
PERSONS = (2, 5, 10)  # pairs of one person, or questions that one person answered
_LARGEST_MU = 1000.0


def spending(config: Config, budget: BudgetPlan, spent: Bound | None) -> dict[str, Any]:
    """Epsilon and delta spent, the budget, and delta against 1/n; n is the public, declared number of units."""
    units = declared_units(config)
    value = finite_epsilon(spent)
    limit = finite(budget.budget)
    private = config.privacy.unit != "none"
    return {
        "epsilon": value,
        "delta": budget.delta if private else None,
        "budget": limit if private else None,
        "left": None if value is None or limit is None else max(0.0, limit - value),
        "units": units,
        "one_over_n": None if units is None else 1 / units,
        "delta_times_n": None if units is None or not private else budget.delta * units,
        "pld": None if spent is None else finite(spent.pld),
        "rdp": None if spent is None else finite(spent.rdp),
        "gaussian": None if spent is None else finite(spent.gaussian),
    }


def declared_units(config: Config) -> int | None:
    """How many units the number delta is compared with: the declared size of a client, all pooled pairs, or clients."""
    if config.privacy.unit == "client":
        return config.federation.clients
    size = declared_size(config)
    pooled = config.federation.clients if config.method.name == "centralized" else 1
    return None if size is None else size * pooled


def curve(histories: Histories, delta: float) -> dict[str, Any]:
    """Epsilon at several deltas, and the mu of a Gaussian release that gives at least these epsilons: a summary, no
    claim beyond the points."""
    deltas = [delta * factor for factor in CURVE if delta * factor < 1]
    bounds = [_worst(histories, partial(epsilon, delta=at)) for at in deltas]
    mus = [gaussian_mu(bound) for bound in bounds]
    known = [mu for mu in mus if mu is not None]
    return {
        "points": [{"delta": bound.delta, "epsilon": finite_epsilon(bound)} for bound in bounds],
        "gaussian_mu": max(known) if len(known) == len(mus) else None,
    }


def gaussian_mu(bound: Bound) -> float | None:
    """The mu at which telling N(mu, 1) from N(0, 1) has the bound's epsilon at its delta; None beyond any use."""
    if not math.isfinite(bound.epsilon) or bound.epsilon > gaussian_epsilon(_LARGEST_MU, bound.delta):
        return None
    if bound.epsilon <= 0.0:
        return 0.0
    return float(brentq(lambda mu: gaussian_epsilon(mu, bound.delta) - bound.epsilon, 0.0, _LARGEST_MU, xtol=1e-9))


def person_bounds(config: Config, histories: Histories, delta: float) -> list[dict[str, Any]]:
    """What is left for a person who holds several pairs at one client (`privacy.units`), or whose answers stand in
    several of a group's questions; [] at client level.

    k questions that are sampled turn at most k clipped gradients into others, so they move the sum by at most k times
    what one does: the binomial that holds for pairs holds for them.
    """
    if not sampled(config):
        return []
    most, name = declared_size(config) or PERSONS[-1], "pairs" if config.privacy.unit == "pair" else "questions"
    counts = [count for count in PERSONS if count <= most]
    return [
        {name: count, "epsilon": finite_epsilon(_worst(histories, partial(person, delta=delta, pairs=count)))}
        for count in counts
    ]


def replaced_epsilon(histories: Histories, delta: float) -> float | None:
    """What the same history gives where one unit is replaced by any other."""
    return finite_epsilon(_worst(histories, partial(replaced, delta=delta)))


def adversaries(config: Config, budget: BudgetPlan, seen: Views | None) -> dict[str, Any]:
    """The columns by adversary; of pooled pairs the last alone, for there is neither a client's message nor a sum."""
    pooled = config.method.name == "centralized"
    colluders = budget.shares.colluding if budget.shares is not None else None
    return {
        "own_noise_alone": None if seen is None or pooled else finite_epsilon(seen.own),
        "sum": None if seen is None or pooled else finite_epsilon(seen.total),
        "sum_with_colluders": None if seen is None else finite_epsilon(seen.with_colluders),
        "colluders": colluders,
    }


def accounting(
    config: Config, spent: Bound | None, verdicts: Mapping[str, int] | None, *, logs_from: int
) -> dict[str, Any]:
    """The accountant, the sampling it assumes, and whether the samples were so, by each client's own test."""
    draws = sampled(config)
    return {
        "accountant": "none" if spent is None else spent.accountant,
        "version": ENGINE,
        "notes": [] if spent is None else list(spent.notes),
        "sampling": sampler_text(config, verdicts),
        "held": _held(verdicts) if draws else "nothing is sampled for the bound",
        "rejected": bool((verdicts or {}).get("rejected", 0)) if draws else None,
        "amplified": draws and config.privacy.sample_rate < 1 and not (verdicts or {}).get("rejected", 0),
        "logs_from": logs_from,
    }


def _held(verdicts: Mapping[str, int] | None) -> str:
    """Rejected or not, and no more: how far a test could see depends on the private size of a client's data."""
    if verdicts is None:
        return "not tested yet: the run goes on"
    if verdicts.get("rejected", 0):
        return REJECTED
    return "not rejected by the clients' own tests (privacy.attestation), which cannot prove it"


def mechanism(config: Config, budget: BudgetPlan, reports: Sequence[RoundReport]) -> dict[str, Any]:
    """Noise, clip, sampling, rounds, who took part, and the noise that was really there."""
    shares = budget.shares
    return {
        "noise_multiplier": budget.noise_multiplier,
        "clip_norm": config.privacy.clip_norm,
        "sample_rate": config.privacy.sample_rate if sampled(config) else None,
        "expected_batch": config.privacy.expected_batch,
        "steps_per_round": config.federation.local_steps,
        "rounds_done": reports[-1].round_index if reports else 0,
        "cohort": config.federation.clients,
        "least_survivors": min((report.survivors for report in reports), default=None),
        "dropped": sum(len(report.dropped) for report in reports),
        "shares_that_may_be_missing": shares.lost if shares is not None else None,
        "rounds": [_round(report, budget) for report in reports],
    }


def _round(report: RoundReport, budget: BudgetPlan) -> dict[str, Any]:
    """Who was in a sum, and its noise over the noise charged, in standard deviations: by count, and as measured."""
    shares = budget.shares
    present = None
    if shares is not None:
        present = math.sqrt(report.survivors * shares.share / shares.event().variance)
    return {
        "round": report.round_index,
        "survivors": report.survivors,
        "dropped": [f"{drop.client} ({drop.stage})" for drop in report.dropped],
        "noise_over_charge_expected": present,
        "noise_over_charge_measured": finite(report.released.get("noise_over_charge")),
        "transcript_head": report.transcript_head,
    }


def _worst(histories: Histories, bound: Callable[[Sequence[Event]], Bound]) -> Bound:
    return worst([bound(events) for events in dict.fromkeys(histories.values())])
