"""The noise multiplier for a chosen epsilon, always on the private side."""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy.optimize import brentq

from .accounting import epsilon as epsilon_of
from .bounds import PLD_EPSILON_LIMIT, Charges, gaussian_epsilon, pld_epsilon, pld_grid, rdp_epsilon
from .events import gaussian_event

RELATIVE_GAP = 1e-3
_LARGEST = 1e6


def noise_multiplier(*, epsilon: float, delta: float, sample_rate: float, steps: int) -> float:
    """The least noise multiplier, to one part in a thousand, whose recomputed epsilon does not exceed the target.

    The result is certified by `privacy.accounting.epsilon`, the function that the ledger uses, so a run of exactly
    `steps` steps ends within the budget. An infinite epsilon gives 0.0 (clip only). Raises ValueError for epsilon <=
    0, delta outside (0, 1), sample_rate outside (0, 1], steps < 1, or a target that no multiplier up to 1e6 reaches.
    """
    if math.isnan(epsilon) or epsilon <= 0.0:
        raise ValueError(f"epsilon must be above 0, got {epsilon}")
    if not 0.0 < delta < 1.0:
        raise ValueError(f"delta must be in (0, 1), got {delta}")
    if not 0.0 < sample_rate <= 1.0:
        raise ValueError(f"sample_rate must be in (0, 1], got {sample_rate}")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a whole number of at least 1, got {steps!r}")
    if math.isinf(epsilon):
        return 0.0

    def spent(noise: float) -> float:
        event = gaussian_event(noise_multiplier=noise, sample_rate=sample_rate, steps=steps)
        return epsilon_of([event], delta).epsilon

    def estimate(noise: float) -> float:
        return _cheap_epsilon((((noise, sample_rate), steps),), delta, epsilon)

    high = _smallest_private(spent, _root(estimate, epsilon), epsilon)
    low = _largest_exceeding(spent, high, epsilon)
    while high > low * (1 + RELATIVE_GAP):
        middle = math.sqrt(low * high)
        if spent(middle) <= epsilon:
            high = middle
        else:
            low = middle
    return high


def _cheap_epsilon(charges: Charges, delta: float, near: float) -> float:
    """Epsilon to about one part in a thousand near a target, ten times faster than the certified bound."""
    ((noise, sample_rate), steps) = charges[0]
    if sample_rate == 1.0:
        return gaussian_epsilon(math.sqrt(steps) / noise, delta)
    if near <= PLD_EPSILON_LIMIT:
        coarse = pld_epsilon(charges, delta, pld_grid(charges, near, coarsen=3))
        if math.isfinite(coarse):
            return coarse
    return rdp_epsilon(charges, delta)[0]


def _root(estimate: Callable[[float], float], target: float) -> float:
    """The noise at which the decreasing `estimate` meets the target."""

    def gap(log_noise: float) -> float:
        return math.log(max(estimate(math.exp(log_noise)), 1e-300)) - math.log(target)

    high = 0.0
    while gap(high) > 0.0:
        high += math.log(2)
        if high > math.log(_LARGEST):
            raise ValueError(f"no noise multiplier up to {_LARGEST:g} gives epsilon {target:g}")
    low = high - math.log(2)
    while gap(low) <= 0.0:
        low, high = low - math.log(2), low
    return math.exp(float(brentq(gap, low, high, xtol=1e-5)))


def _smallest_private(spent: Callable[[float], float], guess: float, target: float) -> float:
    noise, step = guess * (1 + 1e-4), RELATIVE_GAP / 4
    while spent(noise) > target:
        noise, step = noise * (1 + step), 2 * step
        if noise > 2 * _LARGEST:
            raise ValueError(f"no noise multiplier up to {_LARGEST:g} gives epsilon {target:g}")
    return noise


def _largest_exceeding(spent: Callable[[float], float], private: float, target: float) -> float:
    noise, step = private / (1 + RELATIVE_GAP), 2 * RELATIVE_GAP
    while spent(noise) <= target:
        noise, step = noise / (1 + step), 2 * step
    return noise
