"""From a configuration to a validated `Federation`: one pass to check and deal every row, then streams on demand.

Between passes only whole numbers per row stay in memory. Nothing is handed out before every row has parsed and every
client has a training pair. Who owns a row and in which split it is depend on that row and the configuration alone
(`partition`); the configured name `round_robin` deals groups to equal clients by hash.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedpdpo_secure.config.models import Config
from fedpdpo_secure.config.rules import BUILTIN_DATA
from fedpdpo_secure.data import partition, synthetic
from fedpdpo_secure.data.pairs import PUBLIC_CLIENT, DataError, Federation, PreferencePair
from fedpdpo_secure.data.partition import LEFT_OUT, PUBLIC, Roster, Split
from fedpdpo_secure.data.scan import Scan, chat_render, read_row, scan_source
from fedpdpo_secure.data.shapes import Render
from fedpdpo_secure.data.sources import Source, open_source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class _Part:
    """One source with the owner (int32[n]), split (int8[n]) and identity (uint64[n]) of each of its rows."""

    source: Source
    owner: np.ndarray
    split: np.ndarray
    row: np.ndarray


@dataclass(frozen=True, slots=True)
class _Dealt:
    """Everything a stream needs."""

    parts: tuple[_Part, ...]
    roster: Roster
    config: Config
    render: Render | None


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
    data, render = config.data, chat_render(tokenizer)
    source = open_source(config.dataset_name, revision=data.revision, where=data.where)
    main = scan_source(source, config, render, lambda group: _split_of(group, config), known=None)
    roster = _roster(main.labels, config)
    parts, notes = [_bounded(_dealt(source, main, roster), roster, config)], []
    dropped = int((parts[0].owner == LEFT_OUT).sum())
    if dropped:
        notes.append(
            f"{dropped} training pairs left out by data.pairs_per_client = {data.pairs_per_client}; "
            "unit: one pair of the selected training set"
        )
    if data.test is not None:
        same = data.test.partition(":")[0] == config.dataset_name.partition(":")[0]  # another split of one hub data set
        revision = data.revision if same else None
        test_source = open_source(data.test, revision=revision, where=data.where, field="data.test")
        test = scan_source(test_source, config, render, lambda group: Split.TEST, known=main.labels)
        if test.templated != main.templated:
            raise DataError(f"data.test: {test_source.label} and {source.label} must both be conversational or neither")
        parts.append(_dealt(test_source, test, roster))
        shared = int(np.isin(test.group, main.group).sum())
        if shared:
            notes.append(f"{shared} pairs of {test_source.label} share their group with pairs of {source.label}")
    counts = _counts(parts, roster)
    _check_clients(counts, roster, config)
    dealt = _Dealt(tuple(parts), roster, config, render)
    return Federation(
        clients=roster.names,
        counts=counts,
        example=next(pair for pair in _stream(dealt) if pair.split == "train"),
        source=" and ".join(part.source.label for part in parts),
        templated=main.templated,
        notes=tuple(notes),
        stream=lambda: _stream(dealt),
        public_stream=lambda: _public_texts(dealt),
    )


def _split_of(group: str, config: Config) -> Split:
    data = config.data
    return partition.split_of(
        group,
        seed=config.seed,
        public=data.public_fraction,
        validation=data.validation_fraction,
        test=data.test_fraction if data.test is None else 0.0,
    )


def _roster(labels: tuple[str, ...], config: Config) -> Roster:
    clients = config.federation.clients
    if config.data.partition in ("round_robin", "dirichlet"):
        alpha = config.data.dirichlet_alpha if config.data.partition == "dirichlet" else None
        return partition.numbered_roster(synthetic.client_names(clients), labels, alpha, config.seed)
    return partition.column_roster(labels, clients, f"column {config.data.partition}")


def _dealt(source: Source, scan: Scan, roster: Roster) -> _Part:
    owner = partition.deal(scan.label, scan.group, roster)
    owner[scan.split == Split.PUBLIC] = PUBLIC
    return _Part(source, owner, scan.split, scan.row)


def _bounded(part: _Part, roster: Roster, config: Config) -> _Part:
    """At most data.pairs_per_client training pairs per client: cut public data to it, refuse private data above it.

    Within a cap one pair can displace another, which would make "one pair more or less" a change of two.
    """
    cap = config.data.pairs_per_client
    if cap is None:
        return part
    train = part.owner[(part.split == Split.TRAIN) & (part.owner >= 0)]
    over = np.flatnonzero(np.bincount(train, minlength=len(roster.names)) > cap)
    if len(over) and not config.data.public:
        raise DataError(
            f"client {roster.names[over[0]]}: has more training pairs than data.pairs_per_client = {cap} declares; "
            "raise it (a cap on private data would let one pair displace another)"
        )
    owner = partition.cap_training(part.owner, part.split, part.row, cap=cap)
    return _Part(part.source, owner, part.split, part.row)


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


def _stream(dealt: _Dealt) -> Iterator[PreferencePair]:
    for part in dealt.parts:
        changed = f"{part.source.label}: its rows changed while it was read"
        seen = 0
        for number, fields in part.source.read():
            row = read_row(fields, part.source.at(number), dealt.config, dealt.render)
            if seen == len(part.owner) or row.identity(dealt.config.seed) != part.row[seen]:
                raise DataError(changed)
            owner, split = int(part.owner[seen]), Split(int(part.split[seen])).name.lower()
            seen += 1
            if owner != LEFT_OUT:
                client = PUBLIC_CLIENT if owner == PUBLIC else dealt.roster.names[owner]
                yield PreferencePair(row.texts.prompt, row.texts.chosen, row.texts.rejected, client, split)
        if seen != len(part.owner):
            raise DataError(changed)


def _public_texts(dealt: _Dealt) -> Iterator[str]:
    """Both answers of every public pair: a language model's start should not know which was preferred."""
    if not any((part.owner == PUBLIC).any() for part in dealt.parts):
        return
    for pair in _stream(dealt):
        if pair.client == PUBLIC_CLIENT:
            yield pair.prompt + pair.chosen
            yield pair.prompt + pair.rejected
