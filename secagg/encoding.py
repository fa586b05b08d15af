"""Fixed point numbers whose sum provably fits the ring, and stochastic rounding.

The proof is made when the encoding is made, not when a sum has gone wrong: after clipping, a client's integer
is at most `level` in size, and max_clients * level < 2^(bits-1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from secagg.ring import RING_BITS

MIN_LEVELS = 2**8
"""Fewer levels each side of zero than this would drown an update in rounding error."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A client's integers, and how many coordinates were clipped (a local figure, not for release)."""

    vector: NDArray[np.int64]  # int64[D]
    clipped: int


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """Real numbers in [-value_range, value_range] as integers: value * scale, with `scale` a power of two.

    `scale` is the largest power of two for which the sum of `max_clients` clients at the edge of the range
    stays below half the ring: max_clients * ceil(value_range * scale) <= 2^(bits-1) - 1. The constructor
    raises ValueError if that leaves fewer than 256 levels each side of zero.

    >>> FixedPoint().proof()
    '12 clients x 524288 = 6291456 = 2^22.58 < 2^23 = 8388608'
    """

    bits: int = 24
    value_range: float = 1.0
    max_clients: int = 12
    scale: float = field(init=False)
    level: int = field(init=False)  # the largest integer one client can contribute

    def __post_init__(self) -> None:
        if self.bits not in RING_BITS:
            raise ValueError(f"bits must be one of {RING_BITS}, not {self.bits}")
        if not 1e-12 <= self.value_range <= 1e12:
            raise ValueError(f"value_range must lie in 1e-12..1e12, not {self.value_range}")
        if self.max_clients < 1:
            raise ValueError(f"max_clients must be at least 1, not {self.max_clients}")
        limit = 2 ** (self.bits - 1) - 1
        exponent = _coarsest_exponent(self.value_range)
        if self.max_clients * _level(self.value_range, exponent) > limit:
            raise ValueError(
                f"max_clients={self.max_clients} leaves fewer than {MIN_LEVELS} levels each side of zero in a "
                f"{self.bits}-bit ring with value_range={self.value_range}: at most "
                f"{limit // _level(self.value_range, exponent)} clients, or more bits"
            )
        while self.max_clients * _level(self.value_range, exponent + 1) <= limit:
            exponent += 1
        object.__setattr__(self, "scale", math.ldexp(1.0, exponent))
        object.__setattr__(self, "level", _level(self.value_range, exponent))

    def encode(
        self,
        values: NDArray[np.float64],  # float64[D]
        rounding: np.random.Generator | None,
    ) -> Encoded:
        """Clip each coordinate to +-value_range, scale, and round to integers.

        With a generator the rounding is stochastic and unbiased; without one it is to the nearest, ties to
        even. The generator carries no secret: masks never come from it. Raises ValueError on NaN or infinity.
        """
        values = np.asarray(values, np.float64)
        if not np.isfinite(values).all():
            raise ValueError("values must be finite: NaN or infinity in the vector to encode")
        clipped = int(np.count_nonzero(np.abs(values) > self.value_range))
        scaled = np.clip(values, -self.value_range, self.value_range) * self.scale
        if rounding is None:
            return Encoded(np.rint(scaled).astype(np.int64), clipped)
        # floor(scaled + u) would round an integer up when the sum is not representable; comparing is exact.
        floor = np.floor(scaled)
        rounds_up = rounding.random(scaled.shape) < scaled - floor
        return Encoded(floor.astype(np.int64) + rounds_up, clipped)

    def decode(
        self,
        total: NDArray[np.int64],  # int64[D]: the sum over clients, centred
    ) -> NDArray[np.float64]:  # float64[D]: the sum of the clients' values
        """The sum of values; dividing by the number of survivors is the caller's."""
        return total.astype(np.float64) / self.scale

    def proof(self) -> str:
        """One line with the numbers that show that the worst sum cannot wrap."""
        worst = self.max_clients * self.level
        power = math.floor(100 * math.log2(worst)) / 100  # rounded down, so that it never reads 2^23.00 < 2^23
        half = 2 ** (self.bits - 1)
        return f"{self.max_clients} clients x {self.level} = {worst} = 2^{power:g} < 2^{self.bits - 1} = {half}"


def _level(value_range: float, exponent: int) -> int:
    return math.ceil(math.ldexp(value_range, exponent))


def _coarsest_exponent(value_range: float) -> int:
    """The smallest power of two as scale that gives at least MIN_LEVELS levels."""
    exponent = math.floor(math.log2(MIN_LEVELS / value_range)) - 1
    while _level(value_range, exponent) < MIN_LEVELS:
        exponent += 1
    return exponent
