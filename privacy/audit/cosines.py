"""An ESTIMATE of epsilon from random unit canary clients and their cosines with the released model difference.

Andrew et al., "One-shot empirical privacy estimation for federated learning", ICLR 2024. It fits normal laws, so it is
no bound: nothing limits by how much it may exceed the true epsilon, and for few canaries it does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr

from privacy.bounds import gaussian_epsilon

from .result import AuditResult

_EPSILON_LIMIT = 1e4


@dataclass(frozen=True, slots=True)
class CosineEstimate:
    """Two estimates with bootstrap intervals. `fitted` fits mean and variance; `equal_variance` the mean alone."""

    fitted: float
    fitted_interval: tuple[float, float]
    equal_variance: float
    equal_variance_interval: tuple[float, float]


def cosine_estimate(
    cosines: NDArray[np.float64],  # float64[k]: of each canary's unit vector with the released difference
    *,
    dimension: int,
    delta: float,
    confidence: float,
    resamples: int,
    rng: np.random.Generator,
) -> CosineEstimate:
    """Tell the observed cosines from N(0, 1 / dimension), the law of a canary that was not there.

    `fitted` is biased up for few canaries because the variance is estimated; `equal_variance` is biased down by
    1 / sqrt(1 + k / (noise^2 dimension)), as canaries disturb each other. Intervals are percentile bootstrap. Raises
    ValueError for fewer than 2 cosines, a cosine outside [-1, 1] or dimension < 2.
    """
    found = np.asarray(cosines, dtype=np.float64)
    if found.ndim != 1 or len(found) < 2 or not (np.abs(found) <= 1.0).all():
        raise ValueError("cosines must be a vector of at least 2 numbers in [-1, 1]")
    if dimension < 2:
        raise ValueError(f"dimension must be at least 2, got {dimension}")
    if resamples < 1 or not 0.0 < confidence < 1.0:
        raise ValueError("resamples must be at least 1 and confidence in (0, 1)")
    drawn = found[rng.integers(0, len(found), size=(resamples, len(found)))]
    tails = [(1.0 - confidence) / 2, (1.0 + confidence) / 2]
    fitted = [_fitted(row, dimension, delta) for row in drawn]
    equal = [_equal_variance(row, dimension, delta) for row in drawn]
    low, high = np.quantile(fitted, tails)
    equal_low, equal_high = np.quantile(equal, tails)
    return CosineEstimate(
        fitted=_fitted(found, dimension, delta),
        fitted_interval=(float(low), float(high)),
        equal_variance=_equal_variance(found, dimension, delta),
        equal_variance_interval=(float(equal_low), float(equal_high)),
    )


def cosine_result(estimate: CosineEstimate, *, delta: float, confidence: float, claim: float) -> AuditResult:
    """The estimate as an audit that proves nothing; the number shown is the one without the upward bias."""
    return AuditResult(
        name="federated cosine canaries",
        confidence=confidence,
        delta=delta,
        claim=claim,
        verdict="inconclusive",
        rule="cosines of random unit canaries with the released difference",
        assumes="normally distributed cosines",
        estimate=estimate.equal_variance,
        details={
            "equal_variance_low": estimate.equal_variance_interval[0],
            "equal_variance_high": estimate.equal_variance_interval[1],
            "fitted": estimate.fitted,
            "fitted_low": estimate.fitted_interval[0],
            "fitted_high": estimate.fitted_interval[1],
        },
    )


def two_gaussian_epsilon(*, mean: float, deviation: float, null_deviation: float, delta: float) -> float:
    """Least epsilon at which N(mean, deviation^2) and N(0, null_deviation^2) are (epsilon, delta)-close both ways."""
    if deviation <= 0.0 or null_deviation <= 0.0:
        return math.inf

    def excess(epsilon: float) -> float:
        there = _hockey_stick(epsilon, mean, deviation, null_deviation)
        back = _hockey_stick(epsilon, -mean, null_deviation, deviation)
        return max(there, back) - delta

    if excess(0.0) <= 0.0:
        return 0.0
    high = 1.0
    while excess(high) > 0.0:
        if high > _EPSILON_LIMIT:
            return math.inf
        high *= 2.0
    return float(brentq(excess, 0.0, high, xtol=1e-9))


def _hockey_stick(epsilon: float, mean: float, first: float, second: float) -> float:
    """sup over events of P(event) - e^epsilon Q(event) for P = N(mean, first^2), Q = N(0, second^2)."""
    # The best event is where the log ratio a x^2 + b x + c is above 0.
    a = 0.5 / second**2 - 0.5 / first**2
    b = mean / first**2
    c = math.log(second / first) - mean**2 / (2 * first**2) - epsilon
    if abs(a) * (abs(mean) + 40 * max(first, second)) ** 2 < 1e-12:  # equal variances: a half-line
        if b == 0.0:
            return max(0.0, 1.0 - math.exp(epsilon)) if c > 0 else 0.0
        edges = (-c / b, math.inf) if b > 0 else (-math.inf, -c / b)
        return _gain(epsilon, edges, mean, first, second)
    root = b * b - 4 * a * c
    if root <= 0.0:
        return max(0.0, 1.0 - math.exp(epsilon)) if a > 0 else 0.0
    low, high = sorted(((-b - math.sqrt(root)) / (2 * a), (-b + math.sqrt(root)) / (2 * a)))
    if a < 0:
        return _gain(epsilon, (low, high), mean, first, second)
    return _gain(epsilon, (-math.inf, low), mean, first, second) + _gain(epsilon, (high, math.inf), mean, first, second)


def _gain(epsilon: float, edges: tuple[float, float], mean: float, first: float, second: float) -> float:
    chance = _interval((edges[0] - mean) / first, (edges[1] - mean) / first)
    other = _interval(edges[0] / second, edges[1] / second)
    return chance - math.exp(min(epsilon, 700.0)) * other


def _interval(low: float, high: float) -> float:
    return float(ndtr(-low) - ndtr(-high)) if low > 0 else float(ndtr(high) - ndtr(low))


def _fitted(cosines: NDArray[np.float64], dimension: int, delta: float) -> float:
    return two_gaussian_epsilon(
        mean=float(cosines.mean()),
        deviation=float(cosines.std(ddof=1)),
        null_deviation=dimension**-0.5,
        delta=delta,
    )


def _equal_variance(cosines: NDArray[np.float64], dimension: int, delta: float) -> float:
    return gaussian_epsilon(abs(float(cosines.mean())) * dimension**0.5, delta)
