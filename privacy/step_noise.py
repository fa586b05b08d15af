"""What a step of DP-SGD adds up and covers: real sums with Gaussian noise, or integer sums with discrete noise.

Both bound every row by itself and draw the whole noise of the client from one fresh keystream per step, never from
torch. `unit` is what one unit of the sum and of the noise is worth in gradients, so the optimizer above knows no kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from privacy.discrete import DiscreteGaussian, sum_of_rounded_units

from .clipping import clip_and_sum
from .entropy import Entropy
from .integer_sgd import IntegerStepPlan
from .rows import joined, row_norms


class StepNoise(Protocol):
    """How rows become a bounded sum, and what is added to it."""

    @property
    def unit(self) -> float:
        """What 1 in the sums is worth, in gradients."""
        ...

    def bounded(self, gradients: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
        """(the sum over rows, one tensor a parameter; float64[rows], norms before clipping) of [rows, *shape] each.

        A row that is not finite anywhere counts as zero everywhere; its norm is not finite.
        """
        ...

    def drawn(self, sizes: Sequence[int]) -> list[Tensor]:
        """The noise of one step, one flat tensor a parameter, independent of all that was drawn before."""
        ...


class RealNoise:
    """Clipped sums in float64 and N(0, stddev^2): proved for real arithmetic (`privacy.entropy` says what is not)."""

    def __init__(self, *, clip_norm: float, stddev: float, entropy: Entropy) -> None:
        self._clip_norm, self._stddev = clip_norm, stddev
        self._entropy = entropy.child("noise")

    @property
    def unit(self) -> float:
        return 1.0

    def bounded(self, gradients: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
        clipped = clip_and_sum(gradients, self._clip_norm)
        return clipped.sums, clipped.norms

    def drawn(self, sizes: Sequence[int]) -> list[Tensor]:
        keystream = self._entropy.keystream()
        return [torch.from_numpy(keystream.normal(size) * self._stddev) for size in sizes]


class IntegerNoise:
    """Rows rounded to the plan's grid one by one, each with a checked integer norm, and N_Z(0, plan.variance)."""

    def __init__(self, plan: IntegerStepPlan, entropy: Entropy) -> None:
        self._plan, self._law = plan, DiscreteGaussian(plan.variance)
        self._noise, self._rounding = entropy.child("noise"), entropy.child("rounding")

    @property
    def unit(self) -> float:
        return self._plan.grid

    def bounded(self, gradients: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
        rows = joined(gradients)
        plan = self._plan
        total = sum_of_rounded_units(
            rows,
            clip_norm=plan.clip_norm,
            grid=plan.grid,
            bound_squared=plan.row_squared,
            keystream=self._rounding.keystream(),
        )
        shapes = [gradient.shape[1:] for gradient in gradients]
        parts = _split(total, [shape.numel() for shape in shapes])
        sums = tuple(part.view(shape) for part, shape in zip(parts, shapes, strict=True))
        return sums, torch.from_numpy(row_norms(rows))

    def drawn(self, sizes: Sequence[int]) -> list[Tensor]:
        return _split(self._law.sample(sum(sizes), self._noise.keystream()), sizes)


def _split(values: NDArray[np.int64], sizes: Sequence[int]) -> list[Tensor]:
    return [torch.from_numpy(part) for part in np.split(values, np.cumsum(sizes)[:-1])]
