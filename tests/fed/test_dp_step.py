"""The DP step is an exact clipped sum over pairs, personal parts included; the naive scheme is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fedpdpo_secure.local.plain import pair_losses, trainable
from fedpdpo_secure.local.plan import LocalPlan
from fedpdpo_secure.local.private import train_private
from fedpdpo_secure.model.backbone import Backbone, wrap_backbone
from fedpdpo_secure.model.layout import assign, flatten
from fedpdpo_secure.model.lora import lora_parameters, shared_parameters
from fedpdpo_secure.model.personal import PersonalParts, PersonalPlan
from fedpdpo_secure.model.policy import Policy, reference_logps
from fedpdpo_secure.objective import ObjectivePlan
from fedpdpo_secure.pairs.packing import TokenPair, collate
from fedpdpo_secure.pairs.store import PairStore
from privacy.dpsgd import DPStepPlan
from privacy.entropy import Entropy
from privacy.integer_sgd import IntegerStepPlan
from tests.fed.builders import ARCHITECTURES, small_config, small_model, token_pairs, write_pairs

PARTS = PersonalPlan(bottleneck=True, lm_head="low_rank", reward_head=True)
OBJECTIVE = ObjectivePlan(beta=0.5, gamma=0.6, reward_weight=1.0, reward_centering=0.01)
CLIP = 0.7


def make_policy(architecture: str, *, checkpointing: bool = False) -> tuple[Backbone, Policy]:
    """A policy with random adapter and personal values, so that no gradient is trivially zero."""
    config = small_config(model={"gradient_checkpointing": checkpointing})
    backbone = wrap_backbone(small_model(architecture), config)
    personal = PersonalParts(PARTS, backbone.head, np.random.default_rng(0))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in [*(v for _, v in lora_parameters(backbone.model)), *personal.parameters()]:
            value.add_(torch.randn(value.shape, generator=generator) * 0.1)
    return backbone, Policy(backbone, personal)


def named(policy: Policy, backbone: Backbone, train: str, personal: bool) -> list[tuple[str, torch.nn.Parameter]]:
    wanted = [value for _, value in shared_parameters(backbone.model, train, 1)]
    wanted += list(policy.personal.parameters()) if personal else []
    names = {id(value): name for name, value in policy.named_parameters()}
    return [(names[id(value)], value) for value in wanted]


def referenced(backbone: Backbone, pairs: list[TokenPair]) -> list[TokenPair]:
    values = reference_logps(backbone, collate(pairs)).numpy()
    return [TokenPair(p.prompt, p.chosen, p.rejected, r) for p, r in zip(pairs, values, strict=True)]


def released_sum(
    tmp: Path,
    policy: Policy,
    parameters: list,
    pairs: list[TokenPair],
    *,
    micro: int = 3,
    noise: float = 0.0,
    integer: IntegerStepPlan | None = None,
    entropy: Entropy | None = None,
) -> np.ndarray:
    """The sum one full-batch step releases, read off the parameters' movement; they are put back."""
    write_pairs(tmp, "c", pairs)
    store = PairStore(tmp, "c", "train")
    store.write_reference(np.array([pair.reference for pair in pairs], np.float32).reshape(-1, 2))
    real = DPStepPlan(clip_norm=CLIP, noise_multiplier=noise, sample_rate=1.0, expected_batch=2.0, learning_rate=1.0)
    plan = LocalPlan(1, 1, OBJECTIVE, 1.0, 1.0, 16, micro, 1.0, 0, integer or real)
    before = flatten(parameters)
    train_private(policy, parameters, store, plan, with_reward=True, entropy=entropy or Entropy.os())
    moved = (before - flatten(parameters)) * 2.0 * CLIP  # learning rate 1, divisor expected_batch * clip_norm
    assign(parameters, before)
    return moved


