"""Bounds from one run: equal to the papers' formulas written naively, and sound on mechanisms of known epsilon."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import ndtr, ndtri
from scipy.stats import binom

from privacy.audit.one_run import (
    Guesses,
    guess,
    one_run_bound,
    one_run_gaussian_bound,
    one_run_inversion_bound,
    one_run_p_value,
    one_run_rejects,
)
from privacy.audit.tradeoff import NoiseFamily, gaussian_tradeoff
from privacy.bounds import gaussian_epsilon
from privacy.events import FullBatchGaussian, PoissonGaussian

DELTA = 1e-5


def naive_p_value(guesses: Guesses, epsilon: float, delta: float) -> float:
    """Theorem 5.2 term by term."""
    right = 1 / (1 + math.exp(-epsilon))
    mass = [float(binom.pmf(k, guesses.made, right)) for k in range(guesses.made + 1)]
    best = max(
        (sum(mass[guesses.right - i : guesses.right]) / i for i in range(1, guesses.right + 1)),
        default=0.0,
    )
    return min(1.0, sum(mass[guesses.right :]) + 2 * guesses.canaries * delta * best)


@pytest.mark.parametrize("guesses", [Guesses(0, 10, 40), Guesses(9, 10, 40), Guesses(10, 10, 40), Guesses(60, 90, 200)])
@pytest.mark.parametrize("epsilon", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("delta", [0.0, 1e-5, 1e-2])
def test_the_p_value_is_the_theorem_written_out(guesses: Guesses, epsilon: float, delta: float) -> None:
    assert one_run_p_value(guesses, epsilon, delta) == pytest.approx(naive_p_value(guesses, epsilon, delta), rel=1e-9)


def naive_rejects(guesses: Guesses, mu: float, confidence: float) -> bool:
    """Algorithm 3 for a Gaussian curve, with the inverse blow-up function of the paper."""
    made, canaries = guesses.made, guesses.canaries
    error = 1 - confidence
    r, h = error * guesses.right / canaries, error * (made - guesses.right) / canaries
    for i in reversed(range(guesses.right)):
        new = max(h, float(ndtr(ndtri(min(r, 1.0)) - mu)))
        r, h = r + i / (made - i) * (new - h), new
    return r + h > made / canaries


@pytest.mark.parametrize("guesses", [Guesses(80, 100, 1000), Guesses(500, 600, 1000), Guesses(55, 100, 100)])
def test_three_ways_to_reject_a_gaussian_curve_agree(guesses: Guesses) -> None:
    mus = np.linspace(0.02, 3.0, 30)
    wanted = [naive_rejects(guesses, float(mu), 0.95) for mu in mus]
    assert [one_run_rejects(guesses, gaussian_tradeoff(float(mu)), 0.95) for mu in mus] == wanted
    assert wanted == sorted(wanted, reverse=True)  # more leakage is harder to reject
    bound = one_run_gaussian_bound(guesses, DELTA, 0.95)
    rejected = [gaussian_epsilon(float(mu), DELTA) for mu, at in zip(mus, wanted, strict=True) if at]
    accepted = [gaussian_epsilon(float(mu), DELTA) for mu, at in zip(mus, wanted, strict=True) if not at]
    assert max(rejected, default=0.0) <= bound + 0.02
    assert bound <= min(accepted) + 0.02


def test_inverting_the_family_of_a_full_batch_agrees_with_the_gaussian_bound() -> None:
    family = NoiseFamily.of([FullBatchGaussian(noise_multiplier=1.0, steps=1)])
    wanted = one_run_gaussian_bound(Guesses(170, 200, 1000), DELTA, 0.95)
    found = one_run_inversion_bound(Guesses(170, 200, 1000), DELTA, 0.95, family)
    assert 0.97 * wanted <= found <= wanted * 1.001


def test_the_sampled_family_shows_more_than_no_assumption_and_less_than_all_was_known() -> None:
    family = NoiseFamily.of([PoissonGaussian(noise_multiplier=1.0, sample_rate=0.1, steps=100)])
    found = one_run_inversion_bound(Guesses(190, 200, 1000), DELTA, 0.95, family)
    assert one_run_bound(Guesses(190, 200, 1000), DELTA, 0.95) < found < 30.0


@pytest.mark.parametrize(("made", "ceiling"), [(100, 3.49), (1000, 5.81)])
def test_all_right_guesses_cannot_show_more_than_the_known_ceiling(made: int, ceiling: float) -> None:
    assert one_run_bound(Guesses(made, made, made), 1e-300, 0.95) == pytest.approx(ceiling, abs=0.01)


def test_bounds_grow_with_right_guesses_and_are_nothing_at_chance() -> None:
    for bound in (one_run_bound, one_run_gaussian_bound):
        found = [bound(Guesses(right, 200, 1000), DELTA, 0.95) for right in range(90, 201, 10)]
        assert found == sorted(found)
        assert found[1] == 0.0
        assert found[-1] > 3.0
        assert bound(Guesses(0, 0, 1000), DELTA, 0.95) == 0.0


def test_guesses_are_made_on_the_extremes_alone() -> None:
    scores = np.array([0.1, 9.0, -4.0, 7.0, 0.0, np.nan])
    coins = np.array([True, True, False, False, True, True])
    assert guess(scores, coins, guess_in=2, guess_out=2) == Guesses(right=2, made=4, canaries=6)
    assert guess(scores, coins, guess_in=0, guess_out=0) == Guesses(0, 0, 6)
    with pytest.raises(ValueError, match="guess_in"):
        guess(scores, coins, guess_in=4, guess_out=3)
    with pytest.raises(ValueError, match="right"):
        Guesses(5, 4, 6)


def test_on_randomised_response_the_bound_exceeds_the_truth_at_most_as_often_as_promised() -> None:
    """Exactly epsilon-DP, and as leaky as that allows: the hardest case for soundness."""
    rng, truth, repeats, canaries = np.random.default_rng(3), 1.0, 2000, 400
    right = rng.binomial(canaries, 1 / (1 + math.exp(-truth)), repeats)
    above = np.mean([one_run_bound(Guesses(int(k), canaries, canaries), 1e-300, 0.95) > truth for k in right])
    assert above <= 0.05 + 3 * (0.05 * 0.95 / repeats) ** 0.5
    assert above > 0.02  # and the bound is not idle
