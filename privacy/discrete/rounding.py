"""Clipped vectors to integer vectors, one privacy unit at a time, each with a checked integer norm.

Conditional stochastic rounding (Kairouz, Liu, Steinke, "The Distributed Discrete Gaussian Mechanism", ICML 2021):
each coordinate goes to one of its two neighbouring integers with the chances that keep its mean, and the vector is
redrawn until its squared integer norm is within the bound. Privacy rests on that check alone: adding or removing one
unit moves the sum of rounded units by that unit's integer vector.

**Never round a sum.** A client's sum rounded as one vector can move by more than the bound when one unit is removed,
because every coordinate of the sum may round the other way.

The coins must be secret. With coins an adversary knows, drawn row by row, removing one unit would give all later rows
other coins, and the sum would move by more than one unit's vector. A keystream is therefore the only source taken; a
seeded one is for tests.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from privacy.entropy import Keystream
from privacy.errors import PrivacyError

MOST_CLIP = 1 << 25  # grid units
MOST_BOUND_SQUARED = (1 << 52) - 1  # then squared norms up to twice the bound are exact in float64, larger ones larger
MOST_BETA = 0.7  # 0.7^256 < 2^-131: that honest units are refused is then out of the question
_MOST_DRAWS = 256
_COIN_BITS = 32
_BLOCK = 1 << 15  # coordinates per pass
_ROUNDING = 2.0**-40  # as in `privacy.clipping`: float64 rounding cannot lift a clipped norm above the bound

Floats: TypeAlias = NDArray[np.float32] | NDArray[np.float64]


class NormRefused(PrivacyError):
    """No draw of the rounding was within the integer norm bound; releasing this vector would break the sensitivity."""


def norm_bound_squared(clip_norm_in_grid_units: float, dim: int, beta: float) -> int:
    """Bound on the squared integer norm of one unit: at least a share 1 - beta of the roundings is within it.

    c^2 + dim / 4 + sqrt(2 ln(1 / beta)) (c + sqrt(dim) / 2), or (c + sqrt(dim))^2 if that is smaller; always the latter
    at beta = 0, where nothing is redrawn (Kairouz, Liu, Steinke 2021, Proposition on conditional rounding). A smaller
    beta costs little and keeps the mean: conditioning moves it by at most sqrt(dim) beta / (1 - beta). Raises
    ValueError unless 0 < clip_norm_in_grid_units <= 2^25, dim >= 1 and 0 <= beta <= 0.7.
    """
    clip = clip_norm_in_grid_units
    _check_clip(clip)
    if dim < 1:
        raise ValueError(f"dim must be at least 1, got {dim}")
    if not 0.0 <= beta <= MOST_BETA:
        raise ValueError(f"beta must be in [0, {MOST_BETA}], got {beta}")
    always = (clip + math.sqrt(dim)) ** 2
    if beta == 0.0:
        return math.floor(always)
    likely = clip**2 + dim / 4 + math.sqrt(2 * math.log(1 / beta)) * (clip + math.sqrt(dim) / 2)
    return math.floor(min(always, likely))


def round_unit(
    values: Floats,  # [dim], one privacy unit
    *,
    clip_norm: float,
    grid: float,
    bound_squared: int,
    keystream: Keystream,
) -> NDArray[np.int64]:
    """int64[dim], values / grid rounded at random to integers of squared norm at most bound_squared.

    Values of L2 norm above clip_norm are first scaled down to it; if one is not finite, the unit counts as zero.
    Raises NormRefused if 256 draws exceed the bound, ValueError for a wrong shape or number.
    """
    if values.ndim != 1:
        raise ValueError(f"values must be one vector, got shape {values.shape}")
    _check_numbers(clip_norm, grid, bound_squared)
    rounded = _round_rows(values[None, :], _scales(values[None, :], clip_norm, grid), bound_squared, keystream)
    return rounded.reshape(-1)


def sum_of_rounded_units(
    rows: Floats,  # [units, dim], one privacy unit a row
    *,
    clip_norm: float,
    grid: float,
    bound_squared: int,
    keystream: Keystream,
) -> NDArray[np.int64]:
    """int64[dim], the sum of `round_unit` over the rows, each checked by its own integer norm; zeros for no rows.

    Adding or removing one row moves the sum by at most sqrt(bound_squared) in L2. Beside the rows themselves, memory
    for two rows or 2^15 coordinates is used. Errors as in `round_unit`.
    """
    if rows.ndim != 2:
        raise ValueError(f"rows must be a matrix, got shape {rows.shape}")
    _check_numbers(clip_norm, grid, bound_squared)
    units, dim = rows.shape
    total = np.zeros(dim, dtype=np.int64)
    at_once = max(1, _BLOCK // max(1, dim))
    for start in range(0, units, at_once):
        part = rows[start : start + at_once]
        rounded = _round_rows(part, _scales(part, clip_norm, grid), bound_squared, keystream)
        total += rounded[0] if len(rounded) == 1 else rounded.sum(axis=0)  # a sum of one long row would copy it
    return total


def _scales(rows: Floats, clip_norm: float, grid: float) -> NDArray[np.float64]:
    """float64[units]: the factor from values to grid units that also clips; 0 for a row that is not finite."""
    squares = np.zeros(len(rows))
    with np.errstate(over="ignore", invalid="ignore"):
        for part in _parts(rows.shape[1]):
            block = rows[:, part].astype(np.float64)
            squares += np.einsum("ij,ij->i", block, block)
        norms = np.sqrt(squares)
    clipped = clip_norm * (1.0 - _ROUNDING) / np.maximum(norms, 1e-300)
    return np.where(np.isfinite(norms), np.minimum(clipped, 1.0), 0.0) / grid


def _round_rows(
    rows: Floats,  # [units, dim]
    scales: NDArray[np.float64],  # [units]
    bound_squared: int,
    keystream: Keystream,
) -> NDArray[np.int64]:
    """int64[units, dim]: every row within the bound; rows that exceed it are drawn again, alone."""
    rounded, squares = _draw_rows(rows, scales, keystream)
    for _ in range(_MOST_DRAWS - 1):
        over = np.flatnonzero(squares > bound_squared)
        if not len(over):
            return rounded
        rounded[over], squares[over] = _draw_rows(rows[over], scales[over], keystream)
    if (squares > bound_squared).any():
        raise NormRefused(f"{_MOST_DRAWS} roundings of a unit all exceeded the squared norm {bound_squared}")
    return rounded


def _draw_rows(
    rows: Floats, scales: NDArray[np.float64], keystream: Keystream
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """One draw of the rounding, int64[units, dim], and the squared integer norms, float64[units].

    The squared norms are sums of integers, so exact up to 2^53 and above the bound beyond; nothing wraps.
    """
    rounded, squares = np.empty(rows.shape, dtype=np.int64), np.zeros(len(rows))
    for part in _parts(rows.shape[1]):
        drawn = _draw(rows[:, part], scales, keystream)
        rounded[:, part] = drawn
        block = drawn.astype(np.float64)
        squares += np.einsum("ij,ij->i", block, block)
    return rounded, squares


def _draw(
    values: Floats,  # [units, n]
    scales: NDArray[np.float64],  # [units]
    keystream: Keystream,
) -> NDArray[np.int64]:
    """int64[units, n]: values x scale, each rounded to a neighbouring integer at random; zeros at scale 0.

    In fixed point with 32 fractional bits: adding a coin below 1 and rounding down keeps the mean exactly.
    """
    with np.errstate(invalid="ignore"):
        fixed = np.multiply(values, scales[:, None] * 2.0**_COIN_BITS, dtype=np.float64)
    fixed[scales == 0.0] = 0.0  # 0 times infinity is not 0
    whole: NDArray[np.int64] = np.rint(fixed, out=fixed).astype(np.int64)
    whole += keystream.words((whole.size + 1) // 2).view(np.uint32)[: whole.size].reshape(whole.shape)
    whole >>= _COIN_BITS
    return whole


def _parts(dim: int) -> Iterator[slice]:
    """Slices of at most 2^15 columns, in order."""
    return (slice(start, start + _BLOCK) for start in range(0, dim, _BLOCK))


def _check_numbers(clip_norm: float, grid: float, bound_squared: int) -> None:
    if not 1e-100 < clip_norm < 1e100:  # no square underflows or overflows on the way
        raise ValueError(f"clip_norm must be in (1e-100, 1e100), got {clip_norm}")
    if not grid > 0.0:
        raise ValueError(f"grid must be positive, got {grid}")
    _check_clip(clip_norm / grid)
    if not 0 <= bound_squared <= MOST_BOUND_SQUARED:
        raise ValueError(f"bound_squared must be in [0, 2^52), got {bound_squared}")


def _check_clip(clip: float) -> None:
    if not 0.0 < clip <= MOST_CLIP:
        raise ValueError(f"clip_norm in grid units must be in (0, 2^25], got {clip}")
