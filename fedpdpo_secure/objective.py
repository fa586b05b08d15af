"""The losses, each float32[B] with one number per pair: separable, so that one row is one unit of privacy.

Reconstruction of FedPDPO's objective (the paper's equations were not available): implicit reward
u = beta (log pi - log pi_ref) (Rafailov et al. 2023, eq. 5), explicit reward r from the personal head, and
L = -log sigmoid(du + gamma dr) + lambda [ -log sigmoid(dr) + rho (r_chosen + r_rejected)^2 ].
With r held constant in the first term the policy models what the head does not, and the head cannot absorb the signal.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import logsigmoid


@dataclass(frozen=True, slots=True)
class ObjectivePlan:
    """Public constants of the objective in one round."""

    beta: float
    gamma: float  # after warm-up; > 0: explicit reward complements, < 0: it asks for a larger policy margin
    reward_weight: float
    reward_centering: float
    stop_gradient: bool = True


def implicit_rewards(logps: Tensor, reference: Tensor, beta: float) -> Tensor:
    """float32[B, 2] of beta (log pi - log pi_ref), TRL's `rewards/chosen` and `rewards/rejected`."""
    return beta * (logps - reference)


def margin(rewards: Tensor) -> Tensor:
    """float32[B]: chosen minus rejected of float32[B, 2]."""
    return rewards[:, 0] - rewards[:, 1]


def preference_loss(implicit: Tensor, explicit: Tensor, plan: ObjectivePlan) -> Tensor:
    """float32[B] corrected DPO: -log sigmoid(du + gamma dr). With gamma = 0 it is DPO (eq. 7)."""
    explicit_margin = margin(explicit.detach() if plan.stop_gradient else explicit)
    return -logsigmoid(margin(implicit) + plan.gamma * explicit_margin)


def reward_loss(explicit: Tensor, plan: ObjectivePlan) -> Tensor:
    """float32[B] Bradley-Terry loss of the explicit reward, with its centring term."""
    return -logsigmoid(margin(explicit)) + plan.reward_centering * explicit.sum(1) ** 2


def warmed_gamma(gamma: float, warmup_rounds: int, round_index: int) -> float:
    """gamma rising linearly from 0 in round 1 to its value in round `warmup_rounds` + 1."""
    return gamma * min(1.0, (round_index - 1) / warmup_rounds) if warmup_rounds else gamma
