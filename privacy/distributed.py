"""Noise in shares: the public plan of a round whose noise is the sum of what many clients add, and its event.

Every client turns its contribution into integers whose norm is bounded unit by unit, adds one share of discrete
Gaussian noise, and hands the result to secure aggregation. The sum over the least admitted number of honest survivors
carries at least the noise of a trusted server (`privacy.discrete`, docs/integer-noise.md). Weaker than local noise:
against whoever sees one client's vector, that client's own share alone protects it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privacy.discrete import DiscreteGaussian, distance_log2, norm_bound_squared, round_unit, share_variance
from privacy.entropy import Entropy
from privacy.events import Event, IntegerGaussian, NonPrivate, Unit

BETA = 0.6065306597126334  # exp(-1/2): a rounding is redrawn about once in a thousand times, and L2 grows least
MOVES = (1, 2)


@dataclass(frozen=True, slots=True)
class SharePlan:
    """Public constants of a round. Raises ValueError naming the field and its bound.

    unit: what is protected. clip_norm: L2 bound on one row (a unit's vector) before rounding.
    levels: clip_norm in grid units, so one grid unit is clip_norm / levels.
    dim: coordinates that carry signal; `nulls` more carry noise alone, for attestation.
    total_variance: noise in the sum that the claim counts, in squared grid units.
    clients, lost, colluding: invited; whose share may be missing; whose share the adversary may know.
    sample_rate: of units within a client, 1 where every unit takes part.
    moves: by how many clip norms one unit can move the sum: 1 where a unit is added or removed (a row of its own), 2
    where it replaces one clipped gradient by another.
    """

    unit: Unit
    clip_norm: float
    levels: int
    dim: int
    nulls: int
    total_variance: int
    clients: int
    lost: int
    colluding: int
    sample_rate: float
    moves: int = 1

    def __post_init__(self) -> None:
        if not 0.0 < self.clip_norm < float("inf"):
            raise ValueError(f"clip_norm must be positive and finite, got {self.clip_norm}")
        check_levels(self.levels)
        check_moves(self.moves)
        if self.dim < 1 or self.nulls < 0:
            raise ValueError(f"dim must be at least 1 and nulls at least 0, got {self.dim} and {self.nulls}")
        _ = self.share, self.norm_squared  # their own bounds

    @property
    def grid(self) -> float:
        """One grid unit, in the units of clip_norm."""
        return self.clip_norm / self.levels

    @property
    def row_squared(self) -> int:
        """Bound on the squared integer norm of one rounded row."""
        return norm_bound_squared(float(self.levels), self.dim, BETA)

    @property
    def norm_squared(self) -> int:
        """Bound on the squared integer norm by which one unit moves the sum: the sensitivity that is charged."""
        return self.moves**2 * self.row_squared

    @property
    def share(self) -> int:
        """Variance of each client's share."""
        return share_variance(self.total_variance, clients=self.clients, lost=self.lost, colluding=self.colluding)

    @property
    def size(self) -> int:
        """Coordinates of a client's vector."""
        return self.dim + self.nulls

    @property
    def distance_log2(self) -> float:
        """log2 of the samplers' statistical distance in one round, over all clients and coordinates."""
        return distance_log2(draws=self.clients * self.size)

    def event(self) -> IntegerGaussian:
        """What one client's data is charged for a round: the shares of the least admitted honest survivors."""
        share, honest = self.share, self.clients - self.lost - self.colluding
        return IntegerGaussian(
            variance=honest * share,
            own_variance=share,
            colluding_variance=self.colluding * share,
            norm_squared=self.norm_squared,
            sample_rate=self.sample_rate,
            steps=1,
            distance_log2=self.distance_log2,
            unit=self.unit,
        )


def noised_unit(values: NDArray[np.float64], plan: SharePlan, entropy: Entropy) -> tuple[NDArray[np.int64], Event]:
    """One whole unit (a client's update, float64[dim]) clipped, rounded, with its share: (int64[size], event).

    Neighbours differ in one client's whole vector being zero (the roster is public and the client still adds its
    share). Not finite anywhere counts as zero.
    """
    if values.shape != (plan.dim,):
        raise ValueError(f"values must have shape ({plan.dim},), got {values.shape}")
    vector = noise_share(plan, entropy.child("noise"))
    vector[: plan.dim] += round_unit(
        values,
        clip_norm=plan.clip_norm,
        grid=plan.grid,
        bound_squared=plan.row_squared,
        keystream=entropy.child("rounding").keystream(),
    )
    return vector, NonPrivate("noise: seeded") if entropy.is_seeded else plan.event()


def noise_share(plan: SharePlan, entropy: Entropy) -> NDArray[np.int64]:
    """int64[size]: one client's share, from a fresh keystream. Draw it once per vector that leaves."""
    return DiscreteGaussian(plan.share).sample(plan.size, entropy.keystream())


def check_moves(moves: int) -> None:
    """Raise ValueError unless one unit moves a sum by 1 or 2 clip norms."""
    if moves not in MOVES:
        raise ValueError(
            f"moves must be 1 (a unit is added or removed) or 2 (it replaces one gradient by another), got {moves!r}"
        )


def check_levels(levels: int) -> None:
    """Raise ValueError unless the clip norm is 2^4..2^24 grid units."""
    if not 2**4 <= levels <= 2**24:
        raise ValueError(f"levels must lie in 2^4..2^24, got {levels}")
