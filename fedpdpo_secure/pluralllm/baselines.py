"""Predictions without a predictor: what a model must beat before its alignment means anything.

A group never predicts itself: where it is among the training groups too, its own answers are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedpdpo_secure.pluralllm.metrics import Answers, js_distance

Asked = Mapping[str, Mapping[str, int]]  # group -> question id -> number of options


@dataclass(frozen=True, slots=True)
class BaselinePrediction:
    """A distribution for every asked (group, question), and where it came from; the three counts add up to all."""

    answers: Answers
    from_nearest: int  # taken from the nearest group
    from_mean: int  # mean of the training groups that answered the question
    from_uniform: int  # no training group answered the question

    @property
    def coverage(self) -> float:
        """Share of the asked pairs that rest on an answer of a training group; 0 where nothing is asked."""
        asked = self.from_nearest + self.from_mean + self.from_uniform
        return 1 - self.from_uniform / asked if asked else 0.0


def asked_of(answers: Answers) -> Asked:
    """The questions of `answers` with their numbers of options."""
    return {group: {question: len(dist) for question, dist in held.items()} for group, held in answers.items()}


def uniform(asked: Asked) -> BaselinePrediction:
    """Every option alike."""
    return nearest_group({}, {}, asked)


def global_mean(training: Answers, asked: Asked) -> BaselinePrediction:
    """The equally weighted mean of the training groups' answers to that question; uniform where none has one."""
    return nearest_group(training, {}, asked)


def nearest_group(
    training: Answers, contexts: Answers, asked: Asked, *, neighbors: int = 1, min_shared: int = 1
) -> BaselinePrediction:
    """The answer of the training group nearest to the asked group; where it has none, `global_mean`.

    Near: least mean JS distance over the context questions (of `contexts`) that both answered, at least `min_shared`.
    neighbors: how many of the nearest are asked in turn before the mean is taken. Raises ValueError where an answer of
    a training group has another number of options than was asked for.
    """
    if neighbors < 1 or min_shared < 1:
        raise ValueError(f"neighbors and min_shared must be at least 1, got {neighbors} and {min_shared}")
    found: dict[str, dict[str, NDArray[np.float64]]] = {}
    counts = {"nearest": 0, "mean": 0, "uniform": 0}
    for group, questions in asked.items():
        near = nearest(training, contexts.get(group, {}), leave_out=group, min_shared=min_shared)[:neighbors]
        found[group] = {}
        for question, options in questions.items():
            seen = _seen(training, group, question, options)
            chosen = next((seen[other] for other in near if other in seen), None)
            if chosen is not None:
                source, answer = "nearest", chosen
            elif seen:
                source, answer = "mean", np.mean(list(seen.values()), axis=0)
            else:
                source, answer = "uniform", np.full(options, 1 / options)
            counts[source] += 1
            found[group][question] = answer
    return BaselinePrediction(found, counts["nearest"], counts["mean"], counts["uniform"])


def nearest(
    training: Answers, context: Mapping[str, NDArray[np.float64]], *, leave_out: str, min_shared: int = 1
) -> list[str]:
    """Training groups with at least `min_shared` of the context's questions, the nearest first, ties by name."""
    distances = []
    for group, held in training.items():
        shared = [question for question in context if question in held]
        if group != leave_out and len(shared) >= min_shared:
            distance = float(np.mean([js_distance(context[question], held[question]) for question in shared]))
            distances.append((distance, group))
    return [group for _, group in sorted(distances)]


def _seen(training: Answers, group: str, question: str, options: int) -> dict[str, NDArray[np.float64]]:
    """The other groups' answers to the question, each scaled to sum 1."""
    seen = {}
    for other, held in training.items():
        if other != group and question in held:
            answer = np.asarray(held[question], dtype=np.float64)
            if len(answer) != options:
                raise ValueError(f"question {question!r}: has {options} options, {len(answer)} in group {other!r}")
            seen[other] = answer / answer.sum()
    return seen
