"""Renyi divergences against their defining integral and against dp-accounting."""

from __future__ import annotations

import logging
import math
from itertools import pairwise

import numpy as np
import pytest
from dp_accounting import dp_event, rdp
from scipy import integrate

from privacy.bounds import ORDERS
from privacy.renyi import gaussian_divergences


@pytest.mark.parametrize(("noise", "rate"), [(1.1, 0.01), (0.5, 1e-4), (10.0, 0.9), (0.6, 0.5)])
@pytest.mark.parametrize("order", [1.02, 1.5, 2.0, 3.7, 10.9, 20.0])
def test_they_are_the_integral_that_defines_them(noise: float, rate: float, order: float) -> None:
    def excess(x: float) -> float:
        """The integrand less 1 and less its mean-zero linear part, so that small divergences keep their digits."""
        ratio = float(np.logaddexp(math.log1p(-rate), math.log(rate) + (2 * x - 1) / (2 * noise**2)))
        log_density = -(x**2) / (2 * noise**2) - math.log(noise * math.sqrt(2 * math.pi))
        if ratio > 1.0:
            powers = math.exp(order * ratio + log_density) - order * math.exp(ratio + log_density)
            return powers + (order - 1) * math.exp(log_density)
        return (math.expm1(order * ratio) - order * math.expm1(ratio)) * math.exp(log_density)

    points = np.linspace(-12 * noise, order + 12 * noise, 60)
    total = sum(integrate.quad(excess, a, b, epsabs=0, epsrel=1e-11)[0] for a, b in pairwise(points))
    wanted = math.log1p(total) / (order - 1)
    found = float(gaussian_divergences(noise, rate, (order,))[0])
    assert wanted <= found <= wanted * (1 + 1e-8) + 2e-12


@pytest.mark.parametrize(("noise", "rate"), [(1.1, 0.01), (2.0, 0.5), (0.03, 0.1), (5.0, 1.0)])
def test_whole_orders_are_dp_accountings(noise: float, rate: float) -> None:
    orders = tuple(order for order in ORDERS if order % 1 == 0)
    reference = rdp.RdpAccountant(orders)
    event = dp_event.GaussianDpEvent(noise)
    reference.compose(dp_event.PoissonSampledDpEvent(rate, event) if rate < 1 else event)
    assert gaussian_divergences(noise, rate, orders) == pytest.approx(np.asarray(reference.rdp), rel=1e-9, abs=2e-12)


def test_other_orders_are_never_above_dp_accountings_and_finite_where_its_series_is_not() -> None:
    logging.getLogger("absl").setLevel(logging.ERROR)
    orders = tuple(order for order in ORDERS if order % 1 != 0)
    reference = rdp.RdpAccountant(orders)
    reference.compose(dp_event.PoissonSampledDpEvent(0.1, dp_event.GaussianDpEvent(1.0)))
    theirs, ours = np.asarray(reference.rdp), gaussian_divergences(1.0, 0.1, orders)
    assert np.all(ours <= theirs * (1 + 1e-6))
    assert np.all(np.isfinite(ours)) and not np.all(np.isfinite(theirs))


def test_divergence_grows_with_the_order() -> None:
    found = gaussian_divergences(0.8, 0.2, ORDERS)
    assert np.all(np.diff(found) > 0.0)
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 0.0
