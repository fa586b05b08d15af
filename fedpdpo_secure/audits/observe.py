"""What the attacker of local noise sees: one client's real training, read step by step for pairs that it knows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedpdpo_secure.audits.decode import read_step
from fedpdpo_secure.audits.gradients import clipped_gradients
from fedpdpo_secure.budget import BudgetPlan
from fedpdpo_secure.config import Config
from fedpdpo_secure.local.plan import LocalPlan, local_plan
from fedpdpo_secure.model.policy import Policy
from fedpdpo_secure.pairs.store import PairStore
from fedpdpo_secure.task import Client, FedPDPO
from privacy.entropy import Entropy
from privacy.events import Event


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """What the attacker made of the steps, and what the mechanism says it did."""

    observed: NDArray[np.float64]  # [steps, canaries]: 1 where the canary was in the step's sum, plus noise
    deviation: NDArray[np.float64]  # of that noise, as `observed`
    noise: NDArray[np.float64]  # [steps], of a coordinate, in clip norms, as the attacker measured it
    events: tuple[Event, ...]


def observe(
    task: FedPDPO,
    trained: Client,
    known: PairStore,
    *,
    canaries: int,
    budget: BudgetPlan,
    entropy: Entropy,
) -> Observation:
    """Train `trained` for all steps of the configuration, reading each step for every pair of `known`.

    The first `canaries` pairs of `known` are the canaries, the rest is in the data for certain.
    """
    config = task.config
    coins = np.arange(len(known)) < canaries
    chance = np.where(coins, 0.5, 1.0) * config.privacy.sample_rate
    lora, readings, events = task.lora(), [], []
    for at, (round_index, state_index) in enumerate(single_steps(config)):
        plan = local_plan(config, round_index, budget.noise_multiplier, integer=budget.integer)
        assert plan.dp is not None  # unit pair
        # One step at a time is the same training: plain SGD keeps nothing between steps.
        plan = replace(plan, round_index=state_index, steps=1)
        gradients = known_gradients(task, trained, known, lora, plan)
        local = task.train_locally(lora, trained, plan, entropy.child("step", at))
        assert local.event is not None
        lora = task.with_update(lora, state_index, local.update)
        reading = read_step(
            -local.update * (plan.dp.expected_batch / plan.dp.learning_rate),
            gradients,
            mean=chance,
            variance=chance * (1.0 - chance),
            noise=plan.dp.noise_multiplier,
        )
        readings.append(reading)
        events.append(local.event)
    return Observation(
        observed=np.stack([reading.observed[:canaries] for reading in readings]),
        deviation=np.stack([reading.deviation[:canaries] for reading in readings]),
        noise=np.array([reading.noise for reading in readings]),
        events=tuple(events),
    )


def known_gradients(
    task: FedPDPO, client: Client, known: PairStore, lora: NDArray[np.float64], plan: LocalPlan
) -> NDArray[np.float64]:
    """What each known pair would add to the next step if it was sampled, float64[pairs, dim]."""
    assert plan.dp is not None
    task.load_client(client.name, plan.round_index - 1)
    task.set_lora(lora)
    joint = task.config.method.personal == "joint" and task.personal is not None
    policy = Policy(task.backbone, task.personal if joint else None)
    shared = [value for _, value in task.shared(plan.round_index)]
    return clipped_gradients(
        policy,
        [*shared, *(policy.personal.parameters() if policy.personal is not None else ())],
        known,
        plan.objective,
        released=len(shared),
        clip_norm=plan.dp.clip_norm,
        with_reward=joint and task.method.parts.reward_head,
        micro_batch=plan.micro_batch,
    )


def single_steps(config: Config) -> Iterator[tuple[int, int]]:
    """(round, index under which the client's state after the step is kept) of every step.

    Each step has an index of its own and the parity of its round, which decides what an alternating adapter trains.
    """
    index = 0
    for round_index in range(1, config.federation.rounds + 1):
        for _ in range(config.federation.local_steps or 1):
            index += 2 if (index + 1) % 2 != round_index % 2 else 1
            yield round_index, index
