"""The losses against their formulas, their two traps, and TRL's own number."""

from __future__ import annotations

import math

import pytest
import torch

from fedpdpo_secure.objective import (
    ObjectivePlan,
    implicit_rewards,
    margin,
    preference_loss,
    reward_loss,
    warmed_gamma,
)

PLAN = ObjectivePlan(beta=0.3, gamma=0.7, reward_weight=1.0, reward_centering=0.01)
LOGPS = torch.tensor([[-3.0, -5.0], [-9.0, -4.0], [-1.0, -1.5]])
REFERENCE = torch.tensor([[-4.0, -4.5], [-8.0, -5.0], [-1.2, -1.1]])
REWARDS = torch.tensor([[0.4, -0.2], [-0.5, 0.3], [0.1, 0.9]])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_preference_loss_is_the_corrected_dpo_formula() -> None:
    losses = preference_loss(implicit_rewards(LOGPS, REFERENCE, 0.3), REWARDS, PLAN)
    for row in range(3):
        du = 0.3 * float((LOGPS[row] - REFERENCE[row])[0] - (LOGPS[row] - REFERENCE[row])[1])
        dr = float(REWARDS[row, 0] - REWARDS[row, 1])
        assert float(losses[row]) == pytest.approx(-math.log(sigmoid(du + 0.7 * dr)), rel=1e-5)


def test_reward_loss_is_bradley_terry_with_centring() -> None:
    losses = reward_loss(REWARDS, PLAN)
    expected = [-math.log(sigmoid(float(r[0] - r[1]))) + 0.01 * float(r.sum()) ** 2 for r in REWARDS]
    assert losses.tolist() == pytest.approx(expected, rel=1e-5)


def test_the_sign_of_gamma_chooses_complement_or_margin() -> None:
    implicit = torch.zeros(1, 2)
    helpful = torch.tensor([[1.0, 0.0]])
    complement = preference_loss(implicit, helpful, PLAN)
    offset = preference_loss(implicit, helpful, ObjectivePlan(0.3, -0.7, 1.0, 0.01))
    assert float(complement) < math.log(2) < float(offset)


def test_stop_gradient_keeps_the_head_from_absorbing_the_preference() -> None:
    rewards = REWARDS.clone().requires_grad_(True)
    implicit = implicit_rewards(LOGPS.clone().requires_grad_(True), REFERENCE, 0.3)
    preference_loss(implicit, rewards, PLAN).sum().backward()
    assert rewards.grad is None
    free = ObjectivePlan(0.3, 0.7, 1.0, 0.01, stop_gradient=False)
    preference_loss(implicit.detach(), rewards, free).sum().backward()
    assert rewards.grad is not None and rewards.grad.any()


def test_losses_are_separable_over_pairs() -> None:
    order = torch.tensor([2, 0, 1])
    implicit = implicit_rewards(LOGPS, REFERENCE, 0.3)
    assert torch.equal(
        preference_loss(implicit, REWARDS, PLAN)[order], preference_loss(implicit[order], REWARDS[order], PLAN)
    )
    assert torch.equal(reward_loss(REWARDS, PLAN)[:1], reward_loss(REWARDS[:1], PLAN))


def test_gamma_warms_up_from_zero_and_then_stays() -> None:
    assert [warmed_gamma(0.9, 3, r) for r in (1, 2, 3, 4, 9)] == pytest.approx([0.0, 0.3, 0.6, 0.9, 0.9])
    assert warmed_gamma(0.9, 0, 1) == 0.9


def test_margin_is_chosen_minus_rejected() -> None:
    assert margin(REWARDS).tolist() == pytest.approx([0.6, -0.8, -0.8])
