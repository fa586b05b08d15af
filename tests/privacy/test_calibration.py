"""The noise found is the least that keeps the promise, and never less."""

from __future__ import annotations

import math

import pytest

from privacy import calibration
from privacy.accounting import epsilon
from privacy.calibration import integer_variance, noise_multiplier
from privacy.events import IntegerGaussian, gaussian_event


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


def spent_on_integers(
    variance: int, *, norm_squared: int, distance_log2: float, delta: float, rate: float, steps: int
) -> float:
    event = IntegerGaussian(
        variance=variance,
        own_variance=16,
        colluding_variance=0,
        norm_squared=norm_squared,
        sample_rate=rate,
        steps=steps,
        distance_log2=distance_log2,
        unit="pair",
    )
    return epsilon([event], delta).epsilon


@pytest.mark.parametrize(
    ("target", "rate", "steps", "norm_squared", "distance_log2"),
    [(8.0, 0.5, 20, 2**32, -80.0), (1.0, 1.0, 5, 10_000, -80.0), (2.0, 0.02, 300, 50, -41.0), (14.0, 1.0, 1, 9, -41.0)],
)
def test_the_least_integer_variance_keeps_the_target(
    target: float, rate: float, steps: int, norm_squared: int, distance_log2: float
) -> None:
    found = integer_variance(
        epsilon=target,
        delta=1e-5,
        sample_rate=rate,
        steps=steps,
        norm_squared=norm_squared,
        distance_log2=distance_log2,
    )
    rest = {"norm_squared": norm_squared, "distance_log2": distance_log2, "delta": 1e-5, "rate": rate, "steps": steps}
    assert spent_on_integers(found, **rest) <= target
    less = min(found - 1, math.floor(found / 1.0011))
    assert less < 16 or spent_on_integers(less, **rest) > target
    ideal = noise_multiplier(epsilon=target, delta=1e-5, sample_rate=rate, steps=steps)
    assert found > 0.995 * ideal**2 * norm_squared


def test_no_variance_is_below_that_of_a_share_of_standard_deviation_four() -> None:
    assert (
        integer_variance(epsilon=50.0, delta=1e-5, sample_rate=0.1, steps=1, norm_squared=1, distance_log2=-90.0) == 16
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": math.inf}, "epsilon must be finite"),
        ({"epsilon": -1.0}, "epsilon must be above 0"),
        ({"norm_squared": 0}, "norm_squared must be"),
        ({"distance_log2": -30.0}, "distance_log2 must be"),
        ({"epsilon": 20.0, "distance_log2": -40.0}, "distance_log2 must be less than delta"),
    ],
)
def test_integer_targets_that_cannot_be_met_are_refused(change: dict[str, float], message: str) -> None:
    asked = {
        "epsilon": 1.0,
        "delta": 1e-5,
        "sample_rate": 0.5,
        "steps": 3,
        "norm_squared": 10**6,
        "distance_log2": -80.0,
    }
    with pytest.raises(ValueError, match=message):
        integer_variance(**{**asked, **change})  # type: ignore[arg-type]
