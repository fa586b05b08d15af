"""Epsilon of a client's events: the least of the valid upper bounds, for adding or removing one pair.

Several clients with disjoint people do not add up: a federation reports the maximum over its clients (parallel
composition). If one person holds pairs at several clients, compose the events of those clients.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from .bounds import ORDERS, PLD_EPSILON_LIMIT, Charges, gaussian_epsilon, pld_epsilon, pld_grid, rdp_epsilon
from .events import Event, FullBatchGaussian, NonPrivate, PoissonGaussian

Accountant = Literal["pld", "rdp", "gaussian", "none"]


@dataclass(frozen=True, slots=True)
class Bound:
    """(epsilon, delta)-DP for one pair, added or removed. Every number is an upper bound; None means not computed.

    `accountant` names the bound that `epsilon` is: "gaussian" is the exact closed form and exists at full batch only;
    "none" stands beside 0 (nothing happened) and infinity (something not private happened; `notes` says what).
    """

    epsilon: float
    delta: float
    accountant: Accountant
    pld: float | None = None
    rdp: float | None = None
    gaussian: float | None = None
    notes: tuple[str, ...] = ()


def epsilon(events: Sequence[Event], delta: float) -> Bound:
    """The least valid bound on epsilon after all `events`, in any order, at this delta in (0, 1).

    A pure function, cached: asking again costs microseconds, one more step of a known mechanism tenths of a second.
    Raises ValueError for a delta outside (0, 1).
    """
    if not 0.0 < delta < 1.0:
        raise ValueError(f"delta must be in (0, 1), got {delta}")
    reasons = _reasons_for_infinity(events)
    if reasons:
        return Bound(epsilon=math.inf, delta=delta, accountant="none", notes=reasons)
    return _epsilon_of(_merge(events), delta)


def unamplified(events: Sequence[Event], delta: float) -> Bound:
    """The bound if the adversary knew every sample: sampling rate 1, the same noise and steps."""
    known = [
        FullBatchGaussian(noise_multiplier=event.noise_multiplier, steps=event.steps)
        if isinstance(event, PoissonGaussian)
        else event
        for event in events
    ]
    return epsilon(known, delta)


def worst(bounds: Sequence[Bound]) -> Bound:
    """The federation's bound: the client with the largest epsilon. Raises ValueError if there is no client."""
    if not bounds:
        raise ValueError("a federation needs at least one client's bound")
    return max(bounds, key=lambda bound: bound.epsilon)


def _reasons_for_infinity(events: Sequence[Event]) -> tuple[str, ...]:
    reasons = dict.fromkeys(event.reason for event in events if isinstance(event, NonPrivate))
    if any(not isinstance(event, NonPrivate) and event.steps and not event.noise_multiplier for event in events):
        reasons["the noise multiplier is 0"] = None
    return tuple(reasons)


def _merge(events: Sequence[Event]) -> Charges:
    """Equal mechanisms become one with the steps added. This is the only place where steps are counted."""
    steps: Counter[tuple[float, float]] = Counter()
    for event in events:
        if isinstance(event, PoissonGaussian):
            steps[(event.noise_multiplier, event.sample_rate)] += event.steps
        elif isinstance(event, FullBatchGaussian):
            steps[(event.noise_multiplier, 1.0)] += event.steps
        else:
            raise TypeError(f"cannot account for {type(event).__name__}")
    return tuple(sorted((mechanism, count) for mechanism, count in steps.items() if count))


@lru_cache(maxsize=4096)
def _epsilon_of(charges: Charges, delta: float) -> Bound:
    if not charges:
        return Bound(epsilon=0.0, delta=delta, accountant="none")
    notes = []
    by_rdp, order = rdp_epsilon(charges, delta)
    if order in (0.0, ORDERS[0], ORDERS[-1]) and by_rdp > 0.0:
        notes.append(f"the RDP bound took its last order, {order:g}; it is valid but may be loose")
    by_pld: float | None = None
    if 0.0 < by_rdp <= PLD_EPSILON_LIMIT:
        by_pld = pld_epsilon(charges, delta, pld_grid(charges, by_rdp))
    if by_rdp > 0.0 and (by_pld is None or math.isinf(by_pld)):
        by_pld = None
        notes.append(f"no PLD bound: epsilon above {PLD_EPSILON_LIMIT:g}, or delta too small for float64")
    if all(sample_rate == 1.0 for (_, sample_rate), _ in charges):
        mu = math.sqrt(sum(steps / noise_multiplier**2 for (noise_multiplier, _), steps in charges))
        exact = gaussian_epsilon(mu, delta)
        return Bound(exact, delta, "gaussian", pld=by_pld, rdp=by_rdp, gaussian=exact, notes=tuple(notes))
    if by_pld is not None and by_pld < by_rdp:
        return Bound(by_pld, delta, "pld", pld=by_pld, rdp=by_rdp, notes=tuple(notes))
    return Bound(by_rdp, delta, "rdp", pld=by_pld, rdp=by_rdp, notes=tuple(notes))
