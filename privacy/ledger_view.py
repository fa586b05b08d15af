"""Reading ledgers without writing: verify, show, export. No lock is taken, so a running job is not disturbed."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .accounting import Bound, epsilon
from .errors import LedgerBroken
from .events import Event
from .ledger_record import GENESIS, Budget, Commit, Header, Overrun, Record, Reserve, Torn
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
    """Every event that was charged: reservations, committed or not, and overruns."""
    return [record.body.event for record in records if isinstance(record.body, Reserve | Overrun)]


def verify(path: Path) -> Verified:
    """Check one ledger. A broken one is returned with its problem and an infinite epsilon, so that a list can be
    shown.

    Checked: every byte against the chain; commits against reservations; epsilon, recomputed, against the recorded
    numbers (1 part in 100, for other versions of the accountant) and against the budget in force at each reservation.
    """
    try:
        contents = read(path)
        now = settings(contents.records)
    except (LedgerBroken, OSError) as error:
        unknown = Bound(math.inf, math.nan, "none", notes=("the ledger cannot be trusted",))
        return Verified(path, "", "", math.nan, math.nan, 0, 0, 0, 0, unknown, GENESIS, str(error))
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
        epsilon=epsilon(charged_events(contents.records), now.delta),
        head_hash=contents.head_hash,
        problem=_problem(contents.records),
    )


def verify_dir(folder: Path) -> list[Verified]:
    """Every ledger under `folder`, by path; a run folder stands for the `ledger` folder in it, a file for itself."""
    return [verify(path) for path in ledger_files(folder)]


def ledger_files(folder: Path) -> list[Path]:
    """The ledger files that `folder` stands for."""
    if folder.is_file():
        return [folder]
    inner = folder / "ledger"
    return sorted((inner if inner.is_dir() else folder).rglob("*.jsonl"))


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
    for seq in _last_reserves(records):
        if found := _reserve_problem(records[: seq + 1]):
            return f"line {seq + 1}: {found}"
    return None


def _last_reserves(records: Sequence[Record]) -> list[int]:
    """The last reservation under each budget; epsilon only grows, so the earlier ones were within it too."""
    last: dict[int, int] = {}
    budgets = 0
    for record in records:
        budgets += isinstance(record.body, Budget)
        if isinstance(record.body, Reserve):
            last[budgets] = record.seq
    return list(last.values())


def _reserve_problem(records: Sequence[Record]) -> str | None:
    now, reserve = settings(records), records[-1].body
    assert isinstance(reserve, Reserve)
    spent = epsilon(charged_events(records), now.delta).epsilon
    if not math.isclose(spent, reserve.epsilon, rel_tol=0.01, abs_tol=1e-9):
        return f"records epsilon {reserve.epsilon:.6g}, but its events give {spent:.6g}"
    if spent > now.budget_epsilon * (1 + 1e-6):
        return f"epsilon {spent:.6g} is above the budget {now.budget_epsilon:g} then in force"
    return None


def _detail(record: Record) -> str:
    body = record.body
    if isinstance(body, Reserve):
        return " ".join([str(body.event), *(f"{name}={value}" for name, value in sorted(body.context.items()))])
    if isinstance(body, Commit | Overrun):
        return f"line {body.reserve_seq + 1}: {body.event}"
    if isinstance(body, Header):
        return f"client {body.client}, data {body.data_id}, budget {body.budget_epsilon:g} at delta {body.delta:g}"
    if isinstance(body, Budget):
        return f"budget {body.budget_epsilon:g} at delta {body.delta:g}: {body.reason}"
    assert isinstance(body, Torn)
    return f"a torn line of {body.length} bytes was removed"
