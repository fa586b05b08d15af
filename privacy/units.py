"""From one pair to one person: other neighbours than one pair added or removed, for the same history.

Never by multiplying epsilon. Full batch: k pairs are k times as far apart and a replaced pair twice, so the closed
form is exact. Poisson samples: the number of a person's k pairs in a step is binomial, which gives the dominating pair
of `privacy.pld.mixtures`; its composition is exact up to the grid. RDP stands beside both as a looser bound.
"""

from __future__ import annotations

from collections.abc import Sequence

from .accounting import Bound, epsilon
from .events import Event
from .pld import Neighbors


def person(events: Sequence[Event], delta: float, *, pairs: int) -> Bound:
    """The bound for adding or removing all `pairs` pairs of one person at this client, whatever they are.

    Raises ValueError unless pairs is a whole number of at least 1, and as `accounting.epsilon` does.
    """
    return epsilon(events, delta, neighbors=Neighbors(pairs=pairs))


def replaced(events: Sequence[Event], delta: float) -> Bound:
    """The bound for replacing one pair (or client, or question) by any other. Raises ValueError as `accounting.epsilon`
    does."""
    return epsilon(events, delta, neighbors=Neighbors("replace_one"))
