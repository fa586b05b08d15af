"""Logs of right and wrong samplers, from a seeded numpy generator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from privacy.entropy import Entropy, poisson_sample
from privacy.sample_log import SampleLog

Sampler = Callable[[np.random.Generator, int, float, int], SampleLog]


def logged(batches: list[np.ndarray], size: int) -> SampleLog:
    log = SampleLog()
    for batch in batches:
        log.add(np.asarray(batch, dtype=np.int64), size)
    return log


def ours(rng: np.random.Generator, size: int, rate: float, steps: int) -> SampleLog:
    entropy = Entropy.seeded(int(rng.integers(2**40)))
    return logged([poisson_sample(size, rate, entropy) for _ in range(steps)], size)


def shuffled(rng: np.random.Generator, size: int, rate: float, steps: int) -> SampleLog:
    """Epochs without replacement, the last batch of each smaller."""
    batch, batches = max(1, round(size * rate)), []
    while len(batches) < steps:
        order = rng.permutation(size)
        batches += [order[start : start + batch] for start in range(0, size, batch)]
    return logged(batches[:steps], size)


def fixed_size(rng: np.random.Generator, size: int, rate: float, steps: int) -> SampleLog:
    return logged([rng.choice(size, max(1, round(size * rate)), replace=False) for _ in range(steps)], size)


def with_replacement(rng: np.random.Generator, size: int, rate: float, steps: int) -> SampleLog:
    """A fixed number of draws, such that each row is in a batch with chance `rate`; repeats are left out."""
    draws = round(np.log1p(-rate) / np.log1p(-1 / size))
    return logged([np.unique(rng.integers(0, size, draws)) for _ in range(steps)], size)


def with_repeats(rng: np.random.Generator, size: int, rate: float, steps: int) -> SampleLog:
    return logged([rng.integers(0, size, max(2, round(size * rate))) for _ in range(steps)], size)


def every_batch_twice(rng: np.random.Generator, size: int, rate: float, steps: int) -> SampleLog:
    batches = [np.flatnonzero(rng.random(size) < rate) for _ in range((steps + 1) // 2)]
    return logged([batches[step // 2] for step in range(steps)], size)


def pinned_row(rng: np.random.Generator, size: int, rate: float, steps: int) -> SampleLog:
    return logged([np.union1d(np.flatnonzero(rng.random(size) < rate), [0]) for _ in range(steps)], size)


def uneven_rows(rng: np.random.Generator, size: int, rate: float, steps: int) -> SampleLog:
    """Half of the rows twice as likely, the other half never: the mean is right."""
    rates = np.where(np.arange(size) % 2 == 0, min(1.0, 2 * rate), 0.0)
    return logged([np.flatnonzero(rng.random(size) < rates) for _ in range(steps)], size)


def higher_rate(rng: np.random.Generator, size: int, rate: float, steps: int) -> SampleLog:
    return logged([np.flatnonzero(rng.random(size) < 1.5 * rate) for _ in range(steps)], size)


def no_empty_batch(rng: np.random.Generator, size: int, rate: float, steps: int) -> SampleLog:
    batches = []
    while len(batches) < steps:
        batch = np.flatnonzero(rng.random(size) < rate)
        batches += [batch] if len(batch) else []
    return logged(batches, size)
