"""Small models and an oracle for the DP-SGD tests."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from privacy.dpsgd import DPStepPlan, PairDPSGD, StepReport
from privacy.entropy import Entropy

Named = list[tuple[str, nn.Parameter]]


class Perceptron(nn.Module):
    """Everything trains: weights, biases, a norm layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:  # float32[b, tokens, 6] -> float32[b]
        return self.last(torch.tanh(self.norm(self.first(x)))).mean(dim=1).squeeze(-1)


class Attention(nn.Module):
    """One frozen block of attention in plain linear layers with low-rank adapters on it; only those train."""

    def __init__(self, rank: int = 2, width: int = 6) -> None:
        super().__init__()
        self.base = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")})
        self.down = nn.ModuleDict({name: nn.Linear(width, rank, bias=False) for name in self.base})
        self.up = nn.ModuleDict({name: nn.Linear(rank, width, bias=False) for name in self.base})
        self.read_out = nn.Linear(width, 1)
        for module in (self.base, self.read_out):
            module.requires_grad_(False)

    def project(self, name: str, x: Tensor) -> Tensor:
        return self.base[name](x) + self.up[name](self.down[name](x))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.project("query", x) @ self.project("key", x).transpose(1, 2) / 6**0.5
        return self.read_out(torch.relu(scores.softmax(-1) @ self.project("value", x))).mean(dim=1).squeeze(-1)


def trainable(module: nn.Module) -> Named:
    return [(name, p) for name, p in module.named_parameters() if p.requires_grad]


def plan(
    *, clip_norm: float = 0.5, noise: float = 0.0, rate: float = 1.0, batch: float = 10.0, lr: float = 0.1
) -> DPStepPlan:
    return DPStepPlan(
        clip_norm=clip_norm, noise_multiplier=noise, sample_rate=rate, expected_batch=batch, learning_rate=lr
    )


def pair_gradient(module: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    """The gradient of one pair by plain autograd, alone in its batch."""
    loss = ((module(x[None]) - y[None]) ** 2).sum()
    return [g.double() for g in torch.autograd.grad(loss, [p for _, p in trainable(module)])]


def clipped_sum_by_loop(module: nn.Module, xs: Tensor, ys: Tensor, clip_norm: float) -> list[Tensor]:
    """The oracle: one backward pass for each pair, clipped as a whole, added up."""
    total = [torch.zeros_like(p, dtype=torch.float64) for _, p in trainable(module)]
    for x, y in zip(xs, ys, strict=True):
        gradient = pair_gradient(module, x, y)
        norm = sum(float(g.square().sum()) for g in gradient) ** 0.5
        for part, g in zip(total, gradient, strict=True):
            part += g * min(1.0, clip_norm / norm)
    return total


def flat(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.detach().double().reshape(-1) for part in parts])


def data(pairs: int = 11) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(4)
    return torch.randn(pairs, 5, 6, generator=source), torch.randn(pairs, generator=source)


def released_sum(
    module: nn.Module, xs: Tensor, ys: Tensor, *, micro: int = 4, steps: DPStepPlan | None = None
) -> tuple[Tensor, StepReport]:
    """(the sum that the step released, float64[D], read back from the moved parameters; its report)."""
    wanted = steps or plan()
    before = flat([p for _, p in trainable(module)])
    with PairDPSGD(module, trainable(module), wanted, Entropy.seeded(9)) as private:
        chosen = torch.from_numpy(private.sample(len(xs)))
        batches = [chosen[start : start + micro] for start in range(0, len(chosen), micro)]
        report = private.step(batches, lambda rows: (module(xs[rows]) - ys[rows]) ** 2)
    moved = before - flat([p for _, p in trainable(module)])
    return moved / wanted.learning_rate * wanted.expected_batch * wanted.clip_norm, report
