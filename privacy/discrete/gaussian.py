"""A sampler of the discrete Gaussian N_Z(0, variance) with a proved statistical distance, at any width up to 2^30.

Up to a standard deviation of 512 one alias table holds the law. Above, X = X1 + b X2 with X1 ~ N_Z(0, 5 b^2) and
X2 ~ N_Z(0, variance / b^2 - 5), again and again. By Poisson summation (as for lattices in Micciancio and Walter,
CRYPTO 2017) the law of X is N_Z(0, variance) up to a factor between (1 - e) / (1 + e) and (1 + e) / (1 - e) at *every*
point, e = 2 sum_k exp(-2 pi^2 k^2 r), r = 5 (1 - 5 b^2 / variance); docs/integer-noise.md has the proof. A b too large
for its X1 would give a comb, so the constructor refuses to exist with a distance above 2^-118.

Not constant-time (see `privacy.discrete.alias`); keys and noise stay in memory until collected.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from privacy.discrete.alias import LEAD_BITS, REST_BITS, AliasTable, alias_table, normalised
from privacy.discrete.weights import gaussian_weights
from privacy.entropy import Keystream

MOST_VARIANCE = 1 << 60
MOST_DISTANCE_LOG2 = -118.0
_ONE_TABLE = 512**2  # the largest variance that one table holds: 2^14 buckets
_NARROW = 5  # X1 has variance 5 b^2: then e <= 2^-139
_MOST_SCALE = 256  # the largest b: X1 then has std 572, 2^14 buckets
_CHUNK = 1 << 15  # draws per pass: the temporaries stay in the processor's cache


@dataclass(frozen=True, slots=True, eq=False)
class _Level:
    table: AliasTable
    reach: int
    distance: float  # of the table's law from N_Z(0, its variance), total variation


class DiscreteGaussian:
    """The law N_Z(0, variance), ready to be sampled. Sampling changes nothing in it; the tables hold no secret."""

    __slots__ = ("_levels", "distance_log2", "reach", "variance")

    variance: int  # squared grid units, the parameter of the law
    distance_log2: float  # log2 of the total variation distance of one draw from N_Z(0, variance), at most -118
    reach: int  # hard bound: every draw x has |x| <= reach, about 13 to 14 standard deviations

    def __init__(self, variance: int) -> None:
        """Raises ValueError unless variance is in [1, 2^60], TypeError unless it is an integer."""
        self.variance = operator.index(variance)
        if not 1 <= self.variance <= MOST_VARIANCE:
            raise ValueError(f"variance must be in [1, 2^60], got {self.variance}")
        parts = decomposition(Fraction(self.variance))
        self._levels = tuple((shift, _level(part)) for shift, part in parts)
        self.reach = sum(level.reach << shift for shift, level in self._levels)
        distance = sum(level.distance for _, level in self._levels) + _convolution_distance(parts)
        self.distance_log2 = math.log2(distance) + 1e-9  # the addend covers the float rounding of this line and above
        if self.distance_log2 > MOST_DISTANCE_LOG2:
            raise ArithmeticError(f"distance 2^{self.distance_log2:.1f} exceeds 2^{MOST_DISTANCE_LOG2:.0f}")

    def sample(self, n: int, keystream: Keystream) -> NDArray[np.int64]:
        """int64[n], independent draws, in memory of n words and a few chunks. The stream must serve this call alone.

        Raises ValueError if n < 0.
        """
        if n < 0:
            raise ValueError(f"n must be at least 0, got {n}")
        out = np.full(n, -self.reach, dtype=np.int64)  # tables count from 0
        for start in range(0, n, _CHUNK):
            chunk = out[start : start + _CHUNK]
            for shift, level in self._levels:
                drawn = level.table.draw(len(chunk), keystream)
                if shift:
                    drawn <<= shift
                chunk += drawn
        return out

    def __repr__(self) -> str:
        return f"DiscreteGaussian({self.variance})"


def decomposition(variance: Fraction) -> tuple[tuple[int, Fraction], ...]:
    """(shift, variance) of independent parts, narrow first: the draw is the sum of 2^shift times each part."""
    parts, shift = [], 0
    while variance > _ONE_TABLE:
        scale_bits = min(_MOST_SCALE.bit_length() - 1, (int(variance) // _NARROW).bit_length() // 4)  # b^4 <= 0.4 V
        parts.append((shift, Fraction(_NARROW << (2 * scale_bits))))
        variance = variance / (1 << (2 * scale_bits)) - _NARROW
        shift += scale_bits
    return (*parts, (shift, variance))


def convolution_error(narrow: Fraction, wide: Fraction, scale: int) -> float:
    """e: how far X1 + scale X2 may be from its Gaussian at any point, relative (twice this bounds the distance).

    narrow, wide: the variances of X1 and X2. With r = narrow wide / (narrow + scale^2 wide), e is the sum over k >= 1
    of 2 exp(-2 pi^2 k^2 r); infinite where the series does not fall at once, that is, where the law is a comb.
    """
    exponent = 2 * math.pi**2 * float(narrow * wide / (narrow + scale**2 * wide))
    if exponent < 1.0:
        return math.inf
    first = 2.0 * math.exp(-exponent)
    return first / (1.0 - math.exp(-3.0 * exponent))  # k^2 - 1 >= 3 (k - 1): a geometric series bounds the rest


def _convolution_distance(parts: tuple[tuple[int, Fraction], ...]) -> float:
    """The distances of all convolutions of `parts` together: a level's error reaches the draw unchanged or smaller."""
    total, (top_shift, wide) = 0.0, parts[-1]
    for shift, narrow in reversed(parts[:-1]):
        scale = 1 << (top_shift - shift)
        total += 2.0 * convolution_error(narrow, wide, scale)
        top_shift, wide = shift, narrow + scale**2 * wide
    return total


@lru_cache(maxsize=64)
def _level(variance: Fraction) -> _Level:
    weights = gaussian_weights(variance)
    masses = normalised(weights.values, centre=weights.reach)
    rounding = len(masses) * 2.0 ** -(LEAD_BITS + REST_BITS)  # fewer units than masses were moved to 0
    return _Level(alias_table(masses), weights.reach, weights.distance + rounding)
