"""Attestation accepts Poisson samplers at its level and rejects every other sampler it says it would."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from scipy.stats import binom

from privacy.accounting import epsilon, unamplified
from privacy.attestation import ENOUGH, Attestation, attest, attested_bound
from privacy.dpsgd import PairDPSGD
from privacy.entropy import Entropy
from privacy.errors import PrivacyError
from privacy.events import NonPrivate, PoissonGaussian
from privacy.sample_log import SampleLog

from .builders import Perceptron, data, plan, trainable
from .sampler_builders import (
    Sampler,
    every_batch_twice,
    fixed_size,
    higher_rate,
    logged,
    no_empty_batch,
    ours,
    pinned_row,
    shuffled,
    uneven_rows,
    with_repeats,
    with_replacement,
)

WRONG: list[Sampler] = [
    shuffled, fixed_size, with_replacement, with_repeats, every_batch_twice, pinned_row, uneven_rows, higher_rate,
]  # fmt: skip


def chance(attestation: Attestation, words: str) -> float:
    return next(power.chance for power in attestation.power if words in power.against)


# ---- level


@pytest.mark.parametrize(("size", "rate", "steps"), [(40, 0.2, 12), (12, 0.1, 25), (300, 0.3, 6), (3, 0.5, 9)])
def test_a_poisson_sampler_is_rejected_as_seldom_as_the_level_says(size: int, rate: float, steps: int) -> None:
    rng, level, repeats = np.random.default_rng(1), 0.06, 300
    found = [attest(ours(rng, size, rate, steps), size, rate, level=level) for _ in range(repeats)]
    rejected = sum(one.verdict == "rejected" for one in found)
    assert rejected <= binom.ppf(0.9999, repeats, level)
    for test in range(6):  # each test alone, at a level of its own
        p_values = np.array([one.tests[test].p_value for one in found])
        for alpha in (0.02, 0.1, 0.3):
            assert (p_values <= alpha).sum() <= binom.ppf(0.9999, repeats, alpha), found[0].tests[test].name


def test_the_level_is_used_and_not_merely_kept() -> None:
    rng, repeats = np.random.default_rng(2), 250
    found = [attest(ours(rng, 200, 0.3, 40), 200, 0.3, level=0.3) for _ in range(repeats)]
    rejected = sum(one.verdict == "rejected" for one in found)
    assert rejected >= binom.ppf(0.0001, repeats, 0.12)  # six tests share 0.3, some of them of few outcomes
    for name in ("spread of batch sizes", "spread of rows' inclusions", "rows in a batch and the next"):
        p_values = np.array([test.p_value for one in found for test in one.tests if test.name == name])
        assert (p_values <= 0.2).sum() >= binom.ppf(0.0001, repeats, 0.15), name


# ---- power


@pytest.mark.parametrize("sampler", WRONG, ids=lambda sampler: sampler.__name__)
@pytest.mark.parametrize(("size", "rate", "steps"), [(100, 0.1, 60), (600, 0.05, 60), (60, 0.3, 120)])
def test_wrong_samplers_are_rejected(sampler: Sampler, size: int, rate: float, steps: int) -> None:
    found = attest(sampler(np.random.default_rng(3), size, rate, steps), size, rate)
    assert found.verdict == "rejected", found.lines()
    right = attest(ours(np.random.default_rng(3), size, rate, steps), size, rate)
    assert right.verdict == "consistent", right.lines()


def test_skipped_empty_batches_are_rejected_where_they_should_have_occurred() -> None:
    found = attest(no_empty_batch(np.random.default_rng(4), 10, 0.1, 60), 10, 0.1)
    assert found.verdict == "rejected"
    assert chance(found, "empty batches skipped") == 1.0
    assert next(test for test in found.tests if test.name == "empty batches").p_value < 1e-7
    large = attest(ours(np.random.default_rng(4), 400, 0.1, 60), 400, 0.1)
    assert chance(large, "empty batches skipped") == 0.0
    assert "too few steps or rows to show empty batches skipped" in large.notes


@pytest.mark.parametrize(
    ("sampler", "words", "size", "rate", "steps"),
    [
        (with_replacement, "with replacement", 60, 0.5, 30),
        (with_replacement, "with replacement", 60, 0.5, 55),
        (with_replacement, "with replacement", 200, 0.1, 11),
        (fixed_size, "fixed size", 50, 0.2, 12),
        (fixed_size, "fixed size", 50, 0.2, 6),
        (shuffled, "shuffled", 50, 0.2, 12),
        (pinned_row, "one row in every batch", 50, 0.2, 14),
        (pinned_row, "one row in every batch", 50, 0.2, 8),
        (every_batch_twice, "same batch", 60, 0.2, 12),
        (every_batch_twice, "same batch", 60, 0.2, 30),
        (no_empty_batch, "empty batches", 10, 0.1, 60),
    ],
)
def test_the_stated_power_is_reached(sampler: Sampler, words: str, size: int, rate: float, steps: int) -> None:
    rng, repeats = np.random.default_rng(6), 60
    found = [attest(sampler(rng, size, rate, steps), size, rate) for _ in range(repeats)]
    rejected = sum(one.verdict == "rejected" for one in found)
    stated = chance(found[0], words)
    assert rejected >= binom.ppf(0.001, repeats, max(0.0, stated - 0.1))


def test_a_log_too_short_to_say_says_so() -> None:
    for steps in (0, 1, 5):
        found = attest(ours(np.random.default_rng(7), 100, 0.1, steps), 100, 0.1)
        assert found.verdict == "not enough data"
    assert any(power.common and power.chance < ENOUGH for power in found.power)
    assert any("too few steps or rows to show draws with replacement" in note for note in found.notes)
    for sampler in (shuffled, fixed_size):  # nor would it show these
        assert attest(sampler(np.random.default_rng(7), 100, 0.1, 2), 100, 0.1).verdict == "not enough data"
    assert attest(logged([np.zeros(0)] * 5, 0), 0, 0.1).verdict == "not enough data"


def test_a_row_twice_in_a_batch_is_rejected_at_any_length() -> None:
    found = attest(logged([np.array([3, 3, 7])], 50), 50, 0.1)
    assert found.verdict == "rejected"
    assert "more than once" in found.notes[0]


def test_at_rate_one_every_batch_must_be_whole() -> None:
    whole = logged([np.arange(5)] * 2, 5)
    assert attest(whole, 5, 1.0).verdict == "consistent"
    whole.add(np.arange(4), 5)
    assert attest(whole, 5, 1.0).verdict == "rejected"


def test_a_long_log_is_attested_too() -> None:
    found = attest(ours(np.random.default_rng(8), 20_000, 0.01, 300), 20_000, 0.01)
    assert found.verdict == "consistent", found.lines()
    assert len(found.lines()) > 12


@pytest.mark.parametrize(
    ("size", "rate", "level", "message"),
    [(9, 0.1, 0.01, "size must be the log's, 10"), (10, 0.0, 0.01, "sample_rate"), (10, 0.1, 1e-10, "level")],
)
def test_numbers_out_of_range_are_refused(size: int, rate: float, level: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attest(logged([np.array([1])], 10), size, rate, level=level)


# ---- what follows from it


def test_a_rejected_sampler_loses_its_amplification() -> None:
    events, rng = [PoissonGaussian(noise_multiplier=2.0, sample_rate=0.1, steps=60)], np.random.default_rng(9)
    rejected, consistent = (attest(sampler(rng, 100, 0.1, 60), 100, 0.1) for sampler in (shuffled, ours))
    assert attested_bound(events, 1e-5, rejected) == unamplified(events, 1e-5)
    assert attested_bound(events, 1e-5, consistent) == epsilon(events, 1e-5)
    assert unamplified(events, 1e-5).epsilon > 5 * epsilon(events, 1e-5).epsilon


# ---- the log


def test_a_log_counts_what_was_drawn() -> None:
    log = logged([np.array([0, 2]), np.array([], dtype=np.int64), np.array([2, 3]), np.array([2, 0])], 5)
    assert (log.steps, log.size, log.empty_batches, log.repeats) == (4, 5, 1, 0)
    assert log.batch_sizes == [2, 0, 2, 2]
    assert log.inclusions.tolist() == [2, 0, 3, 1, 0]
    assert log.overlaps == [0, 0, 1]
    with pytest.raises(ValueError, match="size must stay 5"):
        log.add(np.array([1]), 6)
    for bad in (-1, 5):
        with pytest.raises(ValueError, match="indices from 0 to 4"):
            log.add(np.array([bad]), 5)
    assert log.steps == 4


def test_a_log_stays_in_its_process_and_shows_no_row() -> None:
    log = logged([np.array([1])], 10)
    for leave in (pickle.dumps, copy.deepcopy, copy.copy):
        with pytest.raises(TypeError, match="stays in the memory"):
            leave(log)
    assert repr(log) == "SampleLog(1 steps)"


def log_of_rounds(seeds: list[int]) -> SampleLog:
    module, log = Perceptron(), SampleLog()
    for seed in seeds:  # a client's rounds, one log
        with PairDPSGD(module, trainable(module), plan(noise=1.0, rate=0.1), Entropy.seeded(seed), log) as private:
            for _ in range(30):
                private.sample(100)
            assert private.log is log
    return log


def test_the_object_that_draws_the_sample_logs_it_and_is_attested() -> None:
    log = log_of_rounds([1, 2, 3])
    assert log.steps == 90
    assert attest(log, 100, 0.1).verdict == "consistent"
    assert attest(log, 100, 0.2).verdict == "rejected"


def test_a_seed_that_repeats_every_round_is_noticed() -> None:
    found = attest(log_of_rounds([1, 1, 1]), 100, 0.1)
    assert found.verdict == "rejected"
    assert next(test for test in found.tests if test.name == "spread of rows' inclusions").p_value < 1e-7


# ---- no amplified event for a sample drawn elsewhere


def test_an_external_sample_takes_no_step_and_makes_no_event() -> None:
    module, (xs, ys) = Perceptron(), data()
    with PairDPSGD(module, trainable(module), plan(noise=1.0, rate=0.5), Entropy.os()) as private:
        external = torch.arange(len(xs))
        with pytest.raises(PrivacyError, match="a step needs a sample of its own"):
            private.step([external], lambda rows: (module(xs[rows]) - ys[rows]) ** 2)
        assert private.event() == PoissonGaussian(noise_multiplier=1.0, sample_rate=0.5, steps=0)
    assert epsilon([private.event()], 1e-5).epsilon == 0.0


@pytest.mark.parametrize("more", [1, -1])
def test_a_step_over_more_or_fewer_pairs_than_were_drawn_is_refused_and_not_counted(more: int) -> None:
    module, (xs, ys) = Perceptron(), data(40)
    with PairDPSGD(module, trainable(module), plan(noise=1.0, rate=0.5), Entropy.seeded(3)) as private:
        drawn = private.sample(len(xs))
        external = torch.arange(len(drawn) + more)
        with pytest.raises(PrivacyError, match=f"the sample has {len(drawn)} pairs"):
            private.step([external], lambda rows: (module(xs[rows]) - ys[rows]) ** 2)
        assert isinstance(private.event(), NonPrivate)  # seeded; and no further step can be taken
        with pytest.raises(PrivacyError, match="none after a failed step"):
            private.step([], lambda rows: rows)


def test_one_sample_pays_for_one_step() -> None:
    module, (xs, ys) = Perceptron(), data(20)
    with PairDPSGD(module, trainable(module), plan(noise=1.0, rate=0.5), Entropy.os()) as private:
        chosen = torch.from_numpy(private.sample(len(xs)))
        private.step([chosen] if len(chosen) else [], lambda rows: (module(xs[rows]) - ys[rows]) ** 2)
        with pytest.raises(PrivacyError, match="a step needs a sample of its own"):
            private.step([chosen], lambda rows: (module(xs[rows]) - ys[rows]) ** 2)
        assert private.event() == PoissonGaussian(noise_multiplier=1.0, sample_rate=0.5, steps=1)
