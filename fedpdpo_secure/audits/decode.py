"""What one noised step says of each known pair: the least-squares reading of a sum whose terms are known.

The released step is sum_j x_j g_j + noise, with g_j the known clipped gradients and x_j in {0, 1} secret. The best
linear reading of x_j treats all other terms as noise of known covariance; it is as sharp as an inner product with g_j
where gradients are orthogonal, and sharper where they are not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_LEAST_FREEDOM = 100  # coordinates free of signal from which noise is measured rather than taken as claimed
_NULL = 1e-9  # eigenvalues below this share of the largest are no signal
_LEAST_SHARE = 1e-3  # of the claimed noise: what was measured below it is taken as this


@dataclass(frozen=True, slots=True)
class Reading:
    """`observed` is x plus noise of standard deviation `deviation`, one number for each known pair, float64[n]."""

    observed: NDArray[np.float64]
    deviation: NDArray[np.float64]
    noise: float  # standard deviation of a coordinate of the step: measured, or claimed where it cannot be


def read_step(
    step: NDArray[np.float64],  # [dim], the noised sum in clip norms
    gradients: NDArray[np.float64],  # [n, dim], clipped, in clip norms
    *,
    mean: NDArray[np.float64],  # [n], of x before anything was seen
    variance: NDArray[np.float64],  # [n]
    noise: float,
) -> Reading:
    """The reading of every x_j, with `noise` as claimed. Raises ValueError unless noise > 0.

    The noise is measured on what is orthogonal to all gradients, so that less noise than claimed sharpens the reading.
    """
    if not noise > 0.0:
        raise ValueError(f"noise must be above 0, got {noise}")
    gram, products = gradients @ gradients.T, gradients @ step
    deviation = max(_measured(step, gram, products, noise), _LEAST_SHARE * noise)
    # K = noise^2 I + G^T V G; `inside` is G K^-1 G^T, `read` is G K^-1 (step - expectation), both by Woodbury.
    root = np.sqrt(variance)
    core = np.eye(len(gram)) * deviation**2 + root[:, None] * gram * root
    centred = products - gram @ mean
    solved = np.linalg.solve(core, root[:, None] * np.column_stack([gram, centred]))
    inside = np.diag(gram) - np.einsum("ij,ji->i", gram * root, solved[:, :-1])
    read = centred - (gram * root) @ solved[:, -1]
    inside = np.maximum(inside, 1e-12 * deviation**2) / deviation**2  # a zero gradient says nothing
    spread = np.sqrt(np.maximum(1.0 / inside - variance, 1e-12))
    return Reading(read / deviation**2 / inside + mean, spread, deviation)


def _measured(
    step: NDArray[np.float64], gram: NDArray[np.float64], products: NDArray[np.float64], claimed: float
) -> float:
    values, vectors = np.linalg.eigh(gram)
    kept = values > _NULL * max(float(values[-1]), 0.0)
    freedom = len(step) - int(kept.sum())
    if freedom < _LEAST_FREEDOM:
        return claimed
    explained = float(((vectors.T @ products)[kept] ** 2 / values[kept]).sum())
    return float(np.sqrt(max(float(step @ step) - explained, 0.0) / freedom))
