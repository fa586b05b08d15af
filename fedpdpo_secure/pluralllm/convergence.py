"""How soon training has most of its gain, in rounds and in optimiser steps: the two say different things.

A federated round takes several steps on each client where a central epoch takes one, so a comparison in rounds alone
flatters the federation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Convergence:
    """Where a curve first has `fraction` of its final gain."""

    index: int  # of the measurement
    rounds: int
    steps: int  # optimiser steps, counted as the caller counts them
    level: float  # the score to be reached
    initial: float
    final: float  # smoothed


def smoothed(scores: Sequence[float], window: int) -> NDArray[np.float64]:
    """float64[K]: mean of the last `window` scores up to each, of fewer at the start; it looks at no later score."""
    return np.array([np.mean(scores[max(0, end - window) : end]) for end in range(1, len(scores) + 1)])


def convergence(
    scores: Sequence[float], *, rounds: Sequence[int], steps: Sequence[int], fraction: float = 0.95, window: int = 1
) -> Convergence | None:
    """The first measurement whose smoothed score reaches initial + fraction * (final - initial); None without a gain.

    scores: larger is better (give a loss with its sign turned), the first taken before training. rounds, steps: how
    many were done when each score was taken. The answer is as fine as the measurements are. Raises ValueError for
    sequences of different lengths or fewer than two, scores that are not finite, counts that do not increase, and a
    fraction outside (0, 1] or a window below 1.
    """
    if len(scores) < 2 or not len(scores) == len(rounds) == len(steps):
        lengths = f"{len(scores)}, {len(rounds)} and {len(steps)}"
        raise ValueError(f"scores, rounds and steps must have one length of at least 2, got {lengths}")
    if not np.all(np.isfinite(scores)):
        raise ValueError("scores must be finite")
    if np.any(np.diff(rounds) <= 0) or np.any(np.diff(steps) <= 0):
        raise ValueError("rounds and steps must increase from each score to the next")
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1], got {fraction}")
    if window < 1:
        raise ValueError(f"window must be at least 1, got {window}")
    curve = smoothed(scores, window)
    initial, final = float(curve[0]), float(curve[-1])
    if final <= initial:
        return None
    level = min(initial + fraction * (final - initial), final)  # rounding must not put it out of reach
    index = int(np.argmax(curve >= level))
    return Convergence(index, int(rounds[index]), int(steps[index]), level, initial, final)
