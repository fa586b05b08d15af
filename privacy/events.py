"""Events: what one client's data went through, described so fully that an accountant needs nothing else.

Meanings never change and unknown events are refused, never guessed. In every event the unit of privacy is one
preference pair, neighbouring data sets differ by adding or removing one pair, and the number is per client. Events of
one client compose adaptively: what is chosen later may depend on what was released before, but noise multiplier,
sample rate and steps must not depend on private data or on noisy outputs (dp-accounting's PLD bound is for fixed
parameters).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TypeAlias


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

    def __post_init__(self) -> None:
        _check_noise_and_steps(self.noise_multiplier, self.steps)
        if not 0.0 < self.sample_rate < 1.0:
            raise ValueError(f"sample_rate must be in (0, 1), got {self.sample_rate}")


@dataclass(frozen=True, slots=True)
class FullBatchGaussian:
    """`steps` releases of a clipped, noised sum over all pairs: `PoissonGaussian` without the sampling."""

    noise_multiplier: float
    steps: int

    def __post_init__(self) -> None:
        _check_noise_and_steps(self.noise_multiplier, self.steps)


@dataclass(frozen=True, slots=True)
class NonPrivate:
    """Something left that no noise covers, or noise that can be repeated. Epsilon is infinite from here on."""

    reason: str

    def __post_init__(self) -> None:
        if not isinstance(self.reason, str) or not self.reason:
            raise ValueError("reason must be a non-empty string")


Event: TypeAlias = PoissonGaussian | FullBatchGaussian | NonPrivate
_TYPES: dict[str, type[PoissonGaussian] | type[FullBatchGaussian] | type[NonPrivate]] = {
    "PoissonGaussian": PoissonGaussian,
    "FullBatchGaussian": FullBatchGaussian,
    "NonPrivate": NonPrivate,
}


def gaussian_event(*, noise_multiplier: float, sample_rate: float, steps: int) -> Event:
    """The event of `steps` DP-SGD steps: full batch at sample rate 1, `NonPrivate` without noise.

    Raises ValueError unless noise_multiplier >= 0, 0 < sample_rate <= 1 and steps >= 0 is a whole number.
    """
    event: Event
    if sample_rate == 1.0:
        event = FullBatchGaussian(noise_multiplier=noise_multiplier, steps=steps)
    else:
        event = PoissonGaussian(noise_multiplier=noise_multiplier, sample_rate=sample_rate, steps=steps)
    return NonPrivate("the noise multiplier is 0") if noise_multiplier == 0.0 else event


def event_to_dict(event: Event) -> dict[str, str | int | float]:
    """The event as plain values, with its type under "type"."""
    values = asdict(event)
    for name in values.keys() & {"noise_multiplier", "sample_rate"}:
        values[name] = float(values[name])  # one spelling of every number, so that equal events are equal text
    return {"type": type(event).__name__, **values}


def event_from_dict(values: Mapping[str, object]) -> Event:
    """The event of `event_to_dict`. Raises ValueError naming an unknown type, an unknown field or a missing one."""
    name = values.get("type")
    if not isinstance(name, str) or name not in _TYPES:
        raise ValueError(f"unknown event type {name!r}; known: {', '.join(_TYPES)}")
    kind = _TYPES[name]
    fields = dict(values)
    del fields["type"]
    known = set(kind.__dataclass_fields__)
    if extra := sorted(set(fields) - known):
        raise ValueError(f"unknown field {extra[0]!r} of event {name}")
    if missing := sorted(known - set(fields)):
        raise ValueError(f"event {name} lacks field {missing[0]!r}")
    if kind is NonPrivate:
        return NonPrivate(reason=fields["reason"])  # type: ignore[arg-type]
    noise, steps = _number(fields["noise_multiplier"], "noise_multiplier"), fields["steps"]
    if kind is FullBatchGaussian:
        return FullBatchGaussian(noise_multiplier=noise, steps=steps)  # type: ignore[arg-type]
    rate = _number(fields["sample_rate"], "sample_rate")
    return PoissonGaussian(noise_multiplier=noise, sample_rate=rate, steps=steps)  # type: ignore[arg-type]


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} must be a number, got {value!r}")
    return float(value)


def _check_noise_and_steps(noise_multiplier: float, steps: int) -> None:
    if not (math.isfinite(noise_multiplier) and noise_multiplier >= 0.0):
        raise ValueError(f"noise_multiplier must be finite and at least 0, got {noise_multiplier}")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise ValueError(f"steps must be a whole number of at least 0, got {steps!r}")
