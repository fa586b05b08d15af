"""How evenly scores are spread over groups. An index of 1 says equal, not good: the least score stands beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fedpdpo_secure.pluralllm.metrics import GroupScores, summarise


@dataclass(frozen=True, slots=True)
class Fairness:
    """Spread of the groups' mean scores."""

    index: float  # 1 / (1 + CoV^2), in [1/groups, 1]
    cov: float  # coefficient of variation: population standard deviation / mean
    worst: float
    worst_group: str
    groups: int


@dataclass(frozen=True, slots=True)
class QuestionFairness:
    """The mean over questions of the index over the groups that have a score on the question."""

    index: float
    questions: int  # that count
    left_out: int  # questions with fewer groups than asked for; a single group is always fair to itself


def coefficient_of_variation(scores: ArrayLike) -> float:
    """Population standard deviation / mean. Raises ValueError for no, negative, non-finite or only zero scores."""
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.all(np.isfinite(values)) or np.any(values < 0):
        raise ValueError("scores must be at least one finite number, none below 0")
    if not np.any(values > 0):
        raise ValueError("scores must not all be 0: their spread relative to the mean is not defined")
    scaled = values / values.max()  # the ratio does not change, and squares cannot underflow
    return float(scaled.std() / scaled.mean())


def fairness_index(scores: ArrayLike) -> float:
    """1 / (1 + CoV^2), which is Jain's index (sum x)^2 / (n sum x^2). Raises as `coefficient_of_variation`."""
    return 1 / (1 + coefficient_of_variation(scores) ** 2)


def fairness(groups: Sequence[GroupScores]) -> Fairness:
    """Fairness of the groups' mean scores. Raises ValueError where there is none."""
    summary, means = summarise(groups), [group.mean for group in groups]
    return Fairness(
        index=fairness_index(means),
        cov=coefficient_of_variation(means),
        worst=summary.worst,
        worst_group=summary.worst_group,
        groups=len(groups),
    )


def question_fairness(groups: Sequence[GroupScores], min_groups: int = 2) -> QuestionFairness:
    """The follow-up's definition (arXiv 2512.08786): the index per question over groups, then the mean over questions.

    Raises ValueError where no question has scores of `min_groups` groups.
    """
    if min_groups < 2:
        raise ValueError(f"min_groups must be at least 2, got {min_groups}")
    scores: dict[str, list[float]] = {}
    for group in groups:
        for question, score in zip(group.questions, group.scores, strict=True):
            scores.setdefault(question, []).append(score)
    indices = [fairness_index(values) for values in scores.values() if len(values) >= min_groups]
    if not indices:
        raise ValueError(f"scores must hold a question of at least {min_groups} groups")
    return QuestionFairness(float(np.mean(indices)), len(indices), len(scores) - len(indices))
