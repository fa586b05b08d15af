"""The sampler is Poisson, as the accounting assumes, and the same checks refuse samplers that are not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from privacy.entropy import Entropy, poisson_sample

Sampler = Callable[[], NDArray[np.int64]]
SIZE, RATE, STEPS = 60, 0.05, 6000
LEAST_P = 1e-4  # each check alone; the seeds are fixed


def inclusion(sampler: Sampler) -> NDArray[np.bool_]:
    """bool[STEPS, SIZE]: who was in which step."""
    table = np.zeros((STEPS, SIZE), dtype=bool)
    for row in table:
        row[sampler()] = True
    return table


def p_values(table: NDArray[np.bool_]) -> dict[str, float]:
    """One p-value per property of a Poisson sampler."""
    sizes, counts = table.sum(axis=1), table.sum(axis=0)
    spread = ((sizes - SIZE * RATE) ** 2).sum() / (SIZE * RATE * (1 - RATE))
    expected, variance = STEPS * RATE, STEPS * RATE * (1 - RATE)
    both = (table[:-1] & table[1:]).sum()  # of one pair in two steps running
    empty = int((sizes == 0).sum())
    return {
        "batch sizes vary as n q (1 - q)": two_sided(stats.chi2(STEPS), spread),
        "each pair is in Binomial(steps, q) steps": two_sided(
            stats.chi2(SIZE), float(((counts - expected) ** 2).sum() / variance)
        ),
        "steps are independent": float(stats.binomtest(int(both), SIZE * (STEPS - 1), RATE**2).pvalue),
        "empty batches occur at (1 - q)^n": float(stats.binomtest(empty, STEPS, (1 - RATE) ** SIZE).pvalue),
    }


def two_sided(law: stats.rv_continuous, value: float) -> float:
    return float(2 * min(law.cdf(value), law.sf(value)))


def test_the_sampler_is_poisson() -> None:
    entropy = Entropy.seeded(11)
    found = p_values(inclusion(lambda: poisson_sample(SIZE, RATE, entropy)))
    assert min(found.values()) > LEAST_P, found


def test_samples_are_sorted_indices_without_repeats() -> None:
    entropy = Entropy.seeded(12)
    for _ in range(100):
        chosen = poisson_sample(SIZE, 0.5, entropy)
        assert chosen.dtype == np.int64
        assert (np.diff(chosen) > 0).all()


def wrong_samplers() -> dict[str, tuple[Sampler, str]]:
    rng = np.random.default_rng(5)
    entropy = Entropy.seeded(13)
    fixed = int(SIZE * RATE)
    shuffled: list[int] = []
    held: list[NDArray[np.int64]] = []

    def shuffle_and_walk() -> NDArray[np.int64]:
        if len(shuffled) < fixed:
            shuffled[:] = rng.permutation(SIZE).tolist()
        return np.array([shuffled.pop() for _ in range(fixed)])

    def every_sample_twice() -> NDArray[np.int64]:
        if held:
            return held.pop()
        held.append(poisson_sample(SIZE, RATE, entropy))
        return held[0]

    def never_empty() -> NDArray[np.int64]:
        while len(chosen := poisson_sample(SIZE, RATE, entropy)) == 0:
            pass
        return chosen

    return {
        "fixed size": (lambda: rng.choice(SIZE, fixed, replace=False), "batch sizes vary as n q (1 - q)"),
        "shuffle and walk": (shuffle_and_walk, "steps are independent"),
        "one sample for two steps": (every_sample_twice, "steps are independent"),
        "redraws empty batches": (never_empty, "empty batches occur at (1 - q)^n"),
        "rate off by a tenth": (
            lambda: poisson_sample(SIZE, 1.1 * RATE, entropy),
            "each pair is in Binomial(steps, q) steps",
        ),
    }


@pytest.mark.parametrize("name", wrong_samplers())
def test_the_same_checks_refuse_a_sampler_that_is_not_poisson(name: str) -> None:
    sampler, law = wrong_samplers()[name]
    assert p_values(inclusion(sampler))[law] < LEAST_P
