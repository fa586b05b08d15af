"""Noise attestation: is the noise on coordinates without signal what was claimed, and drawn afresh each time?

The residuals are decoded sums on planned null coordinates, in any unit (integers included), mean 0 by construction.
Scale tests are chi-square; for integer noise of variance V they hold up to its kurtosis, which is an argument: 0 for a
Gaussian and, from V of about 1, for a discrete Gaussian; 1 / V for Skellam noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import chi2, kurtosistest

from privacy.accounting import epsilon
from privacy.events import Event

from .result import AuditResult, Verdict
from .tradeoff import LEAST_SCALE, NoiseFamily

_FAMILIES = 5  # of tests that share the error probability: scale, scale by round, shape, two kinds of reuse
_SHAPE_NEEDS = 1000  # coordinates; below, the kurtosis test is not accurate in the tails
POWER = 0.9


@dataclass(frozen=True, slots=True)
class NoiseReport:
    """What was measured. `findings` holds one line for each way in which the noise is not as claimed."""

    claimed: float  # standard deviation of one coordinate
    measured: float  # root mean square over all rounds and coordinates
    lower: float  # limits on the true standard deviation, each alone with `confidence`
    upper: float
    rounds: int
    coordinates: int  # in one round
    detectable: float  # a true standard deviation of this share of the claim is found with chance 90 %
    correlation: float  # largest in size between two rounds, 0 for one round
    confidence: float  # that there is no finding at all where the noise is as claimed
    findings: tuple[str, ...]


def deviation_limits(
    residuals: NDArray[np.float64], confidence: float, excess_kurtosis: float = 0.0
) -> tuple[float, float]:
    """(lower, upper) limit on the standard deviation of mean-zero noise, each alone with this confidence."""
    found = np.asarray(residuals, dtype=np.float64)
    freedom = _freedom(found.size, excess_kurtosis)
    root = float(np.sqrt(np.mean(found**2)))
    error = 1.0 - confidence
    return root * math.sqrt(freedom / chi2.isf(error, freedom)), root * math.sqrt(freedom / chi2.ppf(error, freedom))


def detectable_share(coordinates: int, confidence: float, power: float = POWER, excess_kurtosis: float = 0.0) -> float:
    """The largest true / claimed deviation below 1 whose upper limit falls under the claim with chance `power`."""
    freedom = _freedom(coordinates, excess_kurtosis)
    return math.sqrt(chi2.ppf(1.0 - confidence, freedom) / chi2.ppf(power, freedom))


def coordinates_needed(share: float, confidence: float, power: float = POWER, excess_kurtosis: float = 0.0) -> int:
    """Null coordinates, over all rounds, that find noise of this share of the claim (in (0, 1)) with chance `power`.

    One of n equal shares missing is a share of sqrt(1 - 1 / n).
    """
    if not 0.0 < share < 1.0:
        raise ValueError(f"share must be in (0, 1), got {share}")
    high = 2
    while detectable_share(high, confidence, power, excess_kurtosis) < share:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        if detectable_share(middle, confidence, power, excess_kurtosis) < share:
            low = middle
        else:
            high = middle
    return high


def attest_noise(
    residuals: NDArray[np.float64],  # [rounds, coordinates]
    *,
    deviation: float,
    confidence: float,
    excess_kurtosis: float = 0.0,
) -> NoiseReport:
    """Test scale, shape and freshness of noise claimed to have this standard deviation on each coordinate.

    Raises ValueError unless residuals are finite with at least 2 coordinates a round, deviation > 0, and
    0 < confidence < 1.
    """
    found = np.asarray(residuals, dtype=np.float64)
    if found.ndim != 2 or found.shape[0] < 1 or found.shape[1] < 2 or not np.isfinite(found).all():
        raise ValueError("residuals must be finite, of shape [rounds, coordinates], with at least 2 coordinates")
    if not (0.0 < deviation < math.inf and 0.0 < confidence < 1.0):
        raise ValueError("deviation must be positive and confidence in (0, 1)")
    error = (1.0 - confidence) / _FAMILIES
    reuse, correlation = _reuse(found, error)
    lower, upper = deviation_limits(found, confidence, excess_kurtosis)
    return NoiseReport(
        claimed=deviation,
        measured=float(np.sqrt(np.mean(found**2))),
        lower=lower,
        upper=upper,
        rounds=found.shape[0],
        coordinates=found.shape[1],
        detectable=detectable_share(found.size, 1.0 - error / 2, POWER, excess_kurtosis),
        correlation=correlation,
        confidence=confidence,
        findings=(
            *_wrong_scale(found, deviation, error, excess_kurtosis),
            *_wrong_rounds(found, deviation, error, excess_kurtosis),
            *_wrong_shape(found, error, excess_kurtosis),
            *reuse,
            *_repeats_within(found, error),
        ),
    )


def noise_result(report: NoiseReport, *, events: Sequence[Event], delta: float, least_share: float) -> AuditResult:
    """The report as an audit of `events`, whose noise is what was measured.

    The lower bound is epsilon of the same events with the noise at its upper limit, or at a sixth of the claim if that
    is more: a larger limit holds too. `least_share` is the deficit that
    must be detectable, as a share of the claimed deviation: where it is not, the audit is inconclusive.
    """
    claim = epsilon(events, delta).epsilon
    family = NoiseFamily.of(events)
    verdict: Verdict = "consistent" if report.detectable >= least_share else "inconclusive"
    details: dict[str, str | int | float | bool | None] = {
        "claimed_deviation": report.claimed,
        "measured_deviation": report.measured,
        "deviation_lower": report.lower,
        "deviation_upper": report.upper,
        "rounds": report.rounds,
        "coordinates": report.coordinates,
        "detectable_share": report.detectable,
        "largest_correlation": report.correlation,
        "findings": _first(report.findings),
    }
    return AuditResult(
        name="noise attestation",
        confidence=report.confidence,
        delta=delta,
        claim=claim,
        verdict="violation" if report.findings else verdict,
        rule="chi-square limits on scale, overall and by round; kurtosis; correlation within and between rounds",
        assumes="the claimed mechanism with the noise scale that was measured",
        lower_bound=family.epsilon(max(report.upper / report.claimed, LEAST_SCALE), delta),
        details=details,
    )


def _first(findings: Sequence[str], shown: int = 3) -> str:
    more = len(findings) - shown
    return "; ".join([*findings[:shown], *([f"and {more} more"] if more > 0 else [])])


def _freedom(size: int, excess_kurtosis: float) -> float:
    """Degrees of freedom of the chi-square law with the variance of the mean square: 2 + kurtosis in place of 2."""
    if excess_kurtosis <= -2.0:
        raise ValueError(f"excess_kurtosis must be above -2, got {excess_kurtosis}")
    return size * 2.0 / (2.0 + excess_kurtosis)


def _wrong_scale(found: NDArray[np.float64], deviation: float, error: float, kurtosis: float) -> list[str]:
    lower, upper = deviation_limits(found, 1.0 - error / 2, kurtosis)
    if upper < deviation:
        return [f"too little noise: standard deviation at most {upper:.6g}, claimed {deviation:.6g}"]
    if lower > deviation:
        return [
            f"too much noise: standard deviation at least {lower:.6g}, claimed {deviation:.6g} "
            "(a signal on these coordinates, a wrong scale, or shares that are not independent)"
        ]
    return []


def _wrong_rounds(found: NDArray[np.float64], deviation: float, error: float, kurtosis: float) -> list[str]:
    if len(found) == 1:
        return []
    findings = []
    for at, row in enumerate(found):
        lower, upper = deviation_limits(row, 1.0 - error / 2 / len(found), kurtosis)
        if not lower <= deviation <= upper:
            findings.append(f"round {at} alone: standard deviation between {lower:.6g} and {upper:.6g}")
    return findings


def _wrong_shape(found: NDArray[np.float64], error: float, kurtosis: float) -> list[str]:
    """Scale may be right on average and wrong on each coordinate: then the fourth moment is too large."""
    flat = found.ravel()
    if flat.size < _SHAPE_NEEDS or not flat.any():
        return []
    z = float(kurtosistest(flat).statistic) - kurtosis * math.sqrt(flat.size / 24)
    return [f"not the claimed shape: kurtosis is off by {z:.1f} standard errors"] if abs(z) > _limit(error, 1) else []


def _reuse(found: NDArray[np.float64], error: float) -> tuple[list[str], float]:
    """Two rounds with the same noise, or its negative, have correlation 1: their difference is free of noise."""
    if len(found) == 1:
        return [], 0.0
    norms = np.linalg.norm(found, axis=1, keepdims=True)
    unit = found / np.where(norms > 0.0, norms, 1.0)
    first, second = np.triu_indices(len(found), k=1)
    correlations = (unit @ unit.T)[first, second]
    worst = int(np.abs(correlations).argmax())
    value = float(correlations[worst])
    if abs(value) <= _limit(error, len(correlations)) / math.sqrt(found.shape[1]):
        return [], value
    return [f"rounds {first[worst]} and {second[worst]} share noise: correlation {value:.3f}"], value


def _repeats_within(found: NDArray[np.float64], error: float) -> list[str]:
    """Noise that repeats inside a round, as from a restarted stream, shows as correlation at that distance."""
    size = found.shape[1]
    spectrum = np.abs(np.fft.rfft(found, axis=1)) ** 2
    power = np.fft.irfft(spectrum, n=size, axis=1)[:, 1 : size // 2 + 1]
    total = (found**2).sum(axis=1, keepdims=True)
    correlations = np.abs(power) / np.where(total > 0.0, total, 1.0)
    round_at, lag = np.unravel_index(int(correlations.argmax()), correlations.shape)
    # At distance size / 2 every product counts twice, which doubles the variance there.
    limit = _limit(error, correlations.size) * math.sqrt((2.0 if lag + 1 == size / 2 else 1.0) / size)
    if correlations[round_at, lag] <= limit:
        return []
    return [f"round {round_at} repeats itself at distance {lag + 1}: correlation {correlations[round_at, lag]:.3f}"]


def _limit(error: float, tests: int) -> float:
    """Standard errors that none of `tests` two-sided tests exceeds, with chance at least 1 - error."""
    return float(-ndtri(error / 2 / tests))
