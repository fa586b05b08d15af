"""The weights of the discrete Gaussian against one decimal exponential a point, and the mass that is cut off."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from privacy.discrete.weights import FRACTION_BITS, TAIL_BITS, gaussian_weights, tail_reach
from tests.privacy.discrete_oracle import UNIT, integer_weights, log2

VARIANCES = [Fraction(1, 4), Fraction(1), Fraction(16), Fraction(999, 7), Fraction(20), Fraction(513**2, 256) - 5]


@pytest.mark.parametrize("variance", VARIANCES, ids=str)
def test_every_weight_is_the_exponential_rounded_down_by_less_than_the_stated_error(variance: Fraction) -> None:
    weights = gaussian_weights(variance)
    exact = integer_weights(variance, weights.reach)
    finer = UNIT >> FRACTION_BITS
    for value, wanted in zip(weights.values, exact, strict=True):
        assert 0 <= wanted - value * finer <= 2 * (weights.reach + 1) ** 2 * finer


@pytest.mark.slow
def test_the_widest_table_is_exact_too() -> None:
    test_every_weight_is_the_exponential_rounded_down_by_less_than_the_stated_error(Fraction(5 * 256**2))


def test_the_weights_are_symmetric_and_peak_at_zero() -> None:
    weights = gaussian_weights(Fraction(12))
    assert len(weights.values) == 2 * weights.reach + 1
    assert weights.values == weights.values[::-1]
    assert max(weights.values) == weights.values[weights.reach] == 1 << FRACTION_BITS
    assert min(weights.values) > 0


@pytest.mark.parametrize("variance", VARIANCES, ids=str)
def test_the_mass_beyond_the_reach_is_below_the_bound(variance: Fraction) -> None:
    reach = tail_reach(variance)
    far = integer_weights(variance, 2 * reach)
    beyond = 2 * sum(far[:reach])
    assert len(far) // 2 == 2 * reach
    assert log2(Fraction(beyond, sum(far))) <= -TAIL_BITS
    assert gaussian_weights(variance).distance < 2.0**-TAIL_BITS * (1 + 1e-9)


@pytest.mark.parametrize("variance", VARIANCES, ids=str)
def test_the_reach_is_the_least_that_the_tail_bound_allows(variance: Fraction) -> None:
    reach = tail_reach(variance)
    bits = [1 - (r + 1) ** 2 / (2 * float(variance)) / math.log(2) for r in (reach - 1, reach)]
    assert bits[0] > -TAIL_BITS >= bits[1]


@pytest.mark.parametrize("variance", [Fraction(0), Fraction(-1)])
def test_a_variance_that_is_none_is_refused(variance: Fraction) -> None:
    with pytest.raises(ValueError, match="variance must be positive"):
        gaussian_weights(variance)
