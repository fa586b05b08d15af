"""Lower bounds from ONE training run with many canaries, each in or out by its own fair coin.

A guess is +1 (in), -1 (out) or 0 (no guess), and may be any function of what was released. How many guesses are made
is fixed before the coins are looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtr, ndtri
from scipy.stats import binom

from privacy.bounds import gaussian_epsilon

from .tradeoff import NoiseFamily, TradeOff

_EPSILON_LIMIT = 60.0
_MU_LIMIT = 40.0


@dataclass(frozen=True, slots=True)
class Guesses:
    """`right` of `made` guesses about `canaries` coins were right."""

    right: int
    made: int
    canaries: int

    def __post_init__(self) -> None:
        if not 0 <= self.right <= self.made <= self.canaries or self.canaries < 1:
            raise ValueError("guesses must satisfy 0 <= right <= made <= canaries and canaries >= 1")


def guess(scores: NDArray[np.float64], coins: NDArray[np.bool_], *, guess_in: int, guess_out: int) -> Guesses:
    """Guess "in" on the `guess_in` largest scores, "out" on the `guess_out` smallest, and count. Ties by position."""
    if scores.shape != coins.shape or scores.ndim != 1:
        raise ValueError(f"scores and coins must be vectors of one length, got {scores.shape} and {coins.shape}")
    if guess_in < 0 or guess_out < 0 or guess_in + guess_out > len(scores):
        raise ValueError(f"guess_in + guess_out must be between 0 and {len(scores)}")
    order = np.argsort(np.where(np.isnan(scores), -np.inf, scores), kind="stable")
    right = int((~coins[order[:guess_out]]).sum()) + int(coins[order[len(order) - guess_in :]].sum())
    return Guesses(right, guess_in + guess_out, len(scores))


def one_run_p_value(guesses: Guesses, epsilon: float, delta: float) -> float:
    """An upper bound on the chance of so many right guesses if the mechanism is (epsilon, delta)-DP.

    Steinke, Nasr and Jagielski, "Privacy auditing with one (1) training run", NeurIPS 2023, Theorem 5.2.
    """
    right, made = guesses.right, guesses.made
    if right == 0:
        return 1.0
    below = binom.cdf(np.arange(right), made, expit(epsilon))  # P(W <= 0 .. right - 1)
    tail = 1.0 - float(below[-1]) if below[-1] < 0.5 else float(binom.sf(right - 1, made, expit(epsilon)))
    lower = np.concatenate([below[-2::-1], [0.0]])  # P(W <= right - 1 - i), i = 1 .. right
    share = float(((below[-1] - lower) / np.arange(1, right + 1)).max())
    return min(1.0, tail + 2.0 * guesses.canaries * delta * share)


@lru_cache(maxsize=65536)
def one_run_bound(guesses: Guesses, delta: float, confidence: float) -> float:
    """The epsilons below it are refuted at this confidence; assumes nothing of the mechanism."""
    error = _error(confidence)
    if one_run_p_value(guesses, 0.0, delta) > error:
        return 0.0
    low, high = 0.0, _EPSILON_LIMIT
    if one_run_p_value(guesses, high, delta) <= error:
        return high
    for _ in range(40):
        middle = (low + high) / 2
        if one_run_p_value(guesses, middle, delta) <= error:
            low = middle
        else:
            high = middle
    return low


def one_run_rejects(guesses: Guesses, curve: TradeOff, confidence: float) -> bool:
    """Whether so many right guesses refute that the mechanism's trade-off function is at least `curve`.

    Mahloujifar, Melis and Chaudhuri, "Auditing f-differential privacy in one run", 2024, Algorithm 3. `curve` must be
    symmetric.
    """
    made, right = guesses.made, guesses.right
    if made == 0 or right == 0:
        return False
    error = _error(confidence)
    total = error * right / guesses.canaries
    step = error * (made - right) / guesses.canaries
    for i in range(right - 1, -1, -1):
        if total + step > made / guesses.canaries:
            return True
        # The inverse of 1 - f at y is f(1 - y), as f is symmetric.
        following = max(step, float(curve(np.asarray([1.0 - min(total, 1.0)]))[0]))
        total += i / (made - i) * (following - step)
        step = following
    return total + step > made / guesses.canaries


@lru_cache(maxsize=65536)
def one_run_gaussian_bound(guesses: Guesses, delta: float, confidence: float) -> float:
    """Assumes a Gaussian mechanism: epsilon of the largest mu whose curve N(mu, 1) against N(0, 1) is refuted."""
    low, high = 0.0, _MU_LIMIT
    for _ in range(3):  # 40 points a pass: the interval shrinks to 40 / 39^3, 7e-4
        grid = np.linspace(low, high, 40)
        rejected = _rejected_mus(guesses, grid, confidence)
        if not rejected[0]:
            return 0.0
        first = int(np.argmin(rejected)) if not rejected.all() else len(grid)
        low, high = float(grid[first - 1]), float(grid[min(first, len(grid) - 1)])
    return gaussian_epsilon(low, delta)


def one_run_scale(guesses: Guesses, confidence: float, family: NoiseFamily) -> float:
    """The least scale of the claim's noise that is refuted; infinite where none is."""
    return family.least_rejected(lambda scale: one_run_rejects(guesses, family.tradeoff(scale), confidence))


def one_run_inversion_bound(guesses: Guesses, delta: float, confidence: float, family: NoiseFamily) -> float:
    """Assumes the claimed mechanism with some noise: epsilon of the least noise multiplier that is refuted."""
    return family.epsilon(one_run_scale(guesses, confidence, family), delta)


def _rejected_mus(guesses: Guesses, mus: NDArray[np.float64], confidence: float) -> NDArray[np.bool_]:
    """`one_run_rejects` for many Gaussian curves at once."""
    made, right, limit = guesses.made, guesses.right, guesses.made / guesses.canaries
    if made == 0 or right == 0:
        return np.zeros(len(mus), dtype=bool)
    error = _error(confidence)
    total = np.full(len(mus), error * right / guesses.canaries)
    step = np.full(len(mus), error * (made - right) / guesses.canaries)
    for i in range(right - 1, -1, -1):
        following = np.maximum(step, ndtr(ndtri(np.minimum(total, 1.0)) - mus))
        total += i / (made - i) * (following - step)
        step = following
    return np.asarray(total + step > limit)


def _error(confidence: float) -> float:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    return 1.0 - confidence
