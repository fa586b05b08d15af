"""What a client is told to do in one round, and what it hands back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedpdpo_secure.config import Config
from fedpdpo_secure.config.units import moves, sampled, step_rate
from fedpdpo_secure.objective import ObjectivePlan, warmed_gamma
from fedpdpo_secure.shares import integer_locally
from privacy.distributed import SharePlan
from privacy.dpsgd import DPStepPlan, StepPlan
from privacy.events import Event
from privacy.integer_sgd import IntegerStepPlan


class NonFiniteError(RuntimeError):
    """Parameters or losses stopped being finite; what was reserved for the round stays charged."""


@dataclass(frozen=True, slots=True)
class LocalPlan:
    """Public instructions of one round."""

    round_index: int  # from 1
    steps: int | None  # None: one pass over the client's pairs (never under DP)
    objective: ObjectivePlan
    learning_rate: float
    personal_learning_rate: float
    batch_size: int
    micro_batch: int
    max_grad_norm: float
    seed: int  # of the batch order without DP; the Poisson sample never uses it
    dp: StepPlan | None = None  # local noise, in real numbers or in integers
    shares: SharePlan | None = None  # distributed noise: one step per round, or the whole update


@dataclass(frozen=True, slots=True)
class LocalUpdate:
    """What one client made of a round; only `update` (without DP also pairs and loss, in the vector) may leave."""

    update: NDArray[np.float64]  # [D] = after - before
    pairs: int
    loss: float  # mean preference loss of the steps; NaN when every batch was empty
    steps: int
    event: Event | None = None  # made by what added the noise; None without DP
    local: Mapping[str, float] = field(default_factory=dict)  # measured on the client, not released
    integers: NDArray[np.int64] | None = None  # distributed noise: what leaves instead of `update`, share included


def objective_plan(config: Config, round_index: int) -> ObjectivePlan:
    """The objective in round `round_index`."""
    dpo = config.dpo
    return ObjectivePlan(
        beta=dpo.beta,
        gamma=warmed_gamma(dpo.gamma, dpo.gamma_warmup_rounds, round_index),
        reward_weight=dpo.reward_weight,
        reward_centering=dpo.reward_centering,
        stop_gradient=dpo.stop_gradient,
    )


def local_plan(
    config: Config,
    round_index: int,
    noise_multiplier: float,
    shares: SharePlan | None = None,
    *,
    integer: IntegerStepPlan | None = None,
) -> LocalPlan:
    """The plan of round `round_index` for every client: noise in shares, in integers, or real with the multiplier.

    Raises ValueError for a run in integers without their plan, unless nothing is noised (multiplier 0).
    """
    dpo, privacy = config.dpo, config.privacy
    assert dpo.learning_rate is not None and privacy.unit is not None  # filled in by the configuration's rules
    if integer_locally(config) and integer is None and noise_multiplier > 0:
        raise ValueError("integer: a run in integers needs the budget's integer plan")
    dp: StepPlan | None = integer
    if sampled(config) and shares is None and integer is None and config.method.name != "local":
        assert privacy.expected_batch is not None
        dp = DPStepPlan(
            clip_norm=privacy.clip_norm,
            noise_multiplier=noise_multiplier,
            sample_rate=privacy.sample_rate,
            expected_batch=privacy.expected_batch,
            learning_rate=step_rate(config),
            moves=moves(config),
            unit="question" if privacy.unit == "question" else "pair",
        )
    return LocalPlan(
        round_index=round_index,
        steps=config.federation.local_steps,
        objective=objective_plan(config, round_index),
        learning_rate=dpo.learning_rate,
        personal_learning_rate=dpo.personal_learning_rate,
        batch_size=dpo.batch_size,
        micro_batch=dpo.micro_batch,
        max_grad_norm=dpo.max_grad_norm,
        seed=config.seed,
        dp=dp,
        shares=shares,
    )
