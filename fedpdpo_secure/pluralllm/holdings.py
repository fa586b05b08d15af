"""A configured survey, its embeddings and its split: all that PluralLLM reads, checked before anything is trained."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from fedpdpo_secure.config import Config
from fedpdpo_secure.data.pairs import DataError
from fedpdpo_secure.data.partition import Purpose, draw
from fedpdpo_secure.data.sources import open_source
from fedpdpo_secure.pluralllm.embeddings import PointEmbeddings, model_embeddings, point_embeddings, read_embeddings
from fedpdpo_secure.pluralllm.splits import SurveySplit, published_split, split_survey
from fedpdpo_secure.pluralllm.survey import Survey, select_groups
from fedpdpo_secure.pluralllm.survey_sources import BUILTIN, DEFAULT, PUBLISHED, Reading, read_survey
from fedpdpo_secure.pluralllm.synthetic_survey import SyntheticSettings, make_synthetic
from fedpdpo_secure.task import POOLED

Progress = Callable[[int, int], None]
BUILTIN_SEED = 0  # of the built-in groups: the same for every run, whose own seed decides split and training


@dataclass(frozen=True, slots=True)
class Holdings:
    """Who answered what. `survey` holds every group named here and no other."""

    survey: Survey
    embeddings: PointEmbeddings
    split: SurveySplit
    pretrain: tuple[str, ...]  # public groups that neither train in the federation nor evaluate it
    source: str
    notes: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Groups that train, sorted: a group's place is its id in secure aggregation."""
        return self.split.train_groups

    def questions(self, group: str) -> NDArray[np.int64]:
        """The questions that `group` trains on, ascending."""
        return self.split.known[group]


def load_holdings(config: Config, progress: Progress | None = None) -> Holdings:
    """Read, check and split. Raises DataError, one line naming file, row, field or group; nothing is written but the
    cache of embeddings, which are public."""
    if config.dataset_name == BUILTIN:
        made = make_synthetic(_builtin(config))
        survey, embeddings = made.survey, point_embeddings(made.embeddings, made.survey, BUILTIN)
    else:
        source = open_source(config.dataset_name, revision=config.data.revision, where=config.data.where)
        survey = read_survey(source, _reading(config))
        embeddings = _embeddings(config, survey, progress)
    if config.survey.split == "survey_order":
        split, absent = published_split(survey)
        pretrain, notes = (), tuple(f"published group {name!r} is not in the survey" for name in absent)
    else:
        trained, unseen, pretrain = _groups(config, survey)
        survey, notes = select_groups(survey, names=[*trained, *unseen, *pretrain]), ()
        split = _split(config, survey, trained, unseen)
    if len(split.train_groups) != config.federation.clients:
        raise DataError(f"federation.clients: {config.federation.clients}, but {len(split.train_groups)} groups train")
    for group in split.train_groups:
        _check_folder(group)
        _check_size(config, group, len(split.known[group]))
    return Holdings(survey, embeddings, split, pretrain, config.dataset_name, (*survey.notes, *notes))


def _builtin(config: Config) -> SyntheticSettings:
    chosen = config.synthetic_survey
    return SyntheticSettings(
        groups=chosen.groups,
        questions=chosen.questions,
        width=chosen.width,
        clusters=chosen.clusters,
        seed=BUILTIN_SEED,
    )


def _reading(config: Config) -> Reading:
    return replace(PUBLISHED if config.survey.reading == "published" else DEFAULT, ordinal=config.survey.ordinal)


def _embeddings(config: Config, survey: Survey, progress: Progress | None) -> PointEmbeddings:
    chosen = config.survey
    if chosen.embeddings is None:
        raise DataError("survey.embeddings: missing; name an .npz file, or a model by path or hub id")
    if chosen.embeddings.endswith(".npz"):
        return read_embeddings(Path(chosen.embeddings), survey)
    return model_embeddings(
        survey, chosen.embeddings, form=chosen.prompt, normalise=chosen.normalize, progress=progress
    )


def _groups(config: Config, survey: Survey) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """(trained, unseen, for public pretraining). Without names: by keyed hash of the name, out of all others."""
    chosen, count = config.survey, config.federation.clients
    for field in ("groups", "unseen", "pretrain"):
        _check_names(survey, f"survey.{field}", getattr(chosen, field) or ())
    pretrain = tuple(chosen.pretrain)
    rest = [name for name in survey.groups if name not in pretrain]
    if config.data.public:  # a choice by number of answers looks at the answers
        rest = [name for name in rest if len(survey.answers[name]) >= chosen.least_answers]
    if chosen.groups is not None:
        trained = tuple(chosen.groups)
    else:
        free = [name for name in rest if name not in (chosen.unseen or ())]
        if len(free) < count:
            raise DataError(f"federation.clients: {count} asked for, the survey has {len(free)} groups to train")
        trained = tuple(sorted(free, key=lambda name: draw(name, seed=config.seed, purpose=Purpose.OWNER))[:count])
    unseen = tuple(name for name in rest if name not in trained) if chosen.unseen is None else tuple(chosen.unseen)
    named = [*trained, *unseen, *pretrain]
    if twice := next((name for name in named if named.count(name) > 1), None):
        raise DataError(f"survey.groups: {twice!r} has two roles; groups, unseen and pretrain must not overlap")
    return trained, unseen, pretrain


def _split(config: Config, survey: Survey, trained: tuple[str, ...], unseen: tuple[str, ...]) -> SurveySplit:
    split = split_survey(
        survey,
        seed=config.seed,
        unseen_groups=[name for name in survey.groups if name not in trained],
        heldout_fraction=config.survey.heldout_fraction,
    )
    return replace(split, unseen_groups=tuple(name for name in split.unseen_groups if name in unseen))


def _check_names(survey: Survey, field: str, names: Sequence[str]) -> None:
    for name in names:
        if name not in survey.answers:
            close = difflib.get_close_matches(name, survey.groups, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise DataError(f"{field}: no answers of {name!r} in the survey{hint}")


def _check_folder(group: str) -> None:
    """A group's state lies in a folder of its name, which a file of answers must not lead elsewhere."""
    parts = PurePosixPath(group).parts
    if group == POOLED or ".." in parts or group.startswith("/") or not group.isprintable() or not group.strip("."):
        raise DataError(f"group {group!r}: cannot name a client; rename it")


def _check_size(config: Config, group: str, questions: int) -> None:
    """Without a claim an episode needs two questions. Under one, a refusal would tell of the number: a group of any
    number takes part, with noise alone if need be; only a declaration that is false is refused, without the number."""
    unit, bound = config.privacy.unit, config.survey.questions_per_group
    if unit == "none" and questions < 2:
        raise DataError(f"group {group}: trains on {questions} questions; an episode needs at least two")
    if unit == "question" and questions > bound:
        raise DataError(f"survey.questions_per_group: group {group} trains on more than the declared {bound} questions")
