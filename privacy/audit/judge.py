"""From scores and opened coins to an `AuditResult`: bound, ceiling, power, null check, verdict."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from privacy.errors import PrivacyError

from .coins import SealedCoins, opens
from .game import Game, null_check, power
from .result import AuditResult, Detail, verdict_of
from .rule import ASSUMPTIONS, AuditRule, all_right, evidence, score_test
from .tradeoff import NoiseFamily

REPEATS = 41
NULL_REPEATS = 200


def judge(
    scores: NDArray[np.float64],  # [canaries], larger where the canary looks as if it was in
    sealed: SealedCoins,
    rule: AuditRule,
    *,
    name: str,
    claim: float,
    game: Game,
    rng: np.random.Generator,
    family: NoiseFamily | None = None,
    repeats: int = REPEATS,
    details: Mapping[str, Detail] | None = None,
) -> AuditResult:
    """Open the coins, check that they and the rule are what was committed to, and compare the bound with the claim.

    `game` plays a perfect attacker against a mechanism exactly at the claim; `family` is needed where the rule assumes
    one. Raises PrivacyError where the commitment does not open, ValueError for scores of another length.
    """
    if not opens(sealed.commitment, coins=sealed.coins, rule=rule, opening=sealed.opening):
        raise PrivacyError("coins or rule are not those committed to before training")
    if scores.shape != sealed.coins.shape:
        raise ValueError(f"scores must be a vector of {rule.canaries}, got shape {scores.shape}")
    test = score_test(rule.test, rule.assumes, delta=rule.delta, confidence=rule.confidence, family=family)
    found = test.epsilon(test.strength(evidence(rule, scores, sealed.coins)))
    ceiling = test.epsilon(test.strength(all_right(rule)))
    at_claim = power(game, rule, test, repeats=repeats, rng=rng)
    null = null_check(scores, rule, test, repeats=NULL_REPEATS, rng=rng)
    return AuditResult(
        name=name,
        confidence=rule.confidence,
        delta=rule.delta,
        claim=claim,
        verdict=verdict_of(lower_bound=found, claim=claim, ceiling=ceiling, power_at_claim=at_claim, null_check=null),
        rule=rule.text(),
        assumes=ASSUMPTIONS[rule.assumes],
        lower_bound=found,
        ceiling=ceiling,
        power_at_claim=at_claim,
        null_check=null,
        coins_commitment=sealed.commitment,
        details={"canaries": rule.canaries, "members": int(sealed.coins.sum()), **(details or {})},
    )
