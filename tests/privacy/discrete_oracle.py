"""Independent arithmetic for the tests of `privacy.discrete`: one decimal exponential a point, no recurrence."""

from __future__ import annotations

import math
from decimal import Context, Decimal
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import ndtr

UNIT = 1 << 330  # integer weights of the oracle are in units of 1 / UNIT


def decimal_weight(x: int, variance: Fraction, digits: int = 120) -> Decimal:
    """exp(-x^2 / (2 variance)), each digit right."""
    context = Context(prec=digits, Emin=-(10**9), Emax=10**9)
    exponent = Fraction(-x * x) / (2 * variance)
    return context.exp(context.divide(Decimal(exponent.numerator), Decimal(exponent.denominator)))


def integer_weights(variance: Fraction | int, reach: int, digits: int = 120) -> list[int]:
    """exp(-x^2 / (2 variance)) UNIT, rounded down, for x = -reach .. reach."""
    context = Context(prec=digits, Emin=-(10**9), Emax=10**9)
    half = [
        int(context.multiply(decimal_weight(x, Fraction(variance), digits), Decimal(UNIT))) for x in range(reach + 1)
    ]
    return half[:0:-1] + half


def convolve(narrow: list[int], wide: list[int], scale: int) -> list[int]:
    """Weights of X1 + scale X2, exactly, by one product of two big integers (Kronecker substitution)."""
    field = max(narrow).bit_length() + max(wide).bit_length() + max(len(narrow), len(wide)).bit_length()
    width = (field + 7) // 8
    stretched = [0] * (scale * (len(wide) - 1) + 1)
    stretched[::scale] = wide
    packed = [b"".join(value.to_bytes(width, "little") for value in values) for values in (narrow, stretched)]
    product = int.from_bytes(packed[0], "little") * int.from_bytes(packed[1], "little")
    length = len(narrow) + len(stretched) - 1
    unpacked = product.to_bytes(width * length + 1, "little")
    return [int.from_bytes(unpacked[width * i : width * (i + 1)], "little") for i in range(length)]


def largest_deviation(law: list[int], reference: list[int], within: int) -> Fraction:
    """max over |x| <= within of |P(x) / Q(x) - 1|, both laws centred and normalised."""
    total, other = sum(law), sum(reference)
    here, there = len(law) // 2, len(reference) // 2
    return max(
        abs(Fraction(law[here + x] * other, reference[there + x] * total) - 1) for x in range(-within, within + 1)
    )


def distance(law: list[int], reference: list[int]) -> Fraction:
    """Total variation distance of two centred laws of unnormalised integer weights."""
    reach = max(len(law), len(reference)) // 2
    padded = [
        [0] * (reach - len(values) // 2) + values + [0] * (reach - len(values) // 2) for values in (law, reference)
    ]
    total, other = sum(law), sum(reference)
    gaps = sum(abs(p * other - q * total) for p, q in zip(*padded, strict=True))
    return Fraction(gaps, 2 * total * other)


def log2(value: Fraction) -> float:
    """log2 of a positive fraction that may be below every float."""
    return math.log2(value.numerator) - math.log2(value.denominator)


def cumulative(variance: float, points: NDArray[np.int64]) -> NDArray[np.float64]:
    """P(X <= point) of N_Z(0, variance), float64."""
    std = math.sqrt(variance)
    if std > 200:  # the midpoint rule is then right to 1e-6 relative
        return np.asarray(ndtr((points + 0.5) / std), dtype=np.float64)
    support = np.arange(-math.ceil(40 * std), math.ceil(40 * std) + 1)
    pmf = np.exp(-(support**2) / (2 * variance))
    return np.asarray(np.interp(points, support, np.cumsum(pmf) / pmf.sum()), dtype=np.float64)


def shape_p_value(drawn: NDArray[np.int64], variance: float, bins: int = 200) -> float:
    """Chi-square of the draws against N_Z(0, variance) in about `bins` bins of at least 10 expected draws."""
    std = math.sqrt(variance)
    edges = np.unique(np.floor(std * stats.norm.ppf(np.arange(1, bins) / bins)).astype(np.int64))
    tails = np.unique(np.floor(std * np.array([-4.0, -3.5, -3.0, 3.0, 3.5, 4.0])).astype(np.int64))
    edges = np.union1d(edges, tails)
    expected = np.diff(np.concatenate([[0.0], cumulative(variance, edges), [1.0]])) * len(drawn)
    counts = np.bincount(np.searchsorted(edges, drawn), minlength=len(edges) + 1)
    kept = expected >= 10
    counts, expected = np.append(counts[kept], counts[~kept].sum()), np.append(expected[kept], expected[~kept].sum())
    kept = expected > 0
    return float(stats.chisquare(counts[kept], expected[kept], sum_check=False).pvalue)


def residue_p_value(drawn: NDArray[np.int64], modulus: int) -> float:
    """Chi-square of the draws modulo `modulus` against uniform: right for std well above the modulus."""
    return float(stats.chisquare(np.bincount(drawn % modulus, minlength=modulus)).pvalue)
