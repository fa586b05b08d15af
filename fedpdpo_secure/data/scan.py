"""The first pass over a source: every row parsed and checked, three whole numbers of it kept."""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedpdpo_secure.config.models import Config
from fedpdpo_secure.data.pairs import DataError
from fedpdpo_secure.data.partition import Scan
from fedpdpo_secure.data.shapes import Message, Render, Texts, parse_row
from fedpdpo_secure.data.sources import Source, column_value

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_DIRICHLET_LABELS = 1000


@dataclass(frozen=True, slots=True)
class Scanned:
    """A scan, and what two sources of one load are compared by."""

    scan: Scan
    keys: np.ndarray  # uint64[n], keyed hash of each row's group; comparable between sources of one load
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


def scan_source(
    source: Source, config: Config, render: Render | None, hash_key: bytes, *, known: tuple[str, ...] | None
) -> Scanned:
    """Parse every row, keep three numbers of it. With `known` labels any other is refused."""
    column = _label_column(config)
    limit = config.federation.clients if config.data.partition != "dirichlet" else MAX_DIRICHLET_LABELS
    labels = {name: index for index, name in enumerate(known or ())}
    label, keys, templated = array("l"), array("Q"), None
    for number, row in source.read():
        where = source.at(number)
        texts = parse_row(row, where, render)
        if templated is not None and templated != texts.templated:
            raise DataError(f"{where}: field chosen: conversational and plain rows cannot be mixed in one file")
        templated = texts.templated
        value = column_value(row, column, where) if column else ""
        if value not in labels:
            if known is not None:
                raise DataError(f"{where}: field {column}: no training row has the value {value!r}")
            if len(labels) == limit:
                raise DataError(f"{where}: field {column}: more than {limit} values ({_limit_reason(config)})")
            labels[value] = len(labels)
        label.append(labels[value])
        keys.append(_group_key(row, texts, config.data.group_column, hash_key, where))
    if not len(label):
        raise DataError(f"{source.label}: holds no row" + (" that data.where keeps" if config.data.where else ""))
    hashes = np.array(keys, dtype=np.uint64)
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))  # groups numbered by first appearance, whatever the hash key
    return Scanned(Scan(tuple(labels), np.array(label, dtype=np.int32), rank[inverse]), hashes, bool(templated))


def _label_column(config: Config) -> str | None:
    data = config.data
    return {"round_robin": None, "dirichlet": data.label_column}.get(data.partition, data.partition)


def _limit_reason(config: Config) -> str:
    dirichlet = config.data.partition == "dirichlet"
    return "too many for data.label_column" if dirichlet else "federation.clients; each value needs a client"


def _group_key(row: dict[str, object], texts: Texts, column: str | None, hash_key: bytes, where: str) -> int:
    group = texts.prompt if column is None else column_value(row, column, where)
    digest = hashlib.blake2b(group.encode("utf-8", "surrogatepass"), key=hash_key, digest_size=8)
    return int.from_bytes(digest.digest(), "big")
