"""Per-pair clipping: a sum of bounded vectors that carries its sensitivity (Abadi et al., CCS 2016, Algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# The clip factor is lowered by this share, so that float64 rounding cannot lift a clipped norm above the bound.
_ROUNDING = 2.0**-40


@dataclass(frozen=True, slots=True)
class ClippedSum:
    """The sum over pairs of clipped gradients, one tensor per parameter, and what one pair can change of it."""

    sums: tuple[Tensor, ...]  # float64, shaped as the parameters
    sensitivity: float  # L2 over all parameters together, adding or removing one pair
    norms: Tensor  # float64[pairs], before clipping; not finite where the pair counts as zero
    clipped_norms: Tensor  # float64[pairs], at most `sensitivity`

    @property
    def non_finite(self) -> int:
        """How many pairs counted as the zero gradient. Local, never released."""
        return int((~torch.isfinite(self.norms)).sum())


def clip_and_sum(
    grad_samples: Sequence[Tensor],  # one per parameter, [pairs, *shape of the parameter], the same pairs in each
    clip_norm: float,
) -> ClippedSum:
    """Scale each pair's whole gradient to L2 norm at most `clip_norm` and add the pairs, in float64.

    A pair whose gradient is not finite anywhere counts as the zero gradient everywhere: stock clipping would turn the
    whole sum into NaN, an unbounded change made by one pair. Raises ValueError if there is no parameter, if the
    numbers of pairs differ, or if clip_norm is not positive and finite.
    """
    if not 0.0 < clip_norm < float("inf"):
        raise ValueError(f"clip_norm must be positive and finite, got {clip_norm}")
    pairs = {len(grad_sample) for grad_sample in grad_samples}
    if len(pairs) != 1:
        raise ValueError(f"every parameter needs gradients of the same pairs, got {sorted(pairs)} rows")
    rows = [g.detach().to(torch.float64).reshape(len(g), math.prod(g.shape[1:])) for g in grad_samples]
    squares = torch.stack([row.square().sum(dim=1).to(rows[0].device) for row in rows])
    norms = squares.sum(dim=0).sqrt()
    finite = torch.isfinite(norms)
    factors = torch.where(finite, clip_norm * (1.0 - _ROUNDING) / norms.clamp(min=1e-300), 0.0).clamp(max=1.0)
    sums = tuple(
        (factors.to(row.device) @ row.masked_fill(~finite.to(row.device)[:, None], 0.0)).view(grad_sample.shape[1:])
        for row, grad_sample in zip(rows, grad_samples, strict=True)
    )
    clipped = torch.where(finite, norms, 0.0) * factors
    return ClippedSum(sums=sums, sensitivity=clip_norm, norms=norms, clipped_norms=clipped)
