"""What a sampler drew, kept in memory by the client that owns the rows, so that the sampler can be tested.

LOCAL: which rows were drawn, and how many, is secret; amplification by sampling rests on it. A log is written to no
file and leaves no client; what `privacy.attestation` concludes from it is for the client's own eyes too.
"""

from __future__ import annotations

from typing import NoReturn

import numpy as np
from numpy.typing import NDArray


class SampleLog:
    """Counts of the samples drawn so far from `size` rows. One log may go on over several rounds."""

    def __init__(self) -> None:
        self.size: int | None = None  # known from the first sample on
        self.batch_sizes: list[int] = []  # of each step
        self.overlaps: list[int] = []  # rows of each step that were in the step before too
        self.repeats = 0  # rows that a step held more than once, over all steps
        self._inclusions: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._last: NDArray[np.int64] | None = None

    @property
    def steps(self) -> int:
        """Samples drawn, empty ones included."""
        return len(self.batch_sizes)

    @property
    def empty_batches(self) -> int:
        """Samples without a row."""
        return self.batch_sizes.count(0)

    @property
    def inclusions(self) -> NDArray[np.int64]:
        """In how many steps each row was, int64[size], a copy."""
        return self._inclusions.copy()

    def add(self, chosen: NDArray[np.int64], size: int) -> None:
        """Take down one step's sample: indices int64[k] below `size`, the number of rows, which must not change.

        Raises ValueError for another size than before, or an index out of range.
        """
        if self.size is None:
            self.size, self._inclusions = size, np.zeros(size, dtype=np.int64)
        if size != self.size:
            raise ValueError(f"size must stay {self.size} over a log's steps, got {size}")
        if len(chosen) and (int(chosen.min()) < 0 or int(chosen.max()) >= size):
            raise ValueError(f"chosen must be indices from 0 to {size - 1}")
        distinct = np.unique(chosen)
        self.batch_sizes.append(len(chosen))
        self.repeats += len(chosen) - len(distinct)
        self._inclusions[distinct] += 1
        if self._last is not None:
            self.overlaps.append(len(np.intersect1d(self._last, distinct, assume_unique=True)))
        self._last = distinct

    def __reduce__(self) -> NoReturn:
        raise TypeError("a sample log stays in the memory of its client; it is neither copied nor pickled")

    def __repr__(self) -> str:
        return f"SampleLog({self.steps} steps)"
