"""Events: what one client's data went through, described so fully that an accountant needs nothing else.

Meanings never change and unknown events are refused, never guessed. In every event neighbouring data sets differ by
adding or removing one unit, and the number is per client. The unit is one preference pair unless an event names
another; events of different units are never composed. Events of one client compose adaptively:
what is chosen later may depend on what was released before, but noise multiplier, sample rate and steps must not depend
on private data or on noisy outputs (PLD bounds are for fixed parameters; `privacy.planned` checks it).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal, TypeAlias

Unit: TypeAlias = Literal["pair", "client", "question"]
UNITS: tuple[Unit, ...] = ("pair", "client", "question")
# A discrete Gaussian of variance V is a rounded Gaussian of variance V - 9 (see IntegerGaussian).
ROUNDING_VARIANCE = 9  # rounding with N_Z(g, 9) needs so much: then 2 exp(-2 pi^2 9) = 2^-255.3
LEAST_SHARE = 16  # variance: standard deviation 4: sums of narrower shares are not discrete Gaussian to within 2^-200
LARGEST_DISTANCE_LOG2 = -40.0


@dataclass(frozen=True, slots=True)
class PoissonGaussian:
    """`steps` releases of a Poisson-sampled, clipped, noised sum of per-pair gradients (DP-SGD; Abadi et al., CCS
    2016).

    In each step every pair enters independently with probability `sample_rate`, the coins are secret, each pair in
    the sample adds a vector of L2 norm at most `clip_norm`, and N(0, (noise_multiplier * clip_norm)^2) is added to
    each coordinate of the SUM. The sensitivity is clip_norm, so only the ratio `noise_multiplier` matters. `steps`
    counts noised releases, empty samples included. sample_rate is strictly below 1; the full batch is
    `FullBatchGaussian`.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int
    unit: Unit = "pair"

    def __post_init__(self) -> None:
        _check_noise_and_steps(self.noise_multiplier, self.steps)
        _check_unit(self.unit)
        if not 0.0 < self.sample_rate < 1.0:
            raise ValueError(f"sample_rate must be in (0, 1), got {self.sample_rate}")


@dataclass(frozen=True, slots=True)
class FullBatchGaussian:
    """`steps` releases of a clipped, noised sum over all pairs: `PoissonGaussian` without the sampling."""

    noise_multiplier: float
    steps: int
    unit: Unit = "pair"

    def __post_init__(self) -> None:
        _check_noise_and_steps(self.noise_multiplier, self.steps)
        _check_unit(self.unit)


@dataclass(frozen=True, slots=True)
class IntegerGaussian:
    """`steps` releases of a Poisson-sampled sum of integer vectors to which clients added shares of discrete Gaussian
    noise.

    In each step every unit enters independently with probability `sample_rate` (1: always) and adds an integer vector
    whose squared L2 norm, checked in integers, is at most `norm_squared`. Three variances per coordinate, integers:
    - `variance` is what the claim counts: the shares of the least admitted number of survivors, this client among
      them, less those of the assumed colluders;
    - `colluding_variance` is the colluders' shares: in the sum, but known to them. 0 if none are assumed;
    - `own_variance` is this client's share alone, all that protects it if aggregation fails. It equals `variance`
      where a client adds all the noise itself.

    Accounted as a Gaussian of variance `variance` - 9: rounding that Gaussian at random with a kernel of variance 9
    gives the discrete Gaussian up to 2^-253 per outcome, and rounding commutes with integer shifts. `distance_log2`
    is log2 of the total statistical distance between all draws of the event, by all clients and in all steps together,
    and the ideal law of the sum; (1 + e^epsilon) times it is charged to delta.
    """

    variance: int
    own_variance: int
    colluding_variance: int
    norm_squared: int
    sample_rate: float
    steps: int
    distance_log2: float
    unit: Unit

    def __post_init__(self) -> None:
        for name, least in (("own_variance", LEAST_SHARE), ("colluding_variance", 0), ("norm_squared", 1)):
            _check_whole(getattr(self, name), name, least)
        _check_whole(self.variance, "variance", self.own_variance)
        _check_whole(self.steps, "steps", 0)
        if 0 < self.colluding_variance < LEAST_SHARE:
            raise ValueError(f"colluding_variance must be 0 or at least {LEAST_SHARE}, got {self.colluding_variance}")
        if not 0.0 < self.sample_rate <= 1.0:
            raise ValueError(f"sample_rate must be in (0, 1], got {self.sample_rate}")
        if not (math.isfinite(self.distance_log2) and self.distance_log2 <= LARGEST_DISTANCE_LOG2):
            raise ValueError(
                f"distance_log2 must be finite and at most {LARGEST_DISTANCE_LOG2:g}, got {self.distance_log2}"
            )
        _check_unit(self.unit)

    @property
    def noise_multiplier(self) -> float:
        """The equivalent Gaussian's standard deviation over the norm bound, rounded down."""
        exact = math.sqrt((self.variance - ROUNDING_VARIANCE) / self.norm_squared)
        return exact * (1.0 - 4e-16)

    @property
    def sum_variance(self) -> int:
        """The noise in the sum against someone who knows no client's share."""
        return self.variance + self.colluding_variance


