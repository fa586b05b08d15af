"""DP-SGD on pairs: Poisson sample, gradient per pair (Opacus hooks), clip, sum, noise, plain SGD step, event.

Sum and noise are real numbers (`DPStepPlan`) or integers (`privacy.integer_sgd.IntegerStepPlan`).

One row of a batch is one pair, so the row of a gradient is the unit of privacy. The loss must be separable over rows:
row i of it may depend on pair i and on public values alone. What is trained must be exactly what is clipped: an
un-noised tensor trained on the same pairs beside it would void the guarantee, so a mismatch is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.grad_sample import GradSampleHooks
from torch import Tensor, nn

from .distributed import check_moves
from .entropy import Entropy, poisson_sample
from .errors import PrivacyError, StructureError
from .events import Event, NonPrivate, Unit, gaussian_event
from .integer_sgd import IntegerStepPlan, check_step_numbers
from .optimizer import KeystreamOptimizer, StepTally
from .rows import backward, check_count, declared_rows
from .sample_log import SampleLog
from .step_noise import IntegerNoise, RealNoise, StepNoise
from .structure import Movement, check_structure, remove_traces

Batch = TypeVar("Batch")


@dataclass(frozen=True, slots=True)
class DPStepPlan:
    """The public constants of every step. None of them may be chosen from private data without being charged.

    `moves` is by how many clip norms one unit can move the sum: 1 where a unit is added or removed (a row of its own),
    2 where it replaces one clipped gradient by another. `noise_multiplier` is what is CHARGED: the noise on the sum has
    standard deviation noise_multiplier * moves * clip_norm.
    """

    clip_norm: float  # L2 bound on one row's whole gradient
    noise_multiplier: float  # noise on the sum / what one unit can move it by; 0 clips only and is not private
    sample_rate: float  # chance of each unit to be in a step
    expected_batch: float  # divisor of the noised sum: a public number, never the realised size
    learning_rate: float  # of plain SGD on the clip-normalised mean
    moves: int = 1
    unit: Unit = "pair"  # what is protected

    def __post_init__(self) -> None:
        check_step_numbers(self.clip_norm, self.sample_rate, self.expected_batch, self.learning_rate)
        check_moves(self.moves)
        if not 0.0 <= self.noise_multiplier < math.inf:
            raise ValueError(f"noise_multiplier must be finite and at least 0, got {self.noise_multiplier}")

    def event(self, steps: int) -> Event:
        """What `steps` steps of this plan cost one client's data."""
        return gaussian_event(
            noise_multiplier=self.noise_multiplier, sample_rate=self.sample_rate, steps=steps, unit=self.unit
        )


StepPlan: TypeAlias = DPStepPlan | IntegerStepPlan


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
    `private.event()`. In integers (an `IntegerStepPlan`) each row is rounded by itself before anything is added. The
    module must be in training mode (Opacus' hooks see nothing otherwise) and, outside what is
    trained, must not hold tensors that require gradients. Raises StructureError where that does not hold.
    """

    def __init__(
        self,
        module: nn.Module,
        params: Sequence[tuple[str, nn.Parameter]],
        plan: StepPlan,
        entropy: Entropy,
        log: SampleLog | None = None,
    ) -> None:
        """With a `log` of earlier rounds the samples of this one are added to it, for `privacy.attestation`.

        Raises StructureError if the parameters have more coordinates than an integer plan covers.
        """
        self._module, self._params, self._plan = module, tuple(params), plan
        self.log = SampleLog() if log is None else log  # private to the client
        self._seeded = entropy.is_seeded
        self._sampling, self._noise = entropy.child("sample"), _step_noise(plan, self._params, entropy)
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
            noise=self._noise,
            noise_multiplier=self._plan.noise_multiplier * self._plan.moves,
            clip_norm=self._plan.clip_norm,
            expected_batch=self._plan.expected_batch,
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
        """Draw the next step's units out of `size`: sorted indices, int64[k], k may be 0. They are secret."""
        chosen = poisson_sample(size, self._plan.sample_rate, self._sampling)
        self.log.add(chosen, size)
        self._drawn = len(chosen)
        return chosen

    def step(
        self, batches: Iterable[Batch], losses: Callable[[Batch], Tensor], *, rows: int | None = None
    ) -> StepReport:
        """One noised step over the units of the last sample, in as many physical batches as the caller likes.

        `losses` maps a batch of b > 0 rows to its loss per row, float[b]. Where a unit is a row, the rows are the
        sample. With `plan.moves` of 2 a unit changes a row, at most one of the step, and `rows` declares how many
        there are (None: as many as the sample has units). Without any batch the step is noise alone, and counts.
        Raises StructureError if tensors, shapes or the number of rows are not as they must be, before noise is added;
        SilentTrainingError if a parameter stays where it should have moved. After an error the object takes no
        further step.
        """
        if self._hooks is None:
            raise PrivacyError("steps are taken inside the with block, and none after a failed step")
        if self._drawn is None:
            raise PrivacyError("a step needs a sample of its own: call sample() before each step")
        hooks, drawn = self._hooks, self._drawn
        self._hooks = self._drawn = None  # restored below; an error leaves the object unusable
        try:
            report = self._logical_step(batches, losses, declared_rows(rows, drawn, self._plan.moves))
        except BaseException:
            hooks.cleanup()
            raise
        self._hooks = hooks
        return report

    def event(self) -> Event:
        """What the steps taken so far cost. Made here, because here the noise is added and the sample drawn."""
        return NonPrivate("noise: seeded") if self._seeded else self._plan.event(self._steps)

    def _logical_step(self, batches: Iterable[Batch], losses: Callable[[Batch], Tensor], wanted: int) -> StepReport:
        optimizer = self._optimizer
        check_structure(self._module, self._params)
        optimizer.tally = StepTally()
        optimizer.zero_grad(set_to_none=True)
        for batch in batches:
            self._accumulate(losses(batch))
        check_count(optimizer.tally.pairs, wanted)
        optimizer.add_no_row()  # the closing step noises what was accumulated, maybe nothing
        before = self._movement.snapshot()
        optimizer.step()
        self._steps += 1
        self._movement.check(before)
        optimizer.zero_grad(set_to_none=True)
        return _report(optimizer.tally)

    def _accumulate(self, losses: Tensor) -> None:
        optimizer = self._optimizer
        optimizer.check_rows(backward(losses))
        optimizer.signal_skip_step(True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def _step_noise(plan: StepPlan, params: Sequence[tuple[str, nn.Parameter]], entropy: Entropy) -> StepNoise:
    if isinstance(plan, IntegerStepPlan):
        size = sum(parameter.numel() for _, parameter in params)
        if size > plan.dim:
            raise StructureError(f"the plan is for at most {plan.dim} coordinates, the parameters have {size}")
        return IntegerNoise(plan, entropy)
    stddev = plan.noise_multiplier * plan.moves * plan.clip_norm
    return RealNoise(clip_norm=plan.clip_norm, stddev=stddev, entropy=entropy)


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
