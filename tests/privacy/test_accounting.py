"""Epsilon against closed forms, published numbers, a second library and the laws of composition."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from opacus.accountants import RDPAccountant
from scipy import integrate, stats

from privacy.accounting import Bound, epsilon, unamplified, worst
from privacy.bounds import gaussian_epsilon, pld_epsilon
from privacy.events import (
    Event,
    FullBatchGaussian,
    IntegerGaussian,
    NonPrivate,
    PoissonGaussian,
    Unit,
    gaussian_event,
)
from tests.privacy.accounting_oracles import discrete_gaussian

DELTA = 1e-5


def event(noise: float, rate: float, steps: int) -> Event:
    return gaussian_event(noise_multiplier=noise, sample_rate=rate, steps=steps)


def spent(*events: Event, delta: float = DELTA) -> float:
    return epsilon(events, delta).epsilon


# ---- numbers known from elsewhere


# dp-accounting 0.6.0 on its own. The first was confirmed by Microsoft's prv-accountant (1.51537 +- 0.01).
@pytest.mark.parametrize(
    ("noise", "rate", "steps", "delta", "by_pld", "by_rdp"),
    [
        (1.1, 0.01, 1000, 1e-5, 1.51537, 1.71177),
        (1.0, 0.01, 1000, 1e-5, 1.828, 2.101),
        (2.0, 0.2, 100, 1e-5, 5.023, 5.499),
        (4.0, 0.01, 10_000, 1e-5, 0.947, 1.036),  # the example of Abadi et al., CCS 2016, there 1.26
    ],
)
def test_known_epsilons_of_dp_sgd(
    noise: float, rate: float, steps: int, delta: float, by_pld: float, by_rdp: float
) -> None:
    bound = epsilon([event(noise, rate, steps)], delta)
    assert bound.pld == pytest.approx(by_pld, rel=1e-3)
    assert bound.rdp == pytest.approx(by_rdp, rel=1e-3)
    assert bound.epsilon == bound.pld
    assert bound.accountant == "pld"


# The MNIST table of the TensorFlow Privacy README (batches of 256 of 60,000; published with an older conversion: 1.19,
# 3.01, 7.10), and the same runs by dp-accounting 0.6.0.
@pytest.mark.parametrize(
    ("noise", "epochs", "published", "by_pld", "by_rdp"),
    [(1.3, 15, 1.19, 0.865, 0.954), (1.1, 60, 3.01, 2.382, 2.597), (0.7, 45, 7.10, 5.639, 6.320)],
)
def test_the_runs_of_tensorflow_privacy(
    noise: float, epochs: int, published: float, by_pld: float, by_rdp: float
) -> None:
    bound = epsilon([event(noise, 256 / 60_000, epochs * 60_000 // 256)], DELTA)
    assert bound.epsilon == bound.pld == pytest.approx(by_pld, rel=1e-3)
    assert bound.rdp == pytest.approx(by_rdp, rel=1e-3)
    assert bound.epsilon < published


# dp-accounting 0.6.0: a client with 600 pairs in batches of 60, noise 1, after 1, 2, 3 and 10 epochs.
@pytest.mark.parametrize(("rounds", "value"), [(1, 2.854), (2, 3.591), (3, 4.178), (10, 7.047)])
def test_rounds_of_a_small_client(rounds: int, value: float) -> None:
    assert spent(*[event(1.0, 0.1, 10)] * rounds) == pytest.approx(value, rel=5e-4)


# The central-limit (GDP) approximation mu = q sqrt(T (e^(1/s^2) - 1)) of Bu et al. 2020 gives these; they are too low.
@pytest.mark.parametrize(
    ("noise", "rate", "steps", "delta", "by_clt", "true"),
    [
        (1.1, 0.01, 1000, 1e-5, 1.37743, 1.51537),
        (0.8, 0.005, 1000, 1e-6, 1.32, 2.00),
        (0.5, 1e-4, 100_000, 1e-5, 0.85, 2.06),
    ],
)
def test_the_central_limit_approximation_is_not_what_is_reported(
    noise: float, rate: float, steps: int, delta: float, by_clt: float, true: float
) -> None:
    mu = rate * math.sqrt(steps * math.expm1(1 / noise**2))
    assert gaussian_epsilon(mu, delta) == pytest.approx(by_clt, rel=0.01)
    bound = epsilon([event(noise, rate, steps)], delta)
    assert bound.epsilon == pytest.approx(true, rel=5e-3)
    assert {bound.accountant} <= {"pld", "rdp", "gaussian"}


# One epoch at delta 1e-5, Poisson samples and the same noise without sampling (dp-accounting 0.6.0).
@pytest.mark.parametrize(
    ("noise", "steps", "sampled", "known"),
    [(0.6, 1000, 1.43, 8.00), (1.0, 1000, 0.149, 4.38), (0.4, 10_000, 4.09, None)],
)
def test_one_epoch_with_and_without_amplification(
    noise: float, steps: int, sampled: float, known: float | None
) -> None:
    assert spent(event(noise, 1 / steps, steps)) == pytest.approx(sampled, rel=5e-3)
    if known is not None:
        assert spent(event(noise, 1.0, 1)) == pytest.approx(known, rel=2e-3)


# Balle and Wang 2018: the Gaussian mechanism at sensitivity 1. dp-accounting's own tests of its Gaussian PLD give
# delta 0.12693674 at epsilon 1 for standard deviation 1 (Phi(-1/2) - e Phi(-3/2)).
def test_the_gaussian_mechanism_at_epsilon_one() -> None:
    delta = stats.norm.cdf(-0.5) - math.e * stats.norm.cdf(-1.5)
    assert delta == pytest.approx(0.12693674, abs=1e-8)
    assert spent(FullBatchGaussian(1.0, 1), delta=delta) == pytest.approx(1.0, abs=1e-6)


def test_the_numbers_published_in_opacus_own_tests() -> None:
    """opacus 1.6, accountants_test.py: noise 1.5, rate 0.04, 2250 steps; its PRV number includes an error of 0.01."""
    bound = epsilon([event(1.5, 0.04, 2250)], DELTA)
    assert bound.rdp == pytest.approx(7.32911117143, rel=1e-3)
    assert bound.pld == pytest.approx(6.777395712150674, abs=0.02)


def test_two_noises_compose_as_in_opacus() -> None:
    reference = RDPAccountant()
    reference.history = [(1.5, 0.04, 1000), (1.0, 0.04, 500)]
    bound = epsilon([event(1.5, 0.04, 1000), event(1.0, 0.04, 500)], DELTA)
    assert bound.rdp == pytest.approx(reference.get_epsilon(DELTA), rel=0.01)
    assert bound.epsilon < reference.get_epsilon(DELTA)


@pytest.mark.parametrize(
    ("noise", "rate", "steps"), [(1.0, 0.01, 1000), (0.7, 0.05, 200), (2.0, 0.2, 100), (1.556, 0.5, 20), (1.9, 1.0, 10)]
)
def test_rdp_agrees_with_opacus_to_one_percent(noise: float, rate: float, steps: int) -> None:
    reference = RDPAccountant()
    reference.history = [(noise, rate, steps)]
    assert epsilon([event(noise, rate, steps)], DELTA).rdp == pytest.approx(reference.get_epsilon(DELTA), rel=0.01)


def exact_delta(mu: float, at: float) -> float:
    """Balle and Wang 2018, Theorem 8, by its defining integral: an oracle that shares no code with the product."""

    def excess(x: float) -> float:
        return max(stats.norm.pdf(x, mu) - math.exp(at) * stats.norm.pdf(x), 0.0)

    crossing = at / mu + mu / 2
    value, _ = integrate.quad(excess, crossing, crossing + 40, epsabs=1e-15, limit=400)
    return float(value)


@pytest.mark.parametrize(
    ("noise", "steps", "delta"), [(1.9, 10, 1e-5), (8.0, 3, 1e-6), (0.7, 1, 1e-3), (30.0, 400, 1e-8)]
)
def test_the_full_batch_bound_is_exact_and_never_low(noise: float, steps: int, delta: float) -> None:
    bound = epsilon([FullBatchGaussian(noise, steps)], delta)
    mu = math.sqrt(steps) / noise
    assert bound.accountant == "gaussian"
    assert exact_delta(mu, bound.epsilon) <= delta
    assert exact_delta(mu, bound.epsilon * 0.999) > delta
    assert bound.pld == pytest.approx(bound.epsilon, rel=2e-4)


def test_one_poisson_step_is_exact() -> None:
    """The oracle integrates one step's hockey-stick divergence in both directions; PLD may exceed it by a little."""
    noise, rate, delta = 1.3, 0.2, 1e-4
    value = spent(event(noise, rate, 1), delta=delta)

    def divergence(at: float, remove: bool) -> float:
        def excess(x: float) -> float:
            out = stats.norm.pdf(x, 0.0, noise)
            mixed = (1 - rate) * out + rate * stats.norm.pdf(x, 1.0, noise)
            first, second = (mixed, out) if remove else (out, mixed)
            return max(first - math.exp(at) * second, 0.0)

        return float(integrate.quad(excess, -30, 30, epsabs=1e-14, limit=2000, points=np.linspace(-10, 10, 41))[0])

    assert max(divergence(value, True), divergence(value, False)) <= delta * (1 + 1e-6)
    assert max(divergence(value * 0.998, True), divergence(value * 0.998, False)) > delta


