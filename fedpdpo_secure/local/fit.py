"""Un-noised fitting of a policy in phases: personal parts, shared adapter, or both, with AdamW."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedpdpo_secure.local.plain import Phase, train_phase
from fedpdpo_secure.local.plan import LocalPlan
from fedpdpo_secure.local.state import read_moments, write_moments
from fedpdpo_secure.model.layout import Named
from fedpdpo_secure.model.policy import Policy
from fedpdpo_secure.pairs.store import PairStore


def fit(
    policy: Policy,
    shared: Named,
    store: PairStore,
    passes: Sequence[LocalPlan],
    phases: Sequence[Phase],
    *,
    moments: dict[str, Tensor],
    proximal_mu: float,
    client_seed: int,
) -> tuple[float, dict[str, Tensor]]:
    """Train in place, all `phases` in each of `passes`: (mean loss of the last phase, moments of the personal parts).

    The optimiser of the shared adapter starts anew, that of the personal parts goes on from `moments`. A personal phase
    without personal parts is skipped. Raises NonFiniteError.
    """
    own: Named = list(policy.personal.named_parameters()) if policy.personal is not None else []
    optimizer_of_shared = _adamw(shared, passes[0].learning_rate)
    optimizer_of_own = _adamw(own, passes[0].personal_learning_rate) if own else None
    if optimizer_of_own is not None:
        write_moments(optimizer_of_own, moments)
    anchor = (proximal_mu, [value.detach().clone() for _, value in shared]) if proximal_mu else None
    trained: dict[Phase, tuple[Named, list[torch.optim.Optimizer]]] = {"shared": (shared, [optimizer_of_shared])}
    if optimizer_of_own is not None:
        trained["personal"] = (own, [optimizer_of_own])
        trained["joint"] = ([*shared, *own], [optimizer_of_shared, optimizer_of_own])
    loss = float("nan")
    for plan in passes:
        for phase in phases:
            if phase not in trained:
                continue
            parameters, optimizers = trained[phase]
            held = anchor if phase != "personal" else None
            loss = train_phase(policy, optimizers, parameters, store, plan, phase, anchor=held, client_seed=client_seed)
    return loss, read_moments(optimizer_of_own) if optimizer_of_own is not None else {}


def _adamw(parameters: Named, learning_rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW([value for _, value in parameters], lr=learning_rate, weight_decay=0.0)
