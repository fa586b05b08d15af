"""The clipped gradient of each known pair at the present parameters, by the per-pair hooks that training uses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.grad_sample import GradSampleHooks
from torch import Tensor, nn

from fedpdpo_secure.local.plain import pair_losses, trainable
from fedpdpo_secure.model.policy import Policy
from fedpdpo_secure.objective import ObjectivePlan
from fedpdpo_secure.pairs.packing import collate
from fedpdpo_secure.pairs.store import PairStore, physical_batches
from privacy.rows import backward, row_gradients
from privacy.structure import remove_traces


def clipped_gradients(
    policy: Policy,
    parameters: Sequence[nn.Parameter],
    store: PairStore,
    objective: ObjectivePlan,
    *,
    released: int,
    clip_norm: float,
    with_reward: bool,
    micro_batch: int,
) -> NDArray[np.float64]:
    """float64[pairs, coordinates of the first `released` parameters], in clip norms, rows as in `store`.

    The norm that is clipped is over all `parameters`. A pair whose gradient is not finite counts as zero, as it does
    in training.
    """
    found = np.zeros((len(store), sum(value.numel() for value in parameters[:released])))
    device = next(policy.parameters()).device
    names = {id(value): name for name, value in policy.named_parameters()}
    named = [(names[id(value)], value) for value in parameters]
    with trainable(policy, parameters), _in_training(policy, parameters):
        hooks = GradSampleHooks(policy, loss_reduction="sum", strict=False)
        try:
            for rows in physical_batches(store, np.arange(len(store)), micro_batch):
                batch = collate([store[index] for index in rows], device)
                losses = pair_losses(policy(batch), batch, objective, with_reward=with_reward)
                grown = row_gradients(named, backward(losses))
                found[rows] = _clipped(grown, released, clip_norm)
                _forget(parameters)
        finally:
            hooks.cleanup()
            remove_traces(policy, named)
            for value in parameters:
                value.__dict__.pop("grad_sample", None)
    return found


def _clipped(gradients: Sequence[Tensor], released: int, clip_norm: float) -> NDArray[np.float64]:
    rows = [part.detach().to("cpu", torch.float64).reshape(len(part), -1) for part in gradients]
    norms = torch.stack([row.square().sum(dim=1) for row in rows]).sum(dim=0).sqrt()
    finite = torch.isfinite(norms)
    factors = torch.where(finite, 1.0 / norms.clamp(min=clip_norm), 0.0)
    shown = torch.cat(rows[:released], dim=1).masked_fill(~finite[:, None], 0.0)
    return (shown * factors[:, None]).numpy()


def _forget(parameters: Sequence[nn.Parameter]) -> None:
    """The hooks refuse a second batch on top of the first."""
    for value in parameters:
        value.grad_sample = None  # type: ignore[attr-defined]
        value.grad = None


@contextmanager
def _in_training(policy: Policy, values: Sequence[nn.Parameter]) -> Iterator[None]:
    """Context in which the layers that own `values` are in training mode, where alone the hooks see them."""
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