def test_at_tiny_epsilon_the_least_bound_is_taken_and_the_grid_follows() -> None:
    """Noise 4, rate 1e-4, 1e5 steps: PLD on the usual grid gives 0.0399, RDP 0.0278, a fine grid 0.02135."""
    bound = epsilon([event(4.0, 1e-4, 100_000)], DELTA)
    assert bound.rdp == pytest.approx(0.0278, rel=5e-3)
    assert bound.epsilon == pytest.approx(0.02135, rel=2e-3)
    charges = (((4.0, 1e-4), 100_000),)
    assert pld_epsilon(charges, DELTA, 1e-4) > 0.035


@pytest.mark.parametrize(("steps", "mu"), [(100_000, 1.0), (100_000, 2.0)])
def test_rounding_of_long_compositions_does_not_lower_epsilon(steps: int, mu: float) -> None:
    """At delta 1.2e-10 the Fourier transforms alone would report up to 6 parts in 10,000 too little."""
    exact = epsilon([FullBatchGaussian(1.0 / mu, 1)], 1.2e-10).epsilon
    nearly_full = (((math.sqrt(steps) / mu, 1.0 - 1e-12), steps),)
    assert pld_epsilon(nearly_full, 1.2e-10, 1e-4) >= exact
    assert pld_epsilon(nearly_full, 1e-11, 1e-4) == math.inf


