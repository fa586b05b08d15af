"""The packed row computes what separate sequences would; personal parts start as the identity."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fedpdpo_secure.config import ConfigError
from fedpdpo_secure.model.backbone import wrap_backbone
from fedpdpo_secure.model.layout import ParamLayout, assign, flatten
from fedpdpo_secure.model.lora import lora_parameters, shared_parameters
from fedpdpo_secure.model.personal import PersonalParts, PersonalPlan
from fedpdpo_secure.model.policy import Policy, reference_logps
from fedpdpo_secure.model.separable import check_separable
from fedpdpo_secure.pairs.packing import collate
from tests.fed.builders import ARCHITECTURES, small_config, small_model, token_pairs

ALL = PersonalPlan(bottleneck=True, lm_head="low_rank", reward_head=True)
FULL = PersonalPlan(bottleneck=True, lm_head="full", reward_head=True)


def scramble(module: nn.Module, scale: float = 0.05) -> None:
    """Random values in every parameter, so that no part is at its neutral start."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in module.parameters():
            value.add_(torch.randn(value.shape, generator=generator) * scale)


def separate_logps(model: nn.Module, pair) -> list[float]:
    """Log-probabilities of both completions from two unpadded forward passes of the whole model."""
    found = []
    for completion in (pair.chosen, pair.rejected):
        tokens = torch.from_numpy(np.concatenate([pair.prompt, completion])).long()[None]
        with torch.no_grad():
            logps = torch.log_softmax(model(input_ids=tokens).logits[0].float(), -1)
        start = len(pair.prompt)
        found.append(sum(float(logps[start - 1 + k, token]) for k, token in enumerate(completion)))
    return found


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_packed_row_gives_the_log_probabilities_of_two_separate_sequences(architecture: str, attention: str) -> None:
    backbone = wrap_backbone(small_model(architecture, attention), small_config())
    for _, value in lora_parameters(backbone.model):
        with torch.no_grad():
            value.normal_(std=0.1, generator=torch.Generator().manual_seed(3))
    pairs = token_pairs(7)
    packed = Policy(backbone, None)(collate(pairs)).logps.detach().numpy()
    separate = np.array([separate_logps(backbone.model, pair) for pair in pairs])
    np.testing.assert_allclose(packed, separate, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("plan", [ALL, FULL], ids=["low_rank", "full"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_untrained_personal_model_gives_exactly_the_base_logits_and_reference(architecture, plan) -> None:
    backbone = wrap_backbone(small_model(architecture), small_config())
    batch = collate(token_pairs(5))
    base = reference_logps(backbone, batch)
    personal = PersonalParts(plan, backbone.head, np.random.default_rng(0))
    scores = Policy(backbone, personal)(batch)
    assert torch.equal(scores.logps, base)
    assert torch.equal(scores.rewards, torch.zeros(5, 2))


def test_a_full_head_is_its_own_and_leaves_tied_embeddings_alone() -> None:
    backbone = wrap_backbone(small_model("qwen2"), small_config())
    embeddings = backbone.inner.get_input_embeddings().weight
    before = embeddings.detach().clone()
    personal = PersonalParts(FULL, backbone.head, np.random.default_rng(0))
    batch = collate(token_pairs(3))
    untrained = Policy(backbone, personal)(batch).logps
    scramble(personal)
    assert personal.head_update.weight.shape == before.shape
    assert not torch.equal(Policy(backbone, personal)(batch).logps, untrained)
    assert torch.equal(embeddings, before)


def test_the_reference_ignores_adapter_and_personal_parts() -> None:
    backbone = wrap_backbone(small_model("llama"), small_config())
    batch = collate(token_pairs(4))
    before = reference_logps(backbone, batch)
    scramble(backbone.model.base_model.model.model.layers[0].self_attn.q_proj.lora_B)
    assert not torch.equal(Policy(backbone, None)(batch).logps, before)
    assert torch.equal(reference_logps(backbone, batch), before)


def test_the_explicit_reward_sends_no_gradient_to_the_shared_adapter() -> None:
    backbone = wrap_backbone(small_model("llama"), small_config())
    personal = PersonalParts(ALL, backbone.head, np.random.default_rng(0))
    scramble(personal)
    shared = [value.requires_grad_(True) for _, value in shared_parameters(backbone.model, "AB", 1)]
    personal.requires_grad_(True)
    Policy(backbone, personal)(collate(token_pairs(3))).rewards.sum().backward()
    assert all(value.grad is None or not value.grad.any() for value in shared)
    assert personal.bottleneck.down.weight.grad.any()


def test_fixed_a_is_orthonormal_with_the_usual_norm_and_the_same_for_every_client() -> None:
    one = wrap_backbone(small_model("llama"), small_config())
    other = wrap_backbone(small_model("llama"), small_config())
    for (name, value), (_, same) in zip(lora_parameters(one.model), lora_parameters(other.model), strict=True):
        assert torch.equal(value, same)
        if "lora_A" in name:
            torch.testing.assert_close(value @ value.T, torch.eye(4) / 3, atol=1e-6, rtol=0)
        else:
            assert not value.any()


def test_alternating_trains_b_in_odd_and_a_in_even_rounds() -> None:
    model = wrap_backbone(small_model("llama"), small_config(lora={"train": "alternating"})).model
    assert all("lora_B" in name for name, _ in shared_parameters(model, "alternating", 1))
    assert all("lora_A" in name for name, _ in shared_parameters(model, "alternating", 2))
    both = {n for k in (1, 2) for n, _ in shared_parameters(model, "alternating", k)}
    assert both == {n for n, _ in lora_parameters(model)}


def test_a_vector_written_into_parameters_reads_back_and_its_layout_has_a_digest() -> None:
    model = wrap_backbone(small_model("gpt2"), small_config()).model
    parameters = lora_parameters(model)
    vector = np.random.default_rng(0).standard_normal(ParamLayout.of(parameters).size).astype(np.float32)
    assign(parameters, vector.astype(np.float64))
    np.testing.assert_array_equal(flatten(parameters), vector)
    assert ParamLayout.of(parameters).digest() != ParamLayout.of(parameters[1:]).digest()
    with pytest.raises(ValueError, match="coordinates"):
        assign(parameters, np.zeros(3))


def test_a_model_that_caps_its_logits_is_refused() -> None:
    model = small_model("llama")
    original = model.forward

    def capped(*args, **kwargs):
        output = original(*args, **kwargs)
        output.logits = output.logits * 3
        return output

    model.forward = capped
    with pytest.raises(ConfigError, match="head\\(body\\(x\\)\\)"):
        wrap_backbone(model, small_config())


def test_the_unused_lm_head_half_of_a_pair_cannot_see_the_other_completion() -> None:
    backbone = wrap_backbone(small_model("llama"), small_config())
    pairs = token_pairs(1)
    first = pairs[0]
    changed = type(first)(first.prompt, first.chosen[::-1].copy() + 1, first.rejected)
    policy = Policy(backbone, None)
    assert torch.equal(policy(collate([first])).logps[:, 1], policy(collate([changed])).logps[:, 1])


def test_bfloat16_backbone_keeps_adapter_and_scores_in_float32() -> None:
    backbone = wrap_backbone(small_model("llama").to(torch.bfloat16), small_config())
    assert {value.dtype for _, value in lora_parameters(backbone.model)} == {torch.float32}
    personal = PersonalParts(ALL, backbone.head, np.random.default_rng(0))
    scores = Policy(backbone, personal)(collate(token_pairs(3)))
    assert scores.logps.dtype == torch.float32
    assert torch.equal(scores.logps, reference_logps(backbone, collate(token_pairs(3))))


def test_a_model_whose_position_encoding_looks_at_the_whole_batch_is_refused() -> None:
    from transformers import Phi3Config, Phi3ForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [40.0] * 4, "rope_theta": 10000.0}
    torch.manual_seed(0)
    model = Phi3ForCausalLM(
        Phi3Config(
            vocab_size=97,
            max_position_embeddings=256,
            original_max_position_embeddings=32,
            rope_parameters={**rope, "original_max_position_embeddings": 32},
            pad_token_id=0,
            initializer_range=0.5,
            **sizes,
        )
    ).eval()
    backbone = wrap_backbone(model, small_config())
    check_separable(backbone, 24)  # never beyond the original context: rows are independent
    with pytest.raises(ConfigError, match="pairs beside it"):
        check_separable(backbone, 128)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_supported_architectures_score_each_row_by_itself(architecture: str) -> None:
    check_separable(wrap_backbone(small_model(architecture), small_config()), 64)
