"""Losses of a prediction, float32[B] with one number per episode.

By default each number depends on its own episode alone, so that one episode can be one unit of privacy. An episode
without a context point or without a target has loss 0 and gradient 0, whatever the predictor says about it.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.special import xlogy

from fedpdpo_secure.pluralllm.batch import EpisodeBatch
from fedpdpo_secure.pluralllm.predictor import Prediction, log_shares


class EpisodeLoss(Protocol):
    """A prediction and its batch in, float32[B] out."""

    def __call__(self, prediction: Prediction, batch: EpisodeBatch, /) -> Tensor: ...


def gaussian(prediction: Prediction, batch: EpisodeBatch, *, published_mean: bool = False) -> Tensor:
    """float32[B]: mean over target points of the negative log density of the answer (PluralLLM, as released).

    The normal law has mean m, the softmax of the predicted means within the point's question, and std exp(log_std).
    Not bounded below: a perfect m lets std shrink without end, so its value says nothing about quality between runs.
    With `published_mean` the sum is divided by the largest number of targets in the batch, which is the released mean
    over padded positions. An episode's loss then depends on the others in its batch, so no per-episode claim holds.
    """
    share = log_shares(prediction.mean, batch.question).exp()
    log_std = torch.where(_counted(batch), prediction.log_std, 0.0)  # elsewhere exp() below must not overflow
    squared = (batch.answers - share).square() * (-2 * log_std).exp()
    points = log_std + 0.5 * squared + 0.5 * math.log(2 * math.pi)
    count = batch.target.sum(1)
    return _sum(points, batch) / (count.max() if published_mean else count).clamp(min=1)


def published_gaussian(prediction: Prediction, batch: EpisodeBatch) -> Tensor:
    """float32[B]: `gaussian` with the released mean over padded positions."""
    return gaussian(prediction, batch, published_mean=True)


def cross_entropy(prediction: Prediction, batch: EpisodeBatch) -> Tensor:
    """float32[B]: mean over target questions of -sum over options of answer * log share. Nats, never below 0."""
    points = -batch.answers * log_shares(prediction.mean, batch.question)
    return _sum(points, batch) / _target_questions(batch)


def kl(prediction: Prediction, batch: EpisodeBatch) -> Tensor:
    """float32[B]: mean over target questions of KL(answers || shares); cross-entropy minus a constant, nats.

    At least 0 for answers that sum to 1 within each question, and 0 only where prediction and answers agree.
    """
    points = xlogy(batch.answers, batch.answers) - batch.answers * log_shares(prediction.mean, batch.question)
    return _sum(points, batch) / _target_questions(batch)


def usable(batch: EpisodeBatch) -> Tensor:
    """bool[B]: the episode has at least one context point and at least one target."""
    return batch.context.any(1) & batch.target.any(1)


def _counted(batch: EpisodeBatch) -> Tensor:
    """bool[B, N]: targets of usable episodes."""
    return batch.target & usable(batch)[:, None]


def _sum(points: Tensor, batch: EpisodeBatch) -> Tensor:
    """float32[B]: the sum over counted points, exactly 0 where there is none."""
    return torch.where(_counted(batch), points, 0.0).sum(1)


def _target_questions(batch: EpisodeBatch) -> Tensor:
    """int64[B]: number of target questions, at least 1. Each question counts at its first point."""
    same = batch.question[:, :, None] == batch.question[:, None, :]
    repeated = same.tril(-1).any(-1)
    return (batch.target & ~repeated).sum(1).clamp(min=1)
