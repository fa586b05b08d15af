"""Weights of the discrete Gaussian N_Z(0, variance), P(x) ~ exp(-x^2 / (2 variance)), as big integers.

No float touches a probability: the one exponential is taken in decimal arithmetic, the rest is integer products. The
cut R is found in integers too, so that two machines build the same table. Source of the tail bound: Canonne, Kamath,
Steinke, "The Discrete Gaussian for Differential Privacy", NeurIPS 2020 (CKS20): E exp(t X) <= exp(t^2 variance / 2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction

FRACTION_BITS = 320  # the weight of 0 is 2^320
TAIL_BITS = 122  # mass beyond R is at most 2^-122: four tables together stay below 2^-119.9
_LN2_ABOVE = Fraction(6931471805599454, 10**16)  # just above ln 2 = 0.69314718055994530...
_DIGITS = 130  # decimal digits of the one exponential: 2^-320 needs 97


@dataclass(frozen=True, slots=True)
class Weights:
    """Unnormalised weights of x = -reach .. reach and their distance from the untruncated law."""

    values: tuple[int, ...]  # 2 reach + 1 integers, symmetric, values[reach] = 2^FRACTION_BITS
    reach: int
    distance: float  # total variation: mass cut off, plus the rounding of the products


def tail_reach(variance: Fraction, tail_bits: int = TAIL_BITS) -> int:
    """Least R with 2 exp(-(R + 1)^2 / (2 variance)) <= 2^-tail_bits (CKS20: N_Z is sub-Gaussian with its variance)."""
    least_square = 2 * variance * (tail_bits + 1) * _LN2_ABOVE  # (R + 1)^2 must be at least this
    return math.isqrt(math.ceil(least_square) - 1)


def gaussian_weights(variance: Fraction) -> Weights:
    """w[x] = exp(-x^2 / (2 variance)) 2^320 for |x| <= R, each at most 2 (R + 1)^2 too small and never too large.

    w[x + 1] / w[x] = g^(2x + 1) with g = exp(-1 / (2 variance)): two products a step. The ratio of step x is at most
    4 x + 1 units too small, a weight at most the sum of these. Raises ValueError unless variance > 0.
    """
    if variance <= 0:
        raise ValueError(f"variance must be positive, got {variance}")
    reach = tail_reach(variance)
    context = Context(prec=_DIGITS)
    exponent = context.divide(Decimal(-variance.denominator), Decimal(2 * variance.numerator))
    ratio = int(context.multiply(context.exp(exponent), Decimal(1 << FRACTION_BITS)))
    ratio_step = (ratio * ratio) >> FRACTION_BITS
    half = [1 << FRACTION_BITS]
    for _ in range(reach):
        half.append((half[-1] * ratio) >> FRACTION_BITS)
        ratio = (ratio * ratio_step) >> FRACTION_BITS
    computing = (2 * reach + 1) * 2 * (reach + 1) ** 2 * 2.0**-FRACTION_BITS
    return Weights(values=(*half[:0:-1], *half), reach=reach, distance=2.0**-TAIL_BITS + computing)
