"""One distributed step of pair-level DP: Poisson sample, gradient per pair, clip, round pair by pair, add, add a share.

The bound is on ONE pair's integers: each pair's clipped gradient is rounded by itself and its integer norm checked
(Kairouz, Liu and Steinke, ICML 2021, conditional rounding). Rounding the client's sum with the same bound would be
wrong. No parameter moves here; the server applies the mean of the decoded sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from opacus.grad_sample import GradSampleHooks
from torch import Tensor, nn

from .discrete import sum_of_rounded_units
from .discrete.rounding import Floats
from .distributed import SharePlan, noise_share
from .dpsgd import StepReport
from .entropy import Entropy, Keystream, poisson_sample
from .errors import PrivacyError, StructureError
from .events import Event, NonPrivate
from .rows import backward, check_count, declared_rows, joined, row_gradients, row_norms
from .sample_log import SampleLog
from .structure import check_structure, remove_traces

Batch = TypeVar("Batch")


@dataclass(frozen=True, slots=True)
class IntegerSum:
    """What one client hands to secure aggregation, and what it costs its pairs.

    vector: int64[dim + nulls]: rounded clipped gradients of the sampled pairs, plus the client's share of noise.
    event: of this one step; made here, because here the sample was drawn and the share added.
    """

    vector: NDArray[np.int64]
    event: Event
    report: StepReport  # LOCAL


class PairIntegerStep:
    """One step on some parameters of a module, inside `with`: `sample`, then `sum`, once.

    The rules of `privacy.dpsgd.PairDPSGD` hold: the module's trained layers in training mode, losses separable over
    rows, nothing but the given parameters requiring a gradient. Raises StructureError where they do not.
    """

    def __init__(
        self,
        module: nn.Module,
        params: Sequence[tuple[str, nn.Parameter]],
        plan: SharePlan,
        entropy: Entropy,
        log: SampleLog | None = None,
    ) -> None:
        size = sum(parameter.numel() for _, parameter in params)
        if size != plan.dim:
            raise StructureError(f"the plan is for {plan.dim} coordinates, the parameters have {size}")
        self._module, self._params, self._plan, self._seeded = module, tuple(params), plan, entropy.is_seeded
        self._sampling, self._noise = entropy.child("sample"), entropy.child("noise")
        self._rounding = entropy.child("rounding")
        self.log = SampleLog() if log is None else log  # private to the client
        self._drawn: int | None = None
        self._done = False
        self._hooks: GradSampleHooks | None = None

    def __enter__(self) -> Self:
        check_structure(self._module, self._params)
        self._hooks = GradSampleHooks(self._module, loss_reduction="sum", strict=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._hooks is not None:
            self._hooks.cleanup()
            self._hooks = None
        remove_traces(self._module, self._params)
        for _, parameter in self._params:
            parameter.__dict__.pop("grad_sample", None)

    def sample(self, size: int) -> NDArray[np.int64]:
        """Draw the step's pairs out of `size`: sorted indices, int64[k], k may be 0. They are secret. Once."""
        if self._drawn is not None:
            raise PrivacyError("one step has one sample")
        chosen = poisson_sample(size, self._plan.sample_rate, self._sampling)
        self.log.add(chosen, size)
        self._drawn = len(chosen)
        return chosen

    def sum(
        self, batches: Iterable[Batch], losses: Callable[[Batch], Tensor], *, rows: int | None = None
    ) -> IntegerSum:
        """The noised integer sum over the rows of the sample, in as many physical batches as the caller likes.

        `losses` maps a batch of b > 0 rows to float[b]; `rows` as in `privacy.dpsgd.PairDPSGD.step`. An empty sample
        gives noise alone, and counts. Raises PrivacyError if the rows are not as many as they must be, or on a second
        call.
        """
        if self._hooks is None or self._drawn is None or self._done:
            raise PrivacyError("sum is taken once, inside the with block, after sample()")
        self._done = True
        keystream, wanted = self._rounding.keystream(), declared_rows(rows, self._drawn, self._plan.moves)
        total, norms = np.zeros(self._plan.dim, np.int64), [np.zeros(0)]
        for batch in batches:
            matrix = self._rows(losses(batch))
            total += self._rounded(matrix, keystream)
            norms.append(row_norms(matrix))
        seen = np.concatenate(norms)
        check_count(len(seen), wanted)
        share = noise_share(self._plan, self._noise)
        vector = share.copy()
        vector[: self._plan.dim] += total
        event: Event = NonPrivate("noise: seeded") if self._seeded else self._plan.event()
        return IntegerSum(vector, event, self._report(seen, total, share))

    def _rows(self, losses: Tensor) -> Floats:
        """float[rows, dim]: the gradient of each row over all parameters, in their order."""
        matrix = joined(row_gradients(self._params, backward(losses)))
        for _, parameter in self._params:
            parameter.grad_sample = None  # type: ignore[attr-defined]
            parameter.grad = None
        return matrix

    def _rounded(self, rows: Floats, keystream: Keystream) -> NDArray[np.int64]:
        return sum_of_rounded_units(
            rows,
            clip_norm=self._plan.clip_norm,
            grid=self._plan.grid,
            bound_squared=self._plan.row_squared,
            keystream=keystream,
        )

    def _report(self, norms: NDArray[np.float64], total: NDArray[np.int64], share: NDArray[np.int64]) -> StepReport:
        finite = norms[np.isfinite(norms)]
        grid = self._plan.grid
        return StepReport(
            pairs=len(norms),
            clip_fraction=float((finite > self._plan.clip_norm).sum() / len(norms)) if len(norms) else 0.0,
            non_finite=len(norms) - len(finite),
            mean_norm=float(finite.mean()) if len(finite) else 0.0,
            signal_norm=float(np.linalg.norm(total)) * grid,
            noise_norm=float(np.linalg.norm(share[: self._plan.dim])) * grid,
        )
