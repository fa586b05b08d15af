"""Serving copies: after the federation, each client fits its personal parts and its own copy of the LoRA, un-noised.

Passes alternate: personal parts with the adapter fixed, then the copy with them fixed. Nothing here feeds anything
released, so it costs no privacy; it protects nobody from the client who serves it either.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedpdpo_secure.config import Config
from fedpdpo_secure.evaluate import Metrics, measure
from fedpdpo_secure.local.plan import LocalPlan, objective_plan
from fedpdpo_secure.local.state import ClientState, load_state, read_tensors, save_state, write_tensors
from fedpdpo_secure.model.lora import lora_parameters
from fedpdpo_secure.model.policy import Policy
from fedpdpo_secure.pairs.store import PairStore
from fedpdpo_secure.task import Client, FedPDPO, state_lora

FILE = "serving.safetensors"


def wants_serving(config: Config) -> bool:
    """Whether the configuration asks for serving copies."""
    return bool(config.serving.epochs)


def fit_serving(task: FedPDPO, lora: NDArray[np.float64], client: Client, plan: LocalPlan) -> Path:
    """Fit and keep the serving copy of `client`, starting from the shared adapter and its in-loop personal state.

    Returns the file of the copy. Raises NonFiniteError.
    """
    config = task.config
    state = task.load_client(client.name, plan.round_index)
    task.set_lora(state_lora(state, lora))
    passes = [_pass(config, plan, number) for number in range(1, (config.serving.epochs or 0) + 1)]
    whole = lora_parameters(task.backbone.model)
    task.fit(client, passes, whole, state.moments, phases=("personal", "shared"))
    personal = read_tensors(task.personal) if task.personal is not None else {}
    path = task.states.root / client.name / FILE
    save_state(path, ClientState(personal, {}, {"vector": torch.from_numpy(task.lora())}))
    return path


def _pass(config: Config, plan: LocalPlan, number: int) -> LocalPlan:
    """Pass `number` (from 1) over the client's pairs; gamma warms up over passes as it does over rounds."""
    return replace(
        plan,
        round_index=config.federation.rounds + number,
        steps=None,
        dp=None,
        objective=objective_plan(config, number),
        learning_rate=config.serving.learning_rate,
    )


def evaluate_serving(task: FedPDPO, client: str, store: PairStore) -> Metrics:
    """Metrics of `store` under the serving copy of `client`."""
    state = load_state(task.states.root / client / FILE)
    if task.personal is not None:
        write_tensors(task.personal, state.personal)
    task.set_lora(state.lora["vector"].numpy())
    objective = objective_plan(task.config, 10**6)
    return measure(Policy(task.backbone, task.personal), store, objective, micro_batch=16)
