"""The real mechanism with one thing wrong, for the tests that must notice it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import Tensor

from privacy.clipping import ClippedSum, clip_and_sum
from privacy.discrete import round_unit
from privacy.distributed import SharePlan
from privacy.entropy import Entropy, Keystream


def clips_the_first_tensor_alone(grad_samples: Sequence[Tensor], clip_norm: float) -> ClippedSum:
    """Personal parts left out: they are scaled by nothing and count in no norm."""
    shared = clip_and_sum(grad_samples[:1], clip_norm)
    rest = tuple(part.double().sum(dim=0) for part in grad_samples[1:])
    return ClippedSum((*shared.sums, *rest), clip_norm, shared.norms, shared.clipped_norms)


def rounds_the_sum(
    rows: NDArray[np.float64], *, clip_norm: float, grid: float, bound_squared: int, keystream: Keystream
) -> NDArray[np.int64]:
    """One rounding of the client's clipped float sum, within the sum of the pairs' bounds."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    total = (rows * np.minimum(1.0, clip_norm / norms)).sum(axis=0)
    pairs = len(rows) + 1
    return round_unit(
        total, clip_norm=pairs * clip_norm, grid=grid, bound_squared=pairs**2 * bound_squared, keystream=keystream
    )


def no_share(plan: SharePlan, entropy: Entropy) -> NDArray[np.int64]:
    """A client that sends its rounded sum without noise."""
    return np.zeros(plan.size, dtype=np.int64)


def shuffled(rng: np.random.Generator) -> Callable[[int, float, Entropy], NDArray[np.int64]]:
    """A sampler of epochs without replacement in the place of the Poisson one."""
    waiting: list[NDArray[np.int64]] = []

    def sample(size: int, sample_rate: float, entropy: Entropy) -> NDArray[np.int64]:
        if not waiting:
            waiting.extend(np.array_split(rng.permutation(size), round(1 / sample_rate)))
        return np.sort(waiting.pop())

    return sample


def restored_machine(monkeypatch: pytest.MonkeyPatch, snapshot: str) -> None:
    """The operating system's source as on a machine put back to `snapshot`: it deals the same keys each time."""

    def keys() -> Iterator[bytes]:
        for count in range(1 << 30):
            yield hashlib.sha256(f"{snapshot} {count}".encode()).digest()

    dealt = keys()
    monkeypatch.setattr("privacy.entropy.os.urandom", lambda size: next(dealt)[:size])
