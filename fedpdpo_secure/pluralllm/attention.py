"""Encoder layers in which every point attends to context points alone, made of plain linear layers.

They compute what `torch.nn.TransformerEncoderLayer` computes (post-norm, ReLU, no dropout) and have as many parameters;
`nn.MultiheadAttention` has no per-row gradient rule in Opacus, `nn.Linear` and `nn.LayerNorm` have one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, scaled_dot_product_attention


class ContextAttention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2.2) over context columns; without any context its heads
    give zero, where a softmax over nothing would give NaN."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(width, 3 * width)  # queries, keys, values, stacked as torch stacks them
        self.out = nn.Linear(width, width)

    def forward(self, points: Tensor, context: Tensor) -> Tensor:
        """float32[B, N, d] -> float32[B, N, d]; context: bool[B, N]."""
        rows, count, width = points.shape
        split = self.project(points).view(rows, count, 3, self.heads, width // self.heads)
        queries, keys, values = split.permute(2, 0, 3, 1, 4)
        answered = context.any(1)[:, None, None]  # bool[B, 1, 1]
        visible = (context[:, None, :] | ~answered)[:, None].expand(rows, 1, count, count)
        mixed = scaled_dot_product_attention(queries, keys, values, attn_mask=visible)
        mixed = mixed.transpose(1, 2).reshape(rows, count, width)
        return self.out(mixed * answered)


class EncoderLayer(nn.Module):
    """Attention, then a feed-forward layer, each with a residual path and a LayerNorm after it.

    A target reaches its own output on the residual path only: it attends to no target, not even to itself.
    """

    def __init__(self, width: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.attention = ContextAttention(width, heads)
        self.norm_attention = nn.LayerNorm(width)
        self.widen = nn.Linear(width, feedforward)
        self.narrow = nn.Linear(feedforward, width)
        self.norm_feedforward = nn.LayerNorm(width)

    def forward(self, points: Tensor, context: Tensor) -> Tensor:
        """float32[B, N, d] -> float32[B, N, d]; context: bool[B, N]."""
        points = self.norm_attention(points + self.attention(points, context))
        return self.norm_feedforward(points + self.narrow(relu(self.widen(points))))


def load_encoder_weights(layer: EncoderLayer, torch_layer: nn.TransformerEncoderLayer) -> None:
    """Copy the weights of torch's layer (post-norm, ReLU) into ours, which then computes the same function.

    Raises ValueError where torch's layer has another form.
    """
    if torch_layer.norm_first or torch_layer.activation is not relu:
        raise ValueError("torch_layer must be post-norm (norm_first=False) with activation 'relu'")
    if torch_layer.self_attn.num_heads != layer.attention.heads:
        raise ValueError(f"torch_layer must have {layer.attention.heads} heads, has {torch_layer.self_attn.num_heads}")
    source = torch_layer.state_dict()
    names = {
        "attention.project": "self_attn.in_proj_",
        "attention.out": "self_attn.out_proj.",
        "norm_attention": "norm1.",
        "widen": "linear1.",
        "narrow": "linear2.",
        "norm_feedforward": "norm2.",
    }
    with torch.no_grad():
        layer.load_state_dict(
            {f"{ours}.{part}": source[theirs + part] for ours, theirs in names.items() for part in ("weight", "bias")}
        )
