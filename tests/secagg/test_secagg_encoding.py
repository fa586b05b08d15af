"""The fixed point encoding: exact at every boundary, unbiased in between."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg import FixedPoint, from_ring, to_ring

CASES = [
    (16, 1.0, 12),
    (24, 1.0, 12),
    (24, 1.0, 16),
    (32, 1.0, 12),
    (24, 0.1, 12),
    (24, 3.7, 1000),
    (24, 1e-4, 5),
    (16, 1.5, 85),
]


@pytest.mark.parametrize(("bits", "value_range", "clients"), CASES)
@pytest.mark.parametrize("stochastic", [False, True])
def test_every_client_at_the_edge_of_the_range_does_not_wrap(
    bits: int, value_range: float, clients: int, stochastic: bool
) -> None:
    fixed = FixedPoint(bits=bits, value_range=value_range, max_clients=clients)
    rng = np.random.default_rng(0) if stochastic else None
    for edge in (value_range, -value_range, np.nextafter(value_range, 0)):
        parts = [to_ring(fixed.encode(np.full(50, edge), rng).vector, bits) for _ in range(clients)]
        total = np.sum(parts, axis=0, dtype=parts[0].dtype)
        decoded = fixed.decode(from_ring(total, bits))
        assert np.abs(decoded - clients * edge).max() <= clients / fixed.scale
        assert (np.sign(decoded) == np.sign(edge)).all()


@pytest.mark.parametrize(("bits", "value_range", "clients"), CASES)
def test_the_scale_is_the_largest_power_of_two_that_fits(bits: int, value_range: float, clients: int) -> None:
    fixed = FixedPoint(bits=bits, value_range=value_range, max_clients=clients)
    limit = 2 ** (bits - 1) - 1
    assert math.log2(fixed.scale) == int(math.log2(fixed.scale))
    assert clients * math.ceil(value_range * fixed.scale) <= limit
    assert clients * math.ceil(value_range * 2 * fixed.scale) > limit


def test_one_client_more_than_a_tight_bound_wraps() -> None:
    fixed = FixedPoint(bits=24, value_range=1.0, max_clients=15)  # 15 x 2^19 < 2^23 = 16 x 2^19
    words = to_ring(fixed.encode(np.ones(1), None).vector, 24)
    assert fixed.decode(from_ring(15 * words, 24)).tolist() == [15.0]
    assert fixed.decode(from_ring(16 * words, 24)).tolist() == [-16.0]


def test_the_proof_shows_the_numbers() -> None:
    assert FixedPoint().proof() == "12 clients x 524288 = 6291456 = 2^22.58 < 2^23 = 8388608"
    tight = FixedPoint(bits=24, value_range=1.0, max_clients=4095).proof()
    assert tight == "4095 clients x 2048 = 8386560 = 2^22.99 < 2^23 = 8388608"


@pytest.mark.parametrize(
    ("bits", "value_range", "clients", "text"),
    [
        (20, 1.0, 12, "bits must be one of"),
        (16, 1.0, 128, "max_clients=128 .* at most 127 clients"),
        (16, 1.5, 86, "max_clients=86 .* at most 85 clients"),
        (24, 1.0, 2**20, "max_clients"),
        (24, 1.0, 0, "max_clients must be at least 1"),
        (24, 0.0, 12, "value_range"),
        (24, -1.0, 12, "value_range"),
        (24, math.nan, 12, "value_range"),
        (24, math.inf, 12, "value_range"),
    ],
)
def test_a_ring_that_cannot_hold_the_sum_is_refused(bits: int, value_range: float, clients: int, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        FixedPoint(bits=bits, value_range=value_range, max_clients=clients)


def test_the_bound_in_the_refusal_is_itself_accepted() -> None:
    assert FixedPoint(bits=16, value_range=1.0, max_clients=127).level == 256
    assert FixedPoint(bits=16, value_range=1.5, max_clients=85).level == 384


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        FixedPoint().encode(np.array([0.0, bad]), None)


def test_clipped_coordinates_are_counted_and_sit_at_the_edge() -> None:
    fixed = FixedPoint(value_range=0.5)
    encoded = fixed.encode(np.array([0.5, -0.5, 0.50001, -9.0, 0.1]), None)
    assert encoded.clipped == 2
    assert fixed.decode(encoded.vector)[:4].tolist() == [0.5, -0.5, 0.5, -0.5]


def test_rounding_without_a_generator_is_to_the_nearest_with_ties_to_even() -> None:
    fixed = FixedPoint()
    values = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 0.49, 0.51]) / fixed.scale
    assert fixed.encode(values, None).vector.tolist() == [0, 2, 2, 0, -2, 0, 1]


def test_stochastic_rounding_is_unbiased_and_takes_only_the_two_neighbours() -> None:
    fixed = FixedPoint()
    size = 200_000
    for value in (3.25, -3.25, 0.9):
        rounded = fixed.encode(np.full(size, value / fixed.scale), np.random.default_rng(1)).vector
        assert set(rounded.tolist()) == {math.floor(value), math.ceil(value)}
        part = value - math.floor(value)
        error = 4 * math.sqrt(part * (1 - part) / size)  # four standard errors
        assert abs(rounded.mean() - value) < error
        assert abs(fixed.encode(np.full(size, value / fixed.scale), None).vector.mean() - value) > error


def test_stochastic_rounding_leaves_integers_alone_whatever_the_generator_draws() -> None:
    class AlmostOne(np.random.Generator):
        def random(self, size: object) -> float:  # type: ignore[override]
            return np.nextafter(1.0, 0.0)

    fixed = FixedPoint()
    rng = AlmostOne(np.random.PCG64(0))
    assert fixed.encode(np.array([1.0, -1.0]), rng).vector.tolist() == [fixed.level, -fixed.level]


def test_stochastic_rounding_is_the_same_under_the_same_seed() -> None:
    values = np.random.default_rng(5).normal(size=1000) / 3
    first, second = (FixedPoint().encode(values, np.random.default_rng(9)).vector for _ in range(2))
    assert np.array_equal(first, second)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=20))
def test_decoding_is_within_half_a_level_of_the_value(values: list[float]) -> None:
    fixed = FixedPoint()
    decoded = fixed.decode(fixed.encode(np.array(values), None).vector)
    assert np.abs(decoded - values).max() <= 0.5 / fixed.scale
