"""How long masks take beside the least that keystream and additions take. Times are reported, never asserted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

from secagg.prg import CHUNK_BYTES, aligned_bytes, apply_masks, open_stream

NEIGHBORS = 20
KEYS = [bytes([i]) * 32 for i in range(NEIGHBORS + 1)]  # the self-mask first
ADDED, SUBTRACTED = KEYS[:11], KEYS[11:]
WIDTHS = [np.uint16, np.uint32]
DIMS = [100_000, 1_000_000]


def oracle(size: int, dtype: Any) -> NDArray[Any]:
    """The sum of the masks, a whole stream at a time; the vector itself is zero."""
    words = np.zeros(size, dtype)
    for keys, combine in ((ADDED, np.add), (SUBTRACTED, np.subtract)):
        for key in keys:
            stream = open_stream(key).update(bytes(words.nbytes))
            combine(words, np.frombuffer(stream, words.dtype.newbyteorder("<")), out=words)
    return words


@pytest.mark.parametrize("threads", [1, None], ids=["one thread", "default threads"])
@pytest.mark.parametrize("dtype", WIDTHS)
@pytest.mark.parametrize("dim", DIMS)
def test_masking(benchmark: BenchmarkFixture, dim: int, dtype: Any, threads: int | None) -> None:
    benchmark.group = f"{dim:,} words of {np.dtype(dtype).name}, {NEIGHBORS} neighbours and self"
    words = np.zeros(dim, dtype)

    def mask() -> None:
        apply_masks(words, add=ADDED, subtract=SUBTRACTED, threads=threads)

    benchmark(mask)
    words[:] = 0
    mask()
    assert np.array_equal(words, oracle(dim, dtype))


@pytest.mark.parametrize("dtype", WIDTHS)
@pytest.mark.parametrize("dim", DIMS)
def test_keystream_and_additions_that_never_leave_the_cache(benchmark: BenchmarkFixture, dim: int, dtype: Any) -> None:
    """The lower bound: as many bytes of keystream and as many additions, in one chunk over and over."""
    benchmark.group = f"{dim:,} words of {np.dtype(dtype).name}, {NEIGHBORS} neighbours and self"
    zeros, room = memoryview(bytes(CHUNK_BYTES)), aligned_bytes(CHUNK_BYTES + 15)
    total, other = (aligned_bytes(CHUNK_BYTES).view(dtype) for _ in range(2))
    other[:] = 1
    fill, rounds = open_stream(KEYS[0]).update_into, round(len(KEYS) * dim / total.size)

    def bound() -> None:
        for _ in range(rounds):
            fill(zeros, room.data)
        for _ in range(rounds):
            np.add(total, other, total)

    total[:] = 0
    bound()
    assert (total == rounds).all()
    benchmark(bound)
