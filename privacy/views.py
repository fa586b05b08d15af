"""One history seen by three adversaries, and the federation's worst client under each.

Local noise protects alike against all three. Shares of noise in a sum do not: the columns say what is left if
aggregation fails, what the sum alone shows, and what the sum shows to someone who knows the colluders' shares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from .accounting import Bound, epsilon, unit_of, worst
from .events import Event, IntegerGaussian
from .pld import ONE_PAIR, Neighbors


@dataclass(frozen=True, slots=True)
class Views:
    """Bounds at one delta. `with_colluders` is the claim; `total` and `own` stand beside it."""

    own: Bound  # if aggregation fails: against someone who sees this client's own message, its own noise only
    total: Bound  # against someone who sees the sums and knows no client's noise
    with_colluders: Bound  # against someone who also knows the assumed colluders' noise


def views(events: Sequence[Event], delta: float, *, neighbors: Neighbors = ONE_PAIR) -> Views:
    """The three bounds of one client's history. Raises ValueError as `accounting.epsilon` does."""

    def bound(seen: Callable[[IntegerGaussian], IntegerGaussian]) -> Bound:
        known = [seen(event) if isinstance(event, IntegerGaussian) else event for event in events]
        return epsilon(known, delta, neighbors=neighbors)

    return Views(own=bound(_own), total=bound(_total), with_colluders=epsilon(events, delta, neighbors=neighbors))


def federation_views(histories: Mapping[str, Sequence[Event]], delta: float) -> Views:
    """Each column's largest bound over the clients, whose histories may differ in rounds and mechanisms.

    Clients hold disjoint people, so nothing adds up (parallel composition). The columns may come from different
    clients. Raises ValueError if there is no client, or if clients protect different units.
    """
    unit_of([event for events in histories.values() for event in events])
    each = [views(events, delta) for events in histories.values()]
    return Views(
        own=worst([one.own for one in each]),
        total=worst([one.total for one in each]),
        with_colluders=worst([one.with_colluders for one in each]),
    )


def _own(event: IntegerGaussian) -> IntegerGaussian:
    return replace(event, variance=event.own_variance, colluding_variance=0)


def _total(event: IntegerGaussian) -> IntegerGaussian:
    return replace(event, variance=event.sum_variance, colluding_variance=0)
