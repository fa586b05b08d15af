"""Coins are fair and secret; the commitment opens for them and the rule, and for nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from privacy.audit.coins import commitment, opens, seal
from privacy.audit.rule import AuditRule
from privacy.entropy import Entropy

RULE = AuditRule(test="rates", assumes="nothing", canaries=1003, delta=1e-5, confidence=0.95, threshold=0.25)


def test_coins_are_fair_and_independent_of_their_neighbours() -> None:
    coins = seal(replace(RULE, canaries=20_000), Entropy.seeded(3)).coins
    assert binomtest(int(coins.sum()), 20_000, 0.5).pvalue > 1e-3
    assert binomtest(int((coins[1:] == coins[:-1]).sum()), 19_999, 0.5).pvalue > 1e-3


def test_two_sealings_differ_in_coins_and_opening() -> None:
    first, second = seal(RULE, Entropy.os()), seal(RULE, Entropy.os())
    assert (first.coins != second.coins).any()
    assert first.opening != second.opening
    assert first.commitment != second.commitment


def test_the_commitment_opens_for_what_was_sealed() -> None:
    sealed = seal(RULE, Entropy.os())
    assert opens(sealed.commitment, coins=sealed.coins, rule=RULE, opening=sealed.opening)


def test_any_other_coin_rule_or_opening_is_refused() -> None:
    sealed = seal(RULE, Entropy.os())
    for at in (0, 511, 1002):
        flipped = sealed.coins.copy()
        flipped[at] ^= True
        assert not opens(sealed.commitment, coins=flipped, rule=RULE, opening=sealed.opening)
    for other in (
        replace(RULE, threshold=0.26),
        replace(RULE, confidence=0.9),
        replace(RULE, delta=1e-6),
        replace(RULE, assumes="gaussian"),
        replace(RULE, test="accuracy"),
        AuditRule(test="one-run", assumes="nothing", canaries=1003, delta=1e-5, confidence=0.95, guess_in=5),
    ):
        assert not opens(sealed.commitment, coins=sealed.coins, rule=other, opening=sealed.opening)
    assert not opens(sealed.commitment, coins=sealed.coins, rule=RULE, opening=bytes(32))


def test_the_same_coins_under_another_opening_have_another_commitment() -> None:
    """Otherwise few canaries could be guessed from the commitment."""
    coins = np.zeros(1003, dtype=bool)
    assert commitment(coins, RULE, bytes(32)) != commitment(coins, RULE, bytes(31) + b"\1")


def test_malformed_openings_coins_and_rules_are_refused() -> None:
    coins = np.zeros(1003, dtype=bool)
    with pytest.raises(ValueError, match="opening"):
        commitment(coins, RULE, bytes(31))
    with pytest.raises(ValueError, match="coins"):
        commitment(coins[:-1], RULE, bytes(32))
    with pytest.raises(ValueError, match="threshold"):
        replace(RULE, threshold=None)
    with pytest.raises(ValueError, match="guess_in"):
        replace(RULE, guess_in=1004)
    with pytest.raises(ValueError, match="delta"):
        replace(RULE, delta=0.0)


def test_sealed_coins_are_read_only_and_do_not_show_in_their_text() -> None:
    sealed = seal(RULE, Entropy.os())
    with pytest.raises(ValueError, match="read-only"):
        sealed.coins[0] = True
    assert repr(sealed.opening) not in repr(sealed)
    assert "array" not in repr(sealed)
