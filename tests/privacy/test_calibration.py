"""The noise found is the least that keeps the promise, and never less."""

from __future__ import annotations

import math

import pytest

from privacy import calibration
from privacy.accounting import epsilon
from privacy.calibration import noise_multiplier
from privacy.events import gaussian_event


def spent(noise: float, rate: float, steps: int, delta: float) -> float:
    return epsilon([gaussian_event(noise_multiplier=noise, sample_rate=rate, steps=steps)], delta).epsilon


GRID = [
    (0.01, 1e-5, 0.001, 100),
    (3.0, 1e-7, 1.0, 7),
]
WIDE_GRID = [
    (target, delta, rate, steps)
    for target in (0.1, 1.0, 8.0, 30.0, 700.0)
    for delta in (1e-4, 1e-7)
    for rate, steps in ((0.01, 300), (0.3, 25))
]


@pytest.mark.parametrize(
    ("target", "delta", "rate", "steps"), [*GRID, *(pytest.param(*one, marks=pytest.mark.slow) for one in WIDE_GRID)]
)
def test_the_target_is_never_exceeded_and_a_thousandth_less_noise_would(
    target: float, delta: float, rate: float, steps: int
) -> None:
    noise = noise_multiplier(epsilon=target, delta=delta, sample_rate=rate, steps=steps)
    assert spent(noise, rate, steps, delta) <= target
    assert spent(noise / 1.0011, rate, steps, delta) > target


# Noise multipliers for epsilon 8 at delta 1e-5, computed by bisection on dp-accounting's PLD outside this project.
@pytest.mark.parametrize(("rate", "steps", "noise"), [(0.5, 20, 1.556), (0.2, 40, 1.078), (1.0, 10, 1.900)])
def test_known_noise_multipliers_at_epsilon_8(rate: float, steps: int, noise: float) -> None:
    assert noise_multiplier(epsilon=8.0, delta=1e-5, sample_rate=rate, steps=steps) == pytest.approx(noise, rel=0.01)


def test_full_batch_noise_has_a_closed_form_in_the_steps() -> None:
    one = noise_multiplier(epsilon=2.0, delta=1e-5, sample_rate=1.0, steps=1)
    hundred = noise_multiplier(epsilon=2.0, delta=1e-5, sample_rate=1.0, steps=100)
    assert hundred == pytest.approx(10 * one, rel=1.1e-3)


@pytest.mark.parametrize("error", [0.98, 1.02])
def test_a_poor_first_guess_changes_nothing(error: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search that certifies the answer stands on its own; the guess only saves time."""
    monkeypatch.setattr(calibration, "_root", lambda estimate, target: error * 2.689)
    noise = noise_multiplier(epsilon=8.0, delta=1e-5, sample_rate=1.0, steps=20)
    assert spent(noise, 1.0, 20, 1e-5) <= 8.0 < spent(noise / 1.0011, 1.0, 20, 1e-5)


def test_an_infinite_budget_needs_no_noise() -> None:
    assert noise_multiplier(epsilon=math.inf, delta=1e-5, sample_rate=0.5, steps=3) == 0.0


@pytest.mark.parametrize(
    ("epsilon", "delta", "rate", "steps", "message"),
    [
        (0.0, 1e-5, 0.5, 1, "epsilon must be above 0"),
        (-1.0, 1e-5, 0.5, 1, "epsilon must be above 0"),
        (math.nan, 1e-5, 0.5, 1, "epsilon must be above 0"),
        (1.0, 0.0, 0.5, 1, "delta must be in"),
        (1.0, 1e-5, 0.0, 1, "sample_rate must be in"),
        (1.0, 1e-5, 1.5, 1, "sample_rate must be in"),
        (1.0, 1e-5, 0.5, 0, "steps must be"),
        (1e-9, 1e-12, 1.0, 10**6, "no noise multiplier up to"),
    ],
)
def test_what_cannot_be_met_is_refused(epsilon: float, delta: float, rate: float, steps: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        noise_multiplier(epsilon=epsilon, delta=delta, sample_rate=rate, steps=steps)
