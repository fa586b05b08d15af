"""Reading ledgers without writing: verify, show, export. No lock is taken, so a running job is not disturbed."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .accounting import Bound, epsilon
from .errors import LedgerBroken
from .events import Event, with_known_sample
from .ledger_heads import Head, check_head
from .ledger_record import (
    GENESIS,
    Budget,
    Commit,
    Header,
    Overrun,
    Record,
    Reserve,
    SampleRejected,
    Signer,
    Torn,
    public_key_of,
)
from .ledger_store import make_private_folder, read


@dataclass(frozen=True, slots=True)
class Verified:
    """What a ledger says after its chain was checked and epsilon recomputed from its events alone."""

    path: Path
    client: str
    data_id: str
    budget_epsilon: float
    delta: float
    records: int
    reserved: int
    committed: int
    uncommitted: int  # reserved rounds that were never committed: charged all the same
    epsilon: Bound  # infinite if the ledger is broken
    head_hash: str
    problem: str | None  # why it is not sound; None if it is
    unit: str = ""
    relation: str = ""
    public_key: str | None = None  # every record from its naming on is signed under it

    @property
    def least(self) -> float:
        """The least epsilon of all accountants."""
        return min(bounds_of(self.epsilon))

    @property
    def largest(self) -> float:
        """The largest epsilon of all accountants: valid too, but loose."""
        return max(bounds_of(self.epsilon))

    @property
    def ok(self) -> bool:
        """Whether the chain holds, the record adds up and no reservation went beyond the budget of its time."""
        return self.problem is None


@dataclass(frozen=True, slots=True)
class Row:
    """One record, for people."""

    seq: int
    time: str
    kind: str
    run_id: str
    round_index: int | None
    epsilon: float | None  # cumulative, after this record
    detail: str


def bounds_of(bound: Bound) -> list[float]:
    """Every accountant's number in `bound`, of those that computed one; the bound itself where none did."""
    known = [value for value in (bound.pld, bound.rdp, bound.gaussian) if value is not None]
    return known if known and math.isfinite(bound.epsilon) else [bound.epsilon]


def settings(records: Sequence[Record]) -> Header:
    """The header with the budget and delta now in force. Raises LedgerBroken if there is no header, or a second one."""
    if not records or not isinstance(records[0].body, Header):
        raise LedgerBroken("line 1: is not a header")
    now = records[0].body
    for record in records[1:]:
        if isinstance(record.body, Header):
            raise LedgerBroken(f"line {record.seq + 1}: is a second header")
        if isinstance(record.body, Budget):
            now = replace(now, budget_epsilon=record.body.budget_epsilon, delta=record.body.delta)
    return now


def charged_events(records: Sequence[Record]) -> list[Event]:
    """Every event that was charged: reservations, committed or not, and overruns.

    Those of a run whose samples were rejected count as if every sample were known.
    """
    rejected = {record.body.run_id for record in records if isinstance(record.body, SampleRejected)}
    runs, events = dict[int, str](), []
    for record in records:
        body = record.body
        if isinstance(body, Reserve):
            runs[record.seq] = body.run_id
            events.append(with_known_sample(body.event) if body.run_id in rejected else body.event)
        elif isinstance(body, Overrun):
            known = runs.get(body.reserve_seq) in rejected
            events.append(with_known_sample(body.event) if known else body.event)
    return events


def verify(path: Path, heads: Sequence[Head] = ()) -> Verified:
    """Check one ledger. A broken one is returned with its problem and an infinite epsilon, so that a list can be
    shown.

    Checked: every byte against the chain; every signature, if it is signed; commits against reservations; every
    epsilon, recomputed from the events, against the recorded number (1 part in 100, for other versions of the
    accountant) and against the budget then in force; that the ledger still contains the known `heads` of it.
    """
    try:
        contents = read(path)
        now = settings(contents.records)
        for head in heads:
            check_head(contents.records, head, path)
        bound = epsilon(charged_events(contents.records), now.delta)
        problem = _problem(contents.records)
    except (LedgerBroken, OSError, ValueError) as error:  # ValueError: what the accountant refuses
        return _broken(path, str(error))
    bodies = [record.body for record in contents.records]
    reserved = sum(isinstance(body, Reserve) for body in bodies)
    settled = sum(isinstance(body, Commit | Overrun) for body in bodies)
    return Verified(
        path=path,
        client=now.client,
        data_id=now.data_id,
        budget_epsilon=now.budget_epsilon,
        delta=now.delta,
        records=len(bodies),
        reserved=reserved,
        committed=settled,
        uncommitted=reserved - settled,
        epsilon=bound,
        head_hash=contents.head_hash,
        problem=problem,
        unit=now.unit,
        relation=now.relation,
        public_key=public_key_of(contents.records),
    )


def _broken(path: Path, problem: str) -> Verified:
    unknown = Bound(math.inf, math.nan, "none", notes=("the ledger cannot be trusted",))
    return Verified(path, "", "", math.nan, math.nan, 0, 0, 0, 0, unknown, GENESIS, problem)


