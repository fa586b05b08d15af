"""Rounding keeps the mean and the norm bound of each unit; rounding a client's sum breaks the bound and is caught."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from privacy.discrete import NormRefused, norm_bound_squared, round_unit, sum_of_rounded_units
from privacy.discrete.rounding import MOST_BETA, _draw_rows, _round_rows
from privacy.entropy import Entropy, Keystream

Rows = NDArray[np.float64]
Summer = Callable[[Rows, Keystream], NDArray[np.int64]]
DIM = 1 << 15  # one row a pass: the coins of a row do not depend on the rows after it
CLIP = math.sqrt(DIM)  # grid 1: rounding adds much to this norm
HALF = math.exp(-0.5)
BOUND = norm_bound_squared(CLIP, DIM, HALF)


def keystream(seed: int) -> Keystream:
    return Entropy.seeded(seed).keystream()


def round_one(values: Rows, bound_squared: int, stream: Keystream, clip_norm: float = CLIP) -> NDArray[np.int64]:
    return round_unit(values, clip_norm=clip_norm, grid=1.0, bound_squared=bound_squared, keystream=stream)


def sum_rows(rows: Rows, stream: Keystream) -> NDArray[np.int64]:
    return sum_of_rounded_units(rows, clip_norm=CLIP, grid=1.0, bound_squared=BOUND, keystream=stream)


def round_the_sum(rows: Rows, stream: Keystream) -> NDArray[np.int64]:
    """The mistake: one rounding of the client's float sum, held to the sum of the units' bounds."""
    units = len(rows) + 1
    return round_unit(
        rows.sum(axis=0), clip_norm=units * CLIP, grid=1.0, bound_squared=units**2 * BOUND, keystream=stream
    )


def random_rows(count: int, seed: int) -> Rows:
    """float64[count, DIM] of norm CLIP."""
    rows = np.random.default_rng(seed).normal(size=(count, DIM))
    return rows * (CLIP / np.linalg.norm(rows, axis=1, keepdims=True))


def worst_row() -> Rows:
    """float64[DIM] of norm CLIP, every coordinate half-way between integers: rounding adds dim / 4 to its square."""
    row = np.full(DIM, 0.5)
    row[: 3 * DIM // 8] = 1.5
    return row


def test_the_bound_is_the_published_formula() -> None:
    assert norm_bound_squared(64.0, 4096, HALF) == 4096 + 1024 + 64 + 32  # sqrt(2 ln(1 / beta)) = 1; norm 72.2
    assert norm_bound_squared(64.0, 4096, 0.0) == (64 + 64) ** 2
    assert norm_bound_squared(1.0, 4, 1e-300) == 9  # the second term where it is smaller
    c, d, beta = 1000.0, 10**6, 1e-6
    likely = c**2 + d / 4 + math.sqrt(2 * math.log(1e6)) * (c + 500)
    assert norm_bound_squared(c, d, beta) == math.floor(likely)


@pytest.mark.parametrize("beta", [HALF, 0.1, 0.01])
def test_at_least_one_minus_beta_of_the_roundings_are_within_the_bound(beta: float) -> None:
    """Coordinates at a half, where rounding adds most, alone and under one large coordinate."""
    draws = 4000
    for dim in (4, 256):
        for large in (0.0, 20.3):
            values = np.full(dim, 0.5)
            values[0] += large
            bound = norm_bound_squared(float(np.linalg.norm(values)), dim, beta)
            _, squares = _draw_rows(np.tile(values, (draws, 1)), np.ones(draws), keystream(dim))
            assert (squares <= bound).mean() >= 1 - beta - 4 * math.sqrt(beta * (1 - beta) / draws)


def test_rounding_keeps_the_mean_and_goes_to_a_neighbour() -> None:
    values = np.random.default_rng(1).normal(size=200) * 3
    draws, stream = 20_000, keystream(1)
    bound = norm_bound_squared(100.0, 200, 0.0)
    rows = np.tile(values, (draws, 1))
    mean = sum_of_rounded_units(rows, clip_norm=100.0, grid=1.0, bound_squared=bound, keystream=stream) / draws
    share = values - np.floor(values)
    z = (mean - values) / np.sqrt(share * (1 - share) / draws)
    assert np.abs(z).max() < 4.5
    assert (z**2).mean() < 1.5
    biased = np.abs(np.rint(values) - values) / np.sqrt(share * (1 - share) / draws)
    assert np.median(biased) > 20  # the same check refuses rounding to nearest
    assert (np.abs(round_one(values, bound, stream, 100.0) - values) < 1).all()


def test_the_sum_of_a_matrix_keeps_the_mean_too() -> None:
    rows = np.random.default_rng(2).normal(size=(30, 50)).astype(np.float32)
    stream, draws = keystream(2), 4000
    bound = norm_bound_squared(100.0, 50, 0.0)
    sums = [
        sum_of_rounded_units(rows, clip_norm=10.0, grid=0.1, bound_squared=bound, keystream=stream)
        for _ in range(draws)
    ]
    norms = np.linalg.norm(rows.astype(np.float64), axis=1)
    wanted = (rows * np.minimum(1, 10.0 / norms)[:, None]).astype(np.float64).sum(axis=0) / 0.1
    error = (np.mean(sums, axis=0) - wanted) / math.sqrt(30 / 4 / draws)  # at most a quarter of variance a row
    assert np.abs(error).max() < 4.5


def test_no_released_vector_is_above_the_bound_and_redraws_happen() -> None:
    values = worst_row()
    _, free = _draw_rows(np.tile(values, (40, 1)), np.ones(40), keystream(3))
    tight = int(np.median(free))
    assert 5 < (free > tight).sum() < 35
    stream = keystream(3)
    for _ in range(40):
        for rounded in (
            round_one(values, tight, stream),
            sum_of_rounded_units(values[None], clip_norm=CLIP, grid=1.0, bound_squared=tight, keystream=stream),
        ):
            assert int(rounded @ rounded) <= tight


def test_rows_drawn_again_are_checked_again_and_the_others_kept() -> None:
    """Many small rows in one pass, at a bound that every second draw exceeds."""
    rows = np.full((1000, 8), 0.5)
    rounded = _round_rows(rows, np.ones(1000), 3, keystream(31))
    assert ((rounded**2).sum(axis=1) <= 3).all()
    assert set(np.unique(rounded)) == {0, 1}
    first, _ = _draw_rows(rows, np.ones(1000), keystream(31))
    kept = (first**2).sum(axis=1) <= 3
    assert 200 < kept.sum() < 800
    assert np.array_equal(rounded[kept], first[kept])


def test_a_vector_that_cannot_be_rounded_within_the_bound_is_refused() -> None:
    with pytest.raises(NormRefused, match="256 roundings"):
        round_one(np.full(1024, 0.5), 300, keystream(4))
    rows = np.zeros((40, 64))
    rows[17] = 1.0  # integers: squared norm 64, whatever the coins
    for bound, refused in ((64, False), (63, True)):
        arguments = {"clip_norm": 9.0, "grid": 1.0, "bound_squared": bound, "keystream": keystream(4)}
        if refused:
            with pytest.raises(NormRefused):
                sum_of_rounded_units(rows, **arguments)
        else:
            assert np.array_equal(sum_of_rounded_units(rows, **arguments), rows[17])


def test_the_integer_check_holds_alone_even_where_squares_would_wrap_in_64_bits() -> None:
    for huge in (2.0**31, 1e30, math.inf, math.nan):
        with pytest.raises(NormRefused), np.errstate(all="ignore"):
            _round_rows(np.array([[huge, huge]]), np.ones(1), (1 << 52) - 1, keystream(4))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (1, 1), (7, 1000), (100, 1000), (2, (1 << 15) + 1), (3, 1 << 16)])
def test_vectors_on_the_grid_are_summed_exactly(dtype: type, shape: tuple[int, int]) -> None:
    integers = np.random.default_rng(5).integers(-500, 500, size=shape)
    rows = (integers * 2.0**-6).astype(dtype)
    total = sum_of_rounded_units(rows, clip_norm=2.0**14, grid=2.0**-6, bound_squared=1 << 50, keystream=keystream(5))
    assert total.dtype == np.int64
    assert np.array_equal(total, integers.sum(axis=0))
    for row, wanted in zip(rows[:2], integers[:2], strict=True):
        rounded = round_unit(row, clip_norm=2.0**14, grid=2.0**-6, bound_squared=1 << 50, keystream=keystream(5))
        assert np.array_equal(rounded, wanted)


def test_a_unit_above_the_clip_norm_is_scaled_down_to_it() -> None:
    values = np.random.default_rng(6).normal(size=1000) * 1e3
    bound = norm_bound_squared(64.0, 1000, 0.0)
    rows = np.tile(values, (300, 1))
    mean = sum_of_rounded_units(rows, clip_norm=64.0, grid=1.0, bound_squared=bound, keystream=keystream(6)) / 300
    wanted = values * 64 / np.linalg.norm(values)
    assert np.linalg.norm(mean - wanted) < 1.2 * math.sqrt(1000 / 4 / 300)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e200])
def test_a_unit_that_is_not_finite_counts_as_zero_and_moves_no_other(bad: float) -> None:
    rows = np.ones((5, 16))
    rows[2, 3] = bad
    total = sum_of_rounded_units(rows, clip_norm=8.0, grid=1.0, bound_squared=400, keystream=keystream(7))
    assert total.tolist() == [4] * 16
    assert round_unit(rows[2], clip_norm=8.0, grid=1.0, bound_squared=400, keystream=keystream(7)).tolist() == [0] * 16


def distances(summer: Summer, trials: int, same_coins: bool) -> list[int]:
    """Squared distances of the sums with and without the worst unit; it comes last, so the others' coins can match."""
    found = []
    for trial in range(trials):
        rows = np.vstack([random_rows(2, seed=trial), worst_row()])
        moved = summer(rows, keystream(trial)) - summer(rows[:-1], keystream(trial if same_coins else 1000 + trial))
        found.append(int(moved @ moved))
    return found


