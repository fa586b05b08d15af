"""Local Adam: step sizes against torch's scheduler, moments kept or reset, weights of an episode, seeded draws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedpdpo_secure.data.pairs import DataError
from fedpdpo_secure.local.plan import NonFiniteError
from fedpdpo_secure.model.layout import flatten
from fedpdpo_secure.pluralllm.episodes import Bounds, collate, draw_episode
from fedpdpo_secure.pluralllm.holdings import Holdings
from fedpdpo_secure.pluralllm.lora import trainable
from fedpdpo_secure.pluralllm.losses import cross_entropy
from fedpdpo_secure.pluralllm.predictor import Predictor
from fedpdpo_secure.pluralllm.schedule import PUBLISHED_PERIOD, step_size
from fedpdpo_secure.pluralllm.training import AdamPlan, Trained, train_adam
from tests.fed.answered import GROUP, answered
from tests.fed.episodes import small_predictor

PLAN = AdamPlan(
    loss="cross_entropy",
    bounds=Bounds((2, 4), (2, 4)),
    learning_rate=1e-2,
    decay="constant",
    first_step=0,
    steps=4,
    all_steps=8,
    one_size=False,
)
HOLDINGS = answered({index: index / 12 for index in range(13)}, questions=13)


def trained(
    predictor: Predictor,
    plan: AdamPlan,
    rng: np.random.Generator,
    *,
    moments: dict[str, torch.Tensor] | None = None,
    holdings: Holdings = HOLDINGS,
) -> Trained:
    parameters = trainable(predictor)
    return train_adam(predictor, parameters, holdings, (GROUP,), plan, moments=moments or {}, rng=rng)


def test_the_published_step_sizes_are_torchs_cosine_stepped_past_its_end() -> None:
    """CosineAnnealingLR(T_max=100) stepped once a local step, 600 times, as the released code does."""
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=3e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=PUBLISHED_PERIOD)
    seen = []
    for _ in range(600):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    ours = [step_size(3e-4, "published", step=step, steps=600) for step in range(600)]
    assert np.allclose(ours, seen, rtol=0, atol=3e-4 * 1e-6)
    assert ours[100] < 1e-12 and ours[200] == pytest.approx(3e-4)  # it falls and comes back


def test_the_corrected_step_sizes_fall_once_over_the_whole_run() -> None:
    ours = [step_size(1.0, "whole_run", step=step, steps=600) for step in range(601)]
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=600)
    for step in range(600):
        assert ours[step] == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        scheduler.step()
    assert ours[600] == pytest.approx(0.0) and all(np.diff(ours) < 0)
    assert {step_size(0.5, "constant", step=step, steps=600) for step in range(600)} == {0.5}


def test_kept_moments_go_on_as_one_optimiser_and_reset_ones_do_not() -> None:
    whole, cut, reset = (small_predictor(0, layers=1) for _ in range(3))
    trained(whole, replace(PLAN, steps=8), np.random.default_rng(5))
    rng = np.random.default_rng(5)
    first = trained(cut, PLAN, rng)
    trained(cut, replace(PLAN, first_step=4), rng, moments=first.moments)
    assert np.array_equal(flatten(trainable(whole)), flatten(trainable(cut)))
    rng = np.random.default_rng(5)
    trained(reset, PLAN, rng)
    trained(reset, replace(PLAN, first_step=4), rng)
    assert not np.allclose(flatten(trainable(whole)), flatten(trainable(reset)), atol=1e-5)


def test_a_step_is_torchs_adam_on_the_mean_loss_of_the_drawn_episode() -> None:
    """The same by hand: the draw, the loss, one Adam step at the planned size."""
    ours, theirs = small_predictor(1, layers=1), small_predictor(1, layers=1)
    plan = replace(PLAN, steps=1, decay="whole_run", first_step=3)
    found = trained(ours, plan, np.random.default_rng(9))
    episode = draw_episode(GROUP, HOLDINGS.questions(GROUP), plan.bounds, np.random.default_rng(9))
    batch = collate(HOLDINGS.survey, HOLDINGS.embeddings, [episode])
    size = step_size(1e-2, "whole_run", step=3, steps=8)
    optimizer = torch.optim.Adam([value for _, value in trainable(theirs)], lr=size)
    loss = cross_entropy(theirs(batch), batch).mean()
    loss.backward()
    optimizer.step()
    assert np.array_equal(flatten(trainable(ours)), flatten(trainable(theirs)))
    assert found.loss == pytest.approx(float(loss.detach()))
    assert found.points == 2 * (len(episode.context) + len(episode.target))  # two options a question


def test_draws_come_from_the_given_generator_alone() -> None:
    torch.manual_seed(1)
    first, second, other = (small_predictor(0, layers=1) for _ in range(3))
    trained(first, PLAN, np.random.default_rng(3))
    torch.manual_seed(2)
    np.random.seed(4)
    trained(second, PLAN, np.random.default_rng(3))
    trained(other, PLAN, np.random.default_rng(4))
    assert np.array_equal(flatten(trainable(first)), flatten(trainable(second)))
    assert not np.array_equal(flatten(trainable(first)), flatten(trainable(other)))


def test_training_lowers_the_loss_and_a_loss_that_is_not_finite_names_group_and_step() -> None:
    predictor = small_predictor(0, layers=1)
    first = trained(predictor, replace(PLAN, steps=5), np.random.default_rng(0)).loss
    trained(predictor, replace(PLAN, steps=60), np.random.default_rng(1))
    assert trained(predictor, replace(PLAN, steps=5), np.random.default_rng(0)).loss < first
    with torch.no_grad():
        predictor.head[-1].weight.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match=f"group {GROUP}, step 1: loss is not finite"):
        trained(predictor, PLAN, np.random.default_rng(0))


def test_a_group_without_two_questions_cannot_make_an_episode() -> None:
    with pytest.raises(DataError, match="an episode needs at least two"):
        trained(small_predictor(0, layers=1), PLAN, np.random.default_rng(0), holdings=answered({0: 1.0}, questions=3))
