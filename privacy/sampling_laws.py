"""The laws of what a Poisson sampler's log counts: exact distributions of sums, from which tail chances are read.

With n rows, rate q and T steps, inclusions are n x T independent coins. Sums of n or T independent terms of known law
are computed by raising the discrete Fourier transform to a power; absolute error below 1e-11, which is why levels
below 1e-9 are not offered. No normal approximation is used for a p-value: at a level of 1e-6 and few steps it is wrong
by orders of magnitude.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

_POINTS = 1 << 20  # of the longest transform; longer sums are put on a coarser grid
_WIDTH = 64.0  # standard deviations kept on either side of the mean

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class SumLaw:
    """P(sum = (start + j) * grid) = masses[j]; chances below 1e-11 are not resolved."""

    start: int
    grid: float
    masses: Floats

    def at_most(self, value: float) -> float:
        """P(sum <= value)."""
        last = math.floor(value / self.grid + 1e-9) - self.start
        return 0.0 if last < 0 else min(1.0, float(self.masses[: last + 1].sum()))

    def at_least(self, value: float) -> float:
        """P(sum >= value)."""
        first = math.ceil(value / self.grid - 1e-9) - self.start
        return min(1.0, float(self.masses[max(first, 0) :].sum()))

    def two_sided(self, value: float) -> float:
        """Chance of a value as far out, on either side: at most p has chance at most p."""
        return min(1.0, 2.0 * min(self.at_most(value), self.at_least(value)))

    def lower_limit(self, chance: float) -> float | None:
        """The largest value with P(sum <= value) <= chance, None if there is none."""
        place = int(np.searchsorted(np.cumsum(self.masses), chance, side="right")) - 1
        return (
            None
            if place < 0 or self.at_most((self.start + place) * self.grid) > chance
            else ((self.start + place) * self.grid)
        )

    def upper_limit(self, chance: float) -> float | None:
        """The least value with P(sum >= value) <= chance, None if there is none in reach."""
        above = np.cumsum(self.masses[::-1])
        place = int(np.searchsorted(above, chance, side="right"))
        return None if place == 0 else (self.start + len(self.masses) - place) * self.grid


def sum_law(values: Floats, masses: Floats, copies: int) -> SumLaw:
    """The law of the sum of `copies` independent terms, each values[j] >= 0 (whole numbers) with chance masses[j].

    Exact on whole numbers as long as the sum's range needs at most 2^20 points. Beyond that every value is split
    between its two neighbours on a coarser grid, which keeps the mean and adds at most grid^2 / 4 to its variance.
    """
    mean = float(masses @ values)
    deviation = math.sqrt(max(float(masses @ (values - mean) ** 2), 0.0) * copies)
    top = float(values.max())
    span = min(2.0 * _WIDTH * deviation + 4.0 * top + 16.0, copies * top + 1.0)
    grid = max(1.0, span / _POINTS)
    whole = np.floor(values / grid).astype(np.int64)
    part = values / grid - whole
    points = 1 << max(4, math.ceil(math.log2(span / grid + 2.0)))
    term = np.zeros(points)
    np.add.at(term, whole % points, masses * (1.0 - part))
    np.add.at(term, (whole + 1) % points, masses * part)
    found = np.fft.irfft(np.fft.rfft(term) ** copies, points)
    low = 0 if copies * top / grid < points else max(0, math.floor(copies * mean / grid) - points // 2)
    return SumLaw(low, grid, np.clip(np.roll(found, -(low % points)), 0.0, None))


def dispersion(counts: NDArray[np.int64], trials: int, rate: float) -> float:
    """Sum of the squared distances of binomial counts from the whole number next to their mean."""
    return float(((counts - round(trials * rate)) ** 2).sum())


@lru_cache(maxsize=64)
def dispersion_law(trials: int, rate: float, copies: int) -> SumLaw:
    """The law of `dispersion` for `copies` independent Bin(trials, rate)."""
    reach = 10.0 * math.sqrt(trials * rate * (1.0 - rate)) + 60.0  # beyond it less than 1e-20 is left
    counts = np.arange(max(0, int(trials * rate - reach)), min(trials, int(trials * rate + reach)) + 1)
    return sum_law((counts - round(trials * rate)).astype(np.float64) ** 2, binom.pmf(counts, trials, rate), copies)


@lru_cache(maxsize=64)
def overlap_law(size: int, rate: float, steps: int) -> SumLaw:
    """The law of the total overlap of consecutive steps: over rows, how often a row is in a step and in the next."""
    mean = (steps - 1) * rate * rate
    most = min(steps - 1, math.ceil(mean + 40.0 * math.sqrt(mean + 1.0) + 60.0))
    out, inside = np.zeros(most + 1), np.zeros(most + 1)  # chance of each count so far, by whether the row is in
    out[0], inside[0] = 1.0 - rate, rate
    for _ in range(steps - 1):
        again = np.concatenate(([0.0], inside[:-1]))
        again[-1] += inside[-1]  # beyond reach: kept at the end
        out, inside = (1.0 - rate) * (out + inside), rate * (out + again)
    return sum_law(np.arange(most + 1, dtype=np.float64), out + inside, size)


def binomial_two_sided(count: int, trials: int, rate: float) -> float:
    """Chance under Bin(trials, rate) of a count as far out, on either side."""
    return min(1.0, 2.0 * min(float(binom.cdf(count, trials, rate)), float(binom.sf(count - 1, trials, rate))))


def extreme_row(least: int, most: int, *, size: int, steps: int, rate: float) -> float:
    """Chance that the least or the most included of `size` rows is as far out as these two."""
    one = 2.0 * min(float(binom.cdf(least, steps, rate)), float(binom.sf(most - 1, steps, rate)))
    return 1.0 if one >= 1.0 else -math.expm1(size * math.log1p(-one))
