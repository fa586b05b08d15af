"""Scores of white-box Dirac canaries: how much each coordinate's trajectory looks as if its canary had been there.

`observed` is float64[steps, canaries]: the noised sum on each canary's own coordinate, in units of the clip norm. A
canary in the sample adds 1 there, everything else adds noise of standard deviation `noise`, one number or one for each
entry of `observed` (broadcast). A score may be any function of what was released and of public numbers, never of the
coins.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from privacy.events import FullBatchGaussian, PoissonGaussian

Noise: TypeAlias = float | NDArray[np.float64]


def poisson_scores(observed: NDArray[np.float64], *, noise: Noise, sample_rate: float) -> NDArray[np.float64]:
    """The log likelihood ratio of "in" against "out", float64[canaries]: the most powerful score for this noise.

    A canary is more likely in than out exactly where it is above 0. Raises ValueError unless 0 < sample_rate <= 1.
    """
    if not 0.0 < sample_rate <= 1.0:
        raise ValueError(f"sample_rate must be in (0, 1], got {sample_rate}")
    ratio = _log_ratio(observed, noise)
    if sample_rate == 1.0:
        return np.asarray(ratio.sum(axis=0))
    return np.asarray(np.logaddexp(np.log1p(-sample_rate), np.log(sample_rate) + ratio).sum(axis=0))


def known_sample_scores(
    observed: NDArray[np.float64], sampled: NDArray[np.bool_], *, noise: Noise
) -> NDArray[np.float64]:
    """For an adversary who can repeat the sampler: only the steps that drew the canary count. sampled: as observed."""
    return np.asarray(np.where(sampled, _log_ratio(observed, noise), 0.0).sum(axis=0))


def shuffled_scores(observed: NDArray[np.float64], *, noise: Noise, steps_per_epoch: int) -> NDArray[np.float64]:
    """If every canary is drawn exactly once an epoch: the log of the mean likelihood ratio over each epoch, added up.

    Raises ValueError unless the steps are whole epochs.
    """
    steps, canaries = observed.shape
    if steps_per_epoch < 1 or steps % steps_per_epoch:
        raise ValueError(f"steps_per_epoch must divide {steps}, got {steps_per_epoch}")
    ratio = _log_ratio(observed, noise).reshape(-1, steps_per_epoch, canaries)
    return np.asarray((np.logaddexp.reduce(ratio, axis=1) - np.log(steps_per_epoch)).sum(axis=0))


def simulate(
    event: PoissonGaussian | FullBatchGaussian, coins: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.float64]:
    """What Dirac canaries with these coins would show under the event itself, float64[steps, canaries]."""
    rate = event.sample_rate if isinstance(event, PoissonGaussian) else 1.0
    shape = (event.steps, len(coins))
    drawn = coins & (rng.random(shape) < rate)
    return np.asarray(drawn + event.noise_multiplier * rng.standard_normal(shape))


def _log_ratio(observed: NDArray[np.float64], noise: Noise) -> NDArray[np.float64]:
    deviations = np.asarray(noise, dtype=np.float64)
    if not (deviations > 0.0).all():
        raise ValueError("noise must be above 0")
    return np.asarray((2.0 * observed - 1.0) / (2.0 * deviations**2))
