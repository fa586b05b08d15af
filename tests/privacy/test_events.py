"""Events mean one thing, survive the trip through a dictionary, and refuse what they do not know."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from privacy.events import (
    Event,
    FullBatchGaussian,
    IntegerGaussian,
    NonPrivate,
    PoissonGaussian,
    event_from_dict,
    event_to_dict,
    gaussian_event,
)

INTEGER = IntegerGaussian(
    variance=10_009,
    own_variance=1_000,
    colluding_variance=2_000,
    norm_squared=2_500,
    sample_rate=0.5,
    steps=4,
    distance_log2=-80.0,
    unit="question",
)
EVENTS: list[Event] = [PoissonGaussian(1.5, 0.25, 7), FullBatchGaussian(2.0, 3), INTEGER, NonPrivate("seeded noise")]


@pytest.mark.parametrize("event", EVENTS)
def test_an_event_comes_back_from_its_dictionary(event: Event) -> None:
    assert event_from_dict(event_to_dict(event)) == event
    assert event_from_dict(json.loads(json.dumps(event_to_dict(event), allow_nan=False))) == event


def test_equal_events_have_one_spelling() -> None:
    assert event_to_dict(PoissonGaussian(2, 0.5, 3)) == {
        "type": "PoissonGaussian",
        "noise_multiplier": 2.0,
        "sample_rate": 0.5,
        "steps": 3,
    }
    assert repr(event_to_dict(FullBatchGaussian(2, 3))["noise_multiplier"]) == "2.0"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"type": "Laplace", "steps": 1}, "unknown event type 'Laplace'"),
        ({"steps": 1}, "unknown event type None"),
        ({"type": "NonPrivate", "reason": "x", "epsilon": 1}, "unknown field 'epsilon' of event NonPrivate"),
        ({"type": "PoissonGaussian", "noise_multiplier": 1.0, "steps": 1}, "lacks field 'sample_rate'"),
        ({"type": "FullBatchGaussian", "noise_multiplier": "1", "steps": 1}, "noise_multiplier must be a number"),
        ({"type": "FullBatchGaussian", "noise_multiplier": 1.0, "steps": 1.5}, "steps must be a whole number"),
        ({"type": "FullBatchGaussian", "noise_multiplier": 1.0, "steps": True}, "steps must be a whole number"),
        ({"type": "NonPrivate", "reason": 3}, "reason must be"),
    ],
)
def test_what_is_not_known_is_refused_by_name(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        event_from_dict(values)


@pytest.mark.parametrize(("noise", "rate"), [(-1.0, 0.5), (math.nan, 0.5), (math.inf, 0.5), (1.0, 0.0), (1.0, 1.0)])
def test_numbers_without_a_meaning_are_refused(noise: float, rate: float) -> None:
    with pytest.raises(ValueError, match=r"must be"):
        PoissonGaussian(noise_multiplier=noise, sample_rate=rate, steps=1)


def test_the_factory_knows_full_batches_and_missing_noise() -> None:
    assert gaussian_event(noise_multiplier=2.0, sample_rate=1.0, steps=3) == FullBatchGaussian(2.0, 3)
    assert gaussian_event(noise_multiplier=2.0, sample_rate=0.5, steps=3) == PoissonGaussian(2.0, 0.5, 3)
    assert isinstance(gaussian_event(noise_multiplier=0.0, sample_rate=0.5, steps=3), NonPrivate)
    with pytest.raises(ValueError, match="sample_rate"):
        gaussian_event(noise_multiplier=0.0, sample_rate=1.5, steps=3)


def test_an_integer_event_is_a_gaussian_of_nine_less() -> None:
    assert INTEGER.noise_multiplier == pytest.approx(2.0, rel=1e-15)
    assert INTEGER.noise_multiplier <= 2.0
    assert INTEGER.sum_variance == 12_009
    assert event_to_dict(replace(INTEGER, sample_rate=1, distance_log2=-80)) == {
        "type": "IntegerGaussian",
        "variance": 10_009,
        "own_variance": 1_000,
        "colluding_variance": 2_000,
        "norm_squared": 2_500,
        "sample_rate": 1.0,
        "steps": 4,
        "distance_log2": -80.0,
        "unit": "question",
    }


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("own_variance", 15, "own_variance must be a whole number of at least 16"),
        ("variance", 999, "variance must be a whole number of at least 1000"),
        ("variance", 10_009.0, "variance must be a whole number"),
        ("colluding_variance", 15, "colluding_variance must be 0 or at least 16"),
        ("colluding_variance", -1, "colluding_variance must be"),
        ("norm_squared", 0, "norm_squared must be"),
        ("norm_squared", True, "norm_squared must be"),
        ("sample_rate", 0.0, "sample_rate must be"),
        ("sample_rate", math.nan, "sample_rate must be"),
        ("steps", -1, "steps must be"),
        ("distance_log2", -39.9, "distance_log2 must be"),
        ("distance_log2", -math.inf, "distance_log2 must be"),
        ("unit", "person", "unit must be one of pair, client, question"),
    ],
)
def test_integer_events_without_a_meaning_are_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(INTEGER, **{field: value})
    with pytest.raises(ValueError, match=message):
        event_from_dict({**event_to_dict(INTEGER), field: value})
