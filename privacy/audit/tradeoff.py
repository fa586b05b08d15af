"""Trade-off functions of the claimed mechanism with other noise: what its best attacker could reach.

f(x) is a lower bound on the false negative rate of every attack whose false positive rate is at most x (Dong, Roth
and Su 2022). All curves here are symmetric, f = its own inverse, because adding and removing a pair both count.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from dp_accounting.pld import privacy_loss_distribution as pld
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from privacy.bounds import gaussian_epsilon, pld_grid, rdp_epsilon
from privacy.events import Event, FullBatchGaussian, NonPrivate
from privacy.pld import ONE_PAIR, Charges, curves

TradeOff: TypeAlias = Callable[[NDArray[np.float64]], NDArray[np.float64]]

_RATIO = 1.01  # neighbouring scales: the resolution of every inversion
_LOWEST, _HIGHEST = -180, 320  # powers of it: scales from 1/6 to 24
LEAST_SCALE = _RATIO**_LOWEST  # below it no curve is computed: there is next to no noise
_LINES = 400  # tangents that make up a curve; fewer only lower it
_TAIL = 1e-12  # tangents reach the epsilon of this delta
_COARSER = 2  # curves on grids 2^2 times coarser than reports: measured to move epsilon by less than 1e-4 of itself
_COARSEST = 0.02


def gaussian_tradeoff(mu: float) -> TradeOff:
    """The curve of telling N(mu, 1) from N(0, 1): x -> Phi(Phi^-1(1 - x) - mu)."""

    def curve(false_positive: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(ndtr(-ndtri(false_positive) - mu), dtype=np.float64)

    return curve


@dataclass(frozen=True, slots=True)
class NoiseFamily:
    """The composition of some releases with every noise multiplier times `scale`; scale 1 is the claim itself.

    Inversions assume that the mechanism belongs to this family. Rejecting scale 1 needs no such assumption: it says
    that the claimed curve is broken.
    """

    charges: Charges

    @classmethod
    def of(cls, events: Sequence[Event]) -> NoiseFamily:
        """The family of these events. Raises ValueError where nothing noised was released: there is no claim.

        Integer noise counts as the Gaussian it is accounted as; its statistical distance, below 2^-40, is left out.
        """
        steps: Counter[tuple[float, float]] = Counter()
        for event in events:
            if isinstance(event, NonPrivate) or event.noise_multiplier == 0.0:
                raise ValueError("events must be noised releases; without noise there is no claim to audit")
            rate = 1.0 if isinstance(event, FullBatchGaussian) else event.sample_rate
            steps[(event.noise_multiplier, rate)] += event.steps
        charges = tuple(sorted((mechanism, count) for mechanism, count in steps.items() if count))
        if not charges:
            raise ValueError("events must hold at least one step")
        return cls(charges)

    def tradeoff(self, scale: float) -> TradeOff:
        """The curve at this scale: exact at full batch, else from a pessimistic PLD and so never above the true one."""
        if self._is_gaussian:
            return gaussian_tradeoff(self._mu / scale)
        return _sampled_tradeoff(self.charges, scale)[0]

    def total_variation(self, scale: float) -> float:
        """The most that true and false positive rate can differ at this scale, delta at epsilon 0; never too low."""
        if self._is_gaussian:
            return float(2.0 * ndtr(self._mu / scale / 2.0) - 1.0)
        return _sampled_tradeoff(self.charges, scale)[1]

    def epsilon(self, scale: float, delta: float) -> float:
        """Epsilon at this scale, never above the true one (an optimistic PLD, at most about 1 % low); 0 at infinity."""
        if math.isinf(scale):
            return 0.0
        if self._is_gaussian:
            return gaussian_epsilon(self._mu / scale, delta) * (1 - 2e-9)
        return _optimistic_epsilon(self.charges, scale, delta)

    def least_rejected(self, rejects: Callable[[float], bool]) -> float:
        """The least scale that `rejects`, on a geometric grid of ratio 1.01 from 1/6 to 24; infinite if there is none.

        More noise must be rejected more easily; then the true scale is below the one returned.
        """
        low, high, step = 0, 0, 8
        if rejects(1.0):
            while low > _LOWEST and rejects(_RATIO ** max(low - step, _LOWEST)):
                low, step = max(low - step, _LOWEST), step * 2
            high, low = low, max(low - step, _LOWEST)
            if high == _LOWEST:
                return float(_RATIO**_LOWEST)
        else:
            while not rejects(_RATIO ** min(high + step, _HIGHEST)):
                high, step = min(high + step, _HIGHEST), step * 2
                if high == _HIGHEST:
                    return math.inf
            low, high = high, min(high + step, _HIGHEST)
        while high - low > 1:
            middle = (low + high) // 2
            if rejects(_RATIO**middle):
                high = middle
            else:
                low = middle
        return float(_RATIO**high)

    @property
    def _is_gaussian(self) -> bool:
        return all(rate == 1.0 for (_, rate), _ in self.charges)

    @property
    def _mu(self) -> float:
        return math.sqrt(sum(steps / noise**2 for (noise, _), steps in self.charges))


def _scaled(charges: Charges, scale: float) -> Charges:
    return tuple(((noise * scale, rate), steps) for (noise, rate), steps in charges)


@lru_cache(maxsize=32)
def _about(charges: Charges) -> float:
    return max(rdp_epsilon(charges, 1e-5)[0], 1e-3)


@lru_cache(maxsize=1024)
def _sampled_tradeoff(charges: Charges, scale: float) -> tuple[TradeOff, float]:
    """(the curve, the total variation distance)."""
    here = _scaled(charges, scale)
    found = curves(here, pld_grid(here, _about(charges) / scale, coarsen=_COARSER), ONE_PAIR)
    length = max(int((curve.deltas > _TAIL).sum()) for curve in found)
    places = np.unique(np.linspace(0, length, _LINES).astype(np.int64))
    epsilons = (found[0].first + places) * found[0].grid
    # Both curves start at epsilon 0; where one has ended its delta is its last or less.
    deltas = np.maximum.reduce([curve.deltas[np.minimum(places, len(curve.deltas) - 1)] for curve in found])
    steep = np.exp(np.minimum(epsilons, 700.0))

    def tradeoff(false_positive: NDArray[np.float64]) -> NDArray[np.float64]:
        x = np.asarray(false_positive, dtype=np.float64)[..., None]
        lines = np.maximum(1.0 - deltas - steep * x, (1.0 - deltas - x) / steep)
        return np.asarray(np.maximum(lines.max(axis=-1), 0.0))

    return tradeoff, float(deltas[0])


@lru_cache(maxsize=1024)
def _optimistic_epsilon(charges: Charges, scale: float, delta: float) -> float:
    here = _scaled(charges, scale)
    fine = pld_grid(here, _about(charges) / scale)
    about = max(curve.epsilon(delta) for curve in curves(here, fine, ONE_PAIR))
    # Rounding losses down costs half a cell a step: a hundredth of epsilon in all, where the grid stays affordable.
    steps = sum(count for _, count in charges)
    grid = min(_COARSEST, max(0.005 * about / steps, fine))
    return max(0.0, float(_optimistic(here, grid).get_epsilon_for_delta(delta)))


def _optimistic(charges: Charges, grid: float) -> Any:
    parts = [
        pld.from_gaussian_mechanism(
            noise,
            pessimistic_estimate=False,
            value_discretization_interval=grid,
            sampling_prob=rate,
            use_connect_dots=False,
        ).self_compose(steps)
        for (noise, rate), steps in charges
    ]
    total = parts[0]
    for part in parts[1:]:
        total = total.compose(part)
    return total
