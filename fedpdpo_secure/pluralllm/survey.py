"""Survey records: questions, and the answer distribution of each group to each question it was asked.

The unit of privacy is (group, question): all answers of one group to one question. Several surveys of one question in
one group (different samples or waves) are one unit; what is kept of them is their mean. Questions, options and the list
of groups are public; which questions a group answered, and how, is private to the group.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedpdpo_secure.data.pairs import DataError

SUM_TOLERANCE = 1e-3  # of a distribution that a file calls one; four rounded decimals of 18 options stay within it
LARGEST = 1e12  # share or count


@dataclass(frozen=True, slots=True)
class Question:
    """One question with its answer options, in the order of every distribution over them."""

    qid: str
    text: str
    options: tuple[str, ...]
    ordinal: bool = False  # the options are steps of one scale, so that Wasserstein distance means something


@dataclass(frozen=True, slots=True)
class Answer:
    """One group's answers in one survey of one question."""

    group: str
    question: int  # index into the questions
    probs: NDArray[np.float64]  # [k], finite, >= 0, positive sum


@dataclass(frozen=True, slots=True)
class Survey:
    """Questions in a fixed order, and per group the distributions of the questions it answered."""

    questions: tuple[Question, ...]
    groups: tuple[str, ...]  # sorted
    answers: Mapping[str, Mapping[int, NDArray[np.float64]]]  # group -> question index -> float64[k], summing to 1
    notes: tuple[str, ...] = ()  # what was merged or left out, one line each

    @property
    def offsets(self) -> NDArray[np.int64]:
        """int64[questions + 1]: option k of question q is point `offsets[q] + k`."""
        return np.cumsum([0, *(len(question.options) for question in self.questions)], dtype=np.int64)

    def answered(self, group: str) -> NDArray[np.int64]:
        """int64[n], ascending: the questions of `group`. The order of questions is that of the source."""
        return np.array(sorted(self.answers[group]), dtype=np.int64)


def checked_probs(
    values: object, options: int, where: str, field: str, *, tolerance: float = SUM_TOLERANCE
) -> NDArray[np.float64]:
    """`values` as float64[options], not yet renormalised.

    Args:
        tolerance: how far the sum may be from 1; infinity for raw counts or shares.

    Raises:
        DataError: not a list of that many finite numbers >= 0 with a positive sum within `tolerance` of 1.
    """
    if not isinstance(values, (list, tuple)):
        raise DataError(f"{where}: field {field}: must be a list of numbers, not {type(values).__name__}")
    if len(values) != options:
        raise DataError(f"{where}: field {field}: has {len(values)} numbers for {options} options")
    for place, value in enumerate(values):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not 0 <= value <= LARGEST:  # NaN compares false
            raise DataError(
                f"{where}: field {field}[{place}]: must be a finite number of at least 0, got {value!r:.40}"
            )
    probs = np.array(values, dtype=np.float64)
    total = float(probs.sum())
    if not 0.0 < total < math.inf:
        raise DataError(f"{where}: field {field}: must have a positive finite sum, got {total:g}")
    if abs(total - 1.0) > tolerance:
        raise DataError(f"{where}: field {field}: must sum to 1 within {tolerance:g}, got {total:g}")
    return probs


def build_survey(
    questions: Sequence[Question], answers: Iterable[Answer], *, notes: tuple[str, ...] = (), normalise: bool = True
) -> Survey:
    """The survey of `answers`; those of one group to one question are averaged, so the unit has one distribution.

    With `normalise` each distribution is scaled to sum 1 before it enters the mean; without, raw shares stay as they
    are (the published pipeline).

    Raises:
        DataError: no answer at all.
    """
    found: dict[str, dict[int, list[NDArray[np.float64]]]] = {}
    for answer in answers:
        probs = answer.probs / answer.probs.sum() if normalise else answer.probs
        found.setdefault(answer.group, {}).setdefault(answer.question, []).append(probs)
    if not found:
        raise DataError("survey: holds no answer")
    repeated = sum(len(parts) > 1 for given in found.values() for parts in given.values())
    if repeated:
        notes = (*notes, f"{repeated} questions surveyed more than once in one group: their mean is one unit")
    merged = {
        group: {question: _mean(parts, normalise) for question, parts in sorted(given.items())}
        for group, given in sorted(found.items())
    }
    return Survey(tuple(questions), tuple(merged), merged, notes)


def select_groups(survey: Survey, *, names: Sequence[str] | None = None, min_questions: int = 1) -> Survey:
    """The survey with the groups `names` alone, or with all groups of at least `min_questions` questions.

    All questions stay, so that points keep their numbers. A choice by number of questions looks at private data: one
    question more can add a group, which no unit of privacy covers. Name the groups where the data is private.

    Raises:
        DataError: an unknown or repeated name, a named group below `min_questions`, or nothing left.
    """
    if names is not None:
        for place, name in enumerate(names):
            if name not in survey.answers:
                raise DataError(f"groups: no answers of {name!r}; known: {_listed(survey.groups)}")
            if name in names[:place]:
                raise DataError(f"groups: {name!r} is named twice")
            if len(survey.answers[name]) < min_questions:
                have = len(survey.answers[name])
                raise DataError(f"groups: {name!r} has {have} questions; at least {min_questions} are needed")
    wanted = survey.groups if names is None else names
    kept = tuple(sorted(group for group in wanted if len(survey.answers[group]) >= min_questions))
    if not kept:
        raise DataError(f"groups: none has at least {min_questions} questions")
    return Survey(survey.questions, kept, {group: survey.answers[group] for group in kept}, survey.notes)


def _mean(parts: list[NDArray[np.float64]], normalise: bool) -> NDArray[np.float64]:
    mean = np.mean(parts, axis=0)
    mean = mean / mean.sum() if normalise else mean
    mean.flags.writeable = False
    return mean


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
