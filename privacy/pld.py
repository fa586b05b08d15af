"""Privacy loss distributions of composed Gaussian releases, on a grid, never below the truth.

One step is the pair of mixtures (P, Q) that dominates it, discretised by connect-the-dots (Doroshenko et al. 2022,
Algorithm 1): the mass of P and of Q between two neighbouring grid losses goes to the two ends so that both masses are
kept. Steps are composed by powers of Fourier transforms (Koskela et al. 2020); what the window leaves out, by
Chernoff's bound, is added to the infinite loss. dp-accounting computes the same numbers, tens of times slower, and is
the oracle of the tests. Public use goes through `privacy.accounting`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import fft, signal
from scipy.special import ndtr
from scipy.stats import binom

Array: TypeAlias = NDArray[np.float64]
# ((noise_multiplier, sample_rate), steps), one entry per distinct mechanism, sorted: the canonical form of a
# composition.
Charges: TypeAlias = tuple[tuple[tuple[float, float], int], ...]

_CUT = 9.0  # standard deviations; beyond them the loss counts as infinite: a mass of 1e-19 a step
_TAIL = 1e-15  # mass outside the composition's window, counted as infinite
_LEAN = 1e-7  # share of a cell's mass moved up, more than rounding can move down; shifts a step's mean by 1e-7 grids
_NEGLIGIBLE = -45.0  # log of a Fourier coefficient that cannot show in float64


@dataclass(frozen=True, slots=True)
class Neighbors:
    """Which data sets differ by one person: `pairs` pairs added or removed together, or one pair replaced."""

    kind: Literal["add_remove", "replace_one"] = "add_remove"
    pairs: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.pairs, bool) or not isinstance(self.pairs, int) or self.pairs < 1:
            raise ValueError(f"pairs must be a whole number of at least 1, got {self.pairs!r}")
        if self.kind not in ("add_remove", "replace_one"):
            raise ValueError(f"kind must be add_remove or replace_one, got {self.kind!r}")
        if self.kind == "replace_one" and self.pairs != 1:
            raise ValueError(f"pairs must be 1 for replace_one, got {self.pairs}")


ONE_PAIR = Neighbors()


@dataclass(frozen=True, slots=True)
class _Mixture:
    """sum of weights[k] N(means[k], noise^2)."""

    weights: Array
    means: Array
    noise: float

    def log_ratio(self, at: Array) -> tuple[Array, Array]:
        """log of the density over that of N(0, noise^2), and its slope."""
        variance = self.noise**2
        terms = [math.log(w) + (m * at - m * m / 2) / variance for w, m in zip(self.weights, self.means, strict=True)]
        value = terms[0]
        for term in terms[1:]:
            value = np.logaddexp(value, term)
        slope = np.zeros_like(at)
        for mean, term in zip(self.means, terms, strict=True):
            slope += mean * np.exp(term - value) / variance
        return value, slope

    def masses(self, edges: Array) -> tuple[float, Array, float]:
        """The mass below edges[0], between neighbouring edges, and above edges[-1], accurate in both tails."""
        between = np.zeros(len(edges) - 1)
        below = above = 0.0
        for weight, mean in zip(self.weights, self.means, strict=True):
            scaled = (edges - mean) / self.noise
            tail = ndtr(-np.abs(scaled))
            right, left = scaled[:-1] >= 0, scaled[1:] <= 0
            mass = np.where(right, tail[:-1] - tail[1:], np.where(left, tail[1:] - tail[:-1], 1 - tail[:-1] - tail[1:]))
            between += weight * mass
            below += weight * float(ndtr(scaled[0]))
            above += weight * float(ndtr(-scaled[-1]))
        return below, between, above


@dataclass(frozen=True, slots=True)
class _Losses:
    """A distribution of the privacy loss: masses[i] at (first + i) * grid, and a mass at infinity."""

    first: int
    masses: Array
    infinite: float


@dataclass(frozen=True, slots=True)
class Curve:
    """delta at epsilon = (first + i) * grid; exact for the discretised losses, hence never below the truth."""

    first: int
    grid: float
    deltas: Array

    def epsilon(self, delta: float) -> float:
        """The least epsilon of at least 0 at this delta; inf if the mass at infinity alone is more."""
        if self.deltas[-1] > delta:
            return math.inf
        place = int(np.searchsorted(-self.deltas, -delta))  # the first with deltas[place] <= delta
        if place == 0:
            return max(0.0, self.first * self.grid)
        above, below = float(self.deltas[place - 1]), float(self.deltas[place])
        # Between two grid points delta is a - c e^epsilon, with the c that joins their values.
        slope = (above - below) / math.expm1(self.grid)
        return (self.first + place - 1) * self.grid + math.log1p((above - delta) / slope)


def mixtures(noise_multiplier: float, sample_rate: float, neighbors: Neighbors) -> tuple[_Mixture, _Mixture]:
    """The pair of one-dimensional mixtures that dominates one step.

    k pairs that enter a step independently add a vector of norm at most the number J of them in the sample, J
    binomial, and norms in place of vectors dominate (Choquette-Choo et al. 2024, arXiv:2310.15526, Corollary 4.7;
    tight for groups: Schuchardt et al. 2024, arXiv:2403.04867).

    One pair, with vector g, replaced by one with g': for c >= 1, P - cQ = q N(g) - (c - 1)(1 - q) N(0) - c q N(g'), a
    Gaussian against a mixture at distances |g| <= 1 and |g - g'| <= 2 from it. By the same corollary that is worst
    when all lie on a line, g' = -g; c < 1 follows by exchanging P and Q.
    """
    counts = np.arange(neighbors.pairs + 1.0)
    if neighbors.pairs == 1:
        weights = np.array([1.0 - sample_rate, sample_rate])
    else:
        weights = np.asarray(binom.pmf(counts, neighbors.pairs, sample_rate))
        weights = weights / weights.sum()
    used = weights > 0.0
    present = _Mixture(weights[used], counts[used], noise_multiplier)
    if neighbors.kind == "replace_one":
        return present, _Mixture(weights[used], -counts[used], noise_multiplier)
    return present, _Mixture(np.ones(1), np.zeros(1), noise_multiplier)


@lru_cache(maxsize=32)
def curves(charges: Charges, grid: float, neighbors: Neighbors) -> tuple[Curve, ...]:
    """The curves of a composition, one for each direction in which the neighbours can be told apart."""
    parts = [_mechanism_and_count(charge) for charge in charges]
    directions = (True,) if neighbors.kind == "replace_one" else (True, False)
    return tuple(_composed(parts, grid, neighbors, forward) for forward in directions)


def _mechanism_and_count(charge: tuple[tuple[float, float], int]) -> tuple[float, float, int]:
    """Gaussians without sampling compose to one Gaussian exactly."""
    (noise, rate), steps = charge
    return (noise / math.sqrt(steps), 1.0, 1) if rate == 1.0 else (noise, rate, steps)


@lru_cache(maxsize=16)
def _one_step(noise: float, rate: float, grid: float, neighbors: Neighbors) -> tuple[_Losses, _Losses]:
    """The losses of telling P from Q, and Q from P."""
    upper, lower = mixtures(noise, rate, neighbors)
    low_x = float(min(upper.means[0], lower.means.min())) - _CUT * noise
    high_x = float(upper.means[-1]) + _CUT * noise
    ends, _ = _loss(upper, lower, np.array([low_x, high_x]))
    low, high = math.floor(ends[0] / grid), math.ceil(ends[1] / grid)
    high = max(high, low + 1)
    edges = np.concatenate([[low_x], _where(upper, lower, grid * np.arange(low + 1, high), (low_x, high_x)), [high_x]])
    below, inside, above = upper.masses(edges)
    other_below, other_inside, other_above = lower.masses(edges)
    losses = grid * np.arange(low, high)  # the lower end of each cell
    growth = np.exp(np.clip(losses, -700.0, 700.0))  # beyond, one of the two masses is 0 in float64
    raised = (inside - other_inside * growth) / -math.expm1(-grid) + _LEAN * inside
    raised = np.clip(raised, 0.0, inside)
    masses = np.append(inside - raised, 0.0)
    masses[1:] += raised
    masses[1] += below
    lowered = (inside / growth - other_inside) / math.expm1(grid)  # of Q's mass, to the end where Q's loss is less
    lowered = np.clip(lowered - _LEAN * other_inside, 0.0, other_inside)
    others = np.append(0.0, lowered)
    others[:-1] += other_inside - lowered
    others[-2] += other_above
    return _Losses(low, masses, above), _Losses(-high, others[::-1].copy(), other_below)


def _loss(upper: _Mixture, lower: _Mixture, at: Array) -> tuple[Array, Array]:
    first, first_slope = upper.log_ratio(at)
    second, second_slope = lower.log_ratio(at)
    return first - second, first_slope - second_slope


def _where(upper: _Mixture, lower: _Mixture, losses: Array, ends: tuple[float, float]) -> Array:
    """Where the loss, which grows with x, takes these values: interpolation, then Newton's method."""
    coarse = np.linspace(*ends, 8193)
    at = np.interp(losses, _loss(upper, lower, coarse)[0], coarse)
    for _ in range(6):
        value, slope = _loss(upper, lower, at)
        gap = value - losses
        if not np.any(np.abs(gap) > 1e-14 * (1.0 + np.abs(losses))):
            break
        at = np.clip(at - gap / np.maximum(slope, 1e-300), *ends)
    return np.maximum.accumulate(at)


