"""Lower bounds on epsilon from many independent trials: a canary was in or out, and an attacker guessed at a threshold.

The threshold is fixed before the coins are looked at, or chosen on other data. Two tests: of the two error rates, for
any numbers of trials in and out (the error probability is split evenly between them), and of the share of right
guesses, for fair coins (no split: stronger near balanced errors). Each returns epsilon for one pair added or removed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from privacy.bounds import gaussian_epsilon

from .binomial import lower_limit, upper_limit
from .tradeoff import NoiseFamily


@dataclass(frozen=True, slots=True)
class Counts:
    """How often the guess "in" was made: `hits` of `members` that were in, `alarms` of `others` that were out.

    Whole numbers where counted; expected counts, which planning uses, may be fractions.
    """

    hits: float
    members: float
    alarms: float
    others: float

    def __post_init__(self) -> None:
        if not (0 <= self.hits <= self.members and 0 <= self.alarms <= self.others):
            raise ValueError("counts must satisfy 0 <= hits <= members and 0 <= alarms <= others")


Goal: TypeAlias = Callable[[Counts], float]  # what grows with the bound


def count(scores: NDArray[np.float64], coins: NDArray[np.bool_], threshold: float) -> Counts:
    """Guess "in" where the score is above the threshold. Raises ValueError unless scores and coins have one shape.

    A score that is not a number is a guess "out".
    """
    if scores.shape != coins.shape or scores.ndim != 1:
        raise ValueError(f"scores and coins must be vectors of one length, got {scores.shape} and {coins.shape}")
    guesses = scores > threshold
    members = int(coins.sum())
    return Counts(int((guesses & coins).sum()), members, int((guesses & ~coins).sum()), len(coins) - members)


def rate_limits(counts: Counts, confidence: float) -> tuple[float, float]:
    """Upper limits on (false positive rate, false negative rate) that hold together with this confidence."""
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    error = (1.0 - confidence) / 2
    positive = upper_limit(counts.alarms, counts.others, error)
    return float(positive), float(upper_limit(counts.members - counts.hits, counts.members, error))


def direct_bound(counts: Counts, delta: float, confidence: float) -> float:
    """From the definition of (epsilon, delta)-DP alone; assumes nothing of the mechanism, and is the weakest."""
    positive, negative = rate_limits(counts, confidence)
    return max(0.0, _log_ratio(1.0 - negative - delta, positive), _log_ratio(1.0 - positive - delta, negative))


def gaussian_mu(counts: Counts, confidence: float) -> float:
    """The least mu of a Gaussian mechanism N(mu, 1) against N(0, 1) that these rates allow, at least 0."""
    positive, negative = rate_limits(counts, confidence)
    if positive >= 1.0 or negative >= 1.0:
        return 0.0
    return max(0.0, float(-ndtri(positive) - ndtri(negative)))


def gaussian_bound(counts: Counts, delta: float, confidence: float) -> float:
    """Assumes a Gaussian mechanism, whose curve is known: full-batch releases, or one clipped sum. Not sampling."""
    return gaussian_epsilon(gaussian_mu(counts, confidence), delta)


def rates_scale(counts: Counts, confidence: float, family: NoiseFamily) -> float:
    """The claim's noise times this is refuted, and so is more noise; below 1 the claim itself is refuted."""
    positive, negative = rate_limits(counts, confidence)
    if positive + negative >= 1.0:
        return math.inf
    at = np.asarray([positive])
    return family.least_rejected(lambda scale: bool(negative < family.tradeoff(scale)(at)[0]))


def inversion_bound(counts: Counts, delta: float, confidence: float, family: NoiseFamily) -> float:
    """Assumes the claimed mechanism with some noise: epsilon of the least noise that both rates refute."""
    return family.epsilon(rates_scale(counts, confidence, family), delta)


def right_limit(counts: Counts, confidence: float) -> float:
    """Lower limit on the chance of a right guess, where every coin was fair and independent of the others."""
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    right = counts.hits + counts.others - counts.alarms
    return float(lower_limit(right, counts.members + counts.others, 1.0 - confidence))


def direct_accuracy_bound(counts: Counts, delta: float, confidence: float) -> float:
    """Assumes nothing of the mechanism: a guess is right with chance at most (e^epsilon + delta) / (e^epsilon + 1)."""
    right = right_limit(counts, confidence)
    return max(0.0, _log_ratio(right - delta, 1.0 - right))


def gaussian_accuracy_bound(counts: Counts, delta: float, confidence: float) -> float:
    """Assumes a Gaussian mechanism: a guess is right with chance at most Phi(mu / 2)."""
    right = right_limit(counts, confidence)
    return gaussian_epsilon(max(0.0, 2.0 * float(ndtri(right))), delta)


def accuracy_scale(counts: Counts, confidence: float, family: NoiseFamily) -> float:
    """As `rates_scale`: a guess is right with chance at most (1 + total variation) / 2."""
    right = right_limit(counts, confidence)
    if right <= 0.5:
        return math.inf
    return family.least_rejected(lambda scale: right > (1.0 + family.total_variation(scale)) / 2)


def accuracy_inversion_bound(counts: Counts, delta: float, confidence: float, family: NoiseFamily) -> float:
    """Assumes the claimed mechanism with some noise: epsilon of the least noise that the share of right guesses
    refutes."""
    return family.epsilon(accuracy_scale(counts, confidence, family), delta)


def best_threshold(
    thresholds: NDArray[np.float64],
    false_positive: NDArray[np.float64],
    true_positive: NDArray[np.float64],
    *,
    trials: int,
    goal: Goal,
) -> float:
    """The threshold whose expected counts in `trials` fair trials reach the most of `goal`, say a bound.

    The rates belong to the thresholds, float64[k] each, and come from other data or from the claimed law: then the
    threshold is fixed before the coins are looked at, and needs no correction.
    """
    half = trials / 2
    found = [
        goal(Counts(hit * half, half, alarm * half, half))
        for alarm, hit in zip(false_positive, true_positive, strict=True)
    ]
    return float(thresholds[int(np.argmax(found))])


def _log_ratio(numerator: float, denominator: float) -> float:
    if numerator <= 0.0:
        return -math.inf
    return math.inf if denominator <= 0.0 else math.log(numerator / denominator)
