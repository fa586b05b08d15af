"""Episodes: some questions of a group as answered context, some as targets; drawn, evaluated, and as one padded batch.

Here the draw is a plain seeded permutation, for training without privacy and for evaluation. Under the privacy unit
`question` the roles are drawn by `roles`, question by question.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedpdpo_secure.data.pairs import DataError
from fedpdpo_secure.data.partition import Purpose, draw
from fedpdpo_secure.pluralllm.batch import EpisodeBatch
from fedpdpo_secure.pluralllm.embeddings import PointEmbeddings
from fedpdpo_secure.pluralllm.splits import Pool
from fedpdpo_secure.pluralllm.survey import Survey

Questions = NDArray[np.int64]  # [n], indices into the survey's questions


@dataclass(frozen=True, slots=True)
class Episode:
    """Questions of one group by role; no question has both."""

    group: str
    context: Questions
    target: Questions


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many questions an episode draws, both ends included."""

    context: tuple[int, int] = (5, 40)
    target: tuple[int, int] = (5, 40)

    def __post_init__(self) -> None:
        for field in ("context", "target"):
            low, high = getattr(self, field)
            if not 1 <= low <= high:
                raise ValueError(f"{field} must be (low, high) with 1 <= low <= high, got {(low, high)}")


PUBLISHED_BOUNDS = Bounds((9, 90), (9, 90))  # the flags 10..100 times the data split 0.9


def draw_episode(group: str, questions: Questions, bounds: Bounds, rng: np.random.Generator) -> Episode:
    """Sizes within `bounds` and random questions of `group`, context first.

    A group too small for both lower bounds gets lower ones: its context at most half of its questions, its targets at
    most the rest. Upper bounds give way to what is left, so both roles always have a question.

    Raises:
        DataError: fewer than two questions.
    """
    count = len(questions)
    _check_enough(group, count)
    least_context = min(bounds.context[0], count // 2)
    least_target = min(bounds.target[0], count - least_context)
    size = int(rng.integers(least_context, min(bounds.context[1], count - least_target) + 1))
    targets = int(rng.integers(least_target, min(bounds.target[1], count - size) + 1))
    order = rng.permutation(questions)
    return Episode(group, order[:size], order[size : size + targets])


def draw_published_episodes(
    questions: Mapping[str, Questions], bounds: Bounds, rng: np.random.Generator
) -> tuple[Episode, ...]:
    """One episode per group, all of one size: the published draw.

    The sizes are drawn once, whatever the groups hold; a small group has fewer targets, and its context leaves at
    least one. Raises DataError: a group with fewer than two questions.
    """
    size = int(rng.integers(bounds.context[0], bounds.context[1] + 1))
    targets = int(rng.integers(bounds.target[0], bounds.target[1] + 1))
    episodes = []
    for group, own in questions.items():
        _check_enough(group, len(own))
        order, cut = rng.permutation(own), min(size, len(own) - 1)
        episodes.append(Episode(group, order[:cut], order[cut : cut + targets]))
    return tuple(episodes)


def evaluation_episodes(
    group: str, pool: Pool, *, seed: int, context_questions: int = 20, chunk: int = 64
) -> Iterator[Episode]:
    """One context, and all remaining targets of `pool` in chunks of at most `chunk` questions behind it.

    The context depends on the seed, the group's name and its own questions alone, so models are compared on the same
    one. It has `context_questions` questions; where context and targets share a pool at most half of it, so that no
    group is judged on a handful of targets; else all that the pool has. Targets do not see each other, so chunks
    change no prediction. Nothing is yielded where there is no context or no target.

    Raises:
        ValueError: context_questions or chunk below 1.
    """
    for field, value in (("context_questions", context_questions), ("chunk", chunk)):
        if value < 1:
            raise ValueError(f"{field} must be at least 1, got {value}")
    shared = len(np.intersect1d(pool.context, pool.target))
    rng = np.random.default_rng([seed, draw(group, seed=seed, purpose=Purpose.OWNER)])
    size = min(context_questions, len(pool.context) // 2 if shared else len(pool.context))
    context = np.sort(rng.permutation(np.sort(pool.context))[:size])
    targets = np.setdiff1d(pool.target, context)
    if not size:
        return
    for start in range(0, len(targets), chunk):
        yield Episode(group, context, targets[start : start + chunk])


def collate(survey: Survey, embeddings: PointEmbeddings, episodes: Sequence[Episode]) -> EpisodeBatch:
    """`episodes` as one batch, a row each: context questions, then targets, then padding to the longest.

    No episode gives an empty batch, [0, 0, W].

    Raises:
        DataError: a question that the group of its episode did not answer, or one with two roles.
    """
    rows = [_points(survey, embeddings, episode) for episode in episodes]
    count, longest = len(rows), max((len(row.point) for row in rows), default=0)
    values = np.zeros((count, longest, embeddings.width), dtype=np.float32)
    answers = np.zeros((count, longest), dtype=np.float32)
    is_context, is_target = np.zeros((count, longest), dtype=bool), np.zeros((count, longest), dtype=bool)
    question = np.full((count, longest), -1, dtype=np.int64)
    for place, row in enumerate(rows):
        n = len(row.point)
        values[place, :n], answers[place, :n] = embeddings.values[row.point], row.answer
        question[place, :n] = row.question
        is_context[place, :n], is_target[place, :n] = row.question < row.contexts, row.question >= row.contexts
    return EpisodeBatch(*(torch.from_numpy(part) for part in (values, answers, is_context, is_target, question)))


@dataclass(frozen=True, slots=True)
class _Points:
    point: NDArray[np.int64]  # [n], rows of the embeddings
    answer: NDArray[np.float64]  # [n]
    question: NDArray[np.int64]  # [n], numbered from 0 within the episode
    contexts: int  # questions below this number are context


def _points(survey: Survey, embeddings: PointEmbeddings, episode: Episode) -> _Points:
    asked = np.concatenate([episode.context, episode.target]).tolist()
    given = survey.answers[episode.group]
    absent = next((index for index in asked if index not in given), None)
    if absent is not None:
        raise DataError(f"group {episode.group}: has no answer to question {absent}")
    if len(set(asked)) < len(asked):
        raise DataError(f"group {episode.group}: an episode holds one question twice")
    spans = [embeddings.rows(index) for index in asked]
    sizes = [span.stop - span.start for span in spans]
    empty = np.empty(0, dtype=np.int64)
    return _Points(
        point=np.concatenate([empty, *(np.arange(span.start, span.stop) for span in spans)]),
        answer=np.concatenate([np.empty(0), *(given[index] for index in asked)]),
        question=np.repeat(np.arange(len(asked)), sizes),
        contexts=len(episode.context),
    )


def _check_enough(group: str, count: int) -> None:
    if count < 2:
        raise DataError(f"group {group}: has {count} questions; an episode needs at least two")
