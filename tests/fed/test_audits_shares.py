"""Attestation of shared noise: honest sums pass, and each way of adding less or the same noise is found."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fedpdpo_secure.audits.shares import Share, attest_shares, coordinates_for, honest_share
from fedpdpo_secure.config import Config, ConfigError
from privacy.audit.noise import NoiseReport
from privacy.audit.result import AuditResult
from privacy.distributed import SharePlan, noise_share
from privacy.entropy import Entropy
from tests.fed.builders import small_config

CLIENTS, DIM = 6, 40


def shared_noise(*, secure: bool = False, unit: str = "pair", **federation: Any) -> Config:
    return small_config(
        federation={"clients": CLIENTS, "rounds": 3, "local_steps": 1, **federation},
        privacy={"unit": unit, "noise": "distributed", "noise_multiplier": 1.0, "colluding": 0},
        secagg={"enabled": secure, "bits": 32},
    )


def attest(config: Config, share: Share = honest_share) -> tuple[AuditResult, NoiseReport]:
    """With seeded noise, so that the outcome is the same every time; the laws are those of the real shares."""
    return attest_shares(config, DIM, coordinates=3000, confidence=0.999, entropy=Entropy.seeded(11), share=share)


@pytest.mark.parametrize("secure", [True, False])
@pytest.mark.parametrize("unit", ["pair", "client"])
def test_honest_shares_pass_and_the_bound_stays_below_the_claim(secure: bool, unit: str) -> None:
    result, report = attest(shared_noise(secure=secure, unit=unit))
    assert report.findings == ()
    assert result.verdict == "consistent"
    assert result.lower_bound is not None and 0.85 * result.claim < result.lower_bound < result.claim
    assert report.detectable > (1 - 1 / CLIENTS) ** 0.5
    assert report.rounds == 3


def test_a_scheduled_drop_out_is_no_finding_and_leaves_what_is_charged() -> None:
    drops = [{"round": 2, "client": 4, "stage": "after_shares"}]
    result, report = attest(shared_noise(secure=True, drop=drops))
    assert report.findings == ()
    assert result.details["survivors"] == CLIENTS - 1
    assert result.details["measured_over_charged"] == pytest.approx(1.0, abs=0.03)


def missing(plan: SharePlan, entropy: Entropy, client: int, round_index: int) -> np.ndarray:
    return np.zeros(plan.size, np.int64) if client == 3 else honest_share(plan, entropy, client, round_index)


def narrower(plan: SharePlan, entropy: Entropy, client: int, round_index: int) -> np.ndarray:
    return np.rint(honest_share(plan, entropy, client, round_index) * 0.93).astype(np.int64)


def of_two(plan: SharePlan, entropy: Entropy, client: int, round_index: int) -> np.ndarray:
    return honest_share(plan, entropy, min(client, CLIENTS - 2), round_index)


def of_every_round(plan: SharePlan, entropy: Entropy, client: int, round_index: int) -> np.ndarray:
    return honest_share(plan, entropy, client, 1 if client == 2 else round_index)


def of_one_stream(plan: SharePlan, entropy: Entropy, client: int, round_index: int) -> np.ndarray:
    """A generator that starts again in the middle of the vector."""
    part = noise_share(plan, entropy.child(client, round_index))[: plan.size // 2]
    return np.resize(part, plan.size)


@pytest.mark.parametrize(
    ("share", "finding"),
    [
        (missing, "too little noise"),
        (narrower, "too little noise"),
        (of_two, "too much noise"),
        (of_every_round, "share noise"),
        (of_one_stream, "repeats itself"),
    ],
)
def test_a_fault_in_the_shares_is_found(share: Callable[..., np.ndarray], finding: str) -> None:
    result, report = attest(shared_noise(), share)
    assert any(re.search(finding, line) for line in report.findings), report.findings
    assert result.verdict == "violation"


def test_a_missing_share_beyond_those_that_may_be_lost_is_below_the_charge() -> None:
    drops = [{"round": r, "client": 4, "stage": "after_shares"} for r in (1, 2, 3)]  # all that may be lost is lost
    result, report = attest(shared_noise(drop=drops), missing)
    assert report.findings
    assert result.details["measured_over_charged"] == pytest.approx((4 / 5) ** 0.5, rel=0.05)
    assert result.lower_bound is not None and result.lower_bound > result.claim


def test_as_many_coordinates_are_planned_as_a_missing_or_a_reused_share_needs() -> None:
    assert coordinates_for(3, 0.999) == 2000
    assert coordinates_for(12, 0.999) < coordinates_for(20, 0.999) < coordinates_for(1000, 0.999) == 50_000
    assert coordinates_for(12, 0.999) >= 36 * 12**2


def test_local_noise_is_refused_by_field() -> None:
    with pytest.raises(ConfigError, match=r"privacy\.noise"):
        attest(small_config())
