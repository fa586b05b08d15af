"""Canary pairs: preference pairs of a few random tokens, which teach nothing and hold no one's text."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedpdpo_secure.pairs.packing import TokenPair

PROMPT_TOKENS = 4


def random_pairs(count: int, *, vocabulary: int, rng: np.random.Generator) -> list[TokenPair]:
    """`count` pairs of uniform tokens: a prompt of 4 and answers of one token each, so that any context length fits.

    Short pairs make long gradients (every one is clipped) in directions of their own. Longer answers share the
    directions of the common tokens, and so do mislabelled real pairs (docs/audits.md has the figures).
    """
    parts = rng.integers(0, vocabulary, (count, PROMPT_TOKENS + 2)).astype(np.int32)
    return [TokenPair(row[:PROMPT_TOKENS], row[PROMPT_TOKENS : PROMPT_TOKENS + 1], row[-1:]) for row in parts]


def most_distinct(gradients: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """int64[count]: rows of float64[n, dim], each the farthest from the span of those before it.

    Greedy, by a pivoted Cholesky factor of the Gram matrix. Canaries chosen so can be told apart in one sum. Where the
    rows span fewer than `count` dimensions the rest is in order. Raises ValueError unless 1 <= count <= n.
    """
    if not 1 <= count <= len(gradients):
        raise ValueError(f"count must be between 1 and {len(gradients)}, got {count}")
    gram = gradients @ gradients.T
    left = gram.diagonal().copy()  # squared distance of each row from the span of the rows chosen so far
    factor = np.zeros((len(gram), count))
    least = 1e-9 * float(left.max())
    chosen: list[int] = []
    while len(chosen) < count:
        best = int(np.argmax(left))
        if left[best] <= least:
            chosen += [row for row in range(len(gram)) if row not in set(chosen)][: count - len(chosen)]
            break
        at = len(chosen)
        factor[:, at] = (gram[:, best] - factor[:, :at] @ factor[best, :at]) / np.sqrt(left[best])
        left -= factor[:, at] ** 2
        chosen.append(best)
        left[chosen] = -np.inf
    return np.array(chosen, dtype=np.int64)
