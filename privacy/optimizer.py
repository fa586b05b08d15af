"""Opacus' DPOptimizer with cryptographic noise, fail-closed shapes, and a scale of public numbers alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from opacus.optimizers import DPOptimizer
from torch import Tensor
from torch.optim import Optimizer

from .clipping import ClippedSum, clip_and_sum
from .entropy import Entropy
from .errors import StructureError


@dataclass(slots=True)
class StepTally:
    """What the running logical step saw. Local to the client, never released."""

    pairs: int = 0
    clipped: int = 0
    non_finite: int = 0
    norm_total: float = 0.0  # of the finite pairs, before clipping
    signal_norm: float = 0.0  # L2 norm of the clipped sum
    noise_norm: float = 0.0  # L2 norm of the noise added to it


class KeystreamOptimizer(DPOptimizer):  # type: ignore[misc]  # opacus is untyped
    """Clips per pair, adds N(0, (noise_multiplier * clip_norm)^2) to the SUM, divides by expected_batch * clip_norm.

    Clip, sum and noise are float64; the cast to the parameter's type comes after the noise, so it is post-processing.
    The noise is drawn from one fresh keystream per step over all parameters in order, never from torch.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        names: tuple[str, ...],
        noise_multiplier: float,
        clip_norm: float,
        expected_batch: float,
        entropy: Entropy,
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=noise_multiplier,
            max_grad_norm=clip_norm,
            expected_batch_size=None,
            loss_reduction="sum",
        )
        self._names = names
        self._divisor = expected_batch * clip_norm
        self._entropy = entropy
        self.tally = StepTally()

    def clip_and_accumulate(self) -> None:
        """Add the physical batch's clipped per-pair gradients to `p.summed_grad` (float64)."""
        clipped = clip_and_sum([parameter.grad_sample for parameter in self.params], self.max_grad_norm)
        self._count(clipped)
        for parameter, total in zip(self.params, clipped.sums, strict=True):
            parameter.summed_grad = total if parameter.summed_grad is None else parameter.summed_grad + total

    def add_noise(self) -> None:
        """Put the noised sum into `p.grad`. Called once per logical step, empty samples included."""
        keystream = self._entropy.keystream()
        signal = noise = 0.0
        for parameter in self.params:
            total: Tensor = parameter.summed_grad
            drawn = torch.from_numpy(keystream.normal(total.numel()) * (self.noise_multiplier * self.max_grad_norm))
            signal += float(total.square().sum())
            noise += float(drawn.square().sum())
            parameter.grad = (total + drawn.to(total.device).view_as(total)).to(parameter.dtype)
        self.tally.signal_norm, self.tally.noise_norm = signal**0.5, noise**0.5

    def scale_grad(self) -> None:
        """Divide by public numbers: the mean over the expected batch of gradients in units of the clip norm."""
        for parameter in self.params:
            parameter.grad /= self._divisor

    def check_rows(self, pairs: int) -> None:
        """Raise StructureError, naming the tensor, unless every parameter has one gradient per pair."""
        for name, parameter in zip(self._names, self.params, strict=True):
            found, wanted = getattr(parameter, "grad_sample", None), (pairs, *parameter.shape)
            if not isinstance(found, Tensor):
                raise StructureError(f"{name}: no gradient per pair reached it, or more than one backward pass did")
            if tuple(found.shape) != wanted:
                raise StructureError(f"{name}: gradients per pair have shape {tuple(found.shape)}, not {wanted}")

    def add_no_pair(self) -> None:
        """Stand for a physical batch without pairs, so that a step can be closed whatever its sample held."""
        for parameter in self.params:
            parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))

    def _count(self, clipped: ClippedSum) -> None:
        finite = torch.isfinite(clipped.norms)
        self.tally.pairs += len(finite)
        self.tally.non_finite += clipped.non_finite
        self.tally.clipped += int((clipped.norms[finite] > self.max_grad_norm).sum())
        self.tally.norm_total += float(clipped.norms[finite].sum())
