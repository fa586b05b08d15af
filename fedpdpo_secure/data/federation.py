"""From a configuration to a validated `Federation`: one pass to check and deal every row, then streams on demand.

Between passes only whole numbers per row stay in memory. Nothing is handed out before every row has parsed and every
client has a training pair.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedpdpo_secure.config.models import Config
from fedpdpo_secure.config.rules import BUILTIN_DATA
from fedpdpo_secure.data import partition, synthetic
from fedpdpo_secure.data.pairs import PUBLIC_CLIENT, DataError, Federation, PreferencePair
from fedpdpo_secure.data.partition import LEFT_OUT, PUBLIC, Roster, Scan, Split
from fedpdpo_secure.data.shapes import Message, Render, Texts, parse_row
from fedpdpo_secure.data.sources import Source, column_value, open_source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_DIRICHLET_LABELS = 1000


@dataclass(frozen=True, slots=True)
class _Part:
    """One source with the owner (int32[n]) and split (int8[n]) of each of its rows."""

    source: Source
    owner: np.ndarray
    split: np.ndarray


@dataclass(frozen=True, slots=True)
class _Scanned:
    scan: Scan
    keys: np.ndarray  # uint64[n], keyed hash of each row's group; comparable between sources of one load
    templated: bool


def load_federation(config: Config, tokenizer: PreTrainedTokenizerBase | None) -> Federation:
    """The clients of `config` and their pairs, after every row has been read, parsed and dealt once.

    Args:
        tokenizer: of the model; only its chat template is used, and only for conversational rows. None for
            `builtin:tiny`, which has no chat template and is trained after the data is known.

    Raises:
        DataError: a row, a column, a partition or a client is unfit; one line naming it.
    """
    if config.dataset_name == BUILTIN_DATA:
        return synthetic.make_federation(config)
    data, render, hash_key = config.data, chat_render(tokenizer), os.urandom(16)
    source = open_source(config.dataset_name, revision=data.revision, where=data.where)
    main = _scan(source, config, render, hash_key, known=None)
    roster = _roster(main.scan, config)
    parts, notes = [_deal_main(source, main.scan, roster, config)], []
    dropped = int((parts[0].owner == LEFT_OUT).sum())
    if dropped:
        notes.append(f"{dropped} training pairs left out by data.pairs_per_client = {data.pairs_per_client}")
    if data.test is not None:
        test_source = open_source(data.test, where=data.where)
        test = _scan(test_source, config, render, hash_key, known=main.scan.labels)
        if test.templated != main.templated:
            raise DataError(f"data.test: {test_source.label} and {source.label} must both be conversational or neither")
        parts.append(_deal_test(test_source, test.scan, roster, config))
        shared = int(np.isin(test.keys, main.keys).sum())
        if shared:
            notes.append(f"{shared} pairs of {test_source.label} share their group with pairs of {source.label}")
    counts = _counts(parts, roster)
    _check_clients(counts, roster, config)
    return Federation(
        clients=roster.names,
        counts=counts,
        example=next(pair for pair in _stream(parts, roster, render) if pair.split == "train"),
        source=" and ".join(part.source.label for part in parts),
        templated=main.templated,
        notes=tuple(notes),
        stream=lambda: _stream(parts, roster, render),
        public_stream=lambda: _public_texts(parts, roster, render),
    )


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


def _scan(
    source: Source, config: Config, render: Render | None, hash_key: bytes, *, known: tuple[str, ...] | None
) -> _Scanned:
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
    return _Scanned(Scan(tuple(labels), np.array(label, dtype=np.int32), rank[inverse]), hashes, bool(templated))


def _label_column(config: Config) -> str | None:
    data = config.data
    return {"round_robin": None, "dirichlet": data.label_column}.get(data.partition, data.partition)


def _limit_reason(config: Config) -> str:
    dirichlet = config.data.partition == "dirichlet"
    return "too many for data.label_column" if dirichlet else "federation.clients; each value needs a client"


def _group_key(row: dict[str, object], texts: Texts, column: str | None, hash_key: bytes, where: str) -> int:
    group = texts.prompt if column is None else column_value(row, column, where)
    return int.from_bytes(hashlib.blake2b(group.encode(), key=hash_key, digest_size=8).digest(), "big")


def _roster(scan: Scan, config: Config) -> Roster:
    clients, labels = config.federation.clients, len(scan.labels)
    if config.data.partition in ("round_robin", "dirichlet"):
        alpha = config.data.dirichlet_alpha if config.data.partition == "dirichlet" else None
        return partition.numbered_roster(clients, synthetic.client_names(clients), labels, alpha, config.seed)
    sizes = np.bincount(scan.label, minlength=labels)
    return partition.column_roster(scan.labels, sizes, clients, f"column {config.data.partition}")


def _deal_main(source: Source, scan: Scan, roster: Roster, config: Config) -> _Part:
    data, clients = config.data, len(roster.names)
    public = partition.choose_public(scan, data.public_fraction, config.seed)
    owner = partition.deal(scan, roster, ~public, config.seed)
    split = partition.split_clients(
        scan,
        owner,
        validation=data.validation_fraction,
        test=data.test_fraction if data.test is None else 0.0,
        clients=clients,
        seed=config.seed,
    )
    if data.pairs_per_client is not None:
        owner = partition.cap_training(owner, split, cap=data.pairs_per_client, clients=clients, seed=config.seed)
    return _Part(source, owner, split)


def _deal_test(source: Source, scan: Scan, roster: Roster, config: Config) -> _Part:
    owner = partition.deal(scan, roster, np.ones(len(scan.group), dtype=bool), config.seed, test=True)
    return _Part(source, owner, np.full(len(owner), Split.TEST, dtype=np.int8))


def _counts(parts: list[_Part], roster: Roster) -> dict[str, dict[str, int]]:
    counts = {name: {split: 0 for split in ("train", "validation", "test")} for name in roster.names}
    for part in parts:
        for split in (Split.TRAIN, Split.VALIDATION, Split.TEST):
            owners = part.owner[(part.split == split) & (part.owner >= 0)]
            for client, count in enumerate(np.bincount(owners, minlength=len(roster.names))):
                counts[roster.names[client]][split.name.lower()] += int(count)
    public = sum(int((part.owner == PUBLIC).sum()) for part in parts)
    return {**counts, PUBLIC_CLIENT: {"public": public}} if public else counts


def _check_clients(counts: dict[str, dict[str, int]], roster: Roster, config: Config) -> None:
    empty = [name for name in roster.names if not counts[name]["train"]]
    if empty:
        more = f" (and {len(empty) - 1} more)" if len(empty) > 1 else ""
        raise DataError(
            f"client {empty[0]}{more}: has no training pair; lower federation.clients = {len(roster.names)}, "
            f"or change data.partition = {config.data.partition}"
            + (f" or data.dirichlet_alpha = {config.data.dirichlet_alpha:g}" if roster.shares is not None else "")
        )


def _stream(parts: list[_Part], roster: Roster, render: Render | None) -> Iterator[PreferencePair]:
    for part in parts:
        count = len(part.owner)
        index = -1
        for index, (number, row) in enumerate(part.source.read()):
            if index >= count:
                break
            owner = int(part.owner[index])
            if owner == LEFT_OUT:
                continue
            texts = parse_row(row, part.source.at(number), render)
            client = PUBLIC_CLIENT if owner == PUBLIC else roster.names[owner]
            split = Split(int(part.split[index])).name.lower()
            yield PreferencePair(texts.prompt, texts.chosen, texts.rejected, client, split)
        if index != count - 1:
            raise DataError(f"{part.source.label}: its rows changed while it was read")


def _public_texts(parts: list[_Part], roster: Roster, render: Render | None) -> Iterator[str]:
    """Both answers of every public pair: a language model's start should not know which was preferred."""
    if not any((part.owner == PUBLIC).any() for part in parts):
        return
    for pair in _stream(parts, roster, render):
        if pair.client == PUBLIC_CLIENT:
            yield pair.prompt + pair.chosen
            yield pair.prompt + pair.rejected
