"""From pairs to people: closed forms at full batch, published numbers, and never the product of epsilon."""

from __future__ import annotations

import math

import pytest

from privacy.accounting import epsilon
from privacy.bounds import gaussian_epsilon
from privacy.events import Event, FullBatchGaussian, IntegerGaussian, NonPrivate, PoissonGaussian, gaussian_event
from privacy.units import person, replaced

DELTA = 1e-5


@pytest.mark.parametrize("pairs", [1, 2, 7])
def test_at_full_batch_a_person_is_as_many_times_as_far_apart(pairs: int) -> None:
    found = person([FullBatchGaussian(5.0, 4), FullBatchGaussian(3.0, 2)], DELTA, pairs=pairs)
    mu = pairs * math.sqrt(4 / 25 + 2 / 9)
    assert found.accountant == "gaussian"
    assert found.epsilon == pytest.approx(gaussian_epsilon(mu, DELTA), rel=1e-9)
    assert found.pld == pytest.approx(found.epsilon, rel=3e-4)


def test_at_full_batch_a_replaced_pair_is_twice_as_far_apart() -> None:
    found = replaced([FullBatchGaussian(4.0, 9)], DELTA)
    assert found.epsilon == pytest.approx(gaussian_epsilon(1.5, DELTA), rel=1e-9)
    assert found.epsilon == person([FullBatchGaussian(4.0, 9)], DELTA, pairs=2).epsilon


def test_the_published_numbers_of_adding_and_of_replacing() -> None:
    """dp-accounting 0.6.0, PLD, noise 1, rate 0.01, 1000 steps: 1.828 added or removed, 2.843 replaced."""
    run: list[Event] = [PoissonGaussian(1.0, 0.01, 1000)]
    assert epsilon(run, DELTA).epsilon == pytest.approx(1.828, abs=1e-3)
    assert replaced(run, DELTA).epsilon == pytest.approx(2.843, abs=1e-3)
    assert replaced(run, DELTA).accountant == "pld"


def test_one_pair_is_the_ledgers_number() -> None:
    run: list[Event] = [PoissonGaussian(1.1, 0.1, 30)]
    assert person(run, DELTA, pairs=1) == epsilon(run, DELTA)


@pytest.mark.parametrize(("noise", "rate", "steps"), [(2.0, 0.1, 40), (3.0, 0.5, 10), (1.5, 0.01, 500)])
def test_a_person_costs_more_with_each_pair_and_less_than_the_group_lemma(
    noise: float, rate: float, steps: int
) -> None:
    run: list[Event] = [PoissonGaussian(noise, rate, steps)]
    values = [person(run, DELTA, pairs=pairs).epsilon for pairs in (1, 2, 4)]
    assert values[0] < values[1] < values[2]
    # Group privacy of any (e, d)-private mechanism: k pairs have (k e, d (e^(k e) - 1) / (e^e - 1)).
    for pairs, value in ((2, values[1]), (4, values[2])):
        alone = epsilon(run, 1e-9).epsilon
        grown = 1e-9 * math.expm1(pairs * alone) / math.expm1(alone)
        assert grown > DELTA or value < pairs * alone
    assert replaced(run, DELTA).epsilon <= values[1] * (1 + 1e-9) or replaced(run, DELTA).epsilon < 2 * values[0]


def test_every_bound_of_other_neighbors_is_above_the_least() -> None:
    for bound in (
        person([PoissonGaussian(2.0, 0.05, 100)], DELTA, pairs=3),
        replaced([PoissonGaussian(2.0, 0.05, 100)], DELTA),
    ):
        assert bound.pld is not None and bound.rdp is not None
        assert bound.epsilon == bound.pld < bound.rdp


def test_without_a_loss_distribution_a_valid_bound_is_left() -> None:
    """At delta 1e-12 float64 cannot carry the distribution; RDP of the dominating step serves instead."""
    run: list[Event] = [PoissonGaussian(3.0, 0.01, 1000)]
    for bound in (person(run, 1e-12, pairs=2), replaced(run, 1e-12)):
        assert bound.pld is None
        assert math.isfinite(bound.epsilon)
    assert (
        person(run, 1e-12, pairs=2).epsilon > person(run, 1e-11, pairs=2).epsilon > person(run, DELTA, pairs=2).epsilon
    )


def test_a_person_all_of_whose_pairs_are_always_sampled_costs_the_full_batch() -> None:
    sampled = person([gaussian_event(noise_multiplier=6.0, sample_rate=1 - 1e-9, steps=5)], DELTA, pairs=3)
    assert sampled.epsilon == pytest.approx(person([FullBatchGaussian(6.0, 5)], DELTA, pairs=3).epsilon, rel=1e-3)


def test_integer_noise_and_what_is_not_private_convert_too() -> None:
    noise = IntegerGaussian(
        variance=40_009,
        own_variance=40_009,
        colluding_variance=0,
        norm_squared=10_000,
        sample_rate=1.0,
        steps=1,
        distance_log2=-90.0,
        unit="client",
    )
    assert replaced([noise], DELTA).epsilon == pytest.approx(gaussian_epsilon(1.0, DELTA), rel=1e-6)
    assert person([NonPrivate("seeded noise")], DELTA, pairs=2).epsilon == math.inf
    assert person([], DELTA, pairs=2).epsilon == 0.0
    with pytest.raises(ValueError, match="pairs must be"):
        person([noise], DELTA, pairs=0)
