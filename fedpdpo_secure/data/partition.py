"""Which client owns which row, and in which split: whole numbers in, whole numbers out, no text anywhere.

Rows come as a `Scan` (one label and one group per row). Groups, not rows, are dealt and split, so that a prompt never
stands in two splits of one client. Every choice comes from generators seeded by (seed, purpose).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

import numpy as np

from fedpdpo_secure.data.pairs import PUBLIC_CLIENT, DataError

PUBLIC, LEFT_OUT = -1, -2  # owners that are no client
_RESERVED = frozenset({PUBLIC_CLIENT, "pooled"})  # folders beside those of clients


class Split(IntEnum):
    TRAIN = 0
    VALIDATION = 1
    TEST = 2
    PUBLIC = 3


class _Purpose(IntEnum):
    PUBLIC = 1
    DEAL = 2
    SHARES = 3
    SPLIT = 4
    CAP = 5
    DEAL_TEST = 6


@dataclass(frozen=True, slots=True)
class Scan:
    """What the first pass over a source keeps of its rows."""

    labels: tuple[str, ...]  # the values of the partition (or Dirichlet label) column; one empty string for round robin
    label: np.ndarray  # int32[n], index into labels
    group: np.ndarray  # int64[n], 0 .. number of groups - 1 in order of first appearance


@dataclass(frozen=True, slots=True)
class Roster:
    """Clients in alphabetical order, and who takes the rows of each label."""

    names: tuple[str, ...]
    members: tuple[np.ndarray, ...]  # per label: int64 client indices its groups are dealt to in turn
    shares: np.ndarray | None  # float64[labels, clients] (Dirichlet), rows summing to 1


def numbered_roster(clients: int, names: tuple[str, ...], labels: int, alpha: float | None, seed: int) -> Roster:
    """`clients` equal clients; with `alpha`, they take each label's rows in proportions from Dirichlet(alpha)."""
    shares = None
    if alpha is not None:
        shares = _rng(seed, _Purpose.SHARES).dirichlet(np.full(clients, alpha), size=labels)
    return Roster(names, tuple(np.arange(clients) for _ in range(labels)), shares)


def column_roster(labels: Sequence[str], sizes: np.ndarray, clients: int, field: str) -> Roster:
    """One client per value, or sub-clients "value-0", "value-1", ... shared out evenly, the biggest values first.

    Args:
        sizes: int64[labels], rows of each value.

    Raises:
        DataError: more values than clients, or two values whose names cannot be told apart.
    """
    if len(labels) > clients:
        raise DataError(f"{field}: {len(labels)} values but federation.clients = {clients}; each value needs a client")
    base, extra = divmod(clients, len(labels))
    biggest = sorted(range(len(labels)), key=lambda index: (-int(sizes[index]), labels[index]))
    parts = {index: base + (place < extra) for place, index in enumerate(biggest)}
    named: list[tuple[str, int]] = []
    for index, label in enumerate(labels):
        name, count = client_name(label, field), parts[index]
        width = len(str(count - 1))
        named += [(name, index)] if count == 1 else [(f"{name}-{part:0{width}d}", index) for part in range(count)]
    if len({name.casefold() for name, _ in named}) < len(named):
        raise DataError(f"{field}: two values give the same client name; rename one")
    named.sort()
    owner_label = np.array([index for _, index in named])
    members = tuple(np.flatnonzero(owner_label == index) for index in range(len(labels)))
    return Roster(tuple(name for name, _ in named), members, None)


def client_name(value: str, field: str) -> str:
    """`value` as a name that is safe as a folder name."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", value).strip("-.")[:56]
    if not name or name.casefold() in _RESERVED:
        raise DataError(f"{field}: the value {value!r} cannot name a client")
    return name


def choose_public(scan: Scan, fraction: float, seed: int) -> np.ndarray:
    """bool[n]: whole groups, together at most `fraction` of the rows, that no client gets."""
    return _pick_groups(scan.group, fraction * len(scan.group), _rng(seed, _Purpose.PUBLIC))


def deal(scan: Scan, roster: Roster, free: np.ndarray, seed: int, *, test: bool = False) -> np.ndarray:
    """int32[n]: the owner of every row where `free` (bool[n]) is true, PUBLIC elsewhere.

    With a column, a row follows its own value; otherwise a group follows the label of its first row.
    """
    owner = np.full(len(scan.group), PUBLIC, dtype=np.int32)
    rng = _rng(seed, _Purpose.DEAL_TEST if test else _Purpose.DEAL)
    label = scan.label
    if roster.shares is not None and len(label):
        first = np.unique(scan.group, return_index=True)[1]
        label = label[first][scan.group]
    for index, members in enumerate(roster.members):
        rows = np.flatnonzero(free & (label == index))
        groups, place = np.unique(scan.group[rows], return_inverse=True)
        turn = rng.permutation(len(groups))  # group -> its place in the seeded order
        if roster.shares is None:
            owner[rows] = members[turn % len(members)][place]
        else:
            edges = np.cumsum(roster.shares[index]) * len(groups)
            taker = np.minimum(np.searchsorted(edges, turn + 0.5), len(members) - 1)
            owner[rows] = members[taker][place]
    return owner


def split_clients(
    scan: Scan, owner: np.ndarray, *, validation: float, test: float, clients: int, seed: int
) -> np.ndarray:
    """int8[n] of Split: inside every client, whole groups go to test, then validation, then train."""
    split = np.where(owner == PUBLIC, Split.PUBLIC, Split.TRAIN).astype(np.int8)
    for client, rows in enumerate(_rows_of_clients(owner, clients)):
        rng = _rng(seed, _Purpose.SPLIT, client)
        total = len(rows)
        for kind, fraction in ((Split.TEST, test), (Split.VALIDATION, validation)):
            rest = rows[split[rows] == Split.TRAIN]
            split[rest[_pick_groups(scan.group[rest], fraction * total, rng)]] = kind
    return split


def cap_training(owner: np.ndarray, split: np.ndarray, *, cap: int, clients: int, seed: int) -> np.ndarray:
    """`owner` with each client's training rows beyond the first `cap` of a seeded order LEFT_OUT."""
    kept = owner.copy()
    for client, rows in enumerate(_rows_of_clients(owner, clients)):
        rows = rows[split[rows] == Split.TRAIN]
        if len(rows) > cap:
            order = _rng(seed, _Purpose.CAP, client).permutation(len(rows))
            kept[rows[order[cap:]]] = LEFT_OUT
    return kept


def _rows_of_clients(owner: np.ndarray, clients: int) -> list[np.ndarray]:
    order = np.argsort(owner, kind="stable")
    edges = np.searchsorted(owner[order], np.arange(clients + 1))
    return [order[start:stop] for start, stop in pairwise(edges)]


def _pick_groups(group: np.ndarray, target: float, rng: np.random.Generator) -> np.ndarray:
    """bool[n]: groups taken in a random order as long as they fit into `target` rows (rounded); never all of them."""
    picked = np.zeros(len(group), dtype=bool)
    room = round(target)
    if room < 1 or not len(group):
        return picked
    _, place, sizes = np.unique(group, return_inverse=True, return_counts=True)
    chosen = np.zeros(len(sizes), dtype=bool)
    for index in rng.permutation(len(sizes)):
        if sizes[index] <= room and chosen.sum() + 1 < len(sizes):
            chosen[index] = True
            room -= int(sizes[index])
        if room < 1:
            break
    return chosen[place]


def _rng(seed: int, purpose: _Purpose, client: int = 0) -> np.random.Generator:
    return np.random.default_rng([seed, 100 + purpose, client])