def test_where_float64_cannot_carry_delta_another_valid_bound_is_named() -> None:
    bound = epsilon([event(1.1, 0.01, 1000)], 1e-12)
    assert bound.pld is None
    assert bound.accountant == "rdp"
    assert "no PLD bound" in " ".join(bound.notes)


# ---- laws


GRID: Sequence[Event] = [event(1.1, 0.05, 40), event(2.0, 0.5, 12), event(3.0, 1.0, 5)]


@pytest.mark.parametrize("one", GRID)
def test_n_compositions_are_a_count_of_n(one: Event) -> None:
    assert not isinstance(one, NonPrivate)
    apart = [event(one.noise_multiplier, getattr(one, "sample_rate", 1.0), 1)] * one.steps
    assert epsilon(apart, DELTA) == epsilon([one], DELTA)


def test_order_does_not_matter() -> None:
    assert epsilon(GRID, DELTA) == epsilon(GRID[::-1], DELTA)


def test_other_events_only_add() -> None:
    together = spent(*GRID)
    assert together > max(spent(one) for one in GRID)
    assert together < sum(spent(one) for one in GRID)


@pytest.mark.parametrize("rate", [0.02, 1.0])
def test_epsilon_falls_with_noise_and_grows_with_rate_and_steps(rate: float) -> None:
    assert spent(event(1.4, rate, 10)) > spent(event(1.5, rate, 10))
    assert spent(event(1.5, rate, 10)) < spent(event(1.5, rate, 11)) < spent(event(1.5, rate, 40))
    assert spent(event(1.5, rate / 2, 10)) < spent(event(1.5, rate, 10))
    assert spent(event(1.5, rate, 10), delta=1e-6) > spent(event(1.5, rate, 10), delta=1e-5)


