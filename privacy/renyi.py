"""Renyi divergences of one step of the Poisson-sampled Gaussian (Mironov, Talwar and Zhang 2019, Section 3.3).

log A(a) / (a - 1) with A(a) = E (1 - q + q e^((2x - 1) / (2 s^2)))^a over x ~ N(0, s^2), the larger of the two
directions. Whole orders are finite sums. At other orders the trapezoid rule is exact to float64, because the integrand
is analytic in the strip |Im x| < pi s^2 and falls like a Gaussian. dp-accounting sums a series instead, a hundred times
slower in all; it is the oracle of the tests and serves where the strip is narrow.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from dp_accounting import dp_event, rdp
from numpy.typing import NDArray
from scipy.special import gammaln, logsumexp

Array: TypeAlias = NDArray[np.float64]

_SLACK = 1e-12  # added per step: above the rounding error, which can even make a tiny divergence negative
_LEAST_NOISE = 0.05  # below it a fine enough trapezoid rule would need too many points
_POINTS = 6.0  # points per half strip: the rule's relative error is about e^(-2 pi 6)
_CUT = 10.0  # standard deviations


@lru_cache(maxsize=256)
def gaussian_divergences(noise_multiplier: float, sample_rate: float, orders: tuple[float, ...]) -> Array:
    """float64[len(orders)]: upper bounds on one step's divergences, infinite where none could be computed."""
    if sample_rate == 1.0:
        divergence = np.array(orders) / (2.0 * noise_multiplier**2)
    else:
        divergence = _sampled(noise_multiplier, sample_rate, orders)
    divergence = np.maximum(divergence, 0.0) + _SLACK
    divergence.setflags(write=False)
    return divergence


def _sampled(noise: float, rate: float, orders: tuple[float, ...]) -> Array:
    divergence = np.empty(len(orders))
    whole = np.array(orders) % 1 == 0
    divergence[whole] = [_log_moment_of_whole(noise, rate, round(a)) / (a - 1.0) for a in orders if a % 1 == 0]
    parted = tuple(order for order in orders if order % 1 != 0)
    if not parted:
        return divergence
    if noise < _LEAST_NOISE:
        divergence[~whole] = _by_series(noise, rate, parted)
    else:
        divergence[~whole] = _log_moments(noise, rate, np.array(parted)) / (np.array(parted) - 1.0)
    return divergence


def _log_moment_of_whole(noise: float, rate: float, order: int) -> float:
    count = np.arange(order + 1.0)
    choose = gammaln(order + 1.0) - gammaln(count + 1.0) - gammaln(order - count + 1.0)
    chance = count * math.log(rate) + (order - count) * math.log1p(-rate)
    return float(logsumexp(choose + chance + count * (count - 1.0) / (2.0 * noise**2)))


def _log_moments(noise: float, rate: float, orders: Array) -> Array:
    width = min(math.pi * noise**2, 2.0 * noise) / _POINTS
    at = np.arange(-_CUT * noise, float(orders.max()) + _CUT * noise + width, width)
    density = -(at**2) / (2.0 * noise**2) - math.log(noise * math.sqrt(2.0 * math.pi)) + math.log(width)
    ratio = np.logaddexp(math.log1p(-rate), math.log(rate) + (2.0 * at - 1.0) / (2.0 * noise**2))
    return np.array([float(logsumexp(density + order * ratio)) for order in orders])


def _by_series(noise: float, rate: float, orders: tuple[float, ...]) -> Array:
    accountant = rdp.RdpAccountant(orders)
    event: Any = dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(noise))
    with _without_absl_warnings():  # orders whose series does not converge become infinite, hence unused
        accountant.compose(event, 1)
    return np.asarray(accountant.rdp, dtype=np.float64)


@contextmanager
def _without_absl_warnings() -> Iterator[None]:
    """dp-accounting warns through absl once for every order that it leaves out; leaving them out is sound."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
