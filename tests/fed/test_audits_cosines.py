"""Canary clients: the estimate is near the true epsilon of real rounded, noised sums, and says it is an estimate."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest

from fedpdpo_secure.audits.cosines import (
    Released,
    audit_cosines,
    canary_sum,
    judge_cosines,
    unit_vectors,
    with_canaries,
)
from fedpdpo_secure.config import ConfigError
from privacy.audit.result import AuditResult
from privacy.distributed import SharePlan
from privacy.entropy import Entropy
from tests.fed.builders import small_config

DIM, CANARIES, ROUNDS = 4000, 200, 2


def estimated(scale: float) -> AuditResult:
    """The estimate of a federation of canaries alone, whose noise has `scale` times the planned deviation."""
    variance = 2 * 4096**2  # noise multiplier about sqrt(2)
    plan = SharePlan("client", 1.0, 4096, DIM, 0, variance, 12, 1, 1, 1.0)
    wide = SharePlan("client", 1.0, 4096, DIM, 0, int(variance * scale**2), 12, 1, 1, 1.0)
    directions = unit_vectors(CANARIES, DIM, np.random.default_rng(1))
    entropy = Entropy.seeded(3)
    sums = [canary_sum(with_canaries(wide, CANARIES), directions, entropy.child(r))[0] for r in range(ROUNDS)]
    events = tuple([with_canaries(plan, CANARIES).event()] * ROUNDS)
    released = Released(np.stack(sums) * (plan.grid / plan.clip_norm), events)
    return judge_cosines(released, directions, delta=1e-5, confidence=0.95, rng=np.random.default_rng(2))


def test_the_estimate_is_near_the_claim_and_follows_the_noise() -> None:
    honest, half = estimated(1.0), estimated(0.5)
    assert honest.estimate == pytest.approx(honest.claim, rel=0.25)
    assert half.estimate is not None and half.estimate > 1.6 * half.claim
    low, high = honest.details["equal_variance_low"], honest.details["equal_variance_high"]
    assert low < honest.estimate < high
    assert honest.details["fitted"] > 0


def test_it_is_marked_as_an_estimate_and_judges_nothing() -> None:
    result = estimated(0.5)
    assert result.verdict == "inconclusive"
    assert result.lower_bound is None
    assert "An estimate has no guarantee" in result.words()


def test_a_shadow_federation_with_real_clients_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    config = small_config(
        privacy={"unit": "client", "noise": "distributed", "noise_multiplier": 1.0, "delta": 1e-3},
        secagg={"enabled": False, "bits": 32},
    )
    said: list[str] = []
    result = audit_cosines(
        config, canaries=60, confidence=0.95, entropy=Entropy.os(), rng=np.random.default_rng(0), note=said.append
    )
    assert result.estimate is not None and 0.3 * result.claim < result.estimate < 2 * result.claim
    assert result.details["rounds"] == 2
    assert list(tmp_path.iterdir()) == []
    assert len(said) == 1


def test_another_unit_is_refused_by_field() -> None:
    with pytest.raises(ConfigError, match=r"privacy\.unit"):
        audit_cosines(
            small_config(),
            canaries=10,
            confidence=0.95,
            entropy=Entropy.os(),
            rng=np.random.default_rng(0),
            note=[].append,
        )
