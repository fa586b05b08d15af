"""Exact divergences by ways that share nothing with the product: dense sums, quadrature, Fourier inversion."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mixture = Sequence[tuple[float, float]]  # (weight, mean)


def density(mixture: Mixture, noise: float, at: Array) -> Array:
    parts = [weight * np.exp(-((at - mean) ** 2) / (2 * noise**2)) for weight, mean in mixture]
    return np.sum(parts, axis=0) / (noise * math.sqrt(2 * math.pi))


def one_step_delta(first: Mixture, second: Mixture, noise: float, epsilon: float) -> float:
    """Hockey-stick divergence of two mixtures in one dimension, by a rule of 400,000 midpoints."""
    means = [mean for _, mean in (*first, *second)]
    low, high = min(means) - 12 * noise, max(means) + 12 * noise
    width = (high - low) / 400_000
    at = low + width * (np.arange(400_000) + 0.5)
    excess = density(first, noise, at) - math.exp(epsilon) * density(second, noise, at)
    return float(np.maximum(excess, 0.0).sum() * width)


def poisson(rate: float) -> Mixture:
    return [(1.0 - rate, 0.0), (rate, 1.0)]


def composed_delta(noise: float, rate: float, steps: int, epsilon: float, *, remove: bool) -> float:
    """delta of `steps` Poisson-sampled Gaussians, by inverting the exact Laplace transform of the privacy loss L:

    delta = E max(0, 1 - e^(epsilon - L)) = 1/(2 pi i) * integral of M(s)^steps e^(-s epsilon) / (s (s + 1)) ds along
    Re s = tilt > 0, M(s) = E e^(sL). Through the saddle point nothing cancels, and both integrals are of analytic
    functions, for which equally spaced points are exact to float64.
    """
    if not remove and epsilon >= -steps * math.log1p(-rate):
        return 0.0  # a loss of adding cannot be more

    def log_moment(points: NDArray[np.complex128]) -> NDArray[np.complex128]:
        most = float(points.real.max()) + 1.0
        at = np.arange(-13 * noise - (0.0 if remove else most), 13 * noise + most, min(noise, noise**2, 1.0) / 24)
        ratio = np.logaddexp(math.log1p(-rate), math.log(rate) + (2 * at - 1) / (2 * noise**2))
        powers = np.outer(points + 1.0, ratio) if remove else np.outer(-points, ratio)
        logs = powers - at**2 / (2 * noise**2) + math.log((at[1] - at[0]) / (noise * math.sqrt(2 * math.pi)))
        top = logs.real.max(axis=1, keepdims=True)
        return np.asarray(top[:, 0] + np.log(np.exp(logs - top).sum(axis=1)))

    tilts = np.geomspace(0.02, 300.0, 80)
    heights = steps * log_moment(tilts.astype(complex)).real - tilts * epsilon - np.log(tilts * (tilts + 1))
    tilt, total = float(tilts[int(np.argmin(heights))]), 0.0
    step = min(tilt / 6, 2 * math.pi / (epsilon + 40.0))
    for start in range(0, 60_000, 128):
        points = tilt + 1j * step * np.arange(start, start + 128)
        terms = np.exp(steps * log_moment(points) - points * epsilon) / (points * (points + 1))
        total += float(terms.real.sum()) - (0.5 * float(terms[0].real) if start == 0 else 0.0)
        if float(np.abs(terms[-16:]).max()) < max(1e-12 * abs(total), 1e-20):
            return total * step / math.pi
    raise ArithmeticError("the inversion did not converge: too few steps for so small a rate")


def exact_delta(noise: float, rate: float, steps: int, epsilon: float) -> float:
    """The larger delta of adding and removing; for one step in one dimension, for many by inversion."""
    if steps == 1:
        mixed, out = poisson(rate), [(1.0, 0.0)]
        return max(one_step_delta(mixed, out, noise, epsilon), one_step_delta(out, mixed, noise, epsilon))
    return max(composed_delta(noise, rate, steps, epsilon, remove=remove) for remove in (True, False))


def discrete_gaussian(variance: int, shift: int, at: NDArray[np.int64]) -> Array:
    weights = np.exp(-((at - shift) ** 2) / (2.0 * variance))
    return weights / math.fsum(np.exp(-(np.arange(-60 * variance, 60 * variance + 1) ** 2) / (2.0 * variance)))
