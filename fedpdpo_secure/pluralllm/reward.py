"""A trained predictor as the reward model of one group, which it knows from a few of the group's own answers.

Scoring runs where the group's answers are: context, scores and choices stay with the group unless they are released
under a claim of their own. The predictor itself is public.

What it is not: the predictor has seen survey options alone, a handful for each question, in the embeddings that it was
trained with. It scores any text that can be embedded; scores of free answers to free questions are extrapolation, and
no measurement of the predictor's alignment covers them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedpdpo_secure.pluralllm.batch import EpisodeBatch
from fedpdpo_secure.pluralllm.point_texts import PromptForm, point_texts
from fedpdpo_secure.pluralllm.predictor import Predictor
from fedpdpo_secure.pluralllm.survey import SUM_TOLERANCE, Question

Embed = Callable[[Sequence[str]], NDArray[np.float32]]  # texts -> [texts, W], as the predictor's points were embedded
Vectors = NDArray[np.float32]  # [k, W], one for each option of one question


@dataclass(frozen=True, slots=True)
class Answered:
    """One question that the group has answered. Private to the group."""

    embeddings: Vectors  # [k, W]
    probs: NDArray[np.float64]  # [k], share of the group that chose each option

    def __post_init__(self) -> None:
        _check_vectors(self.embeddings, "embeddings")
        if self.probs.shape != (len(self.embeddings),):
            raise ValueError(f"probs must be float64[{len(self.embeddings)}], got {list(self.probs.shape)}")
        if not (np.isfinite(self.probs).all() and (self.probs >= 0).all()):
            raise ValueError(f"probs must be finite and at least 0, got {self.probs.tolist()}")
        if abs(self.probs.sum() - 1) > SUM_TOLERANCE:
            raise ValueError(f"probs must sum to 1 within {SUM_TOLERANCE:g}, got {self.probs.sum():g}")


@dataclass(frozen=True, slots=True)
class GroupReward:
    """What one group would say to answers nobody showed it. The order of `context` means nothing."""

    predictor: Predictor
    context: tuple[Answered, ...]

    def __post_init__(self) -> None:
        if not self.context:
            raise ValueError("context must hold at least 1 answered question, got 0")
        for place, answered in enumerate(self.context):
            self._check_width(answered.embeddings, f"context[{place}].embeddings")

    def rewards(self, candidates: Vectors) -> NDArray[np.float64]:
        """float64[k]: a number per candidate that does not depend on the other candidates; larger is better.

        It is a logit: candidates a and b of ONE question compare as Bradley-Terry with rewards[a] - rewards[b].
        Candidates of different questions do not compare. candidates: float32[k, W]. Raises ValueError for another
        shape, a value that is not finite, and a predictor that answers with one.
        """
        _check_vectors(candidates, "candidates")
        self._check_width(candidates, "candidates")
        batch = _episode(self.context, candidates).to(next(self.predictor.parameters()).device)
        with torch.no_grad():
            mean: NDArray[np.float64] = self.predictor(batch).mean[0, -len(candidates) :].double().cpu().numpy()
        if not np.isfinite(mean).all():
            raise ValueError("predictor must give finite scores, gave one that is not")
        return mean

    def scores(self, candidates: Vectors) -> NDArray[np.float64]:
        """float64[k], sum 1: predicted share of the group that would choose each, were these its options.

        As shares they depend on what else is offered: two equal candidates halve theirs. Raises as `rewards`.
        """
        weights = self.rewards(candidates)
        weights = np.exp(weights - weights.max())
        shares: NDArray[np.float64] = weights / weights.sum()
        return shares

    def best_of(self, candidates: Vectors) -> int:
        """The place of the candidate with the largest share, the first of several. Raises as `rewards`."""
        return int(np.argmax(self.rewards(candidates)))

    def score_texts(
        self, question: str, candidates: Sequence[str], embed: Embed, *, form: PromptForm = "plain"
    ) -> NDArray[np.float64]:
        """`scores` of answers in words to a question in words. Extrapolation: see the module. Raises as `rewards`."""
        return self.scores(embed_options(question, candidates, embed, form=form))

    def _check_width(self, vectors: Vectors, field: str) -> None:
        width = self.predictor.shape.width
        if vectors.shape[1] != width:
            raise ValueError(f"{field} must have the predictor's width {width}, got {vectors.shape[1]}")


def embed_options(question: str, options: Sequence[str], embed: Embed, *, form: PromptForm = "plain") -> Vectors:
    """float32[k, W]: the vectors of `options` as answers to `question`, worded as a survey's points are.

    embed: must be what the predictor was trained with: the same model, `form`, and scaling to length 1 or not (for
    instance `lambda texts: embeddings.embed_texts(texts, body, tokenizer)[0]`); another one of equal width is not
    noticed. Raises ValueError for no option and for vectors of another number.
    """
    if not options:
        raise ValueError("options must hold at least 1 text, got 0")
    vectors = np.asarray(embed(point_texts([Question("", question, tuple(options))], form)))
    _check_vectors(vectors, "embed's result")
    if len(vectors) != len(options):
        raise ValueError(f"embed's result must have a row for each of {len(options)} options, got {len(vectors)}")
    return vectors.astype(np.float32)


def _check_vectors(vectors: Vectors, field: str) -> None:
    if vectors.ndim != 2 or vectors.dtype.kind != "f" or not len(vectors):
        raise ValueError(f"{field} must be float32[k, W] with k at least 1, got {vectors.dtype}{list(vectors.shape)}")
    if not np.isfinite(vectors).all():
        raise ValueError(f"{field} must be finite, got a value that is not")


def _episode(context: Sequence[Answered], candidates: Vectors) -> EpisodeBatch:
    """One episode: the context's questions, then the candidates as the options of one target."""
    sizes = [len(answered.probs) for answered in context] + [len(candidates)]
    shown = [answered.probs / answered.probs.sum() for answered in context]
    question = torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes))
    target = question == len(context)
    vectors = np.concatenate([*(answered.embeddings for answered in context), candidates]).astype(np.float32)
    answers = np.concatenate([*shown, np.zeros(len(candidates))]).astype(np.float32)
    parts = (torch.from_numpy(vectors), torch.from_numpy(answers), ~target, target, question)
    return EpisodeBatch(*(part[None] for part in parts))
