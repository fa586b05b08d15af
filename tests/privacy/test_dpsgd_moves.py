"""Where one unit replaces a clipped gradient by another: twice the noise for the same charge, and declared rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from privacy.accounting import unit_of
from privacy.dpsgd import PairDPSGD
from privacy.entropy import Entropy
from privacy.errors import LedgerMismatch, PrivacyError
from privacy.events import FullBatchGaussian, PoissonGaussian, event_from_dict, event_to_dict
from privacy.integer_step import PairIntegerStep
from privacy.ledger import Ledger

from .builders import Perceptron, data, flat, plan, trainable
from .test_distributed import Linear, gradients, make_plan
from .test_noise import Wide, p_value_of_scale

CLIP, NOISE, BATCH = 0.7, 1.7, 12.0


def test_the_noise_is_twice_the_clip_norm_times_what_is_charged() -> None:
    steps = replace(plan(clip_norm=CLIP, noise=NOISE, batch=BATCH, lr=1.0), moves=2)
    module = Wide().double()
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    with PairDPSGD(module, trainable(module), steps, Entropy.os()) as private:
        private.sample(0)
        private.step([], module)
        assert private.event() == FullBatchGaussian(noise_multiplier=NOISE, steps=1)
    added = -flat(list(module.parameters())).numpy() * BATCH * CLIP
    assert p_value_of_scale(added, 2 * CLIP * NOISE) > 1e-3
    for wrong in (NOISE * CLIP, 3 * NOISE * CLIP, 2 * NOISE):
        assert p_value_of_scale(added, wrong) < 1e-6


def sum_with_answer(answer: float) -> Tensor:
    torch.manual_seed(3)
    module, (xs, ys) = Perceptron().double(), (part.double() for part in data())
    ys[-1] = answer
    before = flat(list(module.parameters()))
    with PairDPSGD(module, trainable(module), replace(plan(), moves=2), Entropy.seeded(1)) as private:
        private.sample(len(xs))
        private.step([torch.arange(11)], lambda rows: (module(xs[rows]) - ys[rows]) ** 2)
    return (before - flat(list(module.parameters()))) / 0.1 * 10.0 * 0.5


def test_replacing_one_row_moves_the_sum_by_more_than_one_and_at_most_two_clip_norms() -> None:
    moved = float((sum_with_answer(1e4) - sum_with_answer(-1e4)).norm())
    assert 1.9 * 0.5 < moved <= 2 * 0.5 * (1 + 1e-6)


def step_with(rows: int | None, given: int, moves: int) -> None:
    module, (xs, _) = Perceptron(), data()
    with PairDPSGD(module, trainable(module), replace(plan(noise=1.0), moves=moves), Entropy.os()) as private:
        private.sample(7)
        private.step([xs[:given]] if given else [], module, rows=rows)


def test_rows_are_the_declared_number_where_a_unit_is_no_row() -> None:
    step_with(3, 3, moves=2)
    step_with(0, 0, moves=2)
    step_with(None, 7, moves=2)
    for rows, given in ((3, 4), (3, 0), (None, 3), (-1, 0)):
        with pytest.raises(PrivacyError, match=r"rows|given"):
            step_with(rows, given, moves=2)


def test_rows_are_the_sample_where_a_unit_is_a_row() -> None:
    step_with(7, 7, moves=1)
    for rows, given in ((3, 3), (8, 8)):
        with pytest.raises(PrivacyError, match="a sample of 7 pairs"):
            step_with(rows, given, moves=1)


def shared_step(rows: Tensor, moves: int, declared: int | None) -> np.ndarray:
    shares = make_plan(sample_rate=1.0, moves=moves, unit="question" if moves == 2 else "pair", nulls=0)
    model = Linear()
    with PairIntegerStep(model, [("layer.weight", model.layer.weight)], shares, Entropy.seeded(4)) as step:
        step.sample(5)
        found = step.sum([row[None] for row in rows], model, rows=declared)
    return found.vector


def test_shares_are_charged_for_twice_the_norm_of_a_rounded_row() -> None:
    one, two = make_plan(), make_plan(moves=2, unit="question")
    assert two.norm_squared == 4 * one.norm_squared == 4 * two.row_squared
    assert two.event().norm_squared == two.norm_squared
    assert two.event().unit == "question"
    assert two.event().noise_multiplier == pytest.approx(one.event().noise_multiplier / 2)
    rows, other = gradients()[:3], gradients()[:3].clone()
    other[-1] *= -1
    moved = shared_step(rows, 2, 3) - shared_step(other, 2, 3)
    assert two.row_squared < int(moved @ moved) <= two.norm_squared
    with pytest.raises(PrivacyError, match="a sample of 5 pairs"):
        shared_step(rows, 1, 3)
    with pytest.raises(PrivacyError, match="given 3"):
        shared_step(rows, 2, 4)


@pytest.mark.parametrize("moves", [0, 3, 1.5])
def test_a_number_of_moves_that_is_neither_one_nor_two_is_refused(moves: object) -> None:
    with pytest.raises(ValueError, match="moves must be 1"):
        replace(plan(), moves=moves)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="moves must be 1"):
        make_plan(moves=moves)


def test_the_event_of_a_sampled_step_says_the_charged_multiplier() -> None:
    assert replace(plan(noise=1.3, rate=0.25), moves=2).event(4) == PoissonGaussian(1.3, 0.25, 4)


def test_real_noise_names_its_unit_and_records_without_one_are_pairs() -> None:
    event = replace(plan(noise=1.3, rate=0.25), moves=2, unit="question").event(4)
    assert event == PoissonGaussian(1.3, 0.25, 4, unit="question")
    assert event_from_dict(event_to_dict(event)) == event
    assert unit_of([event]) == "question"
    with pytest.raises(ValueError, match="different units do not compose: pair, question"):
        unit_of([event, PoissonGaussian(1.3, 0.25, 4)])
    assert "unit" not in event_to_dict(FullBatchGaussian(2.0, 3))  # the text of older records does not change
    assert event_from_dict({"type": "FullBatchGaussian", "noise_multiplier": 2.0, "steps": 3}).unit == "pair"
    with pytest.raises(ValueError, match="unit must be one of"):
        PoissonGaussian(1.3, 0.25, 4, unit="word")  # type: ignore[arg-type]


def test_a_question_ledger_takes_real_and_integer_noise_and_no_pairs(tmp_path: Path) -> None:
    real = PoissonGaussian(9.0, 0.25, 4, unit="question")
    whole = make_plan(moves=2, unit="question", levels=64, total_variance=10**9).event()
    with Ledger.open(
        tmp_path / "a.jsonl", budget_epsilon=9.0, delta=1e-5, data_id="d", client="a", unit="question"
    ) as ledger:
        ledger.reserve(real, "run", 1)
        ledger.reserve(whole, "run", 2)
        with pytest.raises(LedgerMismatch, match="one question"):
            ledger.reserve(PoissonGaussian(9.0, 0.25, 4), "run", 3)
