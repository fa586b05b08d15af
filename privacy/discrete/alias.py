"""Alias tables (Walker 1977, Vose 1991) whose probabilities are multiples of 2^-172, drawn from one 64-bit word.

There are 2^k buckets of equal mass. A bucket keeps its own index below a threshold and gives its alias above it. The
hot word holds bucket | leading threshold bits (44 bits together) | alias (20 bits), so `word < hot` decides. Only if
the 44 leading bits are equal, a chance below 2^-(44 - k) a draw, are 128 *fresh* bits compared with the rest of the
threshold; the low 20 bits of the word never decide anything. The table is therefore exact: no mass is rounded here.

Gathers are indexed by secret bits, so a process on the same processor might watch them: not constant-time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privacy.entropy import Keystream

LEAD_BITS = 44  # compared on every draw: bucket and top of the threshold
REST_BITS = 128  # compared on a tie only
ALIAS_BITS = 64 - LEAD_BITS
_WORD = (1 << 64) - 1


@dataclass(frozen=True, slots=True, eq=False)
class AliasTable:
    """A law on 0 .. 2^bucket_bits - 1 in packed words. Make one with `alias_table`."""

    bucket_bits: int
    lead_bits: int
    hot: NDArray[np.uint64]  # [2^bucket_bits]: bucket | leading threshold bits | alias in the lowest 20 bits
    rest: NDArray[np.uint64]  # [2, 2^bucket_bits]: the next 128 threshold bits, high word first

    def draw(self, n: int, keystream: Keystream) -> NDArray[np.int64]:
        """int64[n], independent draws; n words of the stream, and two more for each tie."""
        words = keystream.words(n)
        buckets = words >> np.uint64(64 - self.bucket_bits)
        hot = np.take(self.hot, buckets.view(np.int64), mode="clip")
        keeps = words < hot
        ties = (words ^ hot) < np.uint64(1 << (64 - self.lead_bits))
        if ties.any():
            where = np.flatnonzero(ties)
            keeps[where] = self._below_rest(buckets[where].view(np.int64), keystream)
        hot &= np.uint64((1 << ALIAS_BITS) - 1)
        chosen: NDArray[np.uint64] = np.where(keeps, buckets, hot)
        return chosen.view(np.int64)

    def _below_rest(
        self,
        buckets: NDArray[np.int64],  # int64[m]
        keystream: Keystream,
    ) -> NDArray[np.bool_]:
        """bool[m]: whether 128 fresh bits are below the rest of each bucket's threshold."""
        high, low = keystream.words(2 * len(buckets)).reshape(2, -1)
        rest_high, rest_low = self.rest[:, buckets]
        below: NDArray[np.bool_] = (high < rest_high) | ((high == rest_high) & (low < rest_low))
        return below


def normalised(
    values: Sequence[int],  # unnormalised weights, at least one positive
    centre: int,
    lead_bits: int = LEAD_BITS,
) -> list[int]:
    """Weights with sum exactly 2^(lead_bits + 128): each rounded down, what is missing (< len(values)) at `centre`."""
    total_bits, total = lead_bits + REST_BITS, sum(values)
    masses = [(value << total_bits) // total for value in values]
    masses[centre] += (1 << total_bits) - sum(masses)
    return masses


def alias_table(
    masses: Sequence[int],  # nonnegative integers with sum exactly 2^(lead_bits + 128)
    lead_bits: int = LEAD_BITS,
) -> AliasTable:
    """The table in which index i has probability masses[i] / 2^(lead_bits + 128), exactly.

    `lead_bits` is smaller than 44 in tests alone, so that ties occur. Raises ValueError if the sum is another, a mass
    is negative, or there are more than 2^20 masses or 2^lead_bits.
    """
    bucket_bits = max(1, (len(masses) - 1).bit_length())
    if bucket_bits > min(ALIAS_BITS, lead_bits):
        raise ValueError(f"masses must be at most 2^{min(ALIAS_BITS, lead_bits)}, got {len(masses)}")
    if sum(masses) != 1 << (lead_bits + REST_BITS) or min(masses) < 0:
        raise ValueError(f"masses must be nonnegative with sum 2^{lead_bits + REST_BITS}")
    thresholds, aliases = _thresholds(masses, bucket_bits, lead_bits + REST_BITS - bucket_bits)
    hot = [
        (bucket << (64 - bucket_bits)) | (threshold >> REST_BITS) << (64 - lead_bits) | alias
        for bucket, (threshold, alias) in enumerate(zip(thresholds, aliases, strict=True))
    ]
    rest = [[(threshold >> 64) & _WORD for threshold in thresholds], [threshold & _WORD for threshold in thresholds]]
    table = AliasTable(bucket_bits, lead_bits, np.array(hot, dtype=np.uint64), np.array(rest, dtype=np.uint64))
    table.hot.setflags(write=False)
    table.rest.setflags(write=False)
    return table


def _thresholds(masses: Sequence[int], bucket_bits: int, capacity_bits: int) -> tuple[list[int], list[int]]:
    """Thresholds below 2^capacity_bits, and aliases, one each per bucket (Vose's algorithm in integers).

    A bucket that is full of its own index has threshold 0 and itself as alias: a full threshold would not fit its
    field.
    """
    buckets, capacity = 1 << bucket_bits, 1 << capacity_bits
    left = [*masses, *([0] * (buckets - len(masses)))]
    thresholds, aliases = [0] * buckets, list(range(buckets))
    small = [i for i in range(buckets) if left[i] < capacity]
    large = [i for i in range(buckets) if left[i] >= capacity]
    while small:  # `large` cannot run dry first: the masses left always fill the buckets left, exactly
        under, over = small.pop(), large[-1]
        thresholds[under], aliases[under] = left[under], over
        left[over] -= capacity - left[under]
        if left[over] < capacity:
            small.append(large.pop())
    return thresholds, aliases
