"""How close a predicted distribution of answers is to a group's, per question and over questions and groups.

Scores are in [0, 1], larger is better, and are always of one (group, question). Numpy alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import rel_entr

Answers = Mapping[str, Mapping[str, NDArray[np.float64]]]  # group -> question id -> float64[options]
Score = Callable[[ArrayLike, ArrayLike], float]  # predicted, true -> score


@dataclass(frozen=True, slots=True)
class GroupScores:
    """One group's scores, a number per question."""

    group: str
    questions: tuple[str, ...]
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.scores))


@dataclass(frozen=True, slots=True)
class ScoreSummary:
    """Scores over groups, each way of taking the mean on its own."""

    micro: float  # over all (group, question), so a group counts by its number of questions
    macro: float  # over the groups' means
    worst: float  # the least of the groups' means
    worst_group: str  # the first by name where several tie
    groups: int
    pairs: int  # of a group and a question


def js_distance(first: ArrayLike, second: ArrayLike) -> float:
    """Jensen-Shannon distance: square root of the divergence in nats, in [0, sqrt(ln 2)] = [0, 0.8326].

    Both are scaled to sum 1, as scipy's `jensenshannon` does. Raises ValueError for a distribution that is negative,
    not finite, zero everywhere, or longer than the other; scipy says NaN, which the released code scores as perfect.
    """
    p, q = _distributions(first, second)
    middle = (p + q) / 2
    divergence = (rel_entr(p, middle).sum() + rel_entr(q, middle).sum()) / 2
    return math.sqrt(min(max(float(divergence), 0.0), math.log(2)))  # rounding can leave it just outside


def alignment_score(predicted: ArrayLike, true: ArrayLike) -> float:
    """1 - `js_distance`, in [0.1674, 1]: PluralLLM's alignment of one group on one question."""
    return 1 - js_distance(predicted, true)


def ordinal_score(predicted: ArrayLike, true: ArrayLike, positions: ArrayLike | None = None) -> float:
    """1 - W1 / max W1 for ordered options, in [0, 1] (Santurkar et al. 2023, arXiv 2303.17548, section 3.1).

    positions: float[options], strictly increasing; 0, 1, 2, ... if not given. Raises ValueError as `js_distance` does,
    for fewer than two options and for positions of another length or order.
    """
    p, q = _distributions(predicted, true)
    places = np.arange(len(p), dtype=float) if positions is None else np.asarray(positions, dtype=float)
    if len(p) < 2:
        raise ValueError(f"an ordinal question needs at least 2 options, got {len(p)}")
    if places.shape != p.shape or not np.all(np.isfinite(places)) or not np.all(np.diff(places) > 0):
        raise ValueError(f"positions must be {len(p)} finite, strictly increasing numbers")
    moved = float(np.abs(np.cumsum(p - q)[:-1]) @ np.diff(places))
    return min(max(1 - moved / float(places[-1] - places[0]), 0.0), 1.0)


def score_groups(predicted: Answers, true: Answers, score: Score = alignment_score) -> tuple[GroupScores, ...]:
    """The scores of every predicted (group, question), groups and questions by name.

    Raises ValueError, naming group and question, for a prediction without a true answer or one that cannot be scored.
    """
    return tuple(_score_group(group, predicted[group], true.get(group, {}), score) for group in sorted(predicted))


def summarise(groups: Sequence[GroupScores]) -> ScoreSummary:
    """Micro, macro and worst group. Raises ValueError where there is no group or a group has no question."""
    if not groups or any(not group.scores for group in groups):
        raise ValueError("scores must hold at least one group, and each group at least one question")
    worst = min(groups, key=lambda group: (group.mean, group.group))
    every = [score for group in groups for score in group.scores]
    return ScoreSummary(
        micro=float(np.mean(every)),
        macro=float(np.mean([group.mean for group in groups])),
        worst=worst.mean,
        worst_group=worst.group,
        groups=len(groups),
        pairs=len(every),
    )


def _score_group(
    group: str, predicted: Mapping[str, ArrayLike], true: Mapping[str, ArrayLike], score: Score
) -> GroupScores:
    questions = tuple(sorted(predicted))
    scores = []
    for question in questions:
        if question not in true:
            raise ValueError(f"group {group!r}, question {question!r}: has a prediction and no answer")
        try:
            scores.append(score(predicted[question], true[question]))
        except ValueError as error:
            raise ValueError(f"group {group!r}, question {question!r}: {error}") from error
    return GroupScores(group, questions, tuple(scores))


def _distributions(first: ArrayLike, second: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    p, q = _distribution(first), _distribution(second)
    if len(p) != len(q):
        raise ValueError(f"distributions must have the same options, got {len(p)} and {len(q)}")
    return p, q


def _distribution(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not np.all(np.isfinite(array)) or np.any(array < 0):
        raise ValueError("a distribution must be a list of finite numbers that are at least 0")
    total = float(array.sum())
    if total <= 0:
        raise ValueError("a distribution must not be zero everywhere")
    return array / total
