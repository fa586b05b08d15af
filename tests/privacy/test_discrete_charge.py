"""Integer noise of variance V is never worse than a Gaussian of variance V - 9, and it is worse than one of V.

Exact hockey-stick divergences of N_Z(0, V) at integer shifts, by sums, against closed forms of the Gaussian.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import log_ndtr

from privacy.discrete import (
    ROUNDING_VARIANCE,
    delta_with_distance,
    distance_log2,
    least_total_variance,
    noise_multiplier_of,
)

EPSILONS = (0.0, 0.1, 0.5, 1.0, 2.0, 4.0)
VARIANCES = (12.25, 16.0, 25.0, 100.0, 900.0, 10_000.0)  # std 3.5 to 100
SLACK = 1e-8  # relative, of the closed forms: far below the margin of 9 / V


def gaussian(mu: float, ratio: float) -> float:
    """sup over events of P(E) - ratio Q(E), P = N(mu, 1), Q = N(0, 1) or reversed (Balle and Wang 2018)."""
    if ratio <= 0.0:
        return 1.0 - ratio
    cut = math.log(ratio) / mu
    first, second = log_ndtr(mu / 2 - cut), math.log(ratio) + log_ndtr(-mu / 2 - cut)
    return float(-math.exp(first) * math.expm1(second - first))


def gaussian_divergences(mu: float, rate: float, epsilon: float) -> tuple[float, float]:
    """Of the Poisson-sampled Gaussian at rate, both directions: with the pair over without it, and the reverse."""
    scale = math.exp(epsilon)
    present = rate * gaussian(mu, (scale - 1 + rate) / rate)
    left = 1 - scale * (1 - rate)
    absent = left * gaussian(mu, scale * rate / left) if left > 0 else 0.0
    return present, absent


def pmf(variance: float, shift: tuple[int, ...], reach: int) -> NDArray[np.float64]:
    """The product law centred at `shift` on the grid [-reach, reach]^d, flattened."""
    law = np.ones(1)
    for centre in shift:
        weights = np.exp(-((np.arange(-reach, reach + 1) - centre) ** 2) / (2 * variance))
        law = np.multiply.outer(law, weights / weights.sum()).ravel()
    return law


def integer_divergences(variance: float, shift: tuple[int, ...], rate: float, epsilon: float) -> tuple[float, float]:
    reach = math.ceil((38 if len(shift) == 1 else 12) * math.sqrt(variance)) + max(shift)
    without, moved = (pmf(variance, centre, reach) for centre in ((0,) * len(shift), shift))
    with_pair, scale = (1 - rate) * without + rate * moved, math.exp(epsilon)
    return (
        float(np.maximum(with_pair - scale * without, 0.0).sum()),
        float(np.maximum(without - scale * with_pair, 0.0).sum()),
    )


def shifts(variance: float) -> list[int]:
    std = math.sqrt(variance)
    return sorted({1, 2, 3, max(1, round(std / 2)), round(std), 2 * math.ceil(std / 2), round(1.5 * std), int(2 * std)})


def violations(lost_variance: float, rates: tuple[float, ...]) -> tuple[list[tuple[float, ...]], int]:
    """Cases in which integer noise of variance V is worse than N(0, V - lost_variance), and the number compared."""
    found, compared = [], 0
    for variance in VARIANCES:
        for shift in shifts(variance):
            mu = shift / math.sqrt(variance - lost_variance)
            for rate in rates:
                for epsilon in EPSILONS:
                    pairs = zip(
                        integer_divergences(variance, (shift,), rate, epsilon),
                        gaussian_divergences(mu, rate, epsilon),
                        strict=True,
                    )
                    for exact, bound in pairs:
                        if max(exact, bound) < 1e-100:  # denormal or zero in both: nothing to compare
                            continue
                        compared += 1
                        if exact > bound * (1 + SLACK):
                            found.append((variance, shift, rate, epsilon, exact, bound))
    return found, compared


@pytest.mark.parametrize("rate", [1.0, 0.5, 0.02])
def test_the_divergence_is_never_above_that_of_a_gaussian_of_variance_smaller_by_9(rate: float) -> None:
    found, compared = violations(ROUNDING_VARIANCE, (rate,))
    assert found == []
    assert compared > 100


@pytest.mark.parametrize("rate", [1.0, 0.5, 0.02])
def test_the_divergence_exceeds_that_of_a_gaussian_of_the_same_variance(rate: float) -> None:
    found, _ = violations(0.0, (rate,))
    assert len(found) > 10
    assert max(exact / bound for *_, exact, bound in found) > 1.001


def test_the_named_case_needs_the_smaller_variance() -> None:
    """V = 16, shift 1, epsilon 0: the laws cross half-way between integers, where a sum exceeds its integral."""
    exact = integer_divergences(16.0, (1,), 1.0, 0.0)[0]
    assert exact > gaussian(1 / math.sqrt(16), 1.0) * 1.001
    assert exact < gaussian(1 / math.sqrt(16 - 9), 1.0)


@pytest.mark.parametrize("variance", [12.25, 16.0, 49.0])
def test_in_two_dimensions_the_norm_of_the_shift_counts(variance: float) -> None:
    std = math.sqrt(variance)
    for shift in ((1, 1), (1, 2), (3, 4), (0, 5), (round(std), round(std))):
        mu = math.hypot(*shift) / math.sqrt(variance - ROUNDING_VARIANCE)
        for rate in (1.0, 0.1):
            for epsilon in EPSILONS:
                exact = integer_divergences(variance, shift, rate, epsilon)
                bound = gaussian_divergences(mu, rate, epsilon)
                assert all(e <= b * (1 + SLACK) + 1e-14 for e, b in zip(exact, bound, strict=True))


@pytest.mark.parametrize("variance", [10, 12, 16, 100])
def test_rounding_a_gaussian_at_random_gives_the_discrete_gaussian(variance: int) -> None:
    """The theorem's own construction, integrated numerically: N(0, V - 9), then weights exp(-(x - g)^2 / 18)."""
    rest = variance - ROUNDING_VARIANCE
    grid = np.arange(-12 * math.sqrt(rest), 12 * math.sqrt(rest), math.sqrt(rest) / 200)
    density = np.exp(-(grid**2) / (2 * rest))
    support = np.arange(-200, 201)
    kernel = np.exp(-((support[:, None] - grid) ** 2) / 18)
    assert np.ptp(kernel.sum(axis=0)) < 1e-13 * kernel.sum(axis=0).mean()  # the same for all g: 2^-255 in truth
    law = (kernel / kernel.sum(axis=0)) @ (density / density.sum())
    assert np.abs(law - pmf(variance, (0,), 200)).max() < 1e-14


