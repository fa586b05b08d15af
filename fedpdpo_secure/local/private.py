"""Local training under pair-level DP-SGD: Poisson samples, per-pair clipping, noise on the sum (privacy.dpsgd).

What trains under noise is one parameter list with one joint norm: LoRA alone (`frozen`), or LoRA and the personal parts
(`joint`). Any other part of the policy is at its public initial value, so one pair moves the released sum by at most
clip_norm, personal parts included.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from fedpdpo_secure.local.plain import pair_losses, trainable
from fedpdpo_secure.local.plan import LocalPlan
from fedpdpo_secure.model.layout import Named
from fedpdpo_secure.model.policy import Policy
from fedpdpo_secure.objective import ObjectivePlan
from fedpdpo_secure.pairs.packing import PairBatch, collate
from fedpdpo_secure.pairs.store import PairStore, physical_batches
from privacy.distributed import SharePlan
from privacy.dpsgd import PairDPSGD
from privacy.entropy import Entropy
from privacy.events import Event
from privacy.integer_step import IntegerSum, PairIntegerStep
from privacy.sample_log import SampleLog


def train_private(
    policy: Policy,
    parameters: Named,
    store: PairStore,
    plan: LocalPlan,
    *,
    with_reward: bool,
    entropy: Entropy,
    log: SampleLog | None = None,
) -> tuple[Event, float, dict[str, float]]:
    """`plan.steps` DP-SGD steps on `parameters`: (event of the noise added, mean loss, local measurements)."""
    assert plan.dp is not None and plan.steps is not None
    losses = _Losses(policy, plan.objective, with_reward)
    seen, clipped, empty, non_finite = 0, 0.0, 0, 0
    signal, noise = 0.0, 0.0
    values = [value for _, value in parameters]
    with (
        trainable(policy, values),
        _hooks_see(policy, values),
        PairDPSGD(policy, parameters, plan.dp, entropy, log) as private,
    ):
        for _ in range(plan.steps):
            chosen = private.sample(len(store))
            report = private.step(_batches(policy, store, chosen, plan.micro_batch), losses)
            seen += report.pairs
            clipped += report.clip_fraction * report.pairs
            non_finite += report.non_finite
            empty += report.pairs == 0
            signal, noise = signal + report.signal_norm, noise + report.noise_norm
        event = private.event()
    local = {
        "clip_fraction": clipped / seen if seen else math.nan,
        "empty_batches": float(empty),
        "non_finite_pairs": float(non_finite),
        "snr": signal / noise if noise else math.inf,
    }
    return event, losses.total / seen if seen else math.nan, local


def integer_step(
    policy: Policy,
    parameters: Named,
    store: PairStore,
    plan: LocalPlan,
    shares: SharePlan,
    *,
    entropy: Entropy,
    log: SampleLog | None = None,
) -> tuple[IntegerSum, float, dict[str, float]]:
    """One distributed step: (what leaves and what it costs, mean loss, local measurements). No parameter moves."""
    losses = _Losses(policy, plan.objective, with_reward=False)
    values = [value for _, value in parameters]
    with (
        trainable(policy, values),
        _hooks_see(policy, values),
        PairIntegerStep(policy, parameters, shares, entropy, log) as step,
    ):
        chosen = step.sample(len(store))
        summed = step.sum(_batches(policy, store, chosen, plan.micro_batch), losses)
    report = summed.report
    local = {
        "clip_fraction": report.clip_fraction if report.pairs else math.nan,
        "empty_batches": float(report.pairs == 0),
        "non_finite_pairs": float(report.non_finite),
        "snr": report.snr,
    }
    return summed, losses.total / report.pairs if report.pairs else math.nan, local


class _Losses:
    """The loss of each pair of a batch; keeps their sum over all batches for the local report."""

    def __init__(self, policy: Policy, objective: ObjectivePlan, with_reward: bool) -> None:
        self._policy, self._objective, self._with_reward = policy, objective, with_reward
        self.total = 0.0

    def __call__(self, batch: PairBatch) -> Tensor:
        losses = pair_losses(self._policy(batch), batch, self._objective, with_reward=self._with_reward)
        self.total += float(losses.detach().nan_to_num(posinf=0.0).sum())
        return losses


def _batches(policy: Policy, store: PairStore, chosen: NDArray[np.int64], micro_batch: int) -> Iterator[PairBatch]:
    device = next(policy.parameters()).device
    for part in physical_batches(store, chosen, micro_batch):
        yield collate([store[index] for index in part], device)


@contextmanager
def _hooks_see(policy: nn.Module, values: Sequence[nn.Parameter]) -> Iterator[None]:
    """Context in which the layers that own `values`, and no others, are in training mode: Opacus' hooks skip the rest.

    The model as a whole stays in eval mode, so that policy and reference are the same function.
    """
    wanted = {id(value) for value in values}
    owners = [m for m in policy.modules() if any(id(p) in wanted for p in m.parameters(recurse=False))]
    were = [owner.training for owner in owners]
    for owner in owners:
        owner.training = True
    try:
        yield
    finally:
        for owner, training in zip(owners, were, strict=True):
            owner.training = training
