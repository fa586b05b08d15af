"""The game an audit plays, simulated: to fix the rule beforehand, to state its power, and to check it on nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from privacy.bounds import gaussian_epsilon

from .bounds import Goal, best_threshold
from .one_run import Guesses
from .result import NullCheck
from .rule import AuditRule, ScoreTest, evidence, score_test

Trial: TypeAlias = tuple[NDArray[np.float64], NDArray[np.bool_]]  # scores float64[m], coins bool[m]
Game: TypeAlias = Callable[[int, np.random.Generator], Trial]  # canaries, randomness -> one play by a perfect attacker

PLANNING_CANARIES = 200_000
_THRESHOLDS = 120
_SHARES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)


def gaussian_game(epsilon: float, delta: float) -> Game:
    """Scores N(mu, 1) in and N(0, 1) out, the Gaussian mechanism that has exactly this epsilon. epsilon must be > 0."""
    if not 0.0 < epsilon < 1e3:
        raise ValueError(f"epsilon must be in (0, 1000), got {epsilon}")
    mu = float(brentq(lambda mu: gaussian_epsilon(mu, delta) - epsilon, 1e-9, 60.0))

    def play(canaries: int, rng: np.random.Generator) -> Trial:
        coins = rng.random(canaries) < 0.5
        return rng.standard_normal(canaries) + mu * coins, coins

    return play


def plan_threshold(game: Game, *, trials: int, goal: Goal, rng: np.random.Generator) -> float:
    """The threshold that does best on average in `trials` of this game. It has seen no coin of the audit."""
    scores, coins = game(PLANNING_CANARIES, rng)
    thresholds = np.quantile(scores, np.linspace(0.0, 1.0, _THRESHOLDS + 2)[1:-1])
    alarms, hits = (np.sort(part) for part in (scores[~coins], scores[coins]))
    return best_threshold(
        thresholds,
        1.0 - np.searchsorted(alarms, thresholds, side="right") / len(alarms),
        1.0 - np.searchsorted(hits, thresholds, side="right") / len(hits),
        trials=trials,
        goal=goal,
    )


def plan_guesses(
    game: Game, *, canaries: int, goal: Callable[[Guesses], float], rng: np.random.Generator
) -> tuple[int, int]:
    """(guess_in, guess_out) that reach the most of `goal`, say a bound, on average in one run of this game."""
    scores, coins = game(PLANNING_CANARIES, rng)
    ordered = coins[np.argsort(scores, kind="stable")]
    best, found = (0, 0), -1.0
    for share in _SHARES:
        for of_in in (0.5, 1.0):
            made = round(share * canaries)
            guess_in = round(of_in * made) if of_in * share <= 0.5 else made // 2
            guess_out = made - guess_in
            top, bottom = (round(part / canaries * len(ordered)) for part in (guess_in, guess_out))
            right = _share(ordered[len(ordered) - top :]) * guess_in + _share(~ordered[:bottom]) * guess_out
            whole = min(int(right), made)
            value = goal(Guesses(whole, made, canaries)) * (1 - right + whole)
            value += goal(Guesses(min(whole + 1, made), made, canaries)) * (right - whole)
            if value > found:
                best, found = (guess_in, guess_out), value
    return best


def one_run_rule(
    claim: float,
    *,
    canaries: int,
    delta: float,
    confidence: float,
    rng: np.random.Generator,
    assumes: Literal["nothing", "gaussian"] = "nothing",
) -> AuditRule:
    """The rule for canaries that share one training run: as many guesses as do best on a Gaussian mechanism with this
    claim. Raises ValueError unless the claim is in (0, 1000)."""
    goal = score_test("one-run", assumes, delta=delta, confidence=confidence).strength
    guess_in, guess_out = plan_guesses(gaussian_game(claim, delta), canaries=canaries, goal=goal, rng=rng)
    return AuditRule(
        test="one-run",
        assumes=assumes,
        canaries=canaries,
        delta=delta,
        confidence=confidence,
        guess_in=guess_in,
        guess_out=guess_out,
    )


def power(game: Game, rule: AuditRule, test: ScoreTest, *, repeats: int, rng: np.random.Generator) -> float:
    """Median bound over `repeats` plays: what this rule shows of a mechanism whose leakage the game has."""
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    plays = (game(rule.canaries, rng) for _ in range(repeats))
    return test.epsilon(float(np.median([test.strength(evidence(rule, *play)) for play in plays])))


def null_check(
    scores: NDArray[np.float64], rule: AuditRule, test: ScoreTest, *, repeats: int, rng: np.random.Generator
) -> NullCheck:
    """The rule on the audit's own scores with fresh fair coins: it may find leakage in 1 - confidence of the repeats.

    Three standard errors are allowed on top.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    tosses = (rng.random(len(scores)) < 0.5 for _ in range(repeats))
    positive = sum(test.strength(evidence(rule, scores, coins)) > 0.0 for coins in tosses)
    error = 1.0 - rule.confidence
    allowed = repeats * error + 3.0 * (repeats * error * rule.confidence) ** 0.5
    return NullCheck(repeats=repeats, positive=int(positive), allowed=float(allowed))


def _share(right: NDArray[np.bool_]) -> float:
    return float(right.mean()) if len(right) else 0.0
