"""Epsilon of a client's events: the least of the valid upper bounds, for adding or removing one unit.

Several clients with disjoint people do not add up: a federation reports the maximum over its clients (parallel
composition). If one person holds pairs at several clients, compose the events of those clients. Other neighbours (a
person with several pairs, a replaced pair) are in `privacy.units`, other adversaries in `privacy.views`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from .bounds import (
    ORDERS,
    PLD_EPSILON_LIMIT,
    full_batch_mu,
    gaussian_epsilon,
    pld_epsilon,
    pld_grid,
    rdp_epsilon,
)
from .events import Event, FullBatchGaussian, IntegerGaussian, NonPrivate, PoissonGaussian, Unit, with_known_sample
from .pld import ONE_PAIR, Charges, Neighbors

ENGINE = "privacy.accounting 2"
"""Names the code behind a reported bound; raised with every change that can move a number."""
Accountant = Literal["pld", "rdp", "gaussian", "none"]
_CLOSE = 1e-6  # how close an epsilon is taken to the least one that carries its own charge to delta


@dataclass(frozen=True, slots=True)
class Bound:
    """(epsilon, delta)-DP for one unit, added or removed. Every number is an upper bound; None means not computed.

    `accountant` names the bound that `epsilon` is: "gaussian" is the closed form, exact at full batch and shown beside
    sampling only where nothing else is lower (`notes` says so); "none" stands beside 0 (nothing happened) and infinity
    (something not private happened; `notes` says what).
    """

    epsilon: float
    delta: float
    accountant: Accountant
    pld: float | None = None
    rdp: float | None = None
    gaussian: float | None = None
    notes: tuple[str, ...] = ()


def epsilon(events: Sequence[Event], delta: float, *, neighbors: Neighbors = ONE_PAIR) -> Bound:
    """The least valid bound on epsilon after all `events`, in any order, at this delta in (0, 1).

    Samplers' statistical distances are charged to delta: (epsilon, delta - (1 + e^epsilon) distance) holds for the
    ideal noise. A pure function, cached: asking again costs microseconds, one more step of a known mechanism
    milliseconds. Raises ValueError for a delta outside (0, 1) or events of different units.
    """
    if not 0.0 < delta < 1.0:
        raise ValueError(f"delta must be in (0, 1), got {delta}")
    unit_of(events)
    reasons = _reasons_for_infinity(events)
    if reasons:
        return Bound(epsilon=math.inf, delta=delta, accountant="none", notes=reasons)
    return _epsilon_of(_merge(events), delta, _distance(events), neighbors)


def unamplified(events: Sequence[Event], delta: float, *, neighbors: Neighbors = ONE_PAIR) -> Bound:
    """The bound if the adversary knew every sample: sampling rate 1, the same noise and steps."""
    return epsilon([with_known_sample(event) for event in events], delta, neighbors=neighbors)


def worst(bounds: Sequence[Bound]) -> Bound:
    """The federation's bound: the client with the largest epsilon. Raises ValueError if there is no client."""
    if not bounds:
        raise ValueError("a federation needs at least one client's bound")
    return max(bounds, key=lambda bound: bound.epsilon)


def unit_of(events: Sequence[Event]) -> Unit | None:
    """The one unit that all `events` protect, None if they name none. Raises ValueError for two units."""
    units = {_unit(event) for event in events} - {None}
    if len(units) > 1:
        raise ValueError(f"events of different units do not compose: {', '.join(sorted(str(unit) for unit in units))}")
    return units.pop() if units else None


def _unit(event: Event) -> Unit | None:
    return None if isinstance(event, NonPrivate) else event.unit


def _reasons_for_infinity(events: Sequence[Event]) -> tuple[str, ...]:
    reasons = dict.fromkeys(event.reason for event in events if isinstance(event, NonPrivate))
    if any(not isinstance(event, NonPrivate) and event.steps and not event.noise_multiplier for event in events):
        reasons["the noise multiplier is 0"] = None
    return tuple(reasons)


