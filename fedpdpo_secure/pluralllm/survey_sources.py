"""Surveys from files and the hub, in three forms told apart by their columns.

    shared   {qid, question, options, answers: [{group, sample, dist}]}            one row per question
    hub      {question, options, selections: {group: [share, ...]}, source}        Anthropic/llm_global_opinions
    rows     {group, question, options, probs}                                     one row per answer; OpinionQA's names
             (attribute, references, D_H, ordinal, qkey) are known too

Cells may be text, as in CSV: they are read as JSON or as Python literals, never evaluated. Questions with the same text
and options are one question, whatever their ids, because the unit of privacy is (group, question).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from fedpdpo_secure.data.pairs import DataError
from fedpdpo_secure.data.sources import Source, open_source
from fedpdpo_secure.pluralllm.survey import SUM_TOLERANCE, Answer, Question, Survey, build_survey, checked_probs
from fedpdpo_secure.pluralllm.survey_cells import absent, cell_text, cell_value, selections
from fedpdpo_secure.pluralllm.synthetic_survey import SyntheticSettings, make_synthetic

BUILTIN = "builtin:groups"
PUBLISHED_TRAIN_GROUPS = (  # MoSrewa/PluralLLM, reference run: the eight clients
    *("Nigeria", "Egypt", "India (Current national sample)", "Germany"),
    *("United States", "Canada", "Argentina", "Australia"),
)
PUBLISHED_UNSEEN_GROUPS = ("China", "Japan", "France", "Spain", "Brazil", "New Zealand")
_SAMPLE = re.compile(r"\s*\([^()]*\bsample\)$", re.IGNORECASE)

_Row = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Reading:
    """How a file is read; each published habit on its own."""

    merge_samples: bool = True  # "India (Old national sample)" is the group India
    published_filter: bool = False  # hub form: drop a question where one of the 14 published groups has no shares
    raw_shares: bool = False  # do not renormalise; hub form and the published run
    ordinal: bool = False  # of a question whose row does not say


DEFAULT = Reading()
PUBLISHED = Reading(merge_samples=False, published_filter=True, raw_shares=True)


class _Questions:
    """Questions in order of first appearance, each under one id."""

    def __init__(self) -> None:
        self.found: list[Question] = []
        self.left_out: dict[str, int] = {}
        self._by_content: dict[tuple[object, ...], int] = {}
        self._by_qid: dict[str, int] = {}

    def index(self, question: Question, where: str, *, apart: object = None) -> int:
        """Its number; questions of equal text, options and `apart` share one."""
        key = (question.text, question.options, apart)
        if key in self._by_content:
            return self._by_content[key]
        if question.qid in self._by_qid:
            raise DataError(f"{where}: field qid: {question.qid!r} names another question or other options above")
        self._by_content[key] = self._by_qid[question.qid] = len(self.found)
        self.found.append(question)
        return len(self.found) - 1

    def skip(self, why: str) -> None:
        self.left_out[why] = self.left_out.get(why, 0) + 1

    def notes(self) -> tuple[str, ...]:
        return tuple(f"{count} {why}" for why, count in self.left_out.items())


def load_survey(
    name: str, *, reading: Reading = DEFAULT, revision: str | None = None, where: Mapping[str, list[str]] | None = None
) -> Survey:
    """The survey of a file (.jsonl, .jsonl.gz, .csv, .parquet), a hub data set, or `builtin:groups` (its defaults).

    Raises:
        DataError: a file, row or field is unfit; one line naming it.
    """
    if name == BUILTIN:
        return make_synthetic(SyntheticSettings()).survey
    return read_survey(open_source(name, revision=revision, where=where), reading)


def read_survey(source: Source, reading: Reading = DEFAULT) -> Survey:
    """The survey of all rows of `source`, in the form its first row has. Raises DataError as `load_survey`."""
    first = next(iter(source.read()), None)
    if first is None:
        raise DataError(f"{source.label}: holds no row")
    form = _form_of(first[1], source.at(first[0]))
    questions, answers = _Questions(), list[Answer]()
    for number, row in source.read():
        answers.extend(form(row, source.at(number), number, questions, reading))
    if not answers:
        raise DataError(f"{source.label}: holds no answer")
    return build_survey(questions.found, answers, notes=questions.notes(), normalise=not reading.raw_shares)


def plain_group(name: str) -> str:
    """`name` without the sample in brackets that ends it."""
    return _SAMPLE.sub("", name)


_Form = Callable[[_Row, str, int, _Questions, Reading], Iterator[Answer]]


def _form_of(row: _Row, where: str) -> _Form:
    columns = set(row)
    if {"question", "options", "answers"} <= columns:
        return _shared_row
    if {"question", "options", "selections"} <= columns:
        return _hub_row
    if {"group", "question"} <= columns and columns & {"options", "references"} and columns & _PROBS:
        return _answer_row
    raise DataError(
        f"{where}: columns {', '.join(sorted(columns)[:12])}: no known form; need question and options, and answers, "
        "selections, or group with probs"
    )


def _shared_row(row: _Row, where: str, number: int, questions: _Questions, reading: Reading) -> Iterator[Answer]:
    question = _question(row, "options", where, reading)
    index = questions.index(question, where)
    given = cell_value(row.get("answers"), where, "answers")
    if not isinstance(given, list):
        raise DataError(f"{where}: field answers: must be a list, not {type(given).__name__}")
    for place, item in enumerate(given):
        field = f"answers[{place}]"
        if not isinstance(item, Mapping):
            raise DataError(f"{where}: field {field}: must be an object with group and dist")
        group = cell_text(item.get("group"), where, f"{field}.group")
        dist = checked_probs(
            item.get("dist"), len(question.options), where, f"{field}.dist", tolerance=_tolerance(reading)
        )
        yield Answer(plain_group(group) if reading.merge_samples else group, index, dist)


def _hub_row(row: _Row, where: str, number: int, questions: _Questions, reading: Reading) -> Iterator[Answer]:
    """Shares are raw: any positive sum is legal. An empty or all-zero list says that the group was not asked."""
    if absent(row.get("question")):
        questions.skip("rows without a question left out")
        return
    if absent(row.get("options")):
        questions.skip("rows without options left out")
        return
    question = _question(row, "options", where, reading, qid=str(number - 1) if reading.published_filter else None)
    given = selections(row.get("selections"), where)
    empty = [group for group, shares in given.items() if not _has_shares(shares)]
    if reading.published_filter and set(empty) & {*PUBLISHED_TRAIN_GROUPS, *PUBLISHED_UNSEEN_GROUPS}:
        questions.skip("questions left out where a published group has no shares")
        return
    # The published run knows a question by its row, so a text asked in two waves stays two questions.
    index = questions.index(question, where, apart=number if reading.published_filter else None)
    for group, shares in given.items():
        if group in empty:
            questions.skip("answers without shares left out")
            continue
        field = f"selections[{group!r}]"
        probs = checked_probs(shares, len(question.options), where, field, tolerance=math.inf)
        label = cell_text(group, where, "selections")
        yield Answer(plain_group(label) if reading.merge_samples else label, index, probs)


def _answer_row(row: _Row, where: str, number: int, questions: _Questions, reading: Reading) -> Iterator[Answer]:
    field = next(name for name in ("probs", "probabilities", "dist", "D_H") if name in row)
    probs = cell_value(row.get(field), where, field)
    question = _question(row, "options" if "options" in row else "references", where, reading)
    short = isinstance(probs, (list, tuple)) and len(probs) == len(question.options) - 1 >= 2
    if short and question.options[-1].casefold() == "refused":
        # OpinionQA lists the refusal among the references and leaves it out of the distribution.
        question = Question(question.qid, question.text, question.options[:-1], question.ordinal)
    group = cell_text(row.get("group"), where, "group")
    if not absent(row.get("attribute")):
        group = f"{cell_text(row['attribute'], where, 'attribute')}: {group}"
    elif reading.merge_samples:
        group = plain_group(group)
    checked = checked_probs(probs, len(question.options), where, field, tolerance=_tolerance(reading))
    yield Answer(group, questions.index(question, where), checked)


_PROBS = {"probs", "probabilities", "dist", "D_H"}


def _question(row: _Row, field: str, where: str, reading: Reading, *, qid: str | None = None) -> Question:
    text = cell_text(row.get("question"), where, "question")
    options = cell_value(row.get(field), where, field)
    if not isinstance(options, (list, tuple)) or len(options) < 2:
        raise DataError(f"{where}: field {field}: must be a list of at least two options")
    named = tuple(cell_text(option, where, f"{field}[{place}]") for place, option in enumerate(options))
    if qid is None:
        said = next((row[name] for name in ("qid", "qkey") if not absent(row.get(name))), None)
        # An id of the content, not of the row: a row more in the file renames no other question.
        content = hashlib.blake2b(json.dumps([text, named]).encode(), digest_size=8).hexdigest()
        qid = content if said is None else cell_text(said, where, "qid")
    return Question(qid, text, named, _ordinal(row, where, reading))


def _ordinal(row: _Row, where: str, reading: Reading) -> bool:
    """A flag, or OpinionQA's list of the options' places on the scale."""
    value = row.get("ordinal")
    if absent(value):
        return reading.ordinal
    if isinstance(value, str) and value.casefold() in ("true", "false"):
        return value.casefold() == "true"
    value = cell_value(value, where, "ordinal")
    if isinstance(value, list):
        return bool(value)
    if value in (0, 1):
        return bool(value)
    raise DataError(f"{where}: field ordinal: must be true, false or a list of numbers, got {value!r}")


def _has_shares(shares: object) -> bool:
    if not isinstance(shares, (list, tuple)):
        return True  # refused with its field by the check of the numbers
    return any(share != 0 for share in shares)


def _tolerance(reading: Reading) -> float:
    return math.inf if reading.raw_shares else SUM_TOLERANCE