def oracle_sum(policy: Policy, parameters: list, pairs: list[TokenPair]) -> np.ndarray:
    """The same sum by ordinary autograd, one pair at a time."""
    values: list[Tensor] = [value for _, value in parameters]
    total = np.zeros(sum(value.numel() for value in values))
    with trainable(policy, values):
        for pair in pairs:
            batch = collate([pair])
            loss = pair_losses(policy(batch), batch, OBJECTIVE, with_reward=True).sum()
            gradients = torch.autograd.grad(loss, values, allow_unused=True)
            flat = np.concatenate(
                [
                    (torch.zeros_like(v) if g is None else g).double().numpy().ravel()
                    for v, g in zip(values, gradients, strict=True)
                ]
            )
            total += flat * min(1.0, CLIP / np.linalg.norm(flat))
    return total


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("personal", [False, True], ids=["lora", "lora+personal"])
@pytest.mark.parametrize("train", ["AB", "B"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_dp_step_is_the_clipped_sum_of_a_per_pair_autograd_loop(tmp_path, architecture, train, personal) -> None:
    backbone, policy = make_policy(architecture)
    pairs = referenced(backbone, token_pairs(7))
    parameters = named(policy, backbone, train, personal)
    found = released_sum(tmp_path, policy, parameters, pairs)
    assert relative_error(found, oracle_sum(policy, parameters, pairs)) < 1e-5


def test_gradient_checkpointing_leaves_the_clipped_sum_exact(tmp_path) -> None:
    backbone, policy = make_policy("llama", checkpointing=True)
    pairs = referenced(backbone, token_pairs(5))
    parameters = named(policy, backbone, "AB", True)
    found = released_sum(tmp_path, policy, parameters, pairs)
    plain_backbone, plain = make_policy("llama")
    expected = oracle_sum(plain, named(plain, plain_backbone, "AB", True), pairs)
    assert relative_error(found, expected) < 1e-5


def test_the_size_of_physical_batches_does_not_change_the_sum(tmp_path) -> None:
    backbone, policy = make_policy("llama")
    pairs = referenced(backbone, token_pairs(9))
    parameters = named(policy, backbone, "AB", True)
    sums = [released_sum(tmp_path / str(micro), policy, parameters, pairs, micro=micro) for micro in (1, 4, 9)]
    assert relative_error(sums[0], sums[1]) < 1e-5
    assert relative_error(sums[0], sums[2]) < 1e-5


@pytest.mark.parametrize("personal", [False, True], ids=["frozen", "joint"])
def test_one_more_pair_moves_the_released_sum_by_at_most_the_clip_norm(tmp_path, personal) -> None:
    backbone, policy = make_policy("llama")
    pairs = referenced(backbone, token_pairs(12, seed=4))
    parameters = named(policy, backbone, "AB", personal)
    whole = released_sum(tmp_path / "whole", policy, parameters, pairs)
    for left_out in range(0, 12, 3):
        rest = pairs[:left_out] + pairs[left_out + 1 :]
        without = released_sum(tmp_path / f"without{left_out}", policy, parameters, rest)
        assert np.linalg.norm(whole - without) <= CLIP * (1 + 1e-4)


def integer_plan(parameters: list, levels: int) -> IntegerStepPlan:
    return IntegerStepPlan(
        clip_norm=CLIP,
        levels=levels,
        dim=sum(value.numel() for _, value in parameters),
        variance=16,
        sample_rate=1.0,
        expected_batch=2.0,
        learning_rate=1.0,
    )


@pytest.mark.parametrize("personal", [False, True], ids=["lora", "lora+personal"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_integer_step_is_the_same_sum_up_to_its_rounding_and_noise(tmp_path, architecture, personal) -> None:
    backbone, policy = make_policy(architecture)
    pairs = referenced(backbone, token_pairs(7))
    parameters = named(policy, backbone, "AB", personal)
    plan = integer_plan(parameters, 2**20)
    found = released_sum(tmp_path, policy, parameters, pairs, integer=plan)
    error = found - oracle_sum(policy, parameters, pairs)
    # Noise of variance 16 and 7 roundings of at most 1/4 a coordinate; float32 parameters round too.
    assert np.linalg.norm(error) < 2 * plan.grid * np.sqrt((16 + 7 / 4) * plan.dim) + 1e-5


@pytest.mark.parametrize("personal", [False, True], ids=["frozen", "joint"])
def test_one_more_pair_moves_the_integers_by_at_most_the_charged_norm(tmp_path, personal) -> None:
    """Neighbours under the same coins and noise: seeded streams, and the longest pair comes last, in its own batch."""
    backbone, policy = make_policy("llama")
    pairs = referenced(backbone, token_pairs(9, seed=4))
    pairs.sort(key=lambda pair: len(pair.prompt) + len(pair.chosen) + len(pair.rejected))
    parameters = named(policy, backbone, "AB", personal)
    plan = integer_plan(parameters, 4096)
    released = [
        released_sum(tmp_path / str(count), policy, parameters, some, micro=1, integer=plan, entropy=Entropy.seeded(3))
        for count, some in ((9, pairs), (8, pairs[:-1]))
    ]
    moved = (released[0] - released[1]) / plan.grid
    assert np.abs(moved - np.rint(moved)).max() < 0.01  # float32 parameters
    assert 0.5 * plan.levels**2 < np.rint(moved) @ np.rint(moved) <= plan.norm_squared


def naive_sum(tmp: Path, pairs: list[TokenPair]) -> np.ndarray:
    """What the naive scheme releases: the personal parts first fit the same pairs without noise."""
    backbone, policy = make_policy("llama")
    own = list(policy.personal.parameters())
    optimizer = torch.optim.Adam(own, lr=3e-3)
    with trainable(policy, own):
        for _ in range(15):
            batch = collate(pairs)
            pair_losses(policy(batch), batch, OBJECTIVE, with_reward=True).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    return released_sum(tmp, policy, named(policy, backbone, "AB", False), pairs)


def test_the_naive_scheme_with_unnoised_personal_parts_breaks_the_bound(tmp_path) -> None:
    backbone, _ = make_policy("llama")
    pairs = referenced(backbone, token_pairs(33, seed=4))
    whole, without = naive_sum(tmp_path / "whole", pairs), naive_sum(tmp_path / "without", pairs[:-1])
    assert np.linalg.norm(whole - without) > 1.1 * CLIP


def test_a_pair_whose_gradient_is_not_finite_counts_as_the_zero_gradient(tmp_path) -> None:
    backbone, policy = make_policy("llama")
    pairs = referenced(backbone, token_pairs(6))
    broken = [
        *pairs[:3],
        TokenPair(pairs[3].prompt, pairs[3].chosen, pairs[3].rejected, np.float32([np.nan, 0])),
        *pairs[4:],
    ]
    parameters = named(policy, backbone, "B", True)
    found = released_sum(tmp_path / "a", policy, parameters, broken)
    expected = released_sum(tmp_path / "b", policy, parameters, pairs[:3] + pairs[4:])
    assert relative_error(found, expected) < 1e-5


def test_every_lora_b_moves_in_the_first_noised_step_and_nothing_else_does(tmp_path) -> None:
    backbone, policy = make_policy("qwen2")
    pairs = referenced(backbone, token_pairs(5))
    write_pairs(tmp_path, "c", pairs)
    store = PairStore(tmp_path, "c", "train")
    store.write_reference(np.array([pair.reference for pair in pairs], np.float32))
    before = {name: value.detach().clone() for name, value in policy.named_parameters()}
    dp = DPStepPlan(clip_norm=CLIP, noise_multiplier=1.0, sample_rate=1.0, expected_batch=5, learning_rate=0.1)
    parameters = named(policy, backbone, "B", False)
    train_private(
        policy,
        parameters,
        store,
        LocalPlan(1, 1, OBJECTIVE, 1, 1, 16, 4, 1, 0, dp),
        with_reward=False,
        entropy=Entropy.os(),
    )
    moved = {name for name, value in policy.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {name for name, _ in parameters}
