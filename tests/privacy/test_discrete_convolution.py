"""Exact laws of sums of scaled discrete Gaussians, in integers, against the one they should equal."""

from __future__ import annotations

import itertools
import random
from fractions import Fraction

import pytest

from privacy.discrete.alias import normalised
from privacy.discrete.gaussian import MOST_VARIANCE, DiscreteGaussian, convolution_error, decomposition
from privacy.discrete.weights import gaussian_weights
from tests.privacy.discrete_oracle import convolve, distance, integer_weights, largest_deviation, log2


def test_the_parts_add_up_to_the_variance_exactly_and_leave_no_comb() -> None:
    rng = random.Random(1)
    widths = [512**2, 512**2 + 1, 513**2, 10**8, 10**10, 10**12, 10**14, MOST_VARIANCE]
    widths += [int(2 ** rng.uniform(0, 60)) for _ in range(2000)]
    for variance in widths:
        parts = decomposition(Fraction(variance))
        assert sum(part * 4**shift for shift, part in parts) == variance
        assert len(parts) <= 4
        assert all(part <= 5 * 256**2 for _, part in parts)
        for (shift, narrow), (next_shift, _) in itertools.pairwise(parts):
            scale = 1 << (next_shift - shift)
            rest = sum(part * 4 ** (s - next_shift) for s, part in parts if s >= next_shift)
            assert narrow == 5 * scale**2
            assert convolution_error(narrow, Fraction(rest), scale) < 2.0**-139


@pytest.mark.parametrize("std", [513, pytest.param(700, marks=pytest.mark.slow)])
def test_the_law_that_is_sampled_above_512_is_within_the_stated_distance(std: int) -> None:
    """The integer masses of both tables, convolved exactly, against decimal exponentials."""
    (_, narrow), (shift, wide) = decomposition(Fraction(std**2))
    tables = []
    for part in (narrow, wide):
        weights = gaussian_weights(part)
        tables.append(normalised(weights.values, centre=weights.reach))
    law = convolve(tables[0], tables[1], 1 << shift)
    sampler = DiscreteGaussian(std**2)
    assert len(law) == 2 * sampler.reach + 1
    ideal = integer_weights(std**2, sampler.reach + 3 * std, digits=60)
    assert log2(distance(law, ideal)) <= sampler.distance_log2 <= -118
    assert log2(largest_deviation(law, ideal, within=4 * std)) < -120


@pytest.mark.parametrize(
    ("narrow", "wide", "scale"),
    [(5, 12, 1), (4, 4, 1), (2, 3, 1), (20, 16, 2), (4, 16, 2), (16, 9, 4), (8, 16, 4), (64, 4, 8)],
)
def test_the_pointwise_bound_holds_and_is_nearly_reached(narrow: int, wide: int, scale: int) -> None:
    parts = [integer_weights(variance, 30 * variance) for variance in (narrow, wide)]  # far beyond 2^-330
    law = convolve(parts[0], parts[1], scale)
    total = narrow + scale**2 * wide
    deviation = largest_deviation(law, integer_weights(total, len(law) // 2), within=3 * int(total**0.5))
    error = Fraction(convolution_error(Fraction(narrow), Fraction(wide), scale))
    assert deviation <= (1 + error) / (1 - error) - 1
    assert deviation > error / 4


def test_a_scale_too_large_for_the_narrow_part_is_seen_as_a_comb() -> None:
    """Trap: std b / 2 instead of sqrt(5) b under b X2 leaves teeth of one percent."""
    scale = 16
    narrow, wide = Fraction(scale**2, 4), Fraction(50)
    law = convolve(integer_weights(narrow, 120), integer_weights(wide, 100), scale)
    ideal = integer_weights(narrow + scale**2 * wide, len(law) // 2, digits=60)
    assert largest_deviation(law, ideal, within=32) > Fraction(1, 100)
    assert convolution_error(narrow, wide, scale) > 0.01
    assert convolution_error(Fraction(1, 100), wide, scale) == float("inf")


@pytest.mark.parametrize(
    ("variance", "most", "least"), [(16, -225, -230), (9, -126, -130), (1, -12, -15)], ids=["4", "3", "1"]
)
def test_shares_of_std_4_sum_to_a_discrete_gaussian_and_shares_of_std_1_do_not(
    variance: int, most: int, least: int
) -> None:
    share = integer_weights(variance, 25 * variance)
    deviation = log2(largest_deviation(convolve(share, share, 1), integer_weights(2 * variance, 50 * variance), 20))
    assert least < deviation <= most


def test_unequal_and_repeated_shares_stay_below_the_bound() -> None:
    law, total = integer_weights(16, 300), 16
    for variance in (121, 17, 16):
        law, total = convolve(law, integer_weights(variance, 400), 1), total + variance
        law = [value >> 330 for value in law]
    assert log2(largest_deviation(law, integer_weights(total, len(law) // 2), within=50)) < -222
