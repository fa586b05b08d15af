"""`builtin:groups`: a made-up survey whose structure is known, so that a test can say what is reachable.

Every option of every question has a loading u in R^L, seen through its embedding; every group has a taste v in R^L, a
little of its own around the centre of one of few clusters, on top of what all groups share. A group answers

    softmax_k( scale * <u_k, v> / sqrt(L) + noise )

so a few answered questions tell its taste, and taste and embedding tell every other answer. Everything follows from
public seeds, question by question and group by group: more groups or questions change none of the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedpdpo_secure.pluralllm.survey import Answer, Question, Survey, build_survey

_STREAMS = {"plane": 1, "question": 2, "centre": 3, "group": 4, "answer": 5, "common": 6}
_TOPICS = ("schools", "roads", "taxes", "parks", "trade", "health care", "water", "rail", "farming", "science")
_CLAIMS = (
    "should come first in next year's budget",
    "are better decided close to home",
    "have become better in recent years",
    "need stricter rules",
    "matter to your daily life",
    "are in good hands today",
)
_OPTIONS = ("Very much so", "Rather yes", "It depends", "Rather not", "Not at all")


@dataclass(frozen=True, slots=True)
class SyntheticSettings:
    """Sizes and strengths of the built-in groups."""

    groups: int = 24
    questions: int = 120
    width: int = 32  # of an embedding
    factors: int = 4  # L
    clusters: int = 4
    answered: float = 0.8  # chance that a group was asked a question
    scale: float = 2.5  # of the logits: their standard deviation over options, about
    within: float = 0.35  # a group's own part of its taste, against 1 for the cluster and `common` for all
    common: float = 0.5
    answer_noise: float = 0.15  # standard deviation on every logit
    embedding_noise: float = 0.1  # per coordinate, against loadings of standard deviation 1
    seed: int = 0

    def __post_init__(self) -> None:
        for field, low in (("groups", 1), ("questions", 2), ("factors", 1), ("clusters", 1)):
            if getattr(self, field) < low:
                raise ValueError(f"{field} must be at least {low}, got {getattr(self, field)}")
        if self.width < self.factors:
            raise ValueError(f"width must be at least factors = {self.factors}, got {self.width}")
        if not 0.0 < self.answered <= 1.0:
            raise ValueError(f"answered must be in (0, 1], got {self.answered}")


@dataclass(frozen=True, slots=True)
class SyntheticSurvey:
    """A survey with what made it."""

    survey: Survey
    embeddings: NDArray[np.float32]  # [points, width]
    truth: Mapping[str, tuple[NDArray[np.float64], ...]]  # group -> noise-free answers to every question
    cluster: Mapping[str, int]
    loadings: NDArray[np.float64]  # [points, factors]
    tastes: Mapping[str, NDArray[np.float64]]  # group -> [factors]


def make_synthetic(settings: SyntheticSettings) -> SyntheticSurvey:
    """The survey of `settings`; the same settings give the same bytes."""
    questions = tuple(_question(settings, index) for index in range(settings.questions))
    loadings = [_loadings(settings, index, len(question.options)) for index, question in enumerate(questions)]
    width = max(2, len(str(settings.groups - 1)))
    names = [f"group-{index:0{width}d}" for index in range(settings.groups)]
    tastes = {name: _taste(settings, index) for index, name in enumerate(names)}
    answers: list[Answer] = []
    truth: dict[str, tuple[NDArray[np.float64], ...]] = {}
    for group, name in enumerate(names):
        logits = [settings.scale * (u @ tastes[name]) / np.sqrt(settings.factors) for u in loadings]
        truth[name] = tuple(_softmax(logit) for logit in logits)
        for index, logit in enumerate(logits):
            rng = _rng(settings, "answer", group, index)
            asked, noise = rng.random() < settings.answered, rng.normal(size=len(logit))
            if asked:
                answers.append(Answer(name, index, _softmax(logit + settings.answer_noise * noise)))
    return SyntheticSurvey(
        survey=build_survey(questions, answers),
        embeddings=np.concatenate([_embed(settings, index, u) for index, u in enumerate(loadings)]),
        truth=truth,
        cluster={name: index % settings.clusters for index, name in enumerate(names)},
        loadings=np.concatenate(loadings),
        tastes=tastes,
    )


def _question(settings: SyntheticSettings, index: int) -> Question:
    topic, claim = _TOPICS[index % len(_TOPICS)], _CLAIMS[index // len(_TOPICS) % len(_CLAIMS)]
    count = int(_rng(settings, "question", index).integers(2, len(_OPTIONS) + 1))
    again = index // (len(_TOPICS) * len(_CLAIMS))
    asked = f" (wave {again + 1})" if again else ""
    return Question(f"q{index:04d}", f"Would you say that {topic} {claim}?{asked}", _OPTIONS[:count])


def _loadings(settings: SyntheticSettings, index: int, options: int) -> NDArray[np.float64]:
    return _rng(settings, "question", index, 1).normal(size=(options, settings.factors))


def _taste(settings: SyntheticSettings, group: int) -> NDArray[np.float64]:
    size = settings.factors
    common = settings.common * _rng(settings, "common").normal(size=size)
    centre = _rng(settings, "centre", group % settings.clusters).normal(size=size)
    return common + centre + settings.within * _rng(settings, "group", group).normal(size=size)


def _embed(settings: SyntheticSettings, index: int, loadings: NDArray[np.float64]) -> NDArray[np.float32]:
    """Loadings on an orthonormal public plane, plus noise in all coordinates; norm near 1."""
    plane = np.linalg.qr(_rng(settings, "plane").normal(size=(settings.width, settings.factors)))[0]
    noise = _rng(settings, "question", index, 2).normal(size=(len(loadings), settings.width))
    embedded = loadings @ plane.T + settings.embedding_noise * noise
    return (embedded / np.sqrt(settings.factors)).astype(np.float32)


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def _rng(settings: SyntheticSettings, stream: str, *path: int) -> np.random.Generator:
    return np.random.default_rng([settings.seed, _STREAMS[stream], *path])
