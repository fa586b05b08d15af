"""The noise for a chosen epsilon, as a multiplier or as an integer variance, always on the private side."""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy.optimize import brentq

from .accounting import epsilon as epsilon_of
from .bounds import PLD_EPSILON_LIMIT, gaussian_epsilon, pld_epsilon, pld_grid, rdp_epsilon
from .events import LEAST_SHARE, ROUNDING_VARIANCE, IntegerGaussian, gaussian_event
from .pld import Charges

RELATIVE_GAP = 1e-3
_LARGEST = 1e6


def noise_multiplier(*, epsilon: float, delta: float, sample_rate: float, steps: int) -> float:
    """The least noise multiplier, to one part in a thousand, whose recomputed epsilon does not exceed the target.

    The result is certified by `privacy.accounting.epsilon`, the function that the ledger uses, so a run of exactly
    `steps` steps ends within the budget. An infinite epsilon gives 0.0 (clip only). Raises ValueError for epsilon <=
    0, delta outside (0, 1), sample_rate outside (0, 1], steps < 1, or a target that no multiplier up to 1e6 reaches.
    """
    _check(epsilon, delta, sample_rate, steps)
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


def integer_variance(
    *, epsilon: float, delta: float, sample_rate: float, steps: int, norm_squared: int, distance_log2: float
) -> int:
    """The least whole variance of discrete Gaussian noise in the sum, to one part in a thousand, that keeps epsilon.

    It is the `variance` of an `IntegerGaussian`: what honest survivors must add together, at least 16. Certified by
    `privacy.accounting.epsilon`, the samplers' distance included. Raises ValueError as `noise_multiplier` does, for an
    infinite epsilon, a norm_squared or distance_log2 that the event refuses, or a distance that delta cannot carry.
    """
    _check(epsilon, delta, sample_rate, steps)
    if math.isinf(epsilon):
        raise ValueError("epsilon must be finite: without a target there is no least variance")

    def private(variance: int) -> bool:
        event = IntegerGaussian(
            variance=variance,
            own_variance=LEAST_SHARE,
            colluding_variance=0,
            norm_squared=norm_squared,
            sample_rate=sample_rate,
            steps=steps,
            distance_log2=distance_log2,
            unit="pair",
        )
        return epsilon_of([event], delta).epsilon <= epsilon

    if private(LEAST_SHARE):
        return LEAST_SHARE
    if (1.0 + math.exp(min(epsilon, 700.0))) * 2.0**distance_log2 >= delta:
        raise ValueError(
            f"distance_log2 must be less than delta {delta:g} can carry at epsilon {epsilon:g}, got {distance_log2:g}"
        )
    sigma = noise_multiplier(epsilon=epsilon, delta=delta, sample_rate=sample_rate, steps=steps)
    high = max(LEAST_SHARE + 1, math.ceil(sigma**2 * norm_squared) + ROUNDING_VARIANCE)
    step = RELATIVE_GAP / 4
    while not private(high):
        high, step = high + max(1, math.floor(high * step)), 2 * step
    low = max(LEAST_SHARE, math.floor(high * (1 - RELATIVE_GAP)) - 1)
    while private(low):
        low = max(LEAST_SHARE, math.floor(low * (1 - RELATIVE_GAP)) - 1)
    while high - low > max(1, math.floor(low * RELATIVE_GAP)):
        middle = (low + high) // 2
        low, high = (low, middle) if private(middle) else (middle, high)
    return high


def _check(epsilon: float, delta: float, sample_rate: float, steps: int) -> None:
    if math.isnan(epsilon) or epsilon <= 0.0:
        raise ValueError(f"epsilon must be above 0, got {epsilon}")
    if not 0.0 < delta < 1.0:
        raise ValueError(f"delta must be in (0, 1), got {delta}")
    if not 0.0 < sample_rate <= 1.0:
        raise ValueError(f"sample_rate must be in (0, 1], got {sample_rate}")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a whole number of at least 1, got {steps!r}")


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
