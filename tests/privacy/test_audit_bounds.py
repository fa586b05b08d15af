"""Bounds from many trials: exact limits, known ceilings, sound on mechanisms whose epsilon is known."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from privacy.accounting import epsilon
from privacy.audit import bounds
from privacy.audit.binomial import lower_limit, upper_limit
from privacy.audit.bounds import Counts
from privacy.audit.tradeoff import NoiseFamily, gaussian_tradeoff
from privacy.bounds import gaussian_epsilon
from privacy.events import FullBatchGaussian, NonPrivate, PoissonGaussian

ROOT = Path(__file__).resolve().parents[2]
SAMPLED = PoissonGaussian(noise_multiplier=2.0, sample_rate=0.2, steps=50)
DELTA = 1e-5


@pytest.mark.parametrize("hits", [0, 1, 7, 49])
def test_the_upper_limit_is_where_so_few_hits_have_exactly_the_error_probability(hits: int) -> None:
    rate = float(upper_limit(hits, 50, 0.025))
    assert stats.binom.cdf(hits, 50, rate) == pytest.approx(0.025, rel=1e-9)
    assert float(lower_limit(50 - hits, 50, 0.025)) == pytest.approx(1 - rate, rel=1e-12)


def test_limits_at_the_edges_and_refusals() -> None:
    assert float(upper_limit(50, 50, 0.025)) == 1.0
    assert float(upper_limit(0, 0, 0.025)) == 1.0
    with pytest.raises(ValueError, match="hits"):
        upper_limit(51, 50, 0.025)
    with pytest.raises(ValueError, match="error"):
        upper_limit(1, 50, 0.0)
    with pytest.raises(ValueError, match="counts"):
        Counts(3, 2, 0, 5)


def test_the_direct_bound_is_the_definition_read_backwards() -> None:
    counts = Counts(hits=300, members=500, alarms=10, others=500)
    positive, negative = bounds.rate_limits(counts, 0.95)
    wanted = math.log((1 - negative - DELTA) / positive)
    assert bounds.direct_bound(counts, DELTA, 0.95) == pytest.approx(wanted)
    turned = Counts(hits=490, members=500, alarms=200, others=500)  # the other direction counts too
    assert bounds.direct_bound(turned, DELTA, 0.95) == pytest.approx(wanted)


def test_500_of_500_and_500_of_500_cannot_show_more_than_4_9_without_assumptions() -> None:
    perfect = Counts(500, 500, 0, 500)
    assert bounds.direct_bound(perfect, 0.0, 0.95) == pytest.approx(4.9, abs=0.01)
    assert bounds.gaussian_bound(perfect, DELTA, 0.95) > 15.0


def test_guesses_without_knowledge_show_nothing() -> None:
    for counts in (Counts(250, 500, 250, 500), Counts(0, 500, 0, 500), Counts(500, 500, 500, 500), Counts(0, 0, 0, 0)):
        assert bounds.direct_bound(counts, DELTA, 0.95) == 0.0
        assert bounds.gaussian_bound(counts, DELTA, 0.95) == 0.0
        assert bounds.direct_accuracy_bound(counts, DELTA, 0.95) == 0.0
        assert bounds.gaussian_accuracy_bound(counts, DELTA, 0.95) == 0.0
        assert bounds.inversion_bound(counts, DELTA, 0.95, NoiseFamily.of([SAMPLED])) == 0.0
        assert bounds.accuracy_inversion_bound(counts, DELTA, 0.95, NoiseFamily.of([SAMPLED])) == 0.0


def test_counting_guesses_in_above_the_threshold() -> None:
    scores = np.array([3.0, 1.0, np.nan, 5.0, 2.0])
    coins = np.array([True, True, True, False, False])
    assert bounds.count(scores, coins, 1.5) == Counts(hits=1, members=3, alarms=2, others=2)
    with pytest.raises(ValueError, match="one length"):
        bounds.count(scores, coins[:2], 1.5)


def test_inverting_the_gaussian_curve_on_the_grid_agrees_with_the_closed_form() -> None:
    family = NoiseFamily.of([FullBatchGaussian(noise_multiplier=4.0, steps=9)])
    for counts in (Counts(400, 500, 100, 500), Counts(300, 500, 180, 500), Counts(499, 500, 90, 500)):
        wanted = bounds.gaussian_bound(counts, DELTA, 0.95)
        found = bounds.inversion_bound(counts, DELTA, 0.95, family)
        assert 0.975 * wanted <= found <= wanted * (1 + 1e-9)
        wanted = bounds.gaussian_accuracy_bound(counts, DELTA, 0.95)
        found = bounds.accuracy_inversion_bound(counts, DELTA, 0.95, family)
        assert 0.975 * wanted <= found <= wanted * (1 + 1e-9)


def lower_hull(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The convex function below the points, as its corners."""
    hull: list[tuple[float, float]] = []
    for point in sorted(set(points)):
        while len(hull) > 1 and _turns_down(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull


def _turns_down(first: tuple[float, float], second: tuple[float, float], third: tuple[float, float]) -> bool:
    return (second[0] - first[0]) * (third[1] - first[1]) <= (second[1] - first[1]) * (third[0] - first[0])


def test_the_curve_of_one_sampled_step_is_that_of_the_best_attacks_in_both_directions() -> None:
    """Likelihood ratios are monotone in x, so thresholds on x are the best attacks, and mixing two gives their hull."""
    noise, rate = 1.3, 0.3
    curve = NoiseFamily.of([PoissonGaussian(noise_multiplier=noise, sample_rate=rate, steps=1)]).tradeoff(1.0)
    x = np.linspace(-7, 8, 3000)
    out = stats.norm.sf(x / noise)
    present = rate * stats.norm.sf((x - 1) / noise) + (1 - rate) * out
    attacks = [*zip(out, 1 - present, strict=True), *zip(1 - present, out, strict=True)]
    corners = np.array(lower_hull([(float(alarm), float(miss)) for alarm, miss in attacks]))
    at = np.linspace(0.001, 0.999, 999)
    best = np.interp(at, corners[:, 0], corners[:, 1])
    assert (curve(at) <= best + 1e-9).all()
    assert float((best - curve(at)).max()) < 2e-4


def test_the_sampled_curve_is_its_own_inverse_and_gives_total_variation() -> None:
    family = NoiseFamily.of([SAMPLED])
    curve = family.tradeoff(1.0)
    x = np.linspace(1e-4, 0.6, 60)
    assert curve(curve(x)) == pytest.approx(x, abs=2e-3)
    grid = np.linspace(0, 1, 20_001)
    assert 1 - float((grid + curve(grid)).min()) == pytest.approx(family.total_variation(1.0), abs=1e-4)


def test_more_noise_raises_the_curve_and_lowers_epsilon_and_the_claim_is_never_overstated() -> None:
    family = NoiseFamily.of([SAMPLED])
    x = np.linspace(0.01, 0.6, 30)
    assert (family.tradeoff(1.2)(x) > family.tradeoff(1.0)(x)).all()
    claim = epsilon([SAMPLED], DELTA).epsilon
    assert 0.98 * claim <= family.epsilon(1.0, DELTA) <= claim
    assert family.epsilon(1.2, DELTA) < family.epsilon(1.0, DELTA) < family.epsilon(0.9, DELTA)
    assert gaussian_tradeoff(0.0)(x) == pytest.approx(1 - x)


@pytest.mark.parametrize("wanted", [-180, -179, -60, -1, 0, 1, 7, 8, 9, 100, 320])
def test_the_search_finds_the_least_rejected_scale(wanted: int) -> None:
    family = NoiseFamily.of([SAMPLED])
    least = 1.01**wanted
    assert family.least_rejected(lambda scale: scale >= least * (1 - 1e-9)) == pytest.approx(least)


def test_the_search_ends_where_nothing_or_everything_is_rejected() -> None:
    family = NoiseFamily.of([SAMPLED])
    assert family.least_rejected(lambda scale: False) == math.inf
    assert family.epsilon(math.inf, DELTA) == 0.0
    assert family.least_rejected(lambda scale: True) == pytest.approx(1.01**-180)


def test_without_noise_there_is_no_family() -> None:
    for event in (NonPrivate("noise: seeded"), FullBatchGaussian(0.0, 3), PoissonGaussian(1.0, 0.1, 0)):
        with pytest.raises(ValueError, match="events"):
            NoiseFamily.of([event])


def test_planning_takes_the_threshold_with_the_largest_expected_bound() -> None:
    mu = 1.0
    grid = np.linspace(-2, 3, 101)
    found = bounds.best_threshold(
        grid,
        stats.norm.sf(grid),
        stats.norm.sf(grid - mu),
        trials=1000,
        goal=lambda counts: bounds.gaussian_mu(counts, 0.95),
    )
    assert found == pytest.approx(mu / 2, abs=0.06)  # by symmetry


def test_an_auditor_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "class NoTorch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'torch':\n"
        "            raise ModuleNotFoundError('torch is blocked')\n"
        "sys.meta_path.insert(0, NoTorch())\n"
        "import privacy.audit.judge, privacy.audit.noise, privacy.audit.cosines, privacy.audit.scores\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_gaussian_epsilon_of_the_bound_grows_with_the_evidence() -> None:
    found = [bounds.gaussian_bound(Counts(hits, 500, 100, 500), DELTA, 0.95) for hits in range(200, 500, 50)]
    assert found == sorted(found)
    assert gaussian_epsilon(bounds.gaussian_mu(Counts(450, 500, 100, 500), 0.95), DELTA) == found[-1]
