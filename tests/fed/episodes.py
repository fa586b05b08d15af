"""Small random episodes for tests of the preference predictor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np
import torch
from torch import Tensor

from fedpdpo_secure.pluralllm.batch import EpisodeBatch
from fedpdpo_secure.pluralllm.predictor import Predictor, PredictorShape, make_predictor

WIDTH = 12
Question = tuple[str, int]  # "context" or "target", number of options

MIXED: tuple[tuple[Question, ...], ...] = (
    (("context", 3), ("target", 2), ("context", 4), ("target", 5)),
    (("target", 4), ("context", 2)),
    (("context", 2), ("context", 2), ("context", 3), ("target", 2), ("target", 2), ("target", 2)),
)


def episodes(plans: Sequence[Sequence[Question]], *, seed: int = 0, padding: int = 0) -> EpisodeBatch:
    """A batch with one row per plan, padded to the longest and by `padding` more."""
    rng = np.random.default_rng(seed)
    size = max(sum(options for _, options in plan) for plan in plans) + padding
    rows = [_row(plan, size, rng) for plan in plans]
    return EpisodeBatch(*(torch.stack(parts) for parts in zip(*rows, strict=True)))


def _row(plan: Sequence[Question], size: int, rng: np.random.Generator) -> tuple[Tensor, ...]:
    embeddings, answers = torch.zeros(size, WIDTH), torch.zeros(size)
    context, target = torch.zeros(size, dtype=torch.bool), torch.zeros(size, dtype=torch.bool)
    question = torch.full((size,), -1)
    start = 0
    for number, (role, options) in enumerate(plan):
        place = slice(start, start + options)
        embeddings[place] = torch.from_numpy(rng.standard_normal((options, WIDTH))).float()
        answers[place] = torch.from_numpy(rng.dirichlet(np.ones(options))).float()
        (context if role == "context" else target)[place] = True
        question[place] = number
        start += options
    return embeddings, answers, context, target, question


def reordered(batch: EpisodeBatch, order: Tensor) -> EpisodeBatch:
    """The batch with its points in another order."""
    return EpisodeBatch(*(getattr(batch, field.name)[:, order] for field in fields(batch)))


def rows(batch: EpisodeBatch, chosen: slice) -> EpisodeBatch:
    return EpisodeBatch(*(getattr(batch, field.name)[chosen] for field in fields(batch)))


def changed(batch: EpisodeBatch, **parts: Tensor) -> EpisodeBatch:
    return replace(batch, **parts)


def small_predictor(seed: int = 0, *, layers: int = 2) -> Predictor:
    """A small predictor with no two layers alike and no bias at zero, in training mode."""
    generator = torch.Generator().manual_seed(seed)
    shape = PredictorShape(WIDTH, d_model=16, heads=4, layers=layers, feedforward=24)
    predictor = make_predictor(shape, generator)
    with torch.no_grad():
        for value in predictor.parameters():
            value.add_(torch.randn(value.shape, generator=generator) * 0.1)
    return predictor
