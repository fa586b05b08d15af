"""The records of a ledger: typed, written as canonical JSON, each bound to the one before by SHA-256.

A line is `{"body": ..., "hash": ..., "kind": ..., "prev_hash": ..., "seq": ..., "time": ...}` with sorted keys and no
spaces; `hash` covers everything else in it. The chain finds every edit, deletion and reordering inside the file. It
cannot find that the owner rewrote all of it or cut complete lines off its end: compare `head_hash` with a copy kept
elsewhere for that.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeAlias

from .errors import LedgerBroken
from .events import Event, event_from_dict, event_to_dict

GENESIS = "0" * 64
UNIT = "pair"
RELATION = "add or remove one pair"
Context: TypeAlias = Mapping[str, str | int | float]


@dataclass(frozen=True, slots=True)
class Header:
    """Whose ledger this is. The first record, and the only one of its kind."""

    client: str
    data_id: str
    budget_epsilon: float
    delta: float
    unit: str = UNIT
    relation: str = RELATION
    version: int = 1

    def __post_init__(self) -> None:
        if self.version != 1 or self.unit != UNIT or self.relation != RELATION:
            raise ValueError(
                f"version {self.version}, unit {self.unit!r}, relation {self.relation!r} is not known here"
            )


@dataclass(frozen=True, slots=True)
class Reserve:
    """An event that may happen from now on. Charged for good, whether or not a commit follows."""

    event: Event
    run_id: str
    round_index: int
    epsilon: float  # after this record, at the delta in force; for display, always recomputed from the events
    context: Context = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Commit:
    """What happened under a reservation: at most what was reserved. Never lowers the charge."""

    reserve_seq: int
    event: Event


@dataclass(frozen=True, slots=True)
class Overrun:
    """What happened beyond a reservation. Charged in full, beside the reservation."""

    reserve_seq: int
    event: Event


@dataclass(frozen=True, slots=True)
class Budget:
    """The owner set another budget or delta, and said why."""

    budget_epsilon: float
    delta: float
    reason: str


@dataclass(frozen=True, slots=True)
class Torn:
    """A last line cut short by a crash was removed. Work begins only after its line is on disk: nothing was spent."""

    length: int
    sha256: str


Body: TypeAlias = Header | Reserve | Commit | Overrun | Budget | Torn
_KINDS: dict[str, Any] = {
    "header": Header,
    "reserve": Reserve,
    "commit": Commit,
    "overrun": Overrun,
    "budget": Budget,
    "torn": Torn,
}
_NAMES = {body: kind for kind, body in _KINDS.items()}


@dataclass(frozen=True, slots=True)
class Record:
    """One line of a ledger."""

    seq: int
    time: str  # UTC, ISO 8601; advisory
    prev_hash: str
    hash: str
    body: Body

    @property
    def kind(self) -> str:
        """header, reserve, commit, overrun, budget or torn."""
        return _NAMES[type(self.body)]


def seal(body: Body, *, seq: int, prev_hash: str, time: str) -> tuple[Record, bytes]:
    """The record of `body` and its line, newline included. Raises ValueError for a value that JSON cannot carry."""
    values = {"body": _to_json(body), "kind": _NAMES[type(body)], "prev_hash": prev_hash, "seq": seq, "time": time}
    digest = hashlib.sha256(_canonical(values)).hexdigest()
    return Record(seq, time, prev_hash, digest, body), _canonical({**values, "hash": digest}) + b"\n"


def unseal(line: bytes, *, seq: int, prev_hash: str) -> Record:
    """The record on a line without its newline. Raises LedgerBroken naming the line unless every byte is as sealed."""
    where = f"line {seq + 1}"
    try:
        values = json.loads(line)
        body = _from_json(values["kind"], values["body"])
        record, sealed = seal(body, seq=values["seq"], prev_hash=values["prev_hash"], time=values["time"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise LedgerBroken(f"{where}: is not a record ({error})") from error
    if sealed != line + b"\n":
        raise LedgerBroken(f"{where}: was edited, its hash does not match")
    if record.seq != seq or record.prev_hash != prev_hash:
        raise LedgerBroken(f"{where}: does not follow the line before it; lines were removed, added or moved")
    return record


def _canonical(values: Mapping[str, object]) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _to_json(body: Body) -> dict[str, object]:
    """Plain values; JSON has no infinity, so an infinite epsilon is null."""
    values: dict[str, object] = asdict(body)
    if isinstance(body, Reserve | Commit | Overrun):
        values["event"] = event_to_dict(body.event)
    for name in ("epsilon", "budget_epsilon"):
        if values.get(name) == math.inf:
            values[name] = None
    return values


def _from_json(kind: str, values: dict[str, Any]) -> Body:
    wanted = _KINDS[kind]
    if set(values) != {one.name for one in fields(wanted)}:
        raise ValueError(f"fields of {kind} are {sorted(values)}")
    known = dict(values)
    if "event" in known:
        known["event"] = event_from_dict(known["event"])
    for name in ("epsilon", "budget_epsilon"):
        if name in known and known[name] is None:
            known[name] = math.inf
    body: Body = wanted(**known)
    return body
