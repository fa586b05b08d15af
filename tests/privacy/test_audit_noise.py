"""Noise attestation: exact limits, the stated power, and each fault found that it is there to find."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from privacy.audit.noise import NoiseReport, attest_noise, coordinates_needed, detectable_share, deviation_limits
from privacy.audit.noise import noise_result as result_of
from privacy.events import FullBatchGaussian

ROUNDS, SIZE, DEVIATION = 6, 4000, 30.0
Residuals = np.ndarray


def honest(rng: np.random.Generator, rounds: int = ROUNDS, size: int = SIZE) -> Residuals:
    """Integer noise, as a decoded sum holds it."""
    return np.rint(DEVIATION * rng.standard_normal((rounds, size)))


def report(residuals: Residuals, confidence: float = 0.999) -> NoiseReport:
    return attest_noise(residuals, deviation=DEVIATION, confidence=confidence)


def test_limits_cover_the_true_deviation_as_often_as_they_say() -> None:
    rng, repeats = np.random.default_rng(1), 2000
    limits = np.array([deviation_limits(rng.standard_normal(50), 0.95) for _ in range(repeats)])
    spread = 3 * (0.05 * 0.95 / repeats) ** 0.5
    assert np.mean(limits[:, 0] > 1.0) == pytest.approx(0.05, abs=spread)
    assert np.mean(limits[:, 1] < 1.0) == pytest.approx(0.05, abs=spread)


def test_limits_for_small_skellam_noise_need_its_kurtosis() -> None:
    """Variance 1/2: the mean square of so heavy-tailed noise varies twice as much as a Gaussian's."""
    rng, repeats, variance = np.random.default_rng(2), 2000, 0.5
    draws = rng.poisson(variance / 2, (repeats, 400)) - rng.poisson(variance / 2, (repeats, 400))
    truth, spread = math.sqrt(variance), 3 * (0.05 * 0.95 / repeats) ** 0.5
    with_it = np.mean([deviation_limits(row, 0.95, 1 / variance)[1] < truth for row in draws])
    without = np.mean([deviation_limits(row, 0.95)[1] < truth for row in draws])
    assert with_it <= 0.05 + spread + 0.015  # chi-square matches two moments only
    assert without > 0.1


@pytest.mark.parametrize(("coordinates", "missing"), [(10_000, 0.0205), (1_000_000, 0.00207)])
def test_the_stated_power_is_the_known_one(coordinates: int, missing: float) -> None:
    assert 1 - detectable_share(coordinates, 0.95) == pytest.approx(missing, rel=0.03)


def test_a_tenth_of_the_shares_missing_needs_few_coordinates() -> None:
    needed = coordinates_needed(math.sqrt(0.9), 0.95)
    assert 1300 < needed < 2000
    assert detectable_share(needed, 0.95) >= math.sqrt(0.9) > detectable_share(needed - 1, 0.95)
    with pytest.raises(ValueError, match="share"):
        coordinates_needed(1.0, 0.95)


def test_the_stated_power_is_reached() -> None:
    rng, size = np.random.default_rng(3), 2000
    share = detectable_share(size, 0.95)
    found = np.mean([deviation_limits(share * rng.standard_normal(size), 0.95)[1] < 1.0 for _ in range(1000)])
    assert found == pytest.approx(0.9, abs=0.03)


def test_honest_integer_noise_has_no_finding_as_often_as_promised() -> None:
    rng, repeats, confidence = np.random.default_rng(4), 300, 0.9
    alarms = sum(bool(report(honest(rng, 4, 1500), confidence).findings) for _ in range(repeats))
    assert alarms <= repeats * 0.1 + 3 * (repeats * 0.09) ** 0.5


def one_share_missing(rng: np.random.Generator) -> Residuals:
    return np.rint(DEVIATION * math.sqrt(11 / 12) * rng.standard_normal((ROUNDS, SIZE)))


def one_round_without_noise(rng: np.random.Generator) -> Residuals:
    found = honest(rng)
    found[3] = 0.0
    return found


def one_round_with_half_the_noise(rng: np.random.Generator) -> Residuals:
    found = honest(rng)
    found[3] /= 2
    return found


def the_same_noise_twice(rng: np.random.Generator) -> Residuals:
    found = honest(rng)
    found[4] = found[1]
    return found


def a_share_used_again(rng: np.random.Generator) -> Residuals:
    """One of ten shares comes from the same seed in two rounds: a tenth of the variance is common."""
    found = honest(rng)
    shared = DEVIATION / math.sqrt(10) * rng.standard_normal(SIZE)
    for at in (0, 5):
        found[at] = np.rint(math.sqrt(0.9) * found[at] + shared)
    return found


def two_clients_with_one_seed(rng: np.random.Generator) -> Residuals:
    """Two of four equal shares are the same: 2^2 + 2 quarters of the variance instead of 4."""
    shares = DEVIATION / 2 * rng.standard_normal((3, ROUNDS, SIZE))
    return np.rint(2 * shares[0] + shares[1] + shares[2])


def noise_on_half_of_the_coordinates(rng: np.random.Generator) -> Residuals:
    found = honest(rng) * math.sqrt(2)
    found[:, ::2] = 0.0
    return found


def a_restarted_stream(rng: np.random.Generator) -> Residuals:
    found = honest(rng)
    found[:, SIZE // 2 :] = found[:, : SIZE // 2]
    return found


FAULTS: dict[Callable[[np.random.Generator], Residuals], str] = {
    one_share_missing: "too little noise",
    one_round_without_noise: "round 3 alone",
    one_round_with_half_the_noise: "round 3 alone",
    the_same_noise_twice: "rounds 1 and 4 share noise: correlation 1.000",
    a_share_used_again: "rounds 0 and 5 share noise",
    two_clients_with_one_seed: "too much noise",
    noise_on_half_of_the_coordinates: "kurtosis",
    a_restarted_stream: "repeats itself at distance 2000",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_is_found_and_named(fault: Callable[[np.random.Generator], Residuals]) -> None:
    findings = report(fault(np.random.default_rng(6))).findings
    assert any(FAULTS[fault] in finding for finding in findings), findings


def test_the_wrong_unit_of_the_scale_is_found_at_once() -> None:
    assert report(honest(np.random.default_rng(7), 1, 50) / 64).findings  # divided by the batch


def test_the_result_turns_the_upper_limit_of_the_noise_into_epsilon() -> None:
    event = FullBatchGaussian(noise_multiplier=2.0, steps=4)
    fine = result_of(report(honest(np.random.default_rng(8))), events=[event], delta=1e-5, least_share=0.95)
    assert fine.verdict == "consistent"
    assert fine.lower_bound is not None
    assert 0.95 * fine.claim < fine.lower_bound <= fine.claim
    half = result_of(report(honest(np.random.default_rng(8)) / 2), events=[event], delta=1e-5, least_share=0.95)
    assert half.verdict == "violation"
    assert half.lower_bound is not None
    assert half.lower_bound > 1.8 * half.claim
    few = result_of(report(honest(np.random.default_rng(8), 1, 40)), events=[event], delta=1e-5, least_share=0.95)
    assert few.verdict == "inconclusive"


@pytest.mark.parametrize("bad", [np.zeros(5), np.zeros((0, 5)), np.zeros((2, 1)), np.full((1, 9), np.nan)])
def test_malformed_residuals_are_refused(bad: Residuals) -> None:
    with pytest.raises(ValueError, match="residuals"):
        report(bad)
