"""The first pass over a source: every row parsed and checked, a few whole numbers of it kept."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedpdpo_secure.config.models import Config
from fedpdpo_secure.data.pairs import DataError
from fedpdpo_secure.data.partition import Purpose, Split, draw
from fedpdpo_secure.data.shapes import Message, Render, Texts, parse_row
from fedpdpo_secure.data.sources import Source, column_value

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_DIRICHLET_LABELS = 1000


@dataclass(frozen=True, slots=True)
class Row:
    """What one row says."""

    texts: Texts
    label: str  # its value of the partition (or Dirichlet label) column; empty for round robin
    group: str

    def identity(self, seed: int) -> int:
        """64 bits that depend on nothing but what this row says, and `seed`."""
        said = [self.label, self.group, self.texts.prompt, self.texts.chosen, self.texts.rejected]
        return draw(json.dumps(said), seed=seed, purpose=Purpose.CAP)


@dataclass(frozen=True, slots=True)
class Scan:
    """What the first pass keeps of `n` rows."""

    labels: tuple[str, ...]  # sorted
    label: np.ndarray  # int32[n], index into labels
    group: np.ndarray  # uint64[n], keyed hash of the group, which decides the owner; comparable between sources
    split: np.ndarray  # int8[n] of Split
    row: np.ndarray  # uint64[n], identity of each row
    templated: bool


def chat_render(tokenizer: PreTrainedTokenizerBase | None) -> Render | None:
    """The tokenizer's chat template as a function, or None if it has none."""
    if tokenizer is None or not tokenizer.chat_template:
        return None
    import jinja2

    def render(messages: list[Message], generate: bool) -> str:
        try:
            return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate))
        except jinja2.TemplateError as error:
            raise ValueError(" ".join(str(error).split())) from error

    return render


def read_row(row: dict[str, object], where: str, config: Config, render: Render | None) -> Row:
    """`row` parsed, with its label and group.

    Raises:
        DataError: a field is unfit; the line names it after `where`.
    """
    texts = parse_row(row, where, render)
    column, grouped_by = _label_column(config), config.data.group_column
    label = column_value(row, column, where) if column else ""
    return Row(texts, label, texts.prompt if grouped_by is None else column_value(row, grouped_by, where))


def scan_source(
    source: Source,
    config: Config,
    render: Render | None,
    split_of: Callable[[str], Split],
    *,
    known: tuple[str, ...] | None,
) -> Scan:
    """Parse every row, keep four numbers of it. `split_of` maps groups to splits; labels not `known` are refused."""
    limit = config.federation.clients if config.data.partition != "dirichlet" else MAX_DIRICHLET_LABELS
    labels = {name: index for index, name in enumerate(known or ())}
    label, group, split, identity, templated = array("l"), array("Q"), array("b"), array("Q"), None
    for number, fields in source.read():
        where = source.at(number)
        row = read_row(fields, where, config, render)
        if templated is not None and templated != row.texts.templated:
            raise DataError(f"{where}: field chosen: conversational and plain rows cannot be mixed in one file")
        templated = row.texts.templated
        if row.label not in labels:
            if known is not None:
                raise DataError(f"{where}: field {_label_column(config)}: no training row has the value {row.label!r}")
            if len(labels) == limit:
                why = f"more than {limit} values ({_limit_reason(config)})"
                raise DataError(f"{where}: field {_label_column(config)}: {why}")
            labels[row.label] = len(labels)
        label.append(labels[row.label])
        group.append(draw(row.group, seed=config.seed, purpose=Purpose.OWNER))
        split.append(split_of(row.group))
        identity.append(row.identity(config.seed))
    if not len(label):
        raise DataError(f"{source.label}: holds no row" + (" that data.where keeps" if config.data.where else ""))
    names = sorted(labels)
    place = np.empty(len(names), dtype=np.int32)  # of each label as numbered so far, in sorted order
    place[[labels[name] for name in names]] = np.arange(len(names))
    return Scan(
        labels=tuple(names),
        label=place[np.array(label)],
        group=np.array(group, dtype=np.uint64),
        split=np.array(split, dtype=np.int8),
        row=np.array(identity, dtype=np.uint64),
        templated=bool(templated),
    )


def _label_column(config: Config) -> str | None:
    data = config.data
    return {"round_robin": None, "dirichlet": data.label_column}.get(data.partition, data.partition)


def _limit_reason(config: Config) -> str:
    dirichlet = config.data.partition == "dirichlet"
    return "too many for data.label_column" if dirichlet else "federation.clients; each value needs a client"
