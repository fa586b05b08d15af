"""What integer noise is charged as: a Gaussian whose variance is smaller by 9, and a small addition to delta.

Theorem (docs/integer-noise.md): for integer f and Z ~ N_Z(0, V)^d with V > 9, f + Z is, up to a factor 1 +- 2^-253 on
the probability of every value of every coordinate, a post-processing of f + N(0, (V - 9) I). So every result on the
Gaussian mechanism (privacy loss distributions, Poisson sampling, closed forms) holds for it with variance V - 9. With
variance V it does not: at V = 16, shift 1 and epsilon 0 the exact divergence is above that of N(0, V).

The sampler's law is not exactly N_Z: with eta the total variation distance of all draws together, delta grows by
(1 + e^epsilon) eta. Both are computational statements: AES-256 stands for an ideal source.
"""

from __future__ import annotations

import math
from fractions import Fraction

from privacy.discrete.gaussian import MOST_DISTANCE_LOG2
from privacy.events import ROUNDING_VARIANCE

SHARE_SUM_LOG2 = -225.0  # of one share's addition (see `privacy.discrete.shares`) and of the rounding of one coordinate


def least_total_variance(noise_multiplier: float, norm_squared: int) -> int:
    """Least integer V with sqrt((V - 9) / norm_squared) >= noise_multiplier, computed exactly.

    norm_squared: the bound on the squared integer norm of one privacy unit. Raises ValueError unless both are positive
    and finite.
    """
    if not 0.0 < noise_multiplier < math.inf:
        raise ValueError(f"noise_multiplier must be positive and finite, got {noise_multiplier}")
    _check_norm(norm_squared)
    return math.ceil(Fraction(noise_multiplier) ** 2 * norm_squared) + ROUNDING_VARIANCE


def noise_multiplier_of(variance: int, norm_squared: int) -> float:
    """The noise multiplier that integer noise of this total variance is charged as, rounded down: sqrt((V - 9)) / L.

    Raises ValueError unless variance > 9 and norm_squared >= 1.
    """
    if variance <= ROUNDING_VARIANCE:
        raise ValueError(f"variance must be above {ROUNDING_VARIANCE} to be charged as a Gaussian, got {variance}")
    _check_norm(norm_squared)
    exact = Fraction(variance - ROUNDING_VARIANCE, norm_squared)
    charged = math.sqrt(exact)
    while Fraction(charged) ** 2 > exact:
        charged = math.nextafter(charged, 0.0)
    return charged


def distance_log2(*, draws: int, share_distance_log2: float = MOST_DISTANCE_LOG2) -> float:
    """log2 of eta, the total variation distance of a run: rounds x honest clients x coordinates draws.

    share_distance_log2: of one draw of one share (`DiscreteGaussian.distance_log2`). Each draw also pays 2^-225 for
    the theorem above and for the sum of shares not being N_Z exactly. Adaptive rounds are covered: distances add.
    Raises ValueError unless draws >= 1.
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    return math.log2(draws) + math.log2(2.0**share_distance_log2 + 2.0**SHARE_SUM_LOG2)


def delta_with_distance(delta: float, *, epsilon: float, eta_log2: float) -> float:
    """delta + (1 + e^epsilon) eta, rounded up: what holds for the sampler if (epsilon, delta) holds for the ideal law.

    At most 1. Raises ValueError unless 0 <= delta <= 1 and epsilon >= 0.
    """
    if not 0.0 <= delta <= 1.0:
        raise ValueError(f"delta must be in [0, 1], got {delta}")
    if not epsilon >= 0.0:
        raise ValueError(f"epsilon must be at least 0, got {epsilon}")
    exponent = eta_log2 + max(epsilon, 0.0) / math.log(2.0)
    if exponent >= 0.0:
        return 1.0
    added = (2.0**exponent + 2.0**eta_log2) * (1.0 + 1e-12)
    return min(1.0, math.nextafter(delta + added, math.inf))


def _check_norm(norm_squared: int) -> None:
    if norm_squared < 1:
        raise ValueError(f"norm_squared must be at least 1, got {norm_squared}")
