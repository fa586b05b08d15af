"""What an audit says, in numbers and in words, with all that is needed not to over-read it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Verdict = Literal["violation", "consistent", "inconclusive"]
Detail = str | int | float | bool | None

LEAST_POWER = 0.2  # below this share of the claim a perfect attacker would have shown next to nothing


@dataclass(frozen=True, slots=True)
class NullCheck:
    """The same bound on fresh coins that had no part in the scores: positive no more often than its error allows."""

    repeats: int
    positive: int
    allowed: float  # the largest number of positive bounds that is still no alarm

    @property
    def passed(self) -> bool:
        """Whether the auditor finds nothing where there is nothing."""
        return self.positive <= self.allowed


@dataclass(frozen=True, slots=True)
class AuditResult:
    """One audit. Exactly one of `lower_bound` (holds with `confidence`) and `estimate` (no guarantee) is a number.

    `claim` is the epsilon that accounting proves, `ceiling` the bound if every guess were right, `power_at_claim` the
    median bound of a perfect attacker on a mechanism exactly at the claim.
    """

    name: str
    confidence: float
    delta: float
    claim: float
    verdict: Verdict
    rule: str
    assumes: str
    lower_bound: float | None = None
    estimate: float | None = None
    ceiling: float | None = None
    power_at_claim: float | None = None
    null_check: NullCheck | None = None
    coins_commitment: str | None = None
    details: Mapping[str, Detail] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.lower_bound is None) == (self.estimate is None):
            raise ValueError("exactly one of lower_bound and estimate must be given")
        if self.estimate is not None and self.verdict != "inconclusive":
            raise ValueError("an estimate carries no guarantee, so its verdict must be inconclusive")

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON: an infinite number is None, a null check carries `passed`."""
        null = self.null_check
        return {
            "name": self.name,
            "verdict": self.verdict,
            "lower_bound": _finite(self.lower_bound),
            "estimate": _finite(self.estimate),
            "confidence": self.confidence,
            "delta": self.delta,
            "claim": _finite(self.claim),
            "ceiling": _finite(self.ceiling),
            "power_at_claim": _finite(self.power_at_claim),
            "null_check": None
            if null is None
            else {"repeats": null.repeats, "positive": null.positive, "allowed": null.allowed, "passed": null.passed},
            "assumes": self.assumes,
            "rule": self.rule,
            "coins_commitment": self.coins_commitment,
            "details": {name: _finite(value) for name, value in self.details.items()},
        }

    def words(self) -> str:
        """One paragraph for people."""
        sure = f"{100 * self.confidence:g} %"
        claim = "no finite epsilon" if math.isinf(self.claim) else f"epsilon {self.claim:.2f}"
        if self.estimate is not None:
            return (
                f"{self.name}: estimate of epsilon {self.estimate:.2f} at delta {self.delta:g}, where {claim} is "
                "claimed. An estimate has no guarantee in either direction: it neither refutes nor supports the claim."
            )
        assert self.lower_bound is not None  # by the check above
        text = (
            f"{self.name}: epsilon is at least {self.lower_bound:.2f} at delta {self.delta:g} with confidence {sure}, "
            f"assuming {self.assumes}; {claim} is claimed. "
        )
        if self.ceiling is not None and self.power_at_claim is not None:
            text += (
                f"This test could not show more than {self.ceiling:.2f}, and a perfect attacker on a mechanism exactly "
                f"at the claim would show about {self.power_at_claim:.2f}. "
            )
        if self.verdict == "violation":
            return text + "The claim is refuted: the mechanism is not what was accounted for, so something is broken."
        if self.null_check is not None and not self.null_check.passed:
            return text + "On coins that had no part in the scores the test still finds leakage, so it says nothing."
        if self.verdict == "inconclusive":
            return text + "The test is too weak to judge this claim; nothing follows from it."
        return text + (
            "Nothing found contradicts the claim. A low lower bound is not evidence of privacy: it limits what this "
            "attack showed, not what another attack could."
        )


def verdict_of(
    *,
    lower_bound: float,
    claim: float,
    ceiling: float,
    power_at_claim: float,
    null_check: NullCheck | None,
) -> Verdict:
    """A violation if the bound exceeds the claim, inconclusive if that could hardly have happened, else consistent.

    A failed null check makes every finding void. Without a violation the audit is inconclusive where even a perfect
    score stays at or below the claim, or where a perfect attacker at the claim shows less than a fifth of it.
    """
    if null_check is not None and not null_check.passed:
        return "inconclusive"
    if lower_bound > claim:
        return "violation"
    if ceiling <= claim or power_at_claim < LEAST_POWER * claim:
        return "inconclusive"
    return "consistent"


def _finite(value: Detail) -> Detail:
    return None if isinstance(value, float) and not math.isfinite(value) else value
