"""Each loss against its formula written out, its laws, and that an episode's loss is its own."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import entropy, norm
from torch import Tensor

from fedpdpo_secure.pluralllm.losses import (
    EpisodeLoss,
    cross_entropy,
    gaussian,
    kl,
    published_gaussian,
    usable,
)
from fedpdpo_secure.pluralllm.predictor import Prediction, predict
from tests.fed.episodes import MIXED, changed, episodes, reordered, rows

SEPARABLE = (gaussian, cross_entropy, kl)
UNUSABLE = ((("target", 3),), (("context", 3),))


def random_prediction(shape: torch.Size, *, scale: float = 1.0) -> Prediction:
    generator = torch.Generator().manual_seed(6)
    mean, log_std = (torch.randn(shape, generator=generator) * scale for _ in range(2))
    return Prediction(mean.requires_grad_(), log_std.requires_grad_())


def target_questions(batch, row: int) -> list[Tensor]:
    """Point indices of each target question of a row."""
    numbers = batch.question[row][batch.target[row]].unique().tolist()
    return [(batch.question[row] == number).nonzero().flatten() for number in numbers]


def test_the_gaussian_loss_is_the_mean_log_density_with_means_softmaxed_by_question() -> None:
    batch = episodes(MIXED, padding=2)
    prediction = random_prediction(batch.answers.shape)
    found = gaussian(prediction, batch).detach()
    for row in range(len(batch)):
        densities = []
        for points in target_questions(batch, row):
            shares = prediction.mean[row, points].detach().double().softmax(0).numpy()
            stds = prediction.log_std[row, points].detach().double().exp().numpy()
            densities.extend(norm.logpdf(batch.answers[row, points].double().numpy(), shares, stds))
        assert float(found[row]) == pytest.approx(-sum(densities) / len(densities), rel=1e-5)


def test_the_published_mean_divides_by_the_padded_number_of_targets() -> None:
    batch = episodes(MIXED, padding=2)  # 7, 4 and 6 target points
    prediction = random_prediction(batch.answers.shape)
    counts = batch.target.sum(1)
    expected = gaussian(prediction, batch) * counts / counts.max()
    torch.testing.assert_close(published_gaussian(prediction, batch), expected)
    one = rows(batch, slice(1, 2))
    single = Prediction(prediction.mean[1:2], prediction.log_std[1:2])
    torch.testing.assert_close(published_gaussian(single, one), gaussian(single, one))


def test_kl_is_scipys_relative_entropy_and_cross_entropy_exceeds_it_by_the_entropy() -> None:
    batch = episodes(MIXED)
    sharp = torch.where(batch.answers > 0.5, 1.0, 0.0)  # with answers of exactly 0
    for answers in (batch.answers, torch.where(sharp.sum(1, keepdim=True) > 3, sharp, batch.answers)):
        given = changed(batch, answers=answers)
        prediction = random_prediction(batch.answers.shape, scale=2.0)
        divergences, entropies = (loss(prediction, given).detach() for loss in (kl, cross_entropy))
        shares = predict(prediction.mean.detach(), given).double()
        for row in range(len(batch)):
            questions = target_questions(given, row)
            pairs = [(given.answers[row, q].double().numpy(), shares[row, q].numpy()) for q in questions]
            if all(answer.sum() > 0.99 for answer, _ in pairs):
                expected = sum(entropy(answer, share) for answer, share in pairs) / len(pairs)
                own = sum(entropy(answer) for answer, _ in pairs) / len(pairs)
                assert float(divergences[row]) == pytest.approx(expected, abs=1e-5)
                assert float(entropies[row] - divergences[row]) == pytest.approx(own, abs=1e-5)


def test_answers_of_exactly_zero_and_one_have_finite_losses_and_gradients() -> None:
    batch = episodes([(("context", 2), ("target", 3))])
    certain = changed(batch, answers=torch.tensor([[0.5, 0.5, 0.0, 1.0, 0.0]]))
    for loss in SEPARABLE:
        prediction = random_prediction(batch.answers.shape)
        value = loss(prediction, certain).sum()
        value.backward()
        assert torch.isfinite(value) and torch.isfinite(prediction.mean.grad).all()


def test_kl_is_zero_at_the_answers_and_positive_elsewhere() -> None:
    batch = episodes(MIXED)
    perfect = Prediction(batch.answers.clamp(min=1e-30).log(), torch.zeros_like(batch.answers))
    assert kl(perfect, batch).abs().max() < 1e-6
    assert kl(random_prediction(batch.answers.shape), batch).min() > 1e-3


def test_the_gaussian_loss_goes_below_any_bound_and_the_cross_entropy_does_not() -> None:
    batch = episodes(MIXED)
    mean = batch.answers.clamp(min=1e-30).log()
    sure = Prediction(mean, torch.full_like(mean, -12.0))
    assert gaussian(sure, batch).max() < -5
    assert cross_entropy(sure, batch).min() >= 0


@pytest.mark.parametrize("loss", [*SEPARABLE, published_gaussian])
def test_a_shift_of_all_means_of_a_question_changes_nothing(loss: EpisodeLoss) -> None:
    batch = episodes(MIXED)
    prediction = random_prediction(batch.answers.shape)
    shifted = Prediction(prediction.mean + 3.0 * batch.question, prediction.log_std)
    torch.testing.assert_close(loss(shifted, batch), loss(prediction, batch), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("loss", SEPARABLE)
def test_an_episodes_loss_depends_on_no_other_row_order_or_padding(loss: EpisodeLoss) -> None:
    batch = episodes([*MIXED, *UNUSABLE], padding=3)
    prediction = random_prediction(batch.answers.shape)
    together = loss(prediction, batch)
    for row in range(len(batch)):
        present = batch.question[row] >= 0
        order = present.nonzero().flatten().flip(0)
        one = reordered(rows(batch, slice(row, row + 1)), order)
        alone = Prediction(prediction.mean[row : row + 1, order], prediction.log_std[row : row + 1, order])
        torch.testing.assert_close(loss(alone, one)[0], together[row], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("loss", [*SEPARABLE, published_gaussian])
def test_an_episode_without_context_or_target_has_loss_and_gradient_exactly_zero(loss: EpisodeLoss) -> None:
    batch = episodes([*UNUSABLE, MIXED[0]])
    prediction = random_prediction(batch.answers.shape)
    with torch.no_grad():
        prediction.log_std[:2] = -200.0  # exp(400) is infinite in float32; it must not become 0 * inf
    found = loss(prediction, batch)
    found.sum().backward()
    assert usable(batch).tolist() == [False, False, True]
    assert found[:2].tolist() == [0.0, 0.0] and math.isfinite(float(found[2].detach()))
    for value in (prediction.mean, prediction.log_std):
        gradient = torch.zeros_like(value) if value.grad is None else value.grad
        assert not gradient[:2].any() and torch.isfinite(gradient).all()
    assert prediction.mean.grad[2].any()


@pytest.mark.parametrize("loss", [*SEPARABLE, published_gaussian])
def test_only_target_points_have_a_gradient(loss: EpisodeLoss) -> None:
    batch = episodes(MIXED, padding=2)
    prediction = random_prediction(batch.answers.shape)
    loss(prediction, batch).sum().backward()
    assert not prediction.mean.grad[~batch.target].any()
    assert (prediction.mean.grad[batch.target] != 0).all()
