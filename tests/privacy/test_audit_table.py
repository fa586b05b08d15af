"""Auditors on the Gaussian game of known epsilon: as strong as the reference medians, and not above the truth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from privacy.audit.game import gaussian_game, plan_guesses, plan_threshold
from privacy.audit.rule import Assumption, AuditRule, Test, evidence, score_test

DELTA, CONFIDENCE = 1e-5, 0.95
# Median lower bounds at true epsilon 1, 2, 4, 8 (300 simulations each, same game).
REFERENCE = {
    ("rates", "nothing", 1000): (0.04, 0.33, 1.06, 2.27),
    ("rates", "nothing", 10_000): (0.30, 0.81, 1.81, 3.40),
    ("accuracy", "gaussian", 1000): (0.16, 1.08, 2.90, 6.56),
    ("accuracy", "gaussian", 10_000): (0.73, 1.71, 3.64, 7.56),
    ("rates", "gaussian", 10_000): (0.73, 1.71, 3.64, 7.56),
    ("one-run", "nothing", 1000): (0.22, 0.65, 1.46, 2.78),
    ("one-run", "gaussian", 1000): (0.34, 0.93, 2.20, 4.59),
}
TRUTHS = (1.0, 2.0, 4.0, 8.0)
Method = tuple[Test, Assumption, int]


def planned(method: Method, truth: float, rng: np.random.Generator) -> AuditRule:
    test, assumes, canaries = method
    game = gaussian_game(truth, DELTA)
    found = score_test(test, assumes, delta=DELTA, confidence=CONFIDENCE)
    threshold, guess_in, guess_out = None, 0, 0
    if test == "one-run":
        guess_in, guess_out = plan_guesses(game, canaries=canaries, goal=found.strength, rng=rng)
    else:
        threshold = plan_threshold(game, trials=canaries, goal=found.strength, rng=rng)
    return AuditRule(
        test=test,
        assumes=assumes,
        canaries=canaries,
        delta=DELTA,
        confidence=CONFIDENCE,
        threshold=threshold,
        guess_in=guess_in,
        guess_out=guess_out,
    )


def bounds_of(method: Method, truth: float, repeats: int, rng: np.random.Generator) -> np.ndarray:
    rule = planned(method, truth, rng)
    test = score_test(rule.test, rule.assumes, delta=DELTA, confidence=CONFIDENCE)
    game = gaussian_game(truth, DELTA)
    plays = (game(rule.canaries, rng) for _ in range(repeats))
    return np.array([test.epsilon(test.strength(evidence(rule, *play))) for play in plays])


def check(method: Method, truth: float, repeats: int) -> None:
    found = bounds_of(method, truth, repeats, np.random.default_rng(17))
    median = round(float(np.median(found)), 2)  # the reference has two digits
    assert median >= 0.95 * REFERENCE[method][TRUTHS.index(truth)]
    assert np.mean(found > truth) <= 0.05 + 3 * (0.05 * 0.95 / repeats) ** 0.5


@pytest.mark.parametrize("truth", [2.0, 8.0])
@pytest.mark.parametrize("method", [m for m in REFERENCE if m[2] == 1000], ids=str)
def test_medians_reach_the_reference_and_bounds_stay_below_the_truth(method: Method, truth: float) -> None:
    check(method, truth, 300)


@pytest.mark.slow
@pytest.mark.parametrize("truth", TRUTHS)
@pytest.mark.parametrize("method", REFERENCE, ids=str)
def test_medians_reach_the_reference_in_many_simulations(method: Method, truth: float) -> None:
    check(method, truth, 3000)


def test_the_soundness_check_notices_an_auditor_that_ignores_its_confidence() -> None:
    """Point estimates in place of limits exceed the truth half of the time, and the check above would refuse them."""
    rng, truth = np.random.default_rng(5), 2.0
    game = gaussian_game(truth, DELTA)
    hopeful = score_test("accuracy", "gaussian", delta=DELTA, confidence=0.5)
    rule = planned(("accuracy", "gaussian", 1000), truth, rng)
    found = [hopeful.epsilon(hopeful.strength(evidence(rule, *game(1000, rng)))) for _ in range(300)]
    assert np.mean(np.array(found) > truth) > 0.3


@pytest.mark.parametrize("method", [m for m in REFERENCE if m[2] == 1000], ids=str)
def test_scores_without_knowledge_give_bound_zero(method: Method) -> None:
    rng = np.random.default_rng(7)
    rule = planned(method, 4.0, rng)
    test = score_test(rule.test, rule.assumes, delta=DELTA, confidence=CONFIDENCE)
    play: Callable[[], float] = lambda: test.strength(  # noqa: E731
        evidence(rule, rng.standard_normal(rule.canaries), rng.random(rule.canaries) < 0.5)
    )
    positive = np.mean([play() > 0.0 for _ in range(400)])
    assert positive <= 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5
