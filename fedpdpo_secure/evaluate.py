"""Accuracy and margins of a policy on held-out pairs, by each of the three scores. Names are TRL's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from fedpdpo_secure.model.policy import Policy
from fedpdpo_secure.objective import ObjectivePlan, implicit_rewards, margin, preference_loss
from fedpdpo_secure.pairs.packing import collate
from fedpdpo_secure.pairs.store import PairStore, physical_batches


@dataclass(frozen=True, slots=True)
class Metrics:
    """Means over pairs. An exact tie counts one half, so that an untrained model scores 0.5."""

    accuracy_implicit: float  # of the policy's own log-probabilities: the only one that describes what it generates
    accuracy_explicit: float  # of the reward head; NaN without one
    accuracy_combined: float  # of implicit + gamma * explicit; equals implicit without a reward head
    margin: float  # mean implicit reward margin, TRL's rewards/margins
    loss: float
    pairs: int

    def named(self) -> dict[str, float]:
        """By the names used in tables and files."""
        return {
            "accuracy_implicit": self.accuracy_implicit,
            "accuracy_explicit": self.accuracy_explicit,
            "accuracy_combined": self.accuracy_combined,
            "rewards/margins": self.margin,
            "loss": self.loss,
        }


def measure(policy: Policy, store: PairStore, objective: ObjectivePlan, *, micro_batch: int) -> Metrics:
    """Metrics of `policy` on every pair of `store`; all NaN for an empty one."""
    parts: list[np.ndarray] = []
    device = next(policy.parameters()).device
    with torch.no_grad():
        for rows in physical_batches(store, np.arange(len(store)), micro_batch):
            batch = collate([store[index] for index in rows], device)
            scores = policy(batch)
            implicit = implicit_rewards(scores.logps, batch.reference, objective.beta)
            loss = preference_loss(implicit, scores.rewards, objective)
            parts.append(torch.stack([margin(implicit), margin(scores.rewards), loss], 1).double().cpu().numpy())
    if not parts:
        return Metrics(*[float("nan")] * 5, pairs=0)
    implicit_margin, explicit_margin, losses = np.concatenate(parts).T
    explicit = policy.personal is not None and policy.personal.plan.reward_head
    combined = implicit_margin + objective.gamma * explicit_margin if explicit else implicit_margin
    return Metrics(
        accuracy_implicit=wins(implicit_margin),
        accuracy_explicit=wins(explicit_margin) if explicit else float("nan"),
        accuracy_combined=wins(combined),
        margin=float(implicit_margin.mean()),
        loss=float(losses.mean()),
        pairs=len(losses),
    )


def wins(margins: np.ndarray) -> float:
    """Share of positive margins, ties counting one half."""
    return float(((margins > 0) + 0.5 * (margins == 0)).mean())


def mean_over_clients(metrics: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Unweighted means of each name, NaN values left out; NaN where no client has a value."""
    rows = list(metrics)
    names = {name: None for row in rows for name in row}
    result = {}
    for name in names:
        values = [row[name] for row in rows if name in row and not np.isnan(row[name])]
        result[name] = float(np.mean(values)) if values else float("nan")
    return result
