"""Three adversaries, one history: the columns are ordered, and each is the closed form of the noise it may count."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest

from privacy.accounting import epsilon
from privacy.bounds import gaussian_epsilon
from privacy.events import Event, FullBatchGaussian, IntegerGaussian, NonPrivate, PoissonGaussian
from privacy.pld import Neighbors
from privacy.views import federation_views, views

DELTA = 1e-5
# 10 clients add shares of variance 1000; at least 8 survive, of whom 3 collude.
SUM = IntegerGaussian(
    variance=5_000,
    own_variance=1_000,
    colluding_variance=3_000,
    norm_squared=2_000,
    sample_rate=1.0,
    steps=4,
    distance_log2=-100.0,
    unit="client",
)


def closed_form(variance: int, steps: int = 4) -> float:
    return gaussian_epsilon(math.sqrt(steps * 2_000 / (variance - 9)), DELTA)


def test_each_column_counts_its_own_noise() -> None:
    found = views([SUM], DELTA)
    assert found.own.epsilon == pytest.approx(closed_form(1_000), rel=1e-6)
    assert found.total.epsilon == pytest.approx(closed_form(8_000), rel=1e-6)
    assert found.with_colluders.epsilon == pytest.approx(closed_form(5_000), rel=1e-6)
    assert found.with_colluders == epsilon([SUM], DELTA)


@pytest.mark.parametrize("rate", [0.1, 1.0])
def test_knowing_more_never_costs_less(rate: float) -> None:
    found = views([replace(SUM, sample_rate=rate)], DELTA)
    assert found.total.epsilon < found.with_colluders.epsilon < found.own.epsilon


def test_more_dropouts_or_colluders_cost_more() -> None:
    fewer = replace(SUM, variance=4_000)
    more_colluders = replace(SUM, variance=4_000, colluding_variance=4_000)
    assert views([fewer], DELTA).total.epsilon > views([SUM], DELTA).total.epsilon
    assert views([fewer], DELTA).with_colluders.epsilon > views([SUM], DELTA).with_colluders.epsilon
    assert views([more_colluders], DELTA).total.epsilon == views([SUM], DELTA).total.epsilon
    assert views([more_colluders], DELTA).with_colluders.epsilon > views([SUM], DELTA).with_colluders.epsilon


def test_local_noise_is_the_same_against_all_three() -> None:
    found = views([PoissonGaussian(1.2, 0.1, 20)], DELTA)
    assert found.own == found.total == found.with_colluders == epsilon([PoissonGaussian(1.2, 0.1, 20)], DELTA)


def test_a_history_may_mix_local_and_shared_noise_of_one_unit() -> None:
    found = views([replace(SUM, unit="pair"), FullBatchGaussian(1.5, 2)], DELTA)
    mu = math.sqrt(4 * 2_000 / 991 + 2 / 1.5**2)
    assert found.own.epsilon == pytest.approx(gaussian_epsilon(mu, DELTA), rel=1e-6)


def test_the_federation_is_the_worst_client_in_each_column() -> None:
    histories: dict[str, Sequence[Event]] = {
        "often": [SUM] * 5,
        "weak share": [replace(SUM, own_variance=200)],
        "never": [],
    }
    found = federation_views(histories, DELTA)
    assert found.with_colluders == epsilon(histories["often"], DELTA)
    assert found.own.epsilon == pytest.approx(max(closed_form(1_000, 20), closed_form(200)), rel=1e-5)
    assert federation_views({**histories, "broken": [NonPrivate("seeded noise")]}, DELTA).total.epsilon == math.inf


def test_columns_of_other_neighbors_and_refusals() -> None:
    pairs = Neighbors(pairs=3)
    assert views([SUM], DELTA, neighbors=pairs).total.epsilon > views([SUM], DELTA).total.epsilon
    with pytest.raises(ValueError, match="at least one client"):
        federation_views({}, DELTA)
    with pytest.raises(ValueError, match="different units"):
        federation_views({"a": [SUM], "b": [PoissonGaussian(1.0, 0.5, 1)]}, DELTA)
