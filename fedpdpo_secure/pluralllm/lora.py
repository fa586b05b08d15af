"""LoRA on a frozen, publicly pretrained predictor: the small shared part of a federation that trains under noise."""

from __future__ import annotations

import math

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from fedpdpo_secure.model.lora import lora_parameters, shared_parameters
from fedpdpo_secure.pluralllm.predictor import Predictor


def with_lora(predictor: Predictor, *, rank: int, alpha: float, generator: torch.Generator) -> Predictor:
    """`predictor` itself with an adapter of `rank` on each of its linear layers; only the factors B are trainable.

    B starts at zero, so predictions do not move. A is fixed and public: orthonormal rows times 1/sqrt(3), as in
    `model.lora`, which makes averages of B exact and the noise linear (FFA-LoRA, arXiv 2403.12313). Raises ValueError
    where a layer has fewer than `rank` inputs, or the predictor has an adapter.
    """
    layers = {name: module for name, module in predictor.named_modules() if isinstance(module, nn.Linear)}
    narrowest = min(module.in_features for module in layers.values())
    if not 1 <= rank <= narrowest:
        raise ValueError(f"rank must be between 1 and {narrowest}, the narrowest layer's inputs, got {rank}")
    if lora_parameters(predictor):
        raise ValueError("predictor has a LoRA adapter already")
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, bias="none", target_modules=list(layers))
    with torch.random.fork_rng(devices=[]):  # peft draws A from torch's global generator; it is overwritten below
        inject_adapter_in_model(config, predictor)
    predictor.requires_grad_(False)
    with torch.no_grad():
        for name, parameter in lora_parameters(predictor):
            if "lora_A" in name:
                start = torch.empty(parameter.shape)
                parameter.copy_(nn.init.orthogonal_(start, gain=1 / math.sqrt(3), generator=generator))
            else:
                parameter.zero_()
    for _, parameter in shared_parameters(predictor, "B", 1):
        parameter.requires_grad_(True)
    return predictor


def trainable(predictor: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """(name, parameter) of what trains, in canonical (sorted) order: the whole predictor, or an adapter's B."""
    return sorted((name, value) for name, value in predictor.named_parameters() if value.requires_grad)
