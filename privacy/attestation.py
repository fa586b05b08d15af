"""Was it a Poisson sampler? Tests of a client's own sample log, at a stated level and with stated power.

Amplification by sampling holds for Poisson samples alone. Shuffled epochs under a Poisson claim can cost many times the
claimed epsilon (Chua et al., "How private are DP-SGD implementations?", ICML 2024), and a loader looks the same from
outside. Under the claim, inclusions are independent coins of chance q, so the laws of all counts below are known
exactly. A rejection voids the claim: `attested_bound` then gives the unamplified number. Passing is no proof, and says
how far it goes: against each wrong sampler, the chance that a log of this length would have shown it.

The log is private and so is the result: both stay with the client.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import chi2, norm

from .accounting import Bound, epsilon, unamplified
from .events import Event
from .sample_log import SampleLog
from .sampling_laws import (
    binomial_two_sided,
    dispersion,
    dispersion_law,
    extreme_row,
    overlap_law,
)

Verdict = Literal["consistent", "rejected", "not enough data"]
ENOUGH = 0.9  # chance of showing each of the common wrong samplers, below which a log is too short to say
LEAST_LEVEL = 1e-9
_TESTS = 6


@dataclass(frozen=True, slots=True)
class Test:
    """One count of the log beside its expectation under the claim; `p_value` is two-sided and exact."""

    name: str
    observed: float
    expected: float
    p_value: float


@dataclass(frozen=True, slots=True)
class Power:
    """Against one wrong sampler: the chance that a log of this length is rejected. `common` ones decide the verdict."""

    against: str
    chance: float
    common: bool


@dataclass(frozen=True, slots=True)
class Attestation:
    """What the log says of the claim (size, sample_rate, steps), each row in each step independently.

    "rejected": some test is beyond its share of `level`, the chance that a true Poisson sampler is rejected.
    "not enough data": not rejected, but a common wrong sampler would be shown with a chance below 0.9 only.
    """

    verdict: Verdict
    level: float
    size: int
    sample_rate: float
    steps: int
    tests: tuple[Test, ...]
    power: tuple[Power, ...]
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """For people."""
        return [
            f"sampler: {self.verdict} (Poisson, rate {self.sample_rate:g}, {self.steps} steps, level {self.level:g})",
            *(f"{t.name}: {t.observed:.6g}, expected {t.expected:.6g}, p = {t.p_value:.3g}" for t in self.tests),
            *(f"would show {p.against}: with chance {p.chance:.3f}" for p in self.power),
            *self.notes,
        ]


def attest(log: SampleLog, size: int, sample_rate: float, level: float = 1e-6) -> Attestation:
    """Test the claim that every step of `log` is a Poisson sample of `size` rows at `sample_rate`.

    `level` is the chance of rejecting a true Poisson sampler, over all tests together (Bonferroni). Raises ValueError
    unless 1e-9 <= level < 1, 0 < sample_rate <= 1 and `size` is the log's.
    """
    if not LEAST_LEVEL <= level < 1.0:
        raise ValueError(f"level must be in [{LEAST_LEVEL:g}, 1), got {level}")
    if not 0.0 < sample_rate <= 1.0:
        raise ValueError(f"sample_rate must be in (0, 1], got {sample_rate}")
    if log.size is not None and log.size != size:
        raise ValueError(f"size must be the log's, {log.size}, got {size}")
    steps, notes = log.steps, []
    if log.repeats:
        notes.append(f"{log.repeats} rows were in a batch more than once, which no Poisson sample has")
    if not steps or not size:
        return Attestation("rejected" if notes else "not enough data", level, size, sample_rate, steps, (), ())
    if sample_rate == 1.0:
        whole = all(count == size for count in log.batch_sizes) and not log.repeats
        notes.append("every batch must be whole" if whole else "a batch was not whole, though the rate is 1")
        verdict: Verdict = "consistent" if whole else "rejected"
        return Attestation(verdict, level, size, sample_rate, steps, (), (), tuple(notes))
    tests = _tests(log, size, sample_rate)
    power = _power(size, sample_rate, steps, level / _TESTS)
    if log.repeats or min(test.p_value for test in tests) <= level / _TESTS:
        verdict = "rejected"
    else:
        verdict = "consistent" if all(p.chance >= ENOUGH for p in power if p.common) else "not enough data"
    notes += [f"too few steps or rows to show {p.against}" for p in power if p.chance < ENOUGH]
    return Attestation(verdict, level, size, sample_rate, steps, tests, power, tuple(notes))


def attested_bound(events: Sequence[Event], delta: float, attestation: Attestation) -> Bound:
    """What may be reported: the amplified bound, or, once the sampler is rejected, the one that needs no sampler."""
    if attestation.verdict == "rejected":
        return unamplified(events, delta)
    return epsilon(events, delta)


def _tests(log: SampleLog, size: int, rate: float) -> tuple[Test, ...]:
    steps, inclusions = log.steps, log.inclusions
    sizes = np.array(log.batch_sizes, dtype=np.int64)
    by_step, by_row = dispersion(sizes, size, rate), dispersion(inclusions, steps, rate)
    none = _chance_of_none(size, rate)
    least, most = int(inclusions.min()), int(inclusions.max())
    row = extreme_row(least, most, size=size, steps=steps, rate=rate)
    further = max(most - steps * rate, steps * rate - least)
    return (
        _binomial("rows in all batches", int(sizes.sum()), size * steps, rate),
        _dispersion("spread of batch sizes", by_step, size, rate, steps),
        _dispersion("spread of rows' inclusions", by_row, steps, rate, size),
        Test("most unusual row's inclusions, from the mean", further, _usual_row(size, rate, steps), row),
        Test(
            "rows in a batch and the next",
            sum(log.overlaps),
            size * (steps - 1) * rate**2,
            overlap_law(size, rate, steps).two_sided(sum(log.overlaps)),
        ),
        _binomial("empty batches", log.empty_batches, steps, none),
    )


def _chance_of_none(size: int, rate: float) -> float:
    return math.exp(size * math.log1p(-rate))


def _usual_row(size: int, rate: float, steps: int) -> float:
    """About how far the most unusual of `size` rows lies from the mean."""
    return float(norm.isf(0.25 / size)) * math.sqrt(steps * rate * (1.0 - rate))


def _binomial(name: str, count: int, trials: int, rate: float) -> Test:
    return Test(name, count, trials * rate, binomial_two_sided(count, trials, rate))


def _dispersion(name: str, found: float, trials: int, rate: float, copies: int) -> Test:
    """Squared distances from the mean, in units of the variance, so that about `copies` are expected."""
    variance = trials * rate * (1.0 - rate)
    exact = variance + (trials * rate - round(trials * rate)) ** 2
    p_value = dispersion_law(trials, rate, copies).two_sided(found)
    return Test(name, found / variance, copies * exact / variance, p_value)


def _power(size: int, rate: float, steps: int, level: float) -> tuple[Power, ...]:
    """Chances of rejection by the test that is made for each wrong sampler, so at least these over all tests."""
    batch = max(1, round(size * rate))
    sizes, rows = _shuffled(size, batch, steps)
    by_step, by_row = dispersion_law(size, rate, steps), dispersion_law(steps, rate, size)
    fixed = by_step.two_sided(dispersion(np.full(steps, batch), size, rate))
    shuffled = min(by_step.two_sided(dispersion(sizes, size, rate)), by_row.two_sided(dispersion(rows, steps, rate)))
    none = binomial_two_sided(0, steps, _chance_of_none(size, rate))
    pinned = extreme_row(steps, steps, size=size, steps=steps, rate=rate)
    return (
        Power("batches of a fixed size", float(fixed <= level), True),
        Power("shuffled epochs without replacement", float(shuffled <= level), True),
        Power("draws with replacement, repeats left out", _replacement_power(size, rate, steps, level), True),
        Power("the same batch in two steps running", _twice_power(size, rate, steps, level), False),
        Power("one row in every batch", float(pinned <= level), False),
        Power("empty batches skipped", float(none <= level), False),
    )


def _shuffled(size: int, batch: int, steps: int) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], ...]:
    """Batch sizes int64[steps] and rows' inclusions int64[size] of shuffled epochs with a smaller last batch."""
    epoch = [batch] * (size // batch) + ([size % batch] if size % batch else [])
    epochs, rest = divmod(steps, len(epoch))
    rows = np.full(size, epochs, dtype=np.int64)
    rows[: sum(epoch[:rest])] += 1
    return np.array(epoch * epochs + epoch[:rest], dtype=np.int64), rows


def _replacement_power(size: int, rate: float, steps: int, level: float) -> float:
    """Distinct rows of a fixed number of draws vary less than a binomial; their spread taken as a scaled chi-square."""
    limit = dispersion_law(size, rate, steps).lower_limit(level / 2.0)
    if limit is None:
        return 0.0
    draws_per_row = -math.log1p(-rate)
    ratio = (1.0 - (1.0 + draws_per_row) * (1.0 - rate)) / rate  # of the occupancy variance to size q (1 - q)
    return float(chi2.cdf(limit / (size * rate * (1.0 - rate) * ratio), steps))


def _twice_power(size: int, rate: float, steps: int, level: float) -> float:
    """Of every two steps the second repeats the first; the total overlap taken as normal."""
    limit = overlap_law(size, rate, steps).upper_limit(level / 2.0)
    if limit is None:
        return 0.0
    pairs = steps // 2
    mean = pairs * size * rate + (steps - 1 - pairs) * size * rate**2
    return float(norm.sf((limit - mean) / math.sqrt(4.0 * pairs * size * rate * (1.0 - rate) + 1.0)))
