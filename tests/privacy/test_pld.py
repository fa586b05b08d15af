"""The loss distributions against exact divergences and against dp-accounting."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting import privacy_accountant
from dp_accounting.pld import privacy_loss_distribution as reference
from scipy.stats import binom

from privacy.accounting import epsilon
from privacy.events import FullBatchGaussian, gaussian_event
from privacy.pld import ONE_PAIR, Neighbors, curves
from tests.privacy.accounting_oracles import exact_delta, one_step_delta

DELTA = 1e-5


def by_pld(noise: float, rate: float, steps: int, delta: float, grid: float = 1e-4, of: Neighbors = ONE_PAIR) -> float:
    return max(curve.epsilon(delta) for curve in curves((((noise, rate), steps),), grid, of))


# ---- a second implementation


@pytest.mark.parametrize(
    ("noise", "rate", "steps", "delta"),
    [
        (1.1, 0.01, 1000, 1e-5),
        (2.0, 0.2, 100, 1e-8),
        (0.7, 0.05, 3, 1e-6),
        (4.0, 0.01, 10_000, 1e-5),
        (9.0, 1.0, 1, 1e-5),
    ],
)
def test_it_is_dp_accountings_number(noise: float, rate: float, steps: int, delta: float) -> None:
    one = reference.from_gaussian_mechanism(noise, value_discretization_interval=1e-3, sampling_prob=rate)
    assert by_pld(noise, rate, steps, delta, 1e-3) == pytest.approx(
        one.self_compose(steps).get_epsilon_for_delta(delta), rel=2e-5
    )


def test_a_replaced_pair_and_groups_are_dp_accountings_numbers() -> None:
    one = reference.from_gaussian_mechanism(
        1.0,
        value_discretization_interval=1e-3,
        sampling_prob=0.01,
        neighboring_relation=privacy_accountant.NeighboringRelation.REPLACE_ONE,
    )
    mine = by_pld(1.0, 0.01, 1000, DELTA, 1e-3, Neighbors("replace_one"))
    assert mine == pytest.approx(one.self_compose(1000).get_epsilon_for_delta(DELTA), rel=2e-5)
    counts = range(4)
    group = reference.from_mixture_gaussian_mechanism(
        2.0, list(counts), binom.pmf(counts, 3, 0.05), value_discretization_interval=5e-3
    )
    mine = by_pld(2.0, 0.05, 20, DELTA, 5e-3, Neighbors(pairs=3))
    assert mine == pytest.approx(group.self_compose(20).get_epsilon_for_delta(DELTA), rel=2e-5)


def test_two_mechanisms_compose_as_in_dp_accounting() -> None:
    charges = (((1.0, 0.05), 30), ((2.0, 0.3), 8))
    first, second = (
        reference.from_gaussian_mechanism(noise, value_discretization_interval=1e-3, sampling_prob=rate)
        for (noise, rate), _ in charges
    )
    wanted = first.self_compose(30).compose(second.self_compose(8)).get_epsilon_for_delta(DELTA)
    assert max(curve.epsilon(DELTA) for curve in curves(charges, 1e-3, ONE_PAIR)) == pytest.approx(wanted, rel=2e-5)


# ---- exact divergences


@pytest.mark.parametrize("noise", [0.5, 1.3, 10.0])
@pytest.mark.parametrize("rate", [1e-4, 0.2, 0.9])
@pytest.mark.parametrize("delta", [1e-3, 1e-7])
def test_one_step_is_never_below_the_exact_value_and_close_to_it(noise: float, rate: float, delta: float) -> None:
    found = epsilon([gaussian_event(noise_multiplier=noise, sample_rate=rate, steps=1)], delta).epsilon
    assert exact_delta(noise, rate, 1, found) <= delta * (1 + 1e-6)
    assert found == 0.0 or exact_delta(noise, rate, 1, found * 0.99) > delta


# Noise 0.5 to 10, rates 1e-4 to 0.99, up to 1e5 steps.
COMPOSED = [(1.1, 0.01, 1000, 1e-5), (2.0, 0.5, 40, 1e-6), (0.8, 0.005, 1000, 1e-6), (10.0, 0.99, 1000, 1e-5)]
MORE = [
    (0.5, 1e-4, 100_000, 1e-5),
    (0.5, 0.01, 300, 1e-5),
    (1.0, 1e-3, 100_000, 1e-5),
    (2.0, 1e-4, 100_000, 1e-6),
    (4.0, 0.01, 100_000, 1e-5),
    (10.0, 0.2, 10_000, 1e-5),
    (10.0, 1e-3, 100_000, 1e-7),
    (1.0, 0.1, 100, 1e-7),
]


@pytest.mark.parametrize(
    ("noise", "rate", "steps", "delta"), [*COMPOSED, *(pytest.param(*one, marks=pytest.mark.slow) for one in MORE)]
)
def test_a_composition_is_never_below_the_exact_value_and_within_a_percent(
    noise: float, rate: float, steps: int, delta: float
) -> None:
    bound = epsilon([gaussian_event(noise_multiplier=noise, sample_rate=rate, steps=steps)], delta)
    assert exact_delta(noise, rate, steps, bound.epsilon) <= delta * (1 + 1e-6)
    below = bound.epsilon * 0.999 - 1e-4
    assert below <= 0.0 or exact_delta(noise, rate, steps, below) > delta


@pytest.mark.parametrize(("noise", "rate", "pairs"), [(2.0, 0.1, 2), (3.0, 0.4, 5), (1.0, 1e-3, 3)])
def test_a_person_with_several_pairs_costs_exactly_the_binomial_mixture(noise: float, rate: float, pairs: int) -> None:
    found = by_pld(noise, rate, 1, DELTA, 1e-4, Neighbors(pairs=pairs))
    mixed = [(float(binom.pmf(count, pairs, rate)), float(count)) for count in range(pairs + 1)]

    def delta(at: float) -> float:
        return max(one_step_delta(mixed, [(1.0, 0.0)], noise, at), one_step_delta([(1.0, 0.0)], mixed, noise, at))

    assert delta(found) <= DELTA * (1 + 1e-6)
    assert delta(found * 0.999) > DELTA


@pytest.mark.parametrize(("noise", "rate"), [(1.0, 0.1), (0.6, 0.5), (3.0, 0.01)])
def test_a_replaced_pair_costs_exactly_two_opposite_vectors(noise: float, rate: float) -> None:
    found = by_pld(noise, rate, 1, DELTA, 1e-4, Neighbors("replace_one"))
    one, other = [(1 - rate, 0.0), (rate, 1.0)], [(1 - rate, 0.0), (rate, -1.0)]
    assert one_step_delta(one, other, noise, found) <= DELTA * (1 + 1e-6)
    assert one_step_delta(one, other, noise, found * 0.999) > DELTA


Plane = list[tuple[float, complex]]


def plane_delta(first: Plane, second: Plane, noise: float, at: float) -> float:
    """Hockey-stick divergence of two mixtures in the plane, on a square grid; a mean is x + iy."""
    width = noise / 25
    line = np.arange(-2 - 8 * noise, 2 + 8 * noise, width)
    x, y = np.meshgrid(line, line)

    def density(mixture: Plane) -> np.ndarray:
        parts = [w * np.exp(-((x - m.real) ** 2 + (y - m.imag) ** 2) / (2 * noise**2)) for w, m in mixture]
        return np.sum(parts, axis=0) / (2 * math.pi * noise**2)

    return float(np.maximum(density(first) - math.exp(at) * density(second), 0).sum() * width**2)


@pytest.mark.parametrize("angle", [0.3, 1.2, 2.0, 3.0])
@pytest.mark.parametrize("length", [0.5, 1.0])
def test_no_other_direction_or_length_costs_more_than_the_line(angle: float, length: float) -> None:
    """The dominating pairs are one-dimensional; vectors at any angle, and shorter ones, must stay below them."""
    noise, rate, at = 0.9, 0.3, 0.4
    vector = length * complex(math.cos(angle), math.sin(angle))
    one, other = [(1 - rate, 0j), (rate, 1 + 0j)], [(1 - rate, 0j), (rate, vector)]
    line = one_step_delta([(1 - rate, 0.0), (rate, 1.0)], [(1 - rate, 0.0), (rate, -1.0)], noise, at)
    assert max(plane_delta(one, other, noise, at), plane_delta(other, one, noise, at)) <= line * (1 + 1e-4)
    both = [((1 - rate) ** 2, 0j), (rate * (1 - rate), 1 + 0j), (rate * (1 - rate), vector), (rate**2, 1 + vector)]
    counts = [(float(binom.pmf(count, 2, rate)), float(count)) for count in range(3)]
    for forward in (True, False):
        plane, group = (both, [(1.0, 0j)]), (counts, [(1.0, 0.0)])
        first, second = plane if forward else plane[::-1]
        wanted = one_step_delta(*(group if forward else group[::-1]), noise, at)
        assert plane_delta(first, second, noise, at) <= wanted * (1 + 1e-4)


# ---- the curve


def test_delta_falls_with_epsilon_and_epsilon_inverts_it() -> None:
    for curve in curves((((1.1, 0.05), 50),), 1e-3, ONE_PAIR):
        assert np.all(np.diff(curve.deltas) <= 0.0)
        place = 700
        at = (curve.first + place) * curve.grid
        assert curve.epsilon(float(curve.deltas[place])) == pytest.approx(at, abs=1e-9)
        assert curve.epsilon(float(curve.deltas[-1]) / 2) == math.inf


@pytest.mark.parametrize("steps", [1, 7, 4096, 100_000])
def test_many_small_gaussians_are_one_gaussian(steps: int) -> None:
    """A rate that is 1 but for 1e-12 goes the long way; the closed form is the truth."""
    exact = epsilon([FullBatchGaussian(1.0, 1)], DELTA).epsilon
    nearly = gaussian_event(noise_multiplier=math.sqrt(steps), sample_rate=1 - 1e-12, steps=steps)
    bound = epsilon([nearly], DELTA).pld
    assert bound is not None
    assert exact <= bound <= exact * 1.001


@pytest.mark.parametrize(
    ("kind", "pairs", "message"),
    [("add_remove", 0, "pairs must be"), ("add_remove", 1.5, "pairs must be"), ("replace_one", 2, "pairs must be 1")],
)
def test_neighbors_without_a_meaning_are_refused(kind: str, pairs: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Neighbors(kind, pairs)  # type: ignore[arg-type]