@dataclass(frozen=True, slots=True)
class NonPrivate:
    """Something left that no noise covers, or noise that can be repeated. Epsilon is infinite from here on."""

    reason: str

    def __post_init__(self) -> None:
        if not isinstance(self.reason, str) or not self.reason:
            raise ValueError("reason must be a non-empty string")


Event: TypeAlias = PoissonGaussian | FullBatchGaussian | IntegerGaussian | NonPrivate
_TYPES: dict[str, type[PoissonGaussian | FullBatchGaussian | IntegerGaussian | NonPrivate]] = {
    "PoissonGaussian": PoissonGaussian,
    "FullBatchGaussian": FullBatchGaussian,
    "IntegerGaussian": IntegerGaussian,
    "NonPrivate": NonPrivate,
}
_REAL = frozenset({"noise_multiplier", "sample_rate", "distance_log2"})


def gaussian_event(*, noise_multiplier: float, sample_rate: float, steps: int, unit: Unit = "pair") -> Event:
    """The event of `steps` DP-SGD steps: full batch at sample rate 1, `NonPrivate` without noise.

    Raises ValueError unless noise_multiplier >= 0, 0 < sample_rate <= 1 and steps >= 0 is a whole number.
    """
    event: Event
    if sample_rate == 1.0:
        event = FullBatchGaussian(noise_multiplier=noise_multiplier, steps=steps, unit=unit)
    else:
        event = PoissonGaussian(noise_multiplier=noise_multiplier, sample_rate=sample_rate, steps=steps, unit=unit)
    return NonPrivate("the noise multiplier is 0") if noise_multiplier == 0.0 else event


def with_known_sample(event: Event) -> Event:
    """The event as it is against someone who knows every sample: nothing is amplified."""
    if isinstance(event, PoissonGaussian):
        return FullBatchGaussian(noise_multiplier=event.noise_multiplier, steps=event.steps, unit=event.unit)
    return replace(event, sample_rate=1.0) if isinstance(event, IntegerGaussian) else event


def event_to_dict(event: Event) -> dict[str, str | int | float]:
    """The event as plain values, with its type under "type". Real noise names its unit where it is not a pair."""
    values = asdict(event)
    if isinstance(event, PoissonGaussian | FullBatchGaussian) and event.unit == "pair":
        del values["unit"]  # as in records that are older than the field
    for name in values.keys() & _REAL:
        values[name] = float(values[name])  # one spelling of every number, so that equal events are equal text
    return {"type": type(event).__name__, **values}


def event_from_dict(values: Mapping[str, object]) -> Event:
    """The event of `event_to_dict`. Raises ValueError naming an unknown type, an unknown field or a missing one."""
    type_name = values.get("type")
    if not isinstance(type_name, str) or type_name not in _TYPES:
        raise ValueError(f"unknown event type {type_name!r}; known: {', '.join(_TYPES)}")
    kind = _TYPES[type_name]
    fields = dict(values)
    del fields["type"]
    known = set(kind.__dataclass_fields__)
    if extra := sorted(set(fields) - known):
        raise ValueError(f"unknown field {extra[0]!r} of event {type_name}")
    optional = {"unit"} if kind in (PoissonGaussian, FullBatchGaussian) else set()
    if missing := sorted(known - optional - set(fields)):
        raise ValueError(f"event {type_name} lacks field {missing[0]!r}")
    for name in known & _REAL:
        fields[name] = _number(fields[name], name)
    return kind(**fields)  # type: ignore[arg-type]


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} must be a number, got {value!r}")
    return float(value)


def _check_noise_and_steps(noise_multiplier: float, steps: int) -> None:
    if not (math.isfinite(noise_multiplier) and noise_multiplier >= 0.0):
        raise ValueError(f"noise_multiplier must be finite and at least 0, got {noise_multiplier}")
    _check_whole(steps, "steps", 0)


def _check_unit(unit: str) -> None:
    if unit not in UNITS:
        raise ValueError(f"unit must be one of {', '.join(UNITS)}, got {unit!r}")


def _check_whole(value: int, name: str, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
