"""The records of a ledger: typed, written as canonical JSON, each bound to the one before by SHA-256.

A line is `{"body": ..., "hash": ..., "kind": ..., "prev_hash": ..., "seq": ..., "time": ...}` with sorted keys and no
spaces; `hash` covers everything else in it. In a signed ledger a line also has `"sig"`, the owner's signature of the
hash. The chain finds every edit, deletion and reordering inside the file; a signature, that someone else wrote it.
Neither finds that its owner rewrote all of it or cut complete lines off its end: that is what heads kept elsewhere
are for (`ledger_heads`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeAlias

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from .errors import LedgerBroken
from .events import Event, event_from_dict, event_to_dict
from .ledger_signing import check_public_key, sign, signature_holds

GENESIS = "0" * 64
UNITS = {
    "pair": "add or remove one pair",
    "client": "zero out one client's whole update",
    "question": "add or remove one group's answers to one question",
}
VERSION = 2  # 1 had no public_key, and the unit was always a pair; such files are read and continued as they are
Context: TypeAlias = Mapping[str, str | int | float]


@dataclass(frozen=True, slots=True)
class Header:
    """Whose ledger this is, and what its epsilon protects. The first record, and the only one of its kind."""

    client: str
    data_id: str
    budget_epsilon: float
    delta: float
    unit: str = "pair"
    relation: str = UNITS["pair"]
    version: int = VERSION
    public_key: str | None = None  # Ed25519, hexadecimal; every record, this one too, is signed under it

    def __post_init__(self) -> None:
        old = self.version == 1 and self.unit == "pair" and self.public_key is None
        if not (self.version == VERSION or old) or UNITS.get(self.unit) != self.relation:
            raise ValueError(
                f"version {self.version}, unit {self.unit!r}, relation {self.relation!r} is not known here"
            )
        if self.public_key is not None:
            check_public_key(self.public_key)


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
class SampleRejected:
    """The samples of a run were not Poisson (`privacy.attestation`): its events count without amplification."""

    run_id: str


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


@dataclass(frozen=True, slots=True)
class Signer:
    """From this record on, this one included, an unsigned ledger is signed."""

    public_key: str

    def __post_init__(self) -> None:
        check_public_key(self.public_key)


Body: TypeAlias = Header | Reserve | Commit | Overrun | SampleRejected | Budget | Torn | Signer
_KINDS: dict[str, Any] = {
    "header": Header,
    "reserve": Reserve,
    "commit": Commit,
    "overrun": Overrun,
    "sample_rejected": SampleRejected,
    "budget": Budget,
    "torn": Torn,
    "signer": Signer,
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
    signature: str | None = None  # Ed25519 over the hash, hexadecimal

    @property
    def kind(self) -> str:
        """header, reserve, commit, overrun, sample_rejected, budget, torn or signer."""
        return _NAMES[type(self.body)]


def seal(
    body: Body, *, seq: int, prev_hash: str, time: str, key: Ed25519PrivateKey | None = None
) -> tuple[Record, bytes]:
    """The record of `body`, signed if there is a `key`, and its line, newline included.

    Raises ValueError for a value that JSON cannot carry.
    """
    digest = _digest(body, seq, prev_hash, time)
    record = Record(seq, time, prev_hash, digest, body, None if key is None else sign(key, _statement(digest)))
    return record, _line(record)


def unseal(line: bytes, *, seq: int, prev_hash: str, public_key: str | None = None) -> Record:
    """The record on a line without its newline; in a ledger signed so far under `public_key`, if it is signed.

    Raises LedgerBroken naming the line unless every byte is as sealed and the signature is that of the ledger's key.
    """
    where = f"line {seq + 1}"
    try:
        values = json.loads(line)
        body = _from_json(values["kind"], values["body"])
        digest = _digest(body, values["seq"], values["prev_hash"], values["time"])
        record = Record(values["seq"], values["time"], values["prev_hash"], digest, body, values.get("sig"))
        sealed = _line(record)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise LedgerBroken(f"{where}: is not a record ({error})") from error
    if sealed != line + b"\n":
        raise LedgerBroken(f"{where}: was edited, its hash does not match")
    if record.seq != seq or record.prev_hash != prev_hash:
        raise LedgerBroken(f"{where}: does not follow the line before it; lines were removed, added or moved")
    _check_signature(record, public_key, where)
    return record


def public_key_of(records: Sequence[Record]) -> str | None:
    """The key that signs these records, None where none does."""
    keys = [record.body.public_key for record in records if isinstance(record.body, Header | Signer)]
    return next((key for key in keys if key is not None), None)


def _check_signature(record: Record, public_key: str | None, where: str) -> None:
    if isinstance(record.body, Header | Signer) and public_key is not None:
        raise LedgerBroken(f"{where}: names a signer, but the ledger has one")
    expected = record.body.public_key if isinstance(record.body, Header | Signer) else public_key
    if expected is None and record.signature is None:
        return
    if expected is None or record.signature is None:
        raise LedgerBroken(
            f"{where}: is {'not ' if expected else ''}signed in {'a' if expected else 'an un'}signed ledger"
        )
    if not signature_holds(expected, record.signature, _statement(record.hash)):
        raise LedgerBroken(f"{where}: its signature is not that of the ledger's key")


def _statement(digest: str) -> bytes:
    return b"fedpdpo/ledger/v2/record/" + digest.encode("ascii")


def _digest(body: Body, seq: int, prev_hash: str, time: str) -> str:
    return hashlib.sha256(_canonical(_values(body, seq, prev_hash, time))).hexdigest()


def _line(record: Record) -> bytes:
    values = {**_values(record.body, record.seq, record.prev_hash, record.time), "hash": record.hash}
    return _canonical(values if record.signature is None else {**values, "sig": record.signature}) + b"\n"


def _values(body: Body, seq: int, prev_hash: str, time: str) -> dict[str, object]:
    return {"body": _to_json(body), "kind": _NAMES[type(body)], "prev_hash": prev_hash, "seq": seq, "time": time}


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
    if isinstance(body, Header) and body.version == 1:
        del values["public_key"]
    return values


def _from_json(kind: str, values: dict[str, Any]) -> Body:
    wanted = _KINDS[kind]
    names = {one.name for one in fields(wanted)}
    if wanted is Header and values.get("version") == 1:
        names.remove("public_key")
    if set(values) != names:
        raise ValueError(f"fields of {kind} are {sorted(values)}")
    known = dict(values)
    if "event" in known:
        known["event"] = event_from_dict(known["event"])
    for name in ("epsilon", "budget_epsilon"):
        if name in known and known[name] is None:
            known[name] = math.inf
    body: Body = wanted(**known)
    return body
