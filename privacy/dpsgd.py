"""DP-SGD on pairs: Poisson sample, gradient per pair (Opacus hooks), clip, sum, noise, plain SGD step, event.

One row of a batch is one pair, so the row of a gradient is the unit of privacy. The loss must be separable over rows:
row i of it may depend on pair i and on public values alone. What is trained must be exactly what is clipped: an
un-noised tensor trained on the same pairs beside it would void the guarantee, so a mismatch is refused.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.grad_sample import GradSampleHooks
from torch import Tensor, nn

from .entropy import Entropy, poisson_sample
from .errors import PrivacyError
from .events import Event, NonPrivate, gaussian_event
from .optimizer import KeystreamOptimizer, StepTally
from .sample_log import SampleLog
from .structure import Movement, check_structure, remove_traces

Batch = TypeVar("Batch")


@dataclass(frozen=True, slots=True)
class DPStepPlan:
    """The public constants of every step. None of them may be chosen from private data without being charged."""

    clip_norm: float  # L2 bound on one pair's whole gradient
    noise_multiplier: float  # noise standard deviation on the sum / clip_norm; 0 clips only and is not private
    sample_rate: float  # chance of each pair to be in a step
    expected_batch: float  # divisor of the noised sum: a public number, never the realised size
    learning_rate: float  # of plain SGD on the clip-normalised mean

    def __post_init__(self) -> None:
        for name in ("clip_norm", "expected_batch", "learning_rate"):
            value = getattr(self, name)
            if not 0.0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value}")
        if not 0.0 <= self.noise_multiplier < math.inf:
            raise ValueError(f"noise_multiplier must be finite and at least 0, got {self.noise_multiplier}")
        if not 0.0 < self.sample_rate <= 1.0:
            raise ValueError(f"sample_rate must be in (0, 1], got {self.sample_rate}")


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step saw on the client. LOCAL: none of it may leave without noise of its own."""

    pairs: int
    clip_fraction: float  # of the pairs, 0 where there is none
    non_finite: int  # pairs that counted as the zero gradient
    mean_norm: float  # of the finite pairs' gradients before clipping, 0 where there is none
    signal_norm: float  # L2 norm of the clipped sum
    noise_norm: float  # L2 norm of the noise added to the sum

    @property
    def snr(self) -> float:
        """Signal over noise, in norms; infinite without noise."""
        return self.signal_norm / self.noise_norm if self.noise_norm else math.inf


class PairDPSGD:
    """DP-SGD on some parameters of a module, from `with` to its end; afterwards the module bears no trace of it.

    Use: `chosen = private.sample(n)`, then `private.step(batches of those pairs, losses)`, once per sample, then
    `private.event()`. The module must be in training mode (Opacus' hooks see nothing otherwise) and, outside what is
    trained, must not hold tensors that require gradients. Raises StructureError where that does not hold.
    """

    def __init__(
        self,
        module: nn.Module,
        params: Sequence[tuple[str, nn.Parameter]],
        plan: DPStepPlan,
        entropy: Entropy,
        log: SampleLog | None = None,
    ) -> None:
        """With a `log` of earlier rounds the samples of this one are added to it, for `privacy.attestation`."""
        self._module, self._params, self._plan = module, tuple(params), plan
        self.log = SampleLog() if log is None else log  # private to the client
        self._seeded = entropy.is_seeded
        self._sampling, self._noise = entropy.child("sample"), entropy.child("noise")
        self._steps = 0
        self._drawn: int | None = None
        self._hooks: GradSampleHooks | None = None

    def __enter__(self) -> Self:
        check_structure(self._module, self._params)
        parameters = [parameter for _, parameter in self._params]
        self._hooks = GradSampleHooks(self._module, loss_reduction="sum", strict=False)
        self._optimizer = KeystreamOptimizer(
            torch.optim.SGD(parameters, lr=self._plan.learning_rate),
            names=tuple(name for name, _ in self._params),
            noise_multiplier=self._plan.noise_multiplier,
            clip_norm=self._plan.clip_norm,
            expected_batch=self._plan.expected_batch,
            entropy=self._noise,
        )
        self._movement = Movement(self._params, self._plan.learning_rate)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._hooks is not None:
            self._hooks.cleanup()
            self._hooks = None
        remove_traces(self._module, self._params)

    def sample(self, size: int) -> NDArray[np.int64]:
        """Draw the next step's pairs out of `size`: sorted indices, int64[k], k may be 0. They are secret."""
        chosen = poisson_sample(size, self._plan.sample_rate, self._sampling)
        self.log.add(chosen, size)
        self._drawn = len(chosen)
        return chosen

    def step(self, batches: Iterable[Batch], losses: Callable[[Batch], Tensor]) -> StepReport:
        """One noised step over the pairs of the last sample, in as many physical batches as the caller likes.

        `losses` maps a batch of b > 0 pairs to its loss per pair, float[b]. Without any batch (an empty sample) the
        step is noise alone, and counts. Raises StructureError if tensors, shapes or the number of pairs are not as
        they must be, before noise is added; SilentTrainingError if a parameter stays where it should have moved.
        After an error the object takes no further step.
        """
        if self._hooks is None:
            raise PrivacyError("steps are taken inside the with block, and none after a failed step")
        if self._drawn is None:
            raise PrivacyError("a step needs a sample of its own: call sample() before each step")
        hooks, drawn = self._hooks, self._drawn
        self._hooks = self._drawn = None  # restored below; an error leaves the object unusable
        try:
            report = self._logical_step(batches, losses, drawn)
        except BaseException:
            hooks.cleanup()
            raise
        self._hooks = hooks
        return report

    def event(self) -> Event:
        """What the steps taken so far cost. Made here, because here the noise is added and the sample drawn."""
        if self._seeded:
            return NonPrivate("noise: seeded")
        plan = self._plan
        return gaussian_event(noise_multiplier=plan.noise_multiplier, sample_rate=plan.sample_rate, steps=self._steps)

    def _logical_step(self, batches: Iterable[Batch], losses: Callable[[Batch], Tensor], drawn: int) -> StepReport:
        optimizer = self._optimizer
        check_structure(self._module, self._params)
        optimizer.tally = StepTally()
        optimizer.zero_grad(set_to_none=True)
        for batch in batches:
            self._accumulate(losses(batch))
        if optimizer.tally.pairs != drawn:
            raise PrivacyError(f"the sample has {drawn} pairs but the step was given {optimizer.tally.pairs}")
        optimizer.add_no_pair()  # the closing step noises what was accumulated, maybe nothing
        before = self._movement.snapshot()
        optimizer.step()
        self._steps += 1
        self._movement.check(before)
        optimizer.zero_grad(set_to_none=True)
        return _report(optimizer.tally)

    def _accumulate(self, losses: Tensor) -> None:
        if losses.dim() != 1 or len(losses) == 0:
            raise PrivacyError(f"losses must be one number per pair, shape [pairs], got {tuple(losses.shape)}")
        optimizer = self._optimizer
        with warnings.catch_warnings():  # the first layer's input needs no gradient; its hook fires all the same
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            torch.autograd.backward(losses.sum())
        optimizer.check_rows(len(losses))
        optimizer.signal_skip_step(True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def _report(tally: StepTally) -> StepReport:
    finite = tally.pairs - tally.non_finite
    return StepReport(
        pairs=tally.pairs,
        clip_fraction=tally.clipped / tally.pairs if tally.pairs else 0.0,
        non_finite=tally.non_finite,
        mean_norm=tally.norm_total / finite if finite else 0.0,
        signal_norm=tally.signal_norm,
        noise_norm=tally.noise_norm,
    )
