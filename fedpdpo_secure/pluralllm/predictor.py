"""The preference predictor of PluralLLM: a small transformer over points, one point per option of a question.

The architecture is that of GPO (Zhao et al., ICLR 2024, arXiv 2310.11523) as PluralLLM publishes it (arXiv 2503.09925):
input [embedding; answer], an MLP of depth 4, post-norm encoder layers without positions, a head with (mean, log std).
Predictions of a target depend on the context and that target alone, whatever the order, the padding and other targets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fedpdpo_secure.pluralllm.attention import EncoderLayer
from fedpdpo_secure.pluralllm.batch import EpisodeBatch


@dataclass(frozen=True, slots=True)
class PredictorShape:
    """Sizes of a predictor; the defaults are the published ones (with width 4096: 1,188,354 parameters)."""

    width: int  # of an embedding
    d_model: int = 128
    heads: int = 4
    layers: int = 6
    feedforward: int = 128  # hidden width of the encoder layers and of the head

    def __post_init__(self) -> None:
        for name in ("width", "d_model", "heads", "layers", "feedforward"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.d_model % self.heads:
            raise ValueError(f"d_model must be a multiple of heads = {self.heads}, got {self.d_model}")


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the head says at every point, context and padding included; only target points mean something."""

    mean: Tensor  # float32[B, N], a logit of the option within its question
    log_std: Tensor  # float32[B, N], log of the standard deviation of the answer; the published loss alone reads it


class Predictor(nn.Module):
    """An EpisodeBatch in, a Prediction out. Its parameters are all in linear layers and layer norms."""

    def __init__(self, shape: PredictorShape) -> None:
        super().__init__()
        d_model = shape.d_model
        self.shape = shape
        self.embed = nn.Sequential(
            nn.Linear(shape.width + 1, d_model),
            nn.ReLU(),
            nn.Linear(d_model, d_model),
            nn.ReLU(),
            nn.Linear(d_model, d_model),
            nn.ReLU(),
            nn.Linear(d_model, d_model),
        )
        self.body = nn.ModuleList(EncoderLayer(d_model, shape.heads, shape.feedforward) for _ in range(shape.layers))
        self.head = nn.Sequential(nn.Linear(d_model, shape.feedforward), nn.ReLU(), nn.Linear(shape.feedforward, 2))

    def forward(self, batch: EpisodeBatch) -> Prediction:
        points = self.embed(torch.cat([batch.embeddings, batch.shown[..., None]], -1))
        for layer in self.body:
            points = layer(points, batch.context)
        mean, log_std = self.head(points).unbind(-1)
        return Prediction(mean, log_std)


def make_predictor(shape: PredictorShape, generator: torch.Generator) -> Predictor:
    """A predictor in float32 on the CPU with torch's default laws, drawn from `generator` alone.

    Linear layers: uniform within 1/sqrt(inputs). Attention: Xavier uniform for queries, keys and values together,
    biases zero. All encoder layers start as copies of the first, as the published `nn.TransformerEncoder` makes them.
    """
    with torch.device("meta"):
        predictor = Predictor(shape).float()
    predictor = predictor.to_empty(device="cpu")
    with torch.no_grad():
        for module in predictor.modules():
            if isinstance(module, nn.Linear):
                bound = 1 / math.sqrt(module.in_features)
                module.weight.uniform_(-bound, bound, generator=generator)
                module.bias.uniform_(-bound, bound, generator=generator)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        first = predictor.body[0]
        nn.init.xavier_uniform_(first.attention.project.weight, generator=generator)
        first.attention.project.bias.zero_()
        first.attention.out.bias.zero_()
        for layer in predictor.body[1:]:
            layer.load_state_dict(first.state_dict())
    return predictor


def log_shares(mean: Tensor, question: Tensor) -> Tensor:
    """float32[B, N]: log softmax of `mean` over the points with the same question number, padding (-1) among itself.

    A question's points have one role, so this is the coupling of the published loss where it is read: at targets.
    """
    same = question[:, :, None] == question[:, None, :]
    return mean - torch.where(same, mean[:, None, :], -torch.inf).logsumexp(-1)


def predict(mean: Tensor, batch: EpisodeBatch) -> Tensor:
    """float32[B, N]: predicted share of each target's option within its question; zero at all other points."""
    shares = log_shares(mean, batch.question).exp()
    return torch.where(batch.target, shares, torch.zeros_like(shares))


def by_question(values: Tensor, batch: EpisodeBatch) -> list[dict[int, np.ndarray]]:
    """Per episode: target question number -> float64[options], the values at its points in their order."""
    arrays = (part.detach().cpu().numpy() for part in (values.double(), batch.question, batch.target))
    return [
        {int(number): row[question == number] for number in np.unique(question[target])}
        for row, question, target in zip(*arrays, strict=True)
    ]
