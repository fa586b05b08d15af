"""Local training without question-level noise: Adam on random episodes of one group, or of all groups pooled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedpdpo_secure.local.plan import NonFiniteError
from fedpdpo_secure.local.state import read_moments, write_moments
from fedpdpo_secure.model.layout import Named
from fedpdpo_secure.pluralllm import losses
from fedpdpo_secure.pluralllm.episodes import Bounds, Episode, collate, draw_episode, draw_published_episodes
from fedpdpo_secure.pluralllm.holdings import Holdings
from fedpdpo_secure.pluralllm.predictor import Predictor
from fedpdpo_secure.pluralllm.schedule import Decay, step_size

LOSSES: Mapping[str, losses.EpisodeLoss] = {
    "gaussian": losses.gaussian,
    "cross_entropy": losses.cross_entropy,
    "kl": losses.kl,
}


@dataclass(frozen=True, slots=True)
class AdamPlan:
    """Public instructions of a stretch of local steps."""

    loss: str
    bounds: Bounds
    learning_rate: float
    decay: Decay
    first_step: int  # of the whole run, from 0
    steps: int
    all_steps: int  # of the whole run
    one_size: bool  # pooled groups: the published draw gives all episodes of a step one size


@dataclass(frozen=True, slots=True)
class Trained:
    """What a stretch of steps leaves behind."""

    loss: float  # mean over steps
    points: int  # of the first step's episode: the published weight of a client
    moments: dict[str, Tensor]


def train_adam(
    predictor: Predictor,
    parameters: Named,
    holdings: Holdings,
    groups: Sequence[str],
    plan: AdamPlan,
    *,
    moments: Mapping[str, Tensor],
    rng: np.random.Generator,
) -> Trained:
    """Train `parameters` in place on one fresh episode of every group in each step, the loss averaged over groups.

    Raises NonFiniteError where a loss is not finite, DataError for a group with fewer than two questions.
    """
    optimizer = torch.optim.Adam([value for _, value in parameters], lr=plan.learning_rate)
    write_moments(optimizer, dict(moments))
    objective, total, points = LOSSES[plan.loss], 0.0, 0
    device = next(predictor.parameters()).device
    for step in range(plan.steps):
        for part in optimizer.param_groups:
            at = plan.first_step + step
            part["lr"] = step_size(plan.learning_rate, plan.decay, step=at, steps=plan.all_steps)
        batch = collate(holdings.survey, holdings.embeddings, _episodes(holdings, groups, plan, rng)).to(device)
        loss = objective(predictor(batch), batch).mean()
        if not torch.isfinite(loss):
            raise NonFiniteError(f"group {', '.join(groups)}, step {plan.first_step + step + 1}: loss is not finite")
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        total += float(loss.detach())
        if step == 0:
            points = int((batch.context | batch.target).sum())
    return Trained(total / max(1, plan.steps), points, read_moments(optimizer))


def _episodes(holdings: Holdings, groups: Sequence[str], plan: AdamPlan, rng: np.random.Generator) -> Sequence[Episode]:
    own = {group: holdings.questions(group) for group in groups}
    if plan.one_size:
        return draw_published_episodes(own, plan.bounds, rng)
    return [draw_episode(group, questions, plan.bounds, rng) for group, questions in own.items()]
