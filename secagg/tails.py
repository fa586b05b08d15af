"""Probabilities of rare events in a random ring graph, in log space: far beyond what a float can hold.

The graph: clients in random order on a ring, each joined to the k/2 on either side. One client's neighbours are then
a uniform subset of the others, and how many of them are corrupted, or dropped, is hypergeometric.
"""

from __future__ import annotations

import math

import numpy as np

_SPREADS = 40  # terms that are summed one by one, in standard deviations; what follows is bounded


def log_upper_tail(at_least: int, *, population: int, marked: int, drawn: int) -> float:
    """ln P[X >= at_least], X being the number of marked members drawn; -inf where that cannot happen.

    0 <= marked, drawn <= population. Beyond the terms that are summed, the rest counts with an upper bound (a
    geometric series), so the result is never below the truth by more than rounding: 1e-7 at a population of 10^6.
    """
    unmarked = population - marked
    if at_least <= max(0, drawn - unmarked):
        return 0.0
    if at_least > min(drawn, marked):
        return -math.inf
    if at_least * population <= drawn * marked:  # at or below the mean: the other tail is the small one
        other = log_upper_tail(drawn - at_least + 1, population=population, marked=unmarked, drawn=drawn)
        return math.log1p(-math.exp(other))
    first = _log_choose(marked, at_least) + _log_choose(unmarked, drawn - at_least) - _log_choose(population, drawn)
    return min(0.0, first + math.log1p(_following(at_least, marked=marked, drawn=drawn, absent=unmarked - drawn)))


def log_disconnected(*, clients: int, removed: int, neighbors: int) -> float:
    """ln of a bound on the probability that the graph falls apart when `removed` clients go, wherever they sit.

    `neighbors` is even. Those that stay, m = clients - removed, fall apart just when two of the m gaps between them
    on the ring hold neighbors/2 removed clients or more: anything less is bridged. Every way to lay the removed ones
    into the gaps is equally likely, so a given pair of gaps is that wide in C(n-1-k, m-1) of C(n-1, m-1) cases. The
    bound is the expected number of such pairs of gaps.
    """
    n, m = clients, clients - removed
    if m < 2 or neighbors > removed:
        return -math.inf
    pairs = math.log(m) + math.log(m - 1) - math.log(2)
    return min(0.0, pairs + _log_choose(n - 1 - neighbors, m - 1) - _log_choose(n - 1, m - 1))


def _following(
    start: int,  # above the mean, where every ratio of neighbouring probabilities is below 1 and falling
    *,
    marked: int,
    drawn: int,
    absent: int,  # population - marked - drawn, may be negative
) -> float:
    """P[X > start] / P[X = start]."""
    spread = math.sqrt(drawn * marked / max(1, marked + drawn + absent))  # at least the standard deviation
    terms = min(min(drawn, marked) - start, int(_SPREADS * spread) + 64)
    x = np.arange(start, start + terms + 1, dtype=np.float64)
    ratios = (marked - x) * (drawn - x) / ((x + 1) * (absent + x + 1))
    products = np.cumprod(ratios)
    rest = products[-1] / (1 - ratios[-1])  # includes its own first term, which is 0 at the end of the support
    return float(products[:-1].sum() + rest)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
