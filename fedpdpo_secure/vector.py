"""The vector one client contributes to a round, as integers, and the mean decoded from their sum.

In a private run the vector is the update alone and clients weigh equally: a weight would reveal how many pairs a client
has. Without DP the weight and the training loss travel inside it, so that nothing per client is in the clear.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedpdpo_secure.local.plan import LocalUpdate
from privacy.distributed import SharePlan
from secagg import FixedPoint

LOSS_BOUND = 16.0  # nats; a loss beyond is reported as this much


@dataclass(frozen=True, slots=True)
class MeanUpdate:
    """What the server learns from one sum."""

    update: NDArray[np.float64]  # [D]
    loss: float | None  # weighted mean training loss; None in a private run
    nulls: NDArray[np.int64] | None = None  # distributed noise: coordinates of the sum that carry noise alone


@dataclass(frozen=True, slots=True)
class VectorPlan:
    """How an update becomes a vector of `dim` coordinates; public."""

    size: int  # D
    weighted: bool  # True without DP
    pairs_bound: int  # largest number of pairs of any client; scales weights into [0, 1]
    encoding: FixedPoint

    @property
    def dim(self) -> int:
        """Coordinates of the vector: the update, and without DP the weight and the weighted loss."""
        return self.size + (2 if self.weighted else 0)

    def encode(self, local: LocalUpdate, rounding: np.random.Generator) -> tuple[NDArray[np.int64], int]:
        """(int64[dim], number of coordinates that had to be clipped to the range) of one client's update.

        Raises ValueError when a weight would be outside (0, 1].
        """
        values = local.update
        if self.weighted:
            if not 0 < local.pairs <= self.pairs_bound:
                raise ValueError(f"a client with {local.pairs} pairs: outside 1..{self.pairs_bound}")
            weight = local.pairs / self.pairs_bound
            loss = weight * float(np.clip(local.loss, -LOSS_BOUND, LOSS_BOUND)) / LOSS_BOUND
            values = np.concatenate([weight * values, np.array([weight, loss]) * self.encoding.value_range])
        encoded = self.encoding.encode(values, rounding)
        return encoded.vector, encoded.clipped

    def decode(self, total: NDArray[np.int64], survivors: int) -> MeanUpdate:
        """The mean over `survivors` clients of a sum int64[dim]. Raises ValueError if all weights rounded to zero."""
        values = self.encoding.decode(total)
        if not self.weighted:
            return MeanUpdate(values / survivors, None)
        weight, loss = values[self.size :] / self.encoding.value_range
        if weight <= 0:
            raise ValueError(
                f"secagg.bits: too few for weights of pairs out of {self.pairs_bound}; the sum of weights is 0"
            )
        return MeanUpdate(values[: self.size] / weight, float(loss / weight * LOSS_BOUND))


@dataclass(frozen=True, slots=True)
class ShareVectorPlan:
    """The vector of a round with distributed noise: integers made with their noise, passed on as they are; public."""

    shares: SharePlan
    expected_batch: float  # gradients in a client's step, a public number; 1 where the unit is the client
    learning_rate: float  # of the server's step along the mean gradient

    @property
    def size(self) -> int:
        """D."""
        return self.shares.dim

    @property
    def dim(self) -> int:
        """Coordinates of the vector, those for attestation included."""
        return self.shares.size

    def encode(self, local: LocalUpdate, rounding: np.random.Generator) -> tuple[NDArray[np.int64], int]:
        """(int64[dim], 0): nothing is rounded or clipped here. Raises ValueError for a client without integers."""
        if local.integers is None or local.integers.shape != (self.dim,):
            raise ValueError("a client of a run with distributed noise hands over integers of the planned length")
        return local.integers, 0

    def decode(self, total: NDArray[np.int64], survivors: int) -> MeanUpdate:
        """The server's step from a sum over `survivors` clients: post-processing, divided by public numbers.

        Pairs and questions: minus the learning rate times the mean clip-normalised gradient, as in local DP-SGD.
        Clients: the mean of their clipped updates.
        """
        plan = self.shares
        values = total[: plan.dim] * plan.grid
        if plan.unit != "client":
            mean = values / (survivors * self.expected_batch * plan.clip_norm)
            return MeanUpdate(-self.learning_rate * mean, None, total[plan.dim :])
        return MeanUpdate(values / survivors, None, total[plan.dim :])
