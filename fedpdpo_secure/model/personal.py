"""Personal parts after the last hidden state: bottleneck adapter, LM head, reward head. They never leave a client.

Everything starts as the identity or zero, so an untrained personal model has exactly the base model's logits. Layers
are plain `nn.Linear` and `nn.LayerNorm`, for which Opacus has per-row gradient rules; the pair stays dimension 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class PersonalPlan:
    """Which personal parts exist and how large they are.

    `full` is a whole V x d matrix of one's own (base + difference, the same function as a copy), `low_rank` its rank-r
    form for large vocabularies.
    """

    bottleneck: bool
    lm_head: Literal["none", "low_rank", "full"]
    reward_head: bool
    bottleneck_size: int | None = None  # null: max(8, hidden / 16)
    head_rank: int = 4

    @property
    def empty(self) -> bool:
        return not (self.bottleneck or self.reward_head or self.lm_head != "none")


class Bottleneck(nn.Module):
    """z = h + up(GELU(down(LN(h)))), up = 0 at the start (Houlsby et al. 2019, residual adapter)."""

    def __init__(self, hidden: int, size: int, rng: np.random.Generator) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.down = _linear(hidden, size, rng, bias=True)
        self.up = _zero_linear(size, hidden, bias=True)

    def forward(self, hidden: Tensor) -> Tensor:  # float32[B, T, d] -> float32[B, T, d]
        return hidden + self.up(nn.functional.gelu(self.down(self.norm(hidden))))


class LowRankHead(nn.Module):
    """Difference to the frozen LM head: logits += outer(inner(z)), outer = 0 at the start; rank r instead of V x d."""

    def __init__(self, hidden: int, vocabulary: int, rank: int, rng: np.random.Generator) -> None:
        super().__init__()
        self.inner = _linear(hidden, rank, rng, bias=False)
        self.outer = _zero_linear(rank, vocabulary, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:  # float32[B, T, d] -> float32[B, T, V]
        return self.outer(self.inner(hidden))


class PersonalParts(nn.Module):
    """The parts a client owns; `None` where its plan has none."""

    def __init__(self, plan: PersonalPlan, base_head: nn.Linear, rng: np.random.Generator) -> None:
        super().__init__()
        hidden, vocabulary = base_head.in_features, base_head.out_features
        size = plan.bottleneck_size or max(8, hidden // 16)
        self.plan = plan
        self.bottleneck = Bottleneck(hidden, size, rng) if plan.bottleneck else None
        self.head_update: nn.Module | None = None
        if plan.lm_head == "low_rank":
            self.head_update = LowRankHead(hidden, vocabulary, plan.head_rank, rng)
        elif plan.lm_head == "full":
            # A difference to the frozen head, so a tied input embedding (the backbone) cannot change with it.
            self.head_update = _zero_linear(hidden, vocabulary, bias=False)
        self.reward = _zero_linear(hidden, 1, bias=True) if plan.reward_head else None
        self.requires_grad_(False)

    def adapt(self, hidden: Tensor) -> Tensor:
        """float32[B, T, d] after the bottleneck."""
        return hidden if self.bottleneck is None else self.bottleneck(hidden)

    def logits(self, hidden: Tensor, base_head: nn.Module) -> Tensor:
        """float32[B, T, V] of this client's LM head on adapted hidden states."""
        logits = base_logits(hidden, base_head)
        return logits if self.head_update is None else logits + self.head_update(hidden)

    def rewards(self, hidden: Tensor) -> Tensor:
        """float32[B, T]; zero where the plan has no reward head."""
        if self.reward is None:
            return hidden.new_zeros(hidden.shape[:-1])
        return self.reward(hidden).squeeze(-1)


def base_logits(hidden: Tensor, base_head: nn.Module) -> Tensor:
    """float32 logits of the frozen LM head, computed in its own dtype."""
    weight = next(base_head.parameters())
    return base_head(hidden.to(weight.dtype)).float()


def _linear(inputs: int, outputs: int, rng: np.random.Generator, *, bias: bool) -> nn.Linear:
    """nn.Linear with torch's default law (uniform, bound 1/sqrt(inputs)) drawn from `rng`."""
    layer = _zero_linear(inputs, outputs, bias=bias)
    bound = 1 / math.sqrt(inputs)
    with torch.no_grad():
        for parameter in layer.parameters():
            values = rng.uniform(-bound, bound, tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(values).to(parameter.dtype))
    return layer


def _zero_linear(inputs: int, outputs: int, *, bias: bool) -> nn.Linear:
    with torch.device("meta"):
        layer = nn.Linear(inputs, outputs, bias=bias)
    layer = layer.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
    return layer