def _composed(parts: Sequence[tuple[float, float, int]], grid: float, neighbors: Neighbors, forward: bool) -> Curve:
    keys = [((noise, rate, grid, neighbors, forward), steps) for noise, rate, steps in parts]
    steps_of = [(_direction(*key), steps) for key, steps in keys]
    low, high = _window(keys, grid)
    longest = max(len(one.masses) for one, _ in steps_of)
    size = 1 << max(high - low, longest - 1).bit_length()
    log_size, phase = np.zeros(size // 2 + 1), np.zeros(size // 2 + 1)
    for key, steps in keys:
        one_log_size, one_phase = _transform(*key, size)
        log_size, phase = log_size + steps * one_log_size, phase + steps * one_phase
    spectrum = np.zeros(size // 2 + 1, dtype=np.complex128)
    seen = log_size > _NEGLIGIBLE
    spectrum[seen] = np.exp(log_size[seen] + 1j * phase[seen])
    first = max(1, low)
    places = np.arange(first, max(high, first) + 1) % size
    masses = np.maximum(fft.irfft(spectrum, size)[places], 0.0)
    infinite = _TAIL - math.expm1(sum(steps * math.log1p(-one.infinite) for one, steps in steps_of))
    # above[j] = sum over i >= j of masses[i] e^((j - i) grid); one grid point lower, delta is more by (1 - e^-grid)
    # above[j]: a sum of what is positive, so small deltas keep their digits.
    above = signal.lfilter([1.0], [1.0, -math.exp(-grid)], masses[::-1])
    deltas = np.concatenate([[infinite], infinite - math.expm1(-grid) * np.cumsum(above)])[::-1]
    return Curve(first - 1, grid, deltas)


def _direction(noise: float, rate: float, grid: float, neighbors: Neighbors, forward: bool) -> _Losses:
    return _one_step(noise, rate, grid, neighbors)[0 if forward else 1]


@lru_cache(maxsize=32)
def _transform(
    noise: float, rate: float, grid: float, neighbors: Neighbors, forward: bool, size: int
) -> tuple[Array, Array]:
    """Log magnitude and phase of the characteristic function; loss 0 is the origin, which keeps phases small."""
    losses = _direction(noise, rate, grid, neighbors, forward)
    line = np.zeros(size)
    line[np.arange(losses.first, losses.first + len(losses.masses)) % size] = losses.masses
    transformed = fft.rfft(line)
    with np.errstate(divide="ignore"):
        return np.log(np.abs(transformed)), np.angle(transformed)


_Key: TypeAlias = tuple[float, float, float, Neighbors, bool]


def _window(keys: Sequence[tuple[_Key, int]], grid: float) -> tuple[int, int]:
    """First and last grid loss of the composition, at most `_TAIL` of it outside."""
    moments = [(_moments(*key), steps) for key, steps in keys]
    low = sum(steps * one.lowest for one, steps in moments)
    high = sum(steps * one.highest for one, steps in moments)
    spread = math.sqrt(sum(steps * one.variance for one, steps in moments))
    if spread == 0.0:
        return low, high
    rest = math.log(2.0 / _TAIL)
    best = round(math.log2(math.sqrt(2.0 * rest) / spread))  # for a Gaussian; rare large losses want lower orders
    for octave in range(best - 12, best + 2):  # orders of Chernoff's bound, per grid width
        order = 2.0**octave
        up = sum(steps * _log_moment(*key, order) for key, steps in keys)
        down = sum(steps * _log_moment(*key, -order) for key, steps in keys)
        high = min(high, math.ceil((up + rest) / order))
        low = max(low, math.floor(-(down + rest) / order))
    return low, max(high, low)


@dataclass(frozen=True, slots=True)
class _Moments:
    lowest: int
    highest: int
    variance: float  # in grid widths squared


@lru_cache(maxsize=64)
def _moments(noise: float, rate: float, grid: float, neighbors: Neighbors, forward: bool) -> _Moments:
    losses = _direction(noise, rate, grid, neighbors, forward)
    places = np.arange(losses.first, losses.first + len(losses.masses), dtype=np.float64)
    mean = float(places @ losses.masses)
    return _Moments(int(places[0]), int(places[-1]), float((places - mean) ** 2 @ losses.masses))


@lru_cache(maxsize=2048)
def _log_moment(noise: float, rate: float, grid: float, neighbors: Neighbors, forward: bool, order: float) -> float:
    losses = _direction(noise, rate, grid, neighbors, forward)
    exponents = order * np.arange(losses.first, losses.first + len(losses.masses), dtype=np.float64)
    top = float(exponents.max())
    return top + math.log(float(np.exp(exponents - top) @ losses.masses))
