"""Noise shares: how much each client adds so that the honest survivors' sum always carries the whole variance.

A sum of h discrete Gaussians is again one, of the summed variance, up to a factor 1 +- 2^-225 a summand at every
point, if each has std at least 4 (docs/integer-noise.md; CKS20 and Kairouz, Liu, Steinke, ICML 2021, measure the same
effect). At std 1 the error is 2^-12 and the sum may not be accounted, hence the least share.

A wrap in the ring is a function of the released sum: it costs utility, never privacy. So noise is never clipped,
redrawn or refused to make it fit; `fits_ring` and `never_wraps` are asked when the plan is made.
"""

from __future__ import annotations

import math

from privacy.discrete.gaussian import MOST_VARIANCE, DiscreteGaussian
from privacy.events import LEAST_SHARE

# P(|noise sum| >= t) <= 2 exp(-t^2 / (2 variance)) = 2^-77 at t^2 = 2 * 78 ln 2 * variance (10.4 standard deviations).
_TAIL_FACTOR_ABOVE = 108.131  # just above 2 * 78 * ln 2 = 108.1309...


def share_variance(total_variance: int, *, clients: int, lost: int, colluding: int) -> int:
    """Variance of each client's share: total_variance over the least number of honest survivors, rounded up.

    lost: most clients whose share may be missing from the sum. colluding: most others whose share the adversary may
    know. At least clients - lost - colluding shares are then present and unknown, and their sum has at least
    total_variance. Raises ValueError unless total_variance >= 1, lost and colluding >= 0, at least one honest survivor
    is left, and the share is in [16, 2^60] (std at least 4: below, sums of shares are not discrete Gaussian).
    """
    if total_variance < 1:
        raise ValueError(f"total_variance must be at least 1, got {total_variance}")
    if lost < 0 or colluding < 0:
        raise ValueError(f"lost and colluding must be at least 0, got {lost} and {colluding}")
    honest = clients - lost - colluding
    if honest < 1:
        raise ValueError(f"clients - lost - colluding must be at least 1, got {clients} - {lost} - {colluding}")
    share = -(-total_variance // honest)
    if not LEAST_SHARE <= share <= MOST_VARIANCE:
        raise ValueError(
            f"share variance must be in [{LEAST_SHARE}, 2^60], got {share} = {total_variance} / {honest} rounded up: "
            "a share's standard deviation must be at least 4, so use a finer grid or fewer clients"
        )
    return share


def variance_present(share: int, survivors: int) -> int:
    """Variance of the noise in a sum to which this many honest clients added a share each.

    Raises ValueError unless share >= 16 and survivors >= 0.
    """
    _check_share(share)
    if survivors < 0:
        raise ValueError(f"survivors must be at least 0, got {survivors}")
    return share * survivors


def likely_magnitude(*, clients: int, norm: int, share: int) -> int:
    """What no coordinate of the sum exceeds, but with a chance below 2^-40 a round of up to 2^36 coordinates.

    norm: a bound on every coordinate of one client's integer vector before noise. The sum of all shares is sub-Gaussian
    with variance clients x share (CKS20), so a coordinate exceeds 10.4 standard deviations with a chance of at most
    2^-77; the sampler's own distance adds less than 2^-60. Raises ValueError for numbers out of range.
    """
    _check_ring(clients, norm)
    _check_share(share)
    return clients * norm + math.isqrt(math.ceil(_TAIL_FACTOR_ABOVE * (clients * share))) + 1


def largest_magnitude(*, clients: int, norm: int, share: int) -> int:
    """What no coordinate of the sum can exceed: every client at its bound and every draw at the sampler's reach."""
    _check_ring(clients, norm)
    _check_share(share)
    return clients * (norm + DiscreteGaussian(share).reach)


def fits_ring(bits: int, *, clients: int, norm: int, share: int) -> bool:
    """Whether the signed sum wraps in a ring of this many bits with a chance below 2^-40 a round.

    Arguments as in `likely_magnitude`; ask with all clients present, which is the largest sum.
    """
    return likely_magnitude(clients=clients, norm=norm, share=share) < 1 << (_check_bits(bits) - 1)


def never_wraps(bits: int, *, clients: int, norm: int, share: int) -> bool:
    """Whether the signed sum cannot wrap at all: the samplers' reach, 13 to 14 standard deviations each, included."""
    return largest_magnitude(clients=clients, norm=norm, share=share) < 1 << (_check_bits(bits) - 1)


def _check_share(share: int) -> None:
    if share < LEAST_SHARE:
        raise ValueError(f"share must be at least {LEAST_SHARE} (standard deviation 4), got {share}")


def _check_ring(clients: int, norm: int) -> None:
    if clients < 1:
        raise ValueError(f"clients must be at least 1, got {clients}")
    if norm < 0:
        raise ValueError(f"norm must be at least 0, got {norm}")


def _check_bits(bits: int) -> int:
    if not 1 <= bits <= 64:
        raise ValueError(f"bits must be in [1, 64], got {bits}")
    return bits