def _merge(events: Sequence[Event]) -> Charges:
    """Equal mechanisms become one with the steps added. This is the only place where steps are counted."""
    steps: Counter[tuple[float, float]] = Counter()
    for event in events:
        if isinstance(event, PoissonGaussian | IntegerGaussian):
            steps[(event.noise_multiplier, event.sample_rate)] += event.steps
        elif isinstance(event, FullBatchGaussian):
            steps[(event.noise_multiplier, 1.0)] += event.steps
        else:
            raise TypeError(f"cannot account for {type(event).__name__}")
    return tuple(sorted((mechanism, count) for mechanism, count in steps.items() if count))


def _distance(events: Sequence[Event]) -> float:
    """Total statistical distance of all draws from their ideal laws, rounded up; distances of draws add."""
    found = [2.0**event.distance_log2 for event in events if isinstance(event, IntegerGaussian) and event.steps]
    return math.fsum(found) * (1.0 + 1e-12)


@lru_cache(maxsize=4096)
def _epsilon_of(charges: Charges, delta: float, distance: float, neighbors: Neighbors) -> Bound:
    if not charges:
        return Bound(epsilon=0.0, delta=delta, accountant="none")
    notes: list[str] = []
    near, order = rdp_epsilon(charges, delta, neighbors)  # the grid follows the ideal noise's epsilon
    by_rdp = _charged(lambda rest: rdp_epsilon(charges, rest, neighbors)[0], delta, distance)
    if order in (0.0, ORDERS[0], ORDERS[-1]) and by_rdp > 0.0:
        notes.append(f"the RDP bound took its last order, {order:g}; it is valid but may be loose")
    by_pld: float | None = None
    if 0.0 < near <= PLD_EPSILON_LIMIT:
        grid = pld_grid(charges, near, neighbors=neighbors)
        by_pld = _charged(lambda rest: pld_epsilon(charges, rest, grid, neighbors), delta, distance)
    if by_rdp > 0.0 and (by_pld is None or math.isinf(by_pld)):
        by_pld = None
        notes.append(f"no PLD bound: epsilon above {PLD_EPSILON_LIMIT:g}, or delta too small for float64")
    if distance > 0.0 and math.isinf(min(by_rdp, math.inf if by_pld is None else by_pld)):
        notes.append("the samplers' statistical distance is more than delta can carry")
    mu = full_batch_mu(charges, neighbors)
    known = _charged(lambda rest: gaussian_epsilon(mu, rest), delta, distance)
    if all(sample_rate == 1.0 for (_, sample_rate), _ in charges):
        return Bound(known, delta, "gaussian", pld=by_pld, rdp=by_rdp, gaussian=known, notes=tuple(notes))
    if by_pld is not None and by_pld < min(by_rdp, known):
        return Bound(by_pld, delta, "pld", pld=by_pld, rdp=by_rdp, notes=tuple(notes))
    if known < by_rdp:  # sampling only mixes releases, so what holds for a known sample holds for a secret one
        notes.append("no sampled bound is below the exact one for a known sample, which is reported")
        return Bound(known, delta, "gaussian", pld=by_pld, rdp=by_rdp, gaussian=known, notes=tuple(notes))
    return Bound(by_rdp, delta, "rdp", pld=by_pld, rdp=by_rdp, notes=tuple(notes))


def _charged(bound: Callable[[float], float], delta: float, distance: float) -> float:
    """The least epsilon with bound(delta - (1 + e^epsilon) distance) <= epsilon, from above; inf if there is none.

    Climbing from the bound that ignores the distance, each step stays below that least epsilon until one is found
    that holds (within `_CLOSE`), because the bound only grows as delta falls.
    """
    found = bound(delta)
    if distance == 0.0:
        return found
    for _ in range(200):
        if found > 700.0:
            return math.inf
        tried = found * (1.0 + _CLOSE) + _CLOSE * 1e-3
        rest = delta - (1.0 + math.exp(tried)) * distance
        if rest <= 0.0:
            return math.inf
        found = bound(rest)
        if found <= tried:
            return found
    return math.inf