def test_removing_a_unit_moves_the_sum_of_rounded_units_by_at_most_the_bound() -> None:
    """With the other units' coins fixed: independent secret coins are a mixture of such cases."""
    found = distances(sum_rows, 60, same_coins=True)
    assert max(found) <= BOUND
    _, free = _draw_rows(np.tile(worst_row(), (60, 1)), np.ones(60), keystream(8))
    assert free.max() > BOUND  # so the bound was kept by redrawing


@pytest.mark.parametrize("same_coins", [True, False])
def test_rounding_the_clients_sum_breaks_the_bound_of_one_unit(same_coins: bool) -> None:
    assert max(distances(round_the_sum, 60, same_coins)) > BOUND


def test_the_error_of_rounding_each_unit_is_that_of_independent_roundings() -> None:
    rows = random_rows(20, seed=8)
    error = sum_rows(rows, keystream(8)) - rows.sum(axis=0)
    assert abs(error.mean()) < 4.5 * math.sqrt(20 / 4 / DIM)
    assert (error**2).mean() < 20 / 4


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("grid", {"grid": 0.0}),
        ("grid", {"grid": math.nan}),
        ("clip_norm", {"clip_norm": 0.0}),
        ("clip_norm", {"clip_norm": math.nan}),
        ("clip_norm", {"clip_norm": math.inf}),
        ("clip_norm", {"clip_norm": 2.0**26}),
        ("bound_squared", {"bound_squared": -1}),
        ("bound_squared", {"bound_squared": 1 << 52}),
    ],
)
def test_a_number_out_of_range_is_named(field: str, change: dict[str, float]) -> None:
    numbers = {"clip_norm": 1.0, "grid": 1.0, "bound_squared": 100, **change}
    with pytest.raises(ValueError, match=field):
        round_unit(np.zeros(3), keystream=keystream(9), **numbers)
    with pytest.raises(ValueError, match=field):
        sum_of_rounded_units(np.zeros((0, 3)), keystream=keystream(9), **numbers)


def test_shapes_and_formula_arguments_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="one vector"):
        round_one(np.zeros((2, 2)), 10, keystream(9))
    with pytest.raises(ValueError, match="matrix"):
        sum_rows(np.zeros(3), keystream(9))
    for clip, dim, beta in ((0.0, 1, 0.1), (1.0, 0, 0.1), (1.0, 1, -0.1), (1.0, 1, MOST_BETA + 0.01), (math.nan, 1, 0)):
        with pytest.raises(ValueError, match="must be"):
            norm_bound_squared(clip, dim, beta)
