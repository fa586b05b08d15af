"""Heads: small records of how far a ledger had come, kept by a server, a peer or another folder.

A chain cannot show that complete lines were cut off its end, or that an older copy was put back. Whoever keeps a head
notices: the ledger must still contain it. A head is signed by the ledger's owner where the ledger is signed, and may
be countersigned by the peer that keeps it, so that neither can deny it. It holds hashes and a count of records,
nothing of the data.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from .errors import LedgerBroken, LedgerRolledBack
from .ledger_record import Header, Record, public_key_of
from .ledger_signing import public_hex, sign, signature_holds
from .ledger_store import make_private_folder, read

HEADS_FILE = "heads.json"
_VERSION = 1
_OWNER, _PEER = b"fedpdpo/ledger/v1/head/", b"fedpdpo/ledger/v1/countersigned/"


@dataclass(frozen=True, slots=True)
class Head:
    """The first `records` records of the ledger of `client`'s data `data_id` end in the hash `head_hash`.

    Keys and signatures are hexadecimal Ed25519; None where there is none. `signature` is by the ledger's owner over
    the four facts, `peer_signature` by who keeps the head, over the facts and the owner's signature.
    """

    client: str
    data_id: str
    records: int
    head_hash: str
    public_key: str | None = None
    signature: str | None = None
    peer_key: str | None = None
    peer_signature: str | None = None

    @property
    def ledger(self) -> tuple[str, str]:
        """Of which ledger it is: (data_id, client)."""
        return self.data_id, self.client


def head_of(records: Sequence[Record], key: Ed25519PrivateKey | None = None) -> Head:
    """The head of a ledger's records, signed with `key`. Raises LedgerBroken if they do not begin with a header."""
    if not records or not isinstance(records[0].body, Header):
        raise LedgerBroken("line 1: is not a header")
    header, last = records[0].body, records[-1]
    head = Head(header.client, header.data_id, len(records), last.hash, public_key_of(records))
    return head if key is None else replace(head, signature=sign(key, _OWNER + _facts(head)))


def read_head(path: Path, key: Ed25519PrivateKey | None = None) -> Head:
    """The head of the ledger at `path`, without a lock; signed if `key` is the one that signs the ledger."""
    records = read(path).records
    signs = key is not None and public_hex(key) == public_key_of(records)
    return head_of(records, key if signs else None)


def countersign(head: Head, key: Ed25519PrivateKey) -> Head:
    """The head with a peer's signature, given after `check_signatures` and `advance`: the peer has seen this head."""
    return replace(head, peer_key=public_hex(key), peer_signature=sign(key, _PEER + _signed(head)))


def check_signatures(head: Head) -> None:
    """Raises LedgerBroken unless the head of a signed ledger is signed under its key, and both signatures hold."""
    name = f"head of {head.client}, {head.data_id}"
    if head.signature is not None and not signature_holds(head.public_key or "", head.signature, _OWNER + _facts(head)):
        raise LedgerBroken(f"{name}: its signature is not that of the ledger's key")
    if head.peer_signature is None and head.peer_key is None:
        return
    if not signature_holds(head.peer_key or "", head.peer_signature or "", _PEER + _signed(head)):
        raise LedgerBroken(f"{name}: its countersignature does not hold")


def check_head(records: Sequence[Record], head: Head, where: Path) -> None:
    """Raise LedgerRolledBack, naming `where`, unless the ledger's records contain this head; LedgerBroken for a head
    whose own signatures do not hold."""
    check_signatures(head)
    if len(records) < head.records:
        raise LedgerRolledBack(
            f"{where}: has {len(records)} records, but a head of {head.records} is known of it: an older copy was put "
            "back, or its end was cut off"
        )
    prefix = records[: head.records]
    if head.records < 1 or prefix[-1].hash != head.head_hash:
        raise LedgerRolledBack(f"{where}: diverges from a known head at line {head.records}: it was written anew")
    header = records[0].body
    if not isinstance(header, Header) or (header.data_id, header.client) != head.ledger:
        raise LedgerRolledBack(f"{where}: is not the ledger of {head.client}, {head.data_id}")
    if public_key_of(prefix) != head.public_key:
        raise LedgerRolledBack(f"{where}: was signed with another key when this head was made")


def advance(known: Iterable[Head], new: Iterable[Head]) -> tuple[Head, ...]:
    """The latest head of every ledger, by (data_id, client). Raises LedgerRolledBack if two of equal length differ.

    A shorter one is passed over, not refused: whoever holds the ledger checks it against every head it knows.
    """
    latest: dict[tuple[str, str], Head] = {}
    for head in [*known, *new]:
        held = latest.get(head.ledger)
        if held is not None and held.records == head.records and held.head_hash != head.head_hash:
            raise LedgerRolledBack(f"head of {head.client}, {head.data_id}: two of {head.records} records differ")
        if held is None or held.records <= head.records:
            latest[head.ledger] = head
    return tuple(latest[name] for name in sorted(latest))


def accept(known: Iterable[Head], head: Head) -> tuple[Head, ...]:
    """What a peer keeps after a client showed it `head`. Raises LedgerRolledBack if that is older than what it knows,
    or tells another story; LedgerBroken if a signature does not hold or a signed ledger comes unsigned."""
    kept = tuple(known)
    check_signatures(head)
    for held in kept:
        if held.ledger != head.ledger:
            continue
        if head.records < held.records:
            raise LedgerRolledBack(
                f"head of {head.client}, {head.data_id}: {head.records} records, {held.records} are known"
            )
        if held.public_key is not None and (head.public_key != held.public_key or head.signature is None):
            raise LedgerBroken(f"head of {head.client}, {head.data_id}: is not signed with the ledger's known key")
    return advance(kept, [head])


def read_heads(path: Path) -> tuple[Head, ...]:
    """The heads in a file. Raises LedgerBroken naming it unless it is what `write_heads` writes."""
    try:
        values = json.loads(path.read_bytes())
        if values["version"] != _VERSION or set(values) != {"version", "heads"}:
            raise ValueError(f"version {values['version']!r} is not known")
        return tuple(_head(one) for one in values["heads"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise LedgerBroken(f"{path}: is not a file of heads ({error})") from error


def write_heads(path: Path, heads: Iterable[Head]) -> None:
    """Replace the file (mode 0600) by these heads; it is the old one or the new one, whenever the process ends."""
    make_private_folder(path.parent)
    document = {"version": _VERSION, "heads": [asdict(head) for head in heads]}
    descriptor, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # mode 0600
    try:
        with open(descriptor, "w", encoding="ascii") as file:
            json.dump(document, file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(descriptor)
        os.replace(scratch, path)
    except BaseException:
        os.unlink(scratch)
        raise


def _head(values: dict[str, object]) -> Head:
    if set(values) != {one.name for one in fields(Head)}:
        raise ValueError(f"fields of a head are {sorted(values)}")
    for name, value in values.items():
        optional = name in ("public_key", "signature", "peer_key", "peer_signature")
        if type(value) is not (int if name == "records" else str) and not (optional and value is None):
            raise ValueError(f"{name} is {value!r}")
    return Head(**values)  # type: ignore[arg-type]


def _facts(head: Head) -> bytes:
    return json.dumps([head.client, head.data_id, head.records, head.head_hash]).encode("ascii")


def _signed(head: Head) -> bytes:
    return json.dumps([_facts(head).decode("ascii"), head.public_key, head.signature]).encode("ascii")
