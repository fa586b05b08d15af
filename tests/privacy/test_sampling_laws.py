"""The laws that p-values are read from, against enumeration and plain convolution."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binom, chi2

from privacy import sampling_laws
from privacy.sampling_laws import SumLaw, dispersion, dispersion_law, extreme_row, overlap_law, sum_law

from .sampler_builders import logged


def convolved(values: np.ndarray, masses: np.ndarray, copies: int) -> np.ndarray:
    """P(sum = j) by plain convolution."""
    term = np.zeros(int(values.max()) + 1)
    np.add.at(term, values.astype(int), masses)
    total = np.ones(1)
    for _ in range(copies):
        total = np.convolve(total, term)
    return total


def check_tails(law: SumLaw, expected: np.ndarray) -> None:
    for value in range(0, len(expected), max(1, len(expected) // 50)):
        assert law.at_most(value) == pytest.approx(expected[: value + 1].sum(), abs=1e-11)
        assert law.at_least(value) == pytest.approx(expected[value:].sum(), abs=1e-11)


@pytest.mark.parametrize(("trials", "rate", "copies"), [(5, 0.2, 7), (30, 0.5, 12), (12, 0.01, 40), (4, 0.9, 1)])
def test_the_spread_of_counts_has_the_law_that_convolution_gives(trials: int, rate: float, copies: int) -> None:
    counts = np.arange(trials + 1)
    squares = (counts - round(trials * rate)) ** 2
    check_tails(dispersion_law(trials, rate, copies), convolved(squares, binom.pmf(counts, trials, rate), copies))


def test_the_overlap_of_steps_has_the_law_that_enumeration_gives() -> None:
    size, steps, rate = 2, 5, 0.3
    expected = np.zeros(size * (steps - 1) + 1)
    for coins in itertools.product((0, 1), repeat=size * steps):
        table = np.array(coins).reshape(steps, size)
        log = logged([np.flatnonzero(row) for row in table], size)
        expected[sum(log.overlaps)] += rate ** sum(coins) * (1 - rate) ** (size * steps - sum(coins))
    check_tails(overlap_law(size, rate, steps), expected)


def test_the_most_unusual_row_has_the_chance_that_enumeration_gives_or_a_larger_one() -> None:
    size, steps, rate = 3, 4, 0.4
    chances = binom.pmf(np.arange(steps + 1), steps, rate)
    found = {}
    for counts in itertools.product(range(steps + 1), repeat=size):
        p = extreme_row(min(counts), max(counts), size=size, steps=steps, rate=rate)
        found[p] = found.get(p, 0.0) + math.prod(chances[count] for count in counts)
    for p in found:
        assert sum(chance for other, chance in found.items() if other <= p) <= p + 1e-12


def test_a_law_on_a_coarser_grid_keeps_its_tails(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = np.arange(401)
    values, masses = (counts - 200.0) ** 2, binom.pmf(counts, 400, 0.5)
    exact = sum_law(values, masses, 200)
    monkeypatch.setattr(sampling_laws, "_POINTS", 1 << 14)
    coarse = sum_law(values, masses, 200)
    assert (exact.grid, coarse.grid > 10) == (1.0, True)
    for value in range(8_000, 36_000, 1000):
        for side in ("at_most", "at_least"):
            sharp, blunt = getattr(exact, side)(value), getattr(coarse, side)(value)
            assert blunt == pytest.approx(sharp, rel=0.05 if sharp > 1e-4 else 0.3, abs=1e-8), (side, value)


def test_many_trials_approach_the_chi_square_law() -> None:
    law, variance = dispersion_law(100_000, 0.01, 200), 990.0
    for value in (150, 200, 260):
        assert law.at_most(value * variance) == pytest.approx(chi2.cdf(value, 200), rel=0.01)
        assert law.at_least(value * variance) == pytest.approx(chi2.sf(value, 200), rel=0.01)


def test_limits_are_the_outermost_values_that_keep_the_chance() -> None:
    law = dispersion_law(40, 0.3, 25)
    for chance in (1e-6, 1e-3, 0.2):
        low, high = law.lower_limit(chance), law.upper_limit(chance)
        assert low is not None
        assert high is not None
        assert law.at_most(low) <= chance < law.at_most(low + 1)
        assert law.at_least(high) <= chance < law.at_least(high - 1)
    assert dispersion_law(40, 0.3, 1).lower_limit(1e-6) is None


def test_the_spread_is_taken_around_the_whole_number_next_to_the_mean() -> None:
    assert dispersion(np.array([2, 3, 5]), 10, 0.32) == 1 + 0 + 4
