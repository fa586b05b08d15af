"""A verdict says what the numbers allow, and no more; coins that were changed stop the audit."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest

from privacy.audit.coins import SealedCoins, seal
from privacy.audit.game import gaussian_game, one_run_rule
from privacy.audit.judge import judge
from privacy.audit.result import AuditResult, NullCheck, verdict_of
from privacy.audit.rule import AuditRule
from privacy.entropy import Entropy
from privacy.errors import PrivacyError

CLAIM, DELTA = 4.0, 1e-5
RULE = AuditRule(
    test="accuracy", assumes="gaussian", canaries=2000, delta=DELTA, confidence=0.999, threshold=0.46
)  # half of mu at epsilon 4
PASSED, FAILED = NullCheck(100, 3, 11.5), NullCheck(100, 40, 11.5)


def scores_of(sealed: SealedCoins, epsilon: float) -> np.ndarray:
    """A perfect attacker on a Gaussian mechanism with this epsilon."""
    rng = np.random.default_rng(2)
    scores, coins = gaussian_game(epsilon, DELTA)(200_000, rng)
    found = np.empty(len(sealed.coins))
    for value in (True, False):
        found[sealed.coins == value] = scores[coins == value][: int((sealed.coins == value).sum())]
    return found


def audited(scores: np.ndarray, sealed: SealedCoins, rule: AuditRule = RULE) -> AuditResult:
    return judge(
        scores,
        sealed,
        rule,
        name="a perfect attacker",
        claim=CLAIM,
        game=gaussian_game(CLAIM, DELTA),
        rng=np.random.default_rng(4),
    )


@pytest.fixture
def sealed() -> SealedCoins:
    return seal(RULE, Entropy.seeded(9))


def test_a_mechanism_at_the_claim_is_consistent_and_the_bound_is_near_the_power(sealed: SealedCoins) -> None:
    found = audited(scores_of(sealed, CLAIM), sealed)
    assert found.verdict == "consistent"
    assert found.lower_bound is not None
    assert 0.5 * CLAIM < found.lower_bound <= CLAIM
    assert found.power_at_claim == pytest.approx(found.lower_bound, abs=1.0)
    assert found.ceiling is not None
    assert found.ceiling > 10.0
    assert found.null_check is not None
    assert found.null_check.passed
    assert "not evidence of privacy" in found.words()


def test_a_mechanism_that_leaks_more_is_a_violation(sealed: SealedCoins) -> None:
    found = audited(scores_of(sealed, 2 * CLAIM), sealed)
    assert found.verdict == "violation"
    assert found.lower_bound is not None
    assert CLAIM < found.lower_bound <= 2 * CLAIM
    assert "refuted" in found.words()


@pytest.mark.parametrize("assumes", ["nothing", "gaussian"])
def test_one_run_with_the_planned_guesses_convicts_a_strong_leak_and_not_an_honest_mechanism(
    assumes: Literal["nothing", "gaussian"],
) -> None:
    claim, rng = 1.0, np.random.default_rng(8)
    rule = one_run_rule(claim, canaries=1000, delta=DELTA, confidence=0.99, rng=rng, assumes=assumes)
    coins = seal(rule, Entropy.seeded(12))
    verdicts = {}
    for truth in (1.0, 10.0):
        verdicts[truth] = judge(
            scores_of(coins, truth), coins, rule, name="", claim=claim, game=gaussian_game(claim, DELTA), rng=rng
        ).verdict
    assert verdicts[10.0] == "violation"
    assert verdicts[1.0] != "violation"


def test_too_few_canaries_are_inconclusive() -> None:
    small = replace(RULE, canaries=12)
    coins = seal(small, Entropy.seeded(10))
    found = audited(scores_of(coins, CLAIM), coins, small)
    assert found.verdict == "inconclusive"
    assert "too weak" in found.words()


def test_coins_or_a_rule_changed_after_the_commitment_stop_the_audit(sealed: SealedCoins) -> None:
    scores = scores_of(sealed, 2 * CLAIM)
    with pytest.raises(PrivacyError, match="committed"):
        audited(scores, replace(sealed, coins=scores > 0.46))
    with pytest.raises(PrivacyError, match="committed"):
        audited(scores, sealed, replace(RULE, threshold=0.5))


def test_scores_that_know_nothing_show_nothing(sealed: SealedCoins) -> None:
    found = audited(np.random.default_rng(6).standard_normal(2000), sealed)
    assert found.lower_bound == 0.0
    assert found.verdict == "consistent"


@pytest.mark.parametrize(
    ("lower_bound", "claim", "ceiling", "power", "null", "wanted"),
    [
        (4.1, 4.0, 9.0, 3.0, PASSED, "violation"),
        (4.0, 4.0, 9.0, 3.0, PASSED, "consistent"),
        (4.1, 4.0, 9.0, 3.0, FAILED, "inconclusive"),
        (0.0, 4.0, 9.0, 0.7, PASSED, "inconclusive"),
        (0.0, 4.0, 3.9, 3.0, PASSED, "inconclusive"),
        (9.0, math.inf, 9.0, 3.0, PASSED, "inconclusive"),
        (4.1, 4.0, 9.0, 0.1, None, "violation"),
    ],
)
def test_the_verdict(
    lower_bound: float, claim: float, ceiling: float, power: float, null: NullCheck | None, wanted: str
) -> None:
    found = verdict_of(lower_bound=lower_bound, claim=claim, ceiling=ceiling, power_at_claim=power, null_check=null)
    assert found == wanted


def test_the_record_is_json_without_infinities(sealed: SealedCoins) -> None:
    found = replace(audited(scores_of(sealed, CLAIM), sealed), claim=math.inf)
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert values["claim"] is None
    assert values["lower_bound"] == found.lower_bound
    assert values["null_check"]["passed"] is True
    assert json.loads(values["rule"])["canaries"] == 2000
    assert values["coins_commitment"] == sealed.commitment
    assert "no finite epsilon" in found.words()


def test_an_estimate_is_never_a_bound_or_a_verdict() -> None:
    base = AuditResult(
        name="cosines",
        confidence=0.95,
        delta=DELTA,
        claim=4.0,
        verdict="inconclusive",
        rule="",
        assumes="normal cosines",
        estimate=5.0,
    )
    assert "no guarantee" in base.words()
    with pytest.raises(ValueError, match="inconclusive"):
        replace(base, verdict="violation")
    with pytest.raises(ValueError, match="exactly one"):
        replace(base, lower_bound=1.0)
    with pytest.raises(ValueError, match="exactly one"):
        replace(base, estimate=None)