def test_full_batch_is_the_limit_of_the_rate() -> None:
    assert spent(PoissonGaussian(2.0, 1 - 1e-9, 10)) == pytest.approx(spent(FullBatchGaussian(2.0, 10)), rel=1e-3)


def test_nothing_costs_nothing_and_the_non_private_costs_everything() -> None:
    assert epsilon([], DELTA) == Bound(0.0, DELTA, "none")
    assert spent(PoissonGaussian(1.0, 0.5, 0)) == 0.0
    bound = epsilon([GRID[0], NonPrivate("seeded noise")], DELTA)
    assert bound.epsilon == math.inf
    assert bound.notes == ("seeded noise",)
    assert spent(PoissonGaussian(0.0, 0.5, 1)) == math.inf
    assert spent(FullBatchGaussian(0.0, 1)) == math.inf


@pytest.mark.parametrize("noise", [0.003, 0.05, 300.0, 1e5])
@pytest.mark.parametrize("rate", [1e-7, 0.3, 1.0])
def test_extreme_noise_gives_a_number_and_no_warning(
    noise: float, rate: float, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    value = spent(event(noise, rate, 5))
    assert 0.0 <= value < math.inf
    assert not caplog.records
    assert not recwarn.list


def test_without_the_secret_of_the_sample_amplification_is_gone() -> None:
    sampled = event(2.0, 0.1, 10)
    assert unamplified([sampled], DELTA).epsilon == spent(FullBatchGaussian(2.0, 10))
    assert unamplified([sampled], DELTA).epsilon > 3 * spent(sampled)


def test_the_federation_is_its_worst_client_not_the_sum() -> None:
    bounds = [epsilon([one], DELTA) for one in GRID]
    assert worst(bounds).epsilon == max(bound.epsilon for bound in bounds)
    with pytest.raises(ValueError, match="at least one client"):
        worst([])


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan])
def test_a_delta_that_is_no_probability_is_refused(delta: float) -> None:
    with pytest.raises(ValueError, match="delta must be in"):
        epsilon([GRID[0]], delta)


# ---- integer noise


def integer(
    variance: int,
    norm_squared: int,
    rate: float = 1.0,
    steps: int = 1,
    *,
    distance_log2: float = -200.0,
    unit: Unit = "pair",
) -> IntegerGaussian:
    return IntegerGaussian(
        variance=variance,
        own_variance=16,
        colluding_variance=0,
        norm_squared=norm_squared,
        sample_rate=rate,
        steps=steps,
        distance_log2=distance_log2,
        unit=unit,
    )


@pytest.mark.parametrize("rate", [0.02, 1.0])
def test_integer_noise_is_accounted_as_a_gaussian_of_nine_less(rate: float) -> None:
    found = epsilon([integer(40_009, 10_000, rate, 30)], DELTA)
    wanted = epsilon([event(2.0, rate, 30)], DELTA)
    assert found.epsilon == pytest.approx(wanted.epsilon, rel=1e-9)
    assert found.accountant == wanted.accountant
    assert found.epsilon > spent(event(math.sqrt(4.0009), rate, 30))


