"""Opacus' DPOptimizer with noise from `privacy.step_noise`, fail-closed shapes, and a scale of public numbers alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from opacus.optimizers import DPOptimizer
from torch import Tensor
from torch.optim import Optimizer

from .rows import row_gradients
from .step_noise import StepNoise


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
    """Bounds each row, adds the noise of `noise` to the SUM of rows, divides by expected_batch * clip_norm.

    Sum and noise are float64 or integers; what parameters see is made from their sum alone, so the casts after it are
    post-processing. The noise comes from one fresh keystream per step over all parameters in order, never from torch.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        names: tuple[str, ...],
        noise: StepNoise,
        noise_multiplier: float,
        clip_norm: float,
        expected_batch: float,
    ) -> None:
        """`noise_multiplier` is what Opacus is told of the scale, noise on the sum over clip_norm; `noise` adds it."""
        super().__init__(
            optimizer,
            noise_multiplier=noise_multiplier,
            max_grad_norm=clip_norm,
            expected_batch_size=None,
            loss_reduction="sum",
        )
        self._names = names
        self._divisor = expected_batch * clip_norm
        self._noise = noise
        self.tally = StepTally()

    def clip_and_accumulate(self) -> None:
        """Add the physical batch's bounded gradients per row to `p.summed_grad` (float64 or int64)."""
        sums, norms = self._noise.bounded([parameter.grad_sample for parameter in self.params])
        self._count(norms)
        for parameter, total in zip(self.params, sums, strict=True):
            parameter.summed_grad = total if parameter.summed_grad is None else parameter.summed_grad + total

    def add_noise(self) -> None:
        """Put the noised sum into `p.grad`. Called once per logical step, empty samples included."""
        signal = noise = 0.0
        unit = self._noise.unit
        drawn = self._noise.drawn([parameter.numel() for parameter in self.params])
        for parameter, added in zip(self.params, drawn, strict=True):
            total: Tensor = parameter.summed_grad
            signal += float(total.double().square().sum())
            noise += float(added.double().square().sum())
            noised = total + added.to(total.device).view_as(total)
            parameter.grad = (noised.double() * unit).to(parameter.device, parameter.dtype)
        self.tally.signal_norm, self.tally.noise_norm = signal**0.5 * unit, noise**0.5 * unit

    def scale_grad(self) -> None:
        """Divide by public numbers: the mean over the expected batch of gradients in units of the clip norm."""
        for parameter in self.params:
            parameter.grad /= self._divisor

    def check_rows(self, rows: int) -> None:
        """Raise StructureError, naming the tensor, unless every parameter has one gradient per row."""
        row_gradients(zip(self._names, self.params, strict=True), rows)

    def add_no_row(self) -> None:
        """Stand for a physical batch without rows, so that a step can be closed whatever its sample held."""
        for parameter in self.params:
            parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))

    def _count(self, norms: Tensor) -> None:
        finite = torch.isfinite(norms)
        self.tally.pairs += len(finite)
        self.tally.non_finite += int((~finite).sum())
        self.tally.clipped += int((norms[finite] > self.max_grad_norm).sum())
        self.tally.norm_total += float(norms[finite].sum())
