"""Cosine canaries: the divergence is exact, the biases are the known ones, and the result is an estimate."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from privacy.audit.cosines import cosine_estimate, cosine_result, two_gaussian_epsilon
from privacy.bounds import gaussian_epsilon

DELTA = 1e-5


def numeric_delta(epsilon: float, mean: float, deviation: float, null: float) -> float:
    """Both hockey-stick divergences by quadrature, the larger."""
    first, second = norm(mean, deviation).pdf, norm(0.0, null).pdf
    edge = 12 * max(deviation, null) + abs(mean)
    grid = np.linspace(-edge, edge, 400_001)
    step = grid[1] - grid[0]
    there = np.maximum(first(grid) - math.exp(epsilon) * second(grid), 0.0).sum() * step
    back = np.maximum(second(grid) - math.exp(epsilon) * first(grid), 0.0).sum() * step
    return float(max(there, back))


@pytest.mark.parametrize(
    ("mean", "deviation", "null"),
    [(1.0, 1.0, 1.0), (0.5, 1.3, 1.0), (0.5, 0.8, 1.0), (-2.0, 0.5, 1.0), (0.0, 1.2, 1.0)],
)
def test_epsilon_of_two_gaussians_is_where_the_divergence_is_delta(mean: float, deviation: float, null: float) -> None:
    delta = 1e-3
    found = two_gaussian_epsilon(mean=mean, deviation=deviation, null_deviation=null, delta=delta)
    assert numeric_delta(found, mean, deviation, null) == pytest.approx(delta, rel=1e-3)


def test_equal_variances_are_the_gaussian_mechanism() -> None:
    found = two_gaussian_epsilon(mean=0.03, deviation=0.02, null_deviation=0.02, delta=DELTA)
    assert found == pytest.approx(gaussian_epsilon(1.5, DELTA), rel=1e-6)
    assert two_gaussian_epsilon(mean=0.0, deviation=1.0, null_deviation=1.0, delta=DELTA) == 0.0
    assert quad(norm.pdf, -1, 1)[0] == pytest.approx(0.6827, abs=1e-4)


def federation(canaries: int, dimension: int, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Cosines of random unit canaries with their noised sum."""
    vectors = rng.standard_normal((canaries, dimension))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    total = vectors.sum(axis=0) + noise * rng.standard_normal(dimension)
    return vectors @ total / np.linalg.norm(total)


@pytest.mark.parametrize("canaries", [100, 500])
def test_the_fitted_estimate_is_biased_up_for_few_canaries_and_the_other_down(canaries: int) -> None:
    """Therefore neither is a bound."""
    rng, truth, dimension = np.random.default_rng(5), 1.0, 4000
    noise = 1 / 0.2683  # mu of epsilon 1 at delta 1e-5
    found = [
        cosine_estimate(
            federation(canaries, dimension, noise, rng),
            dimension=dimension,
            delta=DELTA,
            confidence=0.95,
            resamples=20,
            rng=rng,
        )
        for _ in range(8)
    ]
    assert np.median([each.fitted for each in found]) > 1.2 * truth
    shrunk = gaussian_epsilon(0.2683 / math.sqrt(1 + canaries / (noise**2 * dimension)), DELTA)
    assert np.median([each.equal_variance for each in found]) == pytest.approx(shrunk, rel=0.35)
    for each in found:
        assert each.fitted_interval[0] <= each.fitted_interval[1]
        assert each.equal_variance_interval[0] <= each.equal_variance <= each.equal_variance_interval[1]


def test_the_result_is_an_estimate_with_both_numbers() -> None:
    rng = np.random.default_rng(6)
    cosines = federation(300, 2000, 1.0, rng)
    estimate = cosine_estimate(cosines, dimension=2000, delta=DELTA, confidence=0.95, resamples=50, rng=rng)
    found = cosine_result(estimate, delta=DELTA, confidence=0.95, claim=1.0)
    assert found.lower_bound is None
    assert found.estimate == estimate.equal_variance > 1.0
    assert found.verdict == "inconclusive"
    assert found.details["fitted"] == estimate.fitted


def test_malformed_cosines_are_refused() -> None:
    rng = np.random.default_rng(7)
    for bad in (np.array([0.1]), np.array([0.1, 1.2]), np.array([0.1, np.nan])):
        with pytest.raises(ValueError, match="cosines"):
            cosine_estimate(bad, dimension=10, delta=DELTA, confidence=0.95, resamples=5, rng=rng)
