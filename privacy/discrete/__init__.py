"""Integer noise for secure aggregation: discrete Gaussian shares, rounding with a checked norm, what they are charged.

A client's part in distributed noise: round every privacy unit to integers of bounded norm (`rounding`), add them, add
one share of N_Z(0, variance) noise (`gaussian`, `shares`), reduce modulo the ring. The sum over the honest survivors
is then f + N_Z(0, V), and by the theorem in `charge` (proof: docs/integer-noise.md) every result on the Gaussian
mechanism holds for it with variance V - 9: rounding N(g, V - 9) at random with weights exp(-(x - g)^2 / 18) gives
N_Z(g, V) for integer g, up to a factor 1 +- 2^-253 on every probability, because sum_x exp(-(x - g)^2 / 18) is the same
for all g up to 1 +- 2^-255.3 (Poisson summation). The noise multiplier is sqrt(V - 9) / L, L the integer norm bound of
one unit; the sampler's statistical distance goes to delta.

Needs neither torch nor numpy generators. Knows integers and keystreams; it knows neither federations nor masking.
"""

from __future__ import annotations

from privacy.discrete.charge import (
    delta_with_distance,
    distance_log2,
    least_total_variance,
    noise_multiplier_of,
)
from privacy.discrete.gaussian import DiscreteGaussian
from privacy.discrete.rounding import NormRefused, norm_bound_squared, round_unit, sum_of_rounded_units
from privacy.discrete.shares import fits_ring, never_wraps, share_variance, variance_present
from privacy.events import ROUNDING_VARIANCE

__all__ = [
    "ROUNDING_VARIANCE",
    "DiscreteGaussian",
    "NormRefused",
    "delta_with_distance",
    "distance_log2",
    "fits_ring",
    "least_total_variance",
    "never_wraps",
    "noise_multiplier_of",
    "norm_bound_squared",
    "round_unit",
    "share_variance",
    "sum_of_rounded_units",
    "variance_present",
]
