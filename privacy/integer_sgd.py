"""The public plan of DP-SGD in integers: the grid a client rounds to, the discrete Gaussian noise it adds, the event.

Each sampled row's clipped gradient is rounded to the grid clip_norm / levels by itself and its integer norm checked
(Kairouz, Liu, Steinke, ICML 2021, conditional rounding), the integers are added, and the whole noise N_Z(0, variance)
is added by the client. What a parameter moves by is then a function of an integer whose law is charged exactly: no bit
of a floating-point sum or of a floating-point noise is released (Mironov, CCS 2012). Needs no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from privacy.discrete import distance_log2, norm_bound_squared
from privacy.distributed import BETA, check_levels, check_moves
from privacy.events import LEAST_SHARE, UNITS, IntegerGaussian, Unit


@dataclass(frozen=True, slots=True)
class IntegerStepPlan:
    """Public constants of every step of `privacy.dpsgd.PairDPSGD` in integers. Raises ValueError naming the field.

    clip_norm: L2 bound on one row's whole gradient before rounding.
    levels: clip_norm in grid units, so one grid unit is clip_norm / levels.
    dim: most coordinates that are trained and noised in one step, personal parts included.
    variance: of the discrete Gaussian noise on the sum, per coordinate, in squared grid units.
    sample_rate: chance of each unit to be in a step.
    expected_batch: divisor of the noised sum, a public number; learning_rate: of plain SGD on the clip-normalised mean.
    moves: by how many clip norms one unit can move the sum, 1 where a unit is added or removed, 2 where it replaces
    one clipped gradient by another.
    unit: what is protected.
    """

    clip_norm: float
    levels: int
    dim: int
    variance: int
    sample_rate: float
    expected_batch: float
    learning_rate: float
    moves: int = 1
    unit: Unit = "pair"

    def __post_init__(self) -> None:
        check_step_numbers(self.clip_norm, self.sample_rate, self.expected_batch, self.learning_rate)
        check_moves(self.moves)
        check_levels(self.levels)
        if self.dim < 1:
            raise ValueError(f"dim must be at least 1, got {self.dim}")
        if self.variance < LEAST_SHARE:
            raise ValueError(f"variance must be at least {LEAST_SHARE} (standard deviation 4), got {self.variance}")
        if self.unit not in UNITS:
            raise ValueError(f"unit must be one of {', '.join(UNITS)}, got {self.unit!r}")

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
    def noise_multiplier(self) -> float:
        """What is charged: the equivalent Gaussian's standard deviation over one unit's bound, rounded down."""
        return self.event(1).noise_multiplier

    def event(self, steps: int) -> IntegerGaussian:
        """What `steps` steps of this plan cost one client's data. The client adds all the noise itself."""
        return IntegerGaussian(
            variance=self.variance,
            own_variance=self.variance,
            colluding_variance=0,
            norm_squared=self.norm_squared,
            sample_rate=self.sample_rate,
            steps=steps,
            distance_log2=distance_log2(draws=max(1, steps * self.dim)),
            unit=self.unit,
        )


def check_step_numbers(clip_norm: float, sample_rate: float, expected_batch: float, learning_rate: float) -> None:
    """Raise ValueError, naming the field, unless these are positive and finite and sample_rate is at most 1."""
    numbers = {"clip_norm": clip_norm, "expected_batch": expected_batch, "learning_rate": learning_rate}
    for name, value in numbers.items():
        if not 0.0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {value}")
    if not 0.0 < sample_rate <= 1.0:
        raise ValueError(f"sample_rate must be in (0, 1], got {sample_rate}")
