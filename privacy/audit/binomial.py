"""Exact confidence limits for a binomial rate (Clopper and Pearson 1934)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv


def upper_limit(hits: ArrayLike, trials: ArrayLike, error: float) -> NDArray[np.float64]:
    """The rate that P(Binomial(trials, rate) <= hits) = error has; 1 where every trial hit, or there was none.

    float64 in the broadcast shape. The true rate exceeds it with chance at most `error`. Raises ValueError unless
    0 <= hits <= trials and 0 < error < 1.
    """
    if not 0.0 < error < 1.0:
        raise ValueError(f"error must be in (0, 1), got {error}")
    found, of = np.broadcast_arrays(np.asarray(hits, dtype=np.float64), np.asarray(trials, dtype=np.float64))
    if (found < 0).any() or (found > of).any():
        raise ValueError("hits must be between 0 and trials")
    full = found >= of
    limit = betaincinv(np.where(full, 1.0, found + 1), np.where(full, 1.0, of - found), 1.0 - error)
    return np.where(full, 1.0, limit)


def lower_limit(hits: ArrayLike, trials: ArrayLike, error: float) -> NDArray[np.float64]:
    """1 - upper_limit of the misses: the true rate is below it with chance at most `error`."""
    return 1.0 - upper_limit(np.asarray(trials) - np.asarray(hits), trials, error)
