"""Which client owns which row, and in which split: a function of that row alone and of the public configuration.

Every choice compares a keyed hash of the row's group with public fractions; the key is (version, seed, purpose). No
count, rank or order of appearance enters, so one row more or less moves no other row: the same holds for what each
client trains on, and for the largest loss over clients. Sizes are therefore expected, never exact. What stays the same
between the two neighbouring data sets, the set of labels and the list of clients, is public.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from functools import cache

import numpy as np

from fedpdpo_secure.data.pairs import PUBLIC_CLIENT, DataError

PUBLIC, LEFT_OUT = -1, -2  # owners that are no client
VERSION = 1  # of the mapping from texts to owners and splits
_RESERVED = frozenset({PUBLIC_CLIENT, "pooled"})  # folders beside those of clients


class Split(IntEnum):
    TRAIN = 0
    VALIDATION = 1
    TEST = 2
    PUBLIC = 3


class Purpose(StrEnum):
    """What a hash is drawn for; hashes of different purposes are independent."""

    OWNER = "owner"
    PUBLIC = "public"
    SPLIT = "split"
    SHARES = "shares"
    CAP = "cap"


@dataclass(frozen=True, slots=True)
class Roster:
    """Clients in alphabetical order, and who takes the rows of each label."""

    names: tuple[str, ...]
    members: tuple[np.ndarray, ...]  # per label: int64 indices of the clients that share its groups
    shares: np.ndarray | None  # float64[labels, clients] (Dirichlet), rows summing to 1; None: equal shares


def draw(text: str, *, seed: int, purpose: Purpose) -> int:
    """64 uniform bits that depend on nothing but `text`, `seed` and `purpose` (keyed BLAKE2b)."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), key=_key(seed, purpose), digest_size=8)
    return int.from_bytes(digest.digest(), "big")


def split_of(group: str, *, seed: int, public: float, validation: float, test: float) -> Split:
    """The split of a whole group: PUBLIC with chance `public`, else TEST or VALIDATION with theirs, else TRAIN."""
    if draw(group, seed=seed, purpose=Purpose.PUBLIC) < public * 2.0**64:
        return Split.PUBLIC
    place = draw(group, seed=seed, purpose=Purpose.SPLIT) * 2.0**-64
    if place < test:
        return Split.TEST
    return Split.VALIDATION if place < test + validation else Split.TRAIN


def numbered_roster(names: tuple[str, ...], labels: Sequence[str], alpha: float | None, seed: int) -> Roster:
    """Equal clients; with `alpha`, they take each label's groups in proportions from Dirichlet(alpha).

    The proportions of a label are seeded by its own text, so that they do not depend on the other labels.
    """
    clients = len(names)
    shares = None
    if alpha is not None:
        shares = np.empty((len(labels), clients))
        for index, label in enumerate(labels):
            rng = np.random.default_rng(draw(label, seed=seed, purpose=Purpose.SHARES))
            shares[index] = rng.dirichlet(np.full(clients, alpha))
    return Roster(names, (np.arange(clients),) * len(labels), shares)


def column_roster(labels: Sequence[str], clients: int, field: str) -> Roster:
    """One client per value, or sub-clients "value-0", "value-1", ... shared out evenly, the remainder to the first.

    Args:
        labels: the values in sorted order.

    Raises:
        DataError: more values than clients, or two values whose names cannot be told apart.
    """
    if len(labels) > clients:
        raise DataError(f"{field}: {len(labels)} values but federation.clients = {clients}; each value needs a client")
    base, extra = divmod(clients, len(labels))
    named: list[tuple[str, int]] = []
    for index, label in enumerate(labels):
        name, count = client_name(label, field), base + (index < extra)
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


def deal(label: np.ndarray, group: np.ndarray, roster: Roster) -> np.ndarray:
    """int32[n]: the owner of every row: its own label names the clients, the hash of its group picks one of them.

    With members m and position u in [0, 1) this is m[floor(u * len(m))], or the member whose cumulative share holds u.

    Args:
        label: int[n], index into the labels of `roster`.
        group: uint64[n], `draw` of each row's group for Purpose.OWNER.
    """
    owner = np.empty(len(label), dtype=np.int32)
    place = (group >> np.uint64(11)) * 2.0**-53  # exact, and below 1
    if roster.shares is None:
        sizes = np.array([len(members) for members in roster.members])
        start = np.cumsum(sizes) - sizes
        taker = start[label] + np.floor(place * sizes[label]).astype(np.int64)
        owner[:] = np.concatenate(roster.members)[taker]
        return owner
    for index, members in enumerate(roster.members):
        rows = np.flatnonzero(label == index)
        taker = np.searchsorted(np.cumsum(roster.shares[index]), place[rows], side="right")
        owner[rows] = members[np.minimum(taker, len(members) - 1)]  # the sum may end a rounding error below 1
    return owner


def cap_training(owner: np.ndarray, split: np.ndarray, row: np.ndarray, *, cap: int) -> np.ndarray:
    """`owner` with a client's training rows LEFT_OUT, all but the `cap` of smallest `row` (uint64[n], their hash).

    One row more displaces at most one other. Rows of equal hash stand in file order: they are copies of each other.
    """
    train = np.flatnonzero((split == Split.TRAIN) & (owner >= 0))
    order = train[np.lexsort((row[train], owner[train]))]
    place = np.arange(len(order)) - np.searchsorted(owner[order], owner[order])  # within the client
    kept = owner.copy()
    kept[order[place >= cap]] = LEFT_OUT
    return kept


@cache
def _key(seed: int, purpose: Purpose) -> bytes:
    return hashlib.blake2b(f"fedpdpo partition {VERSION} {seed} {purpose}".encode(), digest_size=32).digest()
