"""The rule by which scores become a bound, fixed and committed to before the coins are looked at."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import bounds, one_run
from .tradeoff import NoiseFamily

Test = Literal["rates", "accuracy", "one-run"]
Assumption = Literal["nothing", "gaussian", "family"]
Evidence: TypeAlias = bounds.Counts | one_run.Guesses

ASSUMPTIONS: dict[Assumption, str] = {
    "nothing": "nothing of the mechanism",
    "gaussian": "a Gaussian mechanism, full batch",
    "family": "the claimed mechanism with some noise multiplier",
}


@dataclass(frozen=True, slots=True)
class AuditRule:
    """Which guesses are made, how they are tested, and what is assumed of the mechanism.

    `test`: "rates" (many independent trials, both error rates), "accuracy" (many independent trials with fair coins,
    share of right guesses) or "one-run" (one training run, however the canaries depend on each other). The first two
    guess "in" above `threshold`; the last guesses "in" on the `guess_in` largest scores and "out" on the `guess_out`
    smallest.
    """

    test: Test
    assumes: Assumption
    canaries: int
    delta: float
    confidence: float
    threshold: float | None = None
    guess_in: int = 0
    guess_out: int = 0

    def __post_init__(self) -> None:
        if self.test not in ("rates", "accuracy", "one-run"):
            raise ValueError(f"test must be rates, accuracy or one-run, got {self.test!r}")
        if self.assumes not in ASSUMPTIONS:
            raise ValueError(f"assumes must be one of {', '.join(ASSUMPTIONS)}, got {self.assumes!r}")
        if self.canaries < 1:
            raise ValueError(f"canaries must be at least 1, got {self.canaries}")
        if not 0.0 < self.delta < 1.0:
            raise ValueError(f"delta must be in (0, 1), got {self.delta}")
        if not 0.0 < self.confidence < 1.0:
            raise ValueError(f"confidence must be in (0, 1), got {self.confidence}")
        if (self.threshold is None) != (self.test == "one-run"):
            raise ValueError("threshold must be given for the tests of rates and accuracy, and for them alone")
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise ValueError(f"threshold must be finite, got {self.threshold}")
        if not 0 <= self.guess_in <= self.guess_in + self.guess_out <= self.canaries:
            raise ValueError(f"guess_in + guess_out must be between 0 and {self.canaries}")

    def text(self) -> str:
        """Canonical JSON, one line: equal rules give equal text."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class ScoreTest:
    """The rule as functions. `strength` grows with the evidence and is 0 where there is none; `epsilon` is the bound
    at a strength, growing with it (two functions, because inverting a curve is cheap and its epsilon is not)."""

    strength: Callable[[Evidence], float]
    epsilon: Callable[[float], float]


def evidence(rule: AuditRule, scores: NDArray[np.float64], coins: NDArray[np.bool_]) -> Evidence:
    """The counts that the rule needs."""
    if rule.test == "one-run":
        return one_run.guess(scores, coins, guess_in=rule.guess_in, guess_out=rule.guess_out)
    assert rule.threshold is not None  # by the rule's own check
    return bounds.count(scores, coins, rule.threshold)


def all_right(rule: AuditRule) -> Evidence:
    """The evidence if every guess were right, half of the coins being heads: no attack shows more by this rule."""
    if rule.test == "one-run":
        made = rule.guess_in + rule.guess_out
        return one_run.Guesses(made, made, rule.canaries)
    members = rule.canaries // 2
    return bounds.Counts(members, members, 0, rule.canaries - members)


def score_test(
    test: Test, assumes: Assumption, *, delta: float, confidence: float, family: NoiseFamily | None = None
) -> ScoreTest:
    """The functions behind (test, assumes). Raises ValueError where `family` is needed and missing."""
    if assumes == "family":
        if family is None:
            raise ValueError("family must be given for a test that assumes the claimed mechanism")
        return _family_test(test, delta, confidence, family)

    def strength(found: Evidence) -> float:
        if isinstance(found, one_run.Guesses):
            bound = one_run.one_run_bound if assumes == "nothing" else one_run.one_run_gaussian_bound
            return bound(found, delta, confidence)
        if test == "rates":
            rates = bounds.direct_bound if assumes == "nothing" else bounds.gaussian_bound
            return rates(found, delta, confidence)
        share = bounds.direct_accuracy_bound if assumes == "nothing" else bounds.gaussian_accuracy_bound
        return share(found, delta, confidence)

    return ScoreTest(strength=strength, epsilon=float)


def _family_test(test: Test, delta: float, confidence: float, family: NoiseFamily) -> ScoreTest:
    def strength(found: Evidence) -> float:
        if isinstance(found, one_run.Guesses):
            scale = one_run.one_run_scale(found, confidence, family)
        elif test == "rates":
            scale = bounds.rates_scale(found, confidence, family)
        else:
            scale = bounds.accuracy_scale(found, confidence, family)
        return 1.0 / scale

    def epsilon(found: float) -> float:
        return family.epsilon(1.0 / found, delta) if found > 0.0 else 0.0

    return ScoreTest(strength=strength, epsilon=epsilon)
