"""What the predictor sees: episodes of a group's answered (context) and open (target) questions, padded to one size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class EpisodeBatch:
    """B episodes of at most N points; a point is one option of one question. The row is the episode.

    embeddings: float32[B, N, W] of question and option; zero where padded.
    answers: float32[B, N], the group's probability of the option; the predictor sees it at context points alone.
    context: bool[B, N]; target: bool[B, N]. Neither: padding. Never both.
    question: int64[B, N], numbers the questions within an episode from 0; -1 where padded. All options of a question
    have one number and one role, and are neighbours in N.
    """

    embeddings: Tensor
    answers: Tensor
    context: Tensor
    target: Tensor
    question: Tensor

    def __len__(self) -> int:
        return len(self.embeddings)

    @property
    def shown(self) -> Tensor:
        """float32[B, N]: the answers that the predictor may see: those of the context, zero elsewhere."""
        return torch.where(self.context, self.answers, torch.zeros_like(self.answers))

    def to(self, device: torch.device) -> EpisodeBatch:
        """The batch on `device`."""
        parts = (self.embeddings, self.answers, self.context, self.target, self.question)
        return EpisodeBatch(*(part.to(device) for part in parts))