def verify_dir(folder: Path, heads: Sequence[Head] = ()) -> list[Verified]:
    """Every ledger under `folder`, by path; a run folder stands for the `ledger` folder in it, a file for itself.

    A ledger of which a head is known, but which is not under a folder, is among them as a broken one.
    """
    found, seen = [], set()
    for path in ledger_files(folder):
        name = _name(path)
        found.append(verify(path, [head for head in heads if head.ledger == name]))
        seen.add(name)
    missing = {head.ledger: head for head in heads if head.ledger not in seen and not folder.is_file()}
    return found + [
        _broken(folder / head.data_id / f"{head.client}.jsonl", f"is missing, but a head of {head.records} records of "
                f"client {head.client}, data {head.data_id} is known")
        for head in missing.values()
    ]  # fmt: skip


def _name(path: Path) -> tuple[str, str] | None:
    """(data_id, client) of the ledger at `path`, None if it cannot be read that far."""
    try:
        now = settings(read(path).records)
    except (LedgerBroken, OSError):
        return None
    return now.data_id, now.client


def ledger_files(folder: Path) -> list[Path]:
    """The ledger files that `folder` stands for."""
    if folder.is_file():
        return [folder]
    inner = folder / "ledger"
    found = (inner if inner.is_dir() else folder).rglob("*.jsonl")
    # A folder of run folders holds other records too; a ledger stands in a folder named for its data.
    return sorted(path for path in found if path.name != "rounds.jsonl" and path.parent.name != "transcript")


def show(path: Path) -> Iterator[Row]:
    """The records of one ledger, oldest first. Raises LedgerBroken naming file and line."""
    for record in read(path).records:
        body = record.body
        reserve = body if isinstance(body, Reserve) else None
        yield Row(
            seq=record.seq,
            time=record.time,
            kind=record.kind,
            run_id=reserve.run_id if reserve else "",
            round_index=reserve.round_index if reserve else None,
            epsilon=reserve.epsilon if reserve else None,
            detail=_detail(record),
        )


def export(path: Path, destination: Path) -> Path:
    """Copy a sound ledger to the file `destination`, or into it if it is a folder; returns the copy's path.

    Raises LedgerBroken, and copies nothing, if the ledger does not verify.
    """
    checked = verify(path)
    if not checked.ok:
        raise LedgerBroken(f"{path}: not exported: {checked.problem}")
    target = destination / path.name if destination.is_dir() else destination
    make_private_folder(target.parent)
    scratch = target.with_name(target.name + ".part")
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
        out.write(path.read_bytes())
        out.flush()
        os.fsync(out.fileno())
    os.replace(scratch, target)
    return target


def _problem(records: Sequence[Record]) -> str | None:
    """The first thing that does not add up."""
    open_reserves: set[int] = set()
    for record in records:
        body = record.body
        if isinstance(body, Reserve):
            open_reserves.add(record.seq)
        elif isinstance(body, Overrun):
            return f"line {record.seq + 1}: more was done than reserved: {body.event}"
        elif isinstance(body, Commit):
            if body.reserve_seq not in open_reserves:
                return f"line {record.seq + 1}: commits line {body.reserve_seq + 1}, which is no open reservation"
            open_reserves.remove(body.reserve_seq)
    return _first_wrong_epsilon(records)


def _first_wrong_epsilon(records: Sequence[Record]) -> str | None:
    """Every reservation's epsilon, from the events up to it alone, against what it recorded and what was allowed."""
    now = settings(records[:1])
    for place, record in enumerate(records, start=1):
        body = record.body
        if isinstance(body, Budget):
            now = replace(now, budget_epsilon=body.budget_epsilon, delta=body.delta)
        if not isinstance(body, Reserve):
            continue
        spent = epsilon(charged_events(records[:place]), now.delta).epsilon
        if not math.isclose(spent, body.epsilon, rel_tol=0.01, abs_tol=1e-9):
            return f"line {record.seq + 1}: records epsilon {body.epsilon:.6g}, but its events give {spent:.6g}"
        if spent > now.budget_epsilon * (1 + 1e-6):
            return (
                f"line {record.seq + 1}: epsilon {spent:.6g} is above the budget {now.budget_epsilon:g} then in force"
            )
    return None


def _detail(record: Record) -> str:
    body = record.body
    if isinstance(body, Reserve):
        return " ".join([str(body.event), *(f"{name}={value}" for name, value in sorted(body.context.items()))])
    if isinstance(body, Commit | Overrun):
        return f"line {body.reserve_seq + 1}: {body.event}"
    if isinstance(body, Header):
        facts = f"client {body.client}, data {body.data_id}, budget {body.budget_epsilon:g} at delta {body.delta:g}"
        return f"{facts}, unit {body.unit}"
    if isinstance(body, Budget):
        return f"budget {body.budget_epsilon:g} at delta {body.delta:g}: {body.reason}"
    if isinstance(body, SampleRejected):
        return f"run {body.run_id}: its samples were not Poisson, its events count without amplification"
    if isinstance(body, Signer):
        return f"signed from here on with {body.public_key}"
    assert isinstance(body, Torn)
    return f"a torn line of {body.length} bytes was removed"
