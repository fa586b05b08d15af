"""From a configuration to a validated `Federation`: one pass to check and deal every row, then streams on demand.

Between passes only whole numbers per row stay in memory. Nothing is handed out before every row has parsed and every
client has a training pair.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedpdpo_secure.config.models import Config
from fedpdpo_secure.config.rules import BUILTIN_DATA
from fedpdpo_secure.data import partition, synthetic
from fedpdpo_secure.data.pairs import PUBLIC_CLIENT, DataError, Federation, PreferencePair
from fedpdpo_secure.data.partition import LEFT_OUT, PUBLIC, Roster, Scan, Split
from fedpdpo_secure.data.scan import chat_render, scan_source
from fedpdpo_secure.data.shapes import Render, parse_row
from fedpdpo_secure.data.sources import Source, open_source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class _Part:
    """One source with the owner (int32[n]) and split (int8[n]) of each of its rows."""

    source: Source
    owner: np.ndarray
    split: np.ndarray


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
    main = scan_source(source, config, render, hash_key, known=None)
    roster = _roster(main.scan, config)
    parts, notes = [_deal_main(source, main.scan, roster, config)], []
    dropped = int((parts[0].owner == LEFT_OUT).sum())
    if dropped:
        notes.append(f"{dropped} training pairs left out by data.pairs_per_client = {data.pairs_per_client}")
    if data.test is not None:
        same = data.test.partition(":")[0] == config.dataset_name.partition(":")[0]  # another split of one hub data set
        test_source = open_source(data.test, revision=data.revision if same else None, where=data.where)
        test = scan_source(test_source, config, render, hash_key, known=main.scan.labels)
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
