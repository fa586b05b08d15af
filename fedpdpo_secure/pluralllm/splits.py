"""Which groups train and which questions are held out.

The published evaluation meets unseen groups on questions that every training group answered. Here a question can be
held out from everybody, so that four cells can be told apart: known or unseen groups, known or unseen questions.
Whether a question is held out depends on the keyed hash of its own text and on nothing else: no count, rank or order
enters, so one question more or less in a group moves no other (the same rule as `data.partition`). Texts, not ids, are
hashed: a text that is asked with two lists of options stays on one side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from fedpdpo_secure.data.pairs import DataError
from fedpdpo_secure.data.partition import Purpose, draw
from fedpdpo_secure.pluralllm.survey import Survey
from fedpdpo_secure.pluralllm.survey_sources import PUBLISHED_TRAIN_GROUPS, PUBLISHED_UNSEEN_GROUPS, plain_group

Questions = NDArray[np.int64]  # [n], ascending indices into the survey's questions


class Cell(StrEnum):
    """What an evaluation meets for the first time."""

    KNOWN = "known"  # training groups on training questions
    UNSEEN_QUESTIONS = "unseen_questions"
    UNSEEN_GROUPS = "unseen_groups"
    UNSEEN_BOTH = "unseen_both"


@dataclass(frozen=True, slots=True)
class Pool:
    """From which questions of one group an evaluation draws its context, and which it predicts."""

    context: Questions
    target: Questions


@dataclass(frozen=True, slots=True)
class SurveySplit:
    """Groups and, for every group, its questions on either side."""

    train_groups: tuple[str, ...]
    unseen_groups: tuple[str, ...]
    known: Mapping[str, Questions]  # a training group trains on these
    heldout: Mapping[str, Questions]

    def groups(self, cell: Cell) -> tuple[str, ...]:
        """The groups that `cell` evaluates."""
        return self.train_groups if cell in (Cell.KNOWN, Cell.UNSEEN_QUESTIONS) else self.unseen_groups

    def pool(self, cell: Cell, group: str) -> Pool:
        """Context always comes from known questions: a group is asked a new question after it answered old ones."""
        known, heldout = self.known[group], self.heldout[group]
        return Pool(known, heldout if cell in (Cell.UNSEEN_QUESTIONS, Cell.UNSEEN_BOTH) else known)


def split_survey(
    survey: Survey,
    *,
    seed: int,
    unseen_groups: Sequence[str] | None = None,
    unseen_fraction: float = 0.25,
    heldout_fraction: float = 0.2,
) -> SurveySplit:
    """Groups by name, or each by the keyed hash of its own name; questions by the keyed hash of their own text.

    Fractions are expectations, never exact counts. `unseen_groups` may be empty.

    Raises:
        ValueError: a fraction outside [0, 1).
        DataError: an unknown group, or no group left to train.
    """
    for field, value in (("unseen_fraction", unseen_fraction), ("heldout_fraction", heldout_fraction)):
        if not 0.0 <= value < 1.0:
            raise ValueError(f"{field} must be in [0, 1), got {value}")
    if unseen_groups is None:
        unseen = {name for name in survey.groups if _below("group", name, seed, unseen_fraction)}
    else:
        unseen = set(unseen_groups)
        missing = sorted(unseen - set(survey.groups))
        if missing:
            raise DataError(f"unseen_groups: no answers of {missing[0]!r}")
    train = tuple(group for group in survey.groups if group not in unseen)
    if not train:
        raise DataError("unseen_groups: no group is left to train")
    held = np.array([_below("question", question.text, seed, heldout_fraction) for question in survey.questions])
    answered = {group: survey.answered(group) for group in survey.groups}
    return SurveySplit(
        train_groups=train,
        unseen_groups=tuple(group for group in survey.groups if group in unseen),
        known={group: questions[~held[questions]] for group, questions in answered.items()},
        heldout={group: questions[held[questions]] for group, questions in answered.items()},
    )


def published_split(survey: Survey) -> tuple[SurveySplit, tuple[str, ...]]:
    """The published groups, a training group's questions cut after the first 90 % in survey order; and absent names.

    A published name with a sample in brackets stands for the plain name where the survey has merged its samples. The
    cut counts questions, so one more moves another: right for the comparison, not under a privacy claim.

    Raises:
        DataError: none of the published training groups is in the survey.
    """
    train, absent_train = _present(PUBLISHED_TRAIN_GROUPS, survey)
    unseen, absent_unseen = _present(PUBLISHED_UNSEEN_GROUPS, survey)
    if not train:
        raise DataError("groups: none of the published training groups is in the survey")
    known = {group: survey.answered(group) for group in (*train, *unseen)}
    cut = {group: len(known[group]) * 9 // 10 if group in train else len(known[group]) for group in known}
    split = SurveySplit(
        train_groups=train,
        unseen_groups=unseen,
        known={group: questions[: cut[group]] for group, questions in known.items()},
        heldout={group: questions[cut[group] :] for group, questions in known.items()},
    )
    return split, (*absent_train, *absent_unseen)


def whole_pool(survey: Survey, group: str) -> Pool:
    """Context and targets from all questions of `group`: the published evaluation, trained questions included."""
    questions = survey.answered(group)
    return Pool(questions, questions)


def _present(names: Sequence[str], survey: Survey) -> tuple[tuple[str, ...], tuple[str, ...]]:
    found = {name: next((form for form in (name, plain_group(name)) if form in survey.answers), None) for name in names}
    present = tuple(sorted(form for form in found.values() if form is not None))
    return present, tuple(name for name, form in found.items() if form is None)


def _below(kind: str, text: str, seed: int, fraction: float) -> bool:
    return draw(f"survey {kind}\0{text}", seed=seed, purpose=Purpose.SPLIT) < fraction * 2.0**64
