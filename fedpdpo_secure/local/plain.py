"""Local training without noise: AdamW phases over seeded batches. For `unit: none`, serving copies and `local`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedpdpo_secure.local.plan import LocalPlan, NonFiniteError
from fedpdpo_secure.model.layout import Named
from fedpdpo_secure.model.policy import Policy, Scores
from fedpdpo_secure.objective import ObjectivePlan, implicit_rewards, preference_loss, reward_loss
from fedpdpo_secure.pairs.packing import PairBatch, collate
from fedpdpo_secure.pairs.store import PairStore, physical_batches

Phase = Literal["personal", "shared", "joint"]
PHASE_SEEDS: dict[Phase, int] = {"personal": 1, "shared": 2, "joint": 3}


def pair_losses(scores: Scores, batch: PairBatch, objective: ObjectivePlan, *, with_reward: bool) -> Tensor:
    """float32[B]: L_pref, plus lambda L_rew where the reward head trains."""
    implicit = implicit_rewards(scores.logps, batch.reference, objective.beta)
    loss = preference_loss(implicit, scores.rewards, objective)
    return loss + objective.reward_weight * reward_loss(scores.rewards, objective) if with_reward else loss


def logical_batches(size: int, batch: int, steps: int | None, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Index batches: one shuffled pass, or `steps` batches going round and round the shuffled pairs."""
    batch = min(batch, size)
    wanted = math.ceil(size / batch) if steps is None else steps
    order = np.zeros(0, np.int64)
    for step in range(wanted):
        if steps is None:
            order = rng.permutation(size) if step == 0 else order
            yield order[step * batch : (step + 1) * batch]
            continue
        if len(order) < batch:
            order = np.concatenate([order, rng.permutation(size)])
        yield order[:batch]
        order = order[batch:]


def train_phase(
    policy: Policy,
    optimizers: Sequence[torch.optim.Optimizer],
    parameters: Named,
    store: PairStore,
    plan: LocalPlan,
    phase: Phase,
    *,
    anchor: tuple[float, Sequence[Tensor]] | None = None,
    client_seed: int,
) -> float:
    """Train `parameters` for one phase and return the mean loss per pair.

    `anchor` = (mu, values) adds FedProx's mu (theta - theta_0) to the gradient of the first parameters. Raises
    NonFiniteError naming the step.
    """
    rng = np.random.default_rng([plan.seed, client_seed, plan.round_index, PHASE_SEEDS[phase]])
    values = [value for _, value in parameters]
    with_reward = phase != "shared" and policy.personal is not None and policy.personal.plan.reward_head
    total, seen = 0.0, 0
    with trainable(policy, values):
        for step, chosen in enumerate(logical_batches(len(store), plan.batch_size, plan.steps, rng), start=1):
            loss = _accumulate(policy, store, chosen, plan, with_reward=with_reward)
            if anchor is not None:
                for value, start in zip(values, anchor[1], strict=False):
                    if value.grad is not None:
                        value.grad.add_(value.detach() - start, alpha=anchor[0])
            norm = nn.utils.clip_grad_norm_(values, plan.max_grad_norm)
            if not (math.isfinite(loss) and bool(torch.isfinite(norm))):
                where = f"client {store.client}, round {plan.round_index}, {phase} step {step}"
                raise NonFiniteError(f"{where}: loss {loss}, gradient norm {float(norm)}")
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            total, seen = total + loss * len(chosen), seen + len(chosen)
    return total / max(seen, 1)


def _accumulate(
    policy: Policy, store: PairStore, chosen: NDArray[np.int64], plan: LocalPlan, *, with_reward: bool
) -> float:
    """Backward of the mean loss of `chosen`, micro-batch by micro-batch; returns that mean."""
    total = 0.0
    device = next(policy.parameters()).device
    for rows in physical_batches(store, chosen, plan.micro_batch):
        batch = collate([store[index] for index in rows], device)
        losses = pair_losses(policy(batch), batch, plan.objective, with_reward=with_reward)
        (losses.sum() / len(chosen)).backward()
        total += float(losses.detach().sum())
    return total / len(chosen)


@contextmanager
def trainable(module: nn.Module, values: Sequence[nn.Parameter]) -> Iterator[None]:
    """Context in which exactly `values` of `module` require gradients; none do afterwards."""
    module.requires_grad_(False)
    for value in values:
        value.requires_grad_(True)
    try:
        yield
    finally:
        module.requires_grad_(False)
        for value in values:
            value.grad = None