@pytest.mark.parametrize(("variance", "shift"), [(16, 1), (16, 4), (100, 10), (100, 25), (2500, 60)])
@pytest.mark.parametrize("rate", [0.1, 1.0])
def test_integer_noise_never_costs_less_than_the_discrete_gaussian_itself(
    variance: int, shift: int, rate: float
) -> None:
    """The exact hockey-stick divergence on the integers, both directions, at the reported epsilon."""
    found = spent(integer(variance, shift**2, rate))
    at = np.arange(-40 * shift - 20 * variance, 40 * shift + 20 * variance + 1)
    out = discrete_gaussian(variance, 0, at)
    mixed = (1 - rate) * out + rate * discrete_gaussian(variance, shift, at)
    for first, second in ((mixed, out), (out, mixed)):
        assert np.maximum(first - math.exp(found) * second, 0.0).sum() <= DELTA * (1 + 1e-9)
    if variance >= 2500:  # nothing is lost where 9 is little
        assert (
            max(np.maximum(a - math.exp(found * 0.99) * b, 0.0).sum() for a, b in ((mixed, out), (out, mixed))) > DELTA
        )


@pytest.mark.parametrize("rate", [0.05, 1.0])
@pytest.mark.parametrize("distance_log2", [-40.0, -45.0, -60.0])
def test_the_samplers_distance_is_charged_to_delta(rate: float, distance_log2: float) -> None:
    noise = integer(90_009, 10_000, rate, 20, distance_log2=distance_log2)
    found, distance = epsilon([noise], DELTA), 2.0**distance_log2
    ideal = spent(event(3.0, rate, 20))
    rest = DELTA - (1 + math.exp(found.epsilon)) * distance
    assert found.epsilon >= ideal * (1 - 1e-9)
    assert found.epsilon == pytest.approx(spent(event(3.0, rate, 20), delta=rest), rel=1e-5)
    assert found.epsilon >= spent(event(3.0, rate, 20), delta=rest) * (1 - 1e-9)
    assert found.delta == DELTA


def test_distances_of_events_add_and_too_much_distance_is_not_private() -> None:
    def half(distance_log2: float) -> IntegerGaussian:
        return integer(90_009, 10_000, 0.3, 10, distance_log2=distance_log2)

    together = epsilon([half(-41.0), half(-41.0)], 1e-9).epsilon
    assert together == epsilon([integer(90_009, 10_000, 0.3, 20, distance_log2=-40.0)], 1e-9).epsilon
    assert together > epsilon([integer(90_009, 10_000, 0.3, 20, distance_log2=-60.0)], 1e-9).epsilon
    lost = epsilon([integer(16, 100_000, distance_log2=-40.0)], DELTA)
    assert lost.epsilon == math.inf
    assert "distance" in " ".join(lost.notes)
    assert spent(integer(16, 100_000, steps=0, distance_log2=-40.0)) == 0.0


def test_events_of_different_units_do_not_compose() -> None:
    with pytest.raises(ValueError, match="different units do not compose: client, pair"):
        epsilon([event(1.0, 0.5, 1), integer(1000, 10, unit="client")], DELTA)
    one = integer(1000, 10, unit="client")
    assert spent(one, one) > spent(one)
    assert spent(one, NonPrivate("seeded noise")) == math.inf
    assert spent(event(1.0, 0.5, 1), integer(1000, 10)) > 0.0


def test_a_known_sample_of_integer_noise_has_no_amplification() -> None:
    assert unamplified([integer(40_009, 10_000, 0.1, 5)], DELTA).epsilon == spent(integer(40_009, 10_000, 1.0, 5))


def test_the_bound_of_a_known_sample_is_taken_where_nothing_is_lower() -> None:
    """At delta 1e-14 no loss distribution serves, and RDP of a nearly full batch is looser than the closed form."""
    bound = epsilon([event(3.0, 0.999, 10)], 1e-14)
    assert bound.accountant == "gaussian"
    assert bound.epsilon == spent(event(3.0, 1.0, 10), delta=1e-14)
    assert "known sample" in " ".join(bound.notes)