def test_the_charged_multiplier_and_the_least_variance_are_inverse_and_err_on_the_safe_side() -> None:
    for multiplier in (0.5, 1.0, 1.1, 3.7, 5.0):
        for norm_squared in (1, 5216, 2**32 + 1, 2**40):
            variance = least_total_variance(multiplier, norm_squared)
            assert noise_multiplier_of(variance, norm_squared) >= multiplier * (1 - 1e-15)
            assert Fraction(variance - 9, norm_squared) >= Fraction(multiplier) ** 2
            assert Fraction(variance - 10, norm_squared) < Fraction(multiplier) ** 2
            charged = noise_multiplier_of(variance, norm_squared)
            assert Fraction(charged) ** 2 <= Fraction(variance - 9, norm_squared)
            assert charged == pytest.approx(math.sqrt((variance - 9) / norm_squared), rel=1e-15)


def test_the_distance_grows_with_the_draws_and_goes_to_delta() -> None:
    assert distance_log2(draws=1) == pytest.approx(-118, abs=1e-6)
    assert distance_log2(draws=2**40, share_distance_log2=-120.0) == pytest.approx(-80, abs=1e-6)
    assert distance_log2(draws=1) >= -118  # rounded up
    eta = distance_log2(draws=2**50, share_distance_log2=-118.4)
    assert eta == pytest.approx(-68.4, abs=1e-6)
    for epsilon in (0.0, 1.0, 10.0):
        exact = (1 + math.exp(epsilon)) * 2**eta
        assert delta_with_distance(0.0, epsilon=epsilon, eta_log2=eta) == pytest.approx(exact, rel=1e-9)
        assert delta_with_distance(0.0, epsilon=epsilon, eta_log2=eta) >= exact
        assert delta_with_distance(1e-5, epsilon=epsilon, eta_log2=eta) > 1e-5
    assert delta_with_distance(1e-5, epsilon=50.0, eta_log2=-60.0) == 1.0
    assert delta_with_distance(1e-5, epsilon=math.inf, eta_log2=-60.0) == 1.0


def test_numbers_out_of_range_are_refused() -> None:
    for call in (
        lambda: least_total_variance(0.0, 5),
        lambda: least_total_variance(math.inf, 5),
        lambda: least_total_variance(1.0, 0),
        lambda: noise_multiplier_of(9, 5),
        lambda: noise_multiplier_of(16, 0),
        lambda: distance_log2(draws=0),
        lambda: delta_with_distance(-0.1, epsilon=1.0, eta_log2=-60.0),
        lambda: delta_with_distance(0.1, epsilon=math.nan, eta_log2=-60.0),
    ):
        with pytest.raises(ValueError, match="must be"):
            call()
