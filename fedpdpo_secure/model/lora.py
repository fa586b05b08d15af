"""The shared LoRA adapter: attaching it with peft, its initial values, and which factor trains in which round."""

from __future__ import annotations

import math
import warnings
from typing import Literal

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

Train = Literal["AB", "B", "alternating"]


def attach_lora(
    model: PreTrainedModel,
    *,
    rank: int,
    alpha: float,
    targets: list[str] | None,
    train: Train,
    rng: np.random.Generator,
) -> PeftModel:
    """`model` (already on its device) with a LoRA adapter in float32; nothing requires a gradient yet.

    B starts at zero. With `train="B"` the rows of A are orthonormal times 1/sqrt(3), which keeps peft's expected
    ||A||^2 = r/3, makes averaging exact and the DP noise linear (FFA-LoRA, arXiv 2403.12313); otherwise A has peft's
    own law, uniform in +-1/sqrt(inputs).
    """
    config = LoraConfig(
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules=targets or "all-linear",
        task_type="CAUSAL_LM",
    )
    with (
        warnings.catch_warnings(),
        torch.random.fork_rng(devices=[]),
    ):  # peft draws A from torch's global generator; we overwrite it below
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for a renamed attribute
        adapted = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_A" in name:
                parameter.copy_(torch.from_numpy(_initial_a(parameter.shape, train, rng)).to(parameter))
            elif "lora_B" in name:
                parameter.zero_()
    adapted.requires_grad_(False)
    return adapted


def _initial_a(shape: torch.Size, train: Train, rng: np.random.Generator) -> np.ndarray:
    rank, inputs = shape
    if train == "B":
        columns = np.linalg.qr(rng.standard_normal((inputs, rank)))[0]
        return columns.T[:rank] / math.sqrt(3)
    return rng.uniform(-1 / math.sqrt(inputs), 1 / math.sqrt(inputs), (rank, inputs))


def shared_parameters(model: nn.Module, train: Train, round_index: int) -> list[tuple[str, nn.Parameter]]:
    """(name, parameter) of the LoRA factors that train in round `round_index` (from 1), in canonical (sorted) order.

    `alternating` trains B in odd and A in even rounds (RoLoRA, arXiv 2502.01755), which keeps every average exact.
    """
    factors = {"AB": ("lora_A", "lora_B"), "B": ("lora_B",)}
    wanted = factors.get(train) or (("lora_B",) if round_index % 2 else ("lora_A",))
    found = [(name, value) for name, value in model.named_parameters() if any(factor in name for factor in wanted)]
    return sorted(found)


def lora_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """(name, parameter) of the whole adapter, in canonical order."""
    return sorted((name, value) for name, value in model.named_parameters() if "lora_" in name)
