"""The durable record of what one client's data was put through, and the guard that refuses to overspend.

One file per client and data identity, a name that the data's owner gives. Reserve before training, commit after; a
reservation is charged for good (a crash, a lost message or a stopped job refunds nothing), because what left the
process cannot be taken back. Without torch: an auditor checks a ledger on any machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from .accounting import Bound, epsilon
from .errors import (
    BudgetExceeded,
    CommitMismatch,
    LedgerBroken,
    LedgerError,
    LedgerLocked,
    LedgerMismatch,
    LedgerRolledBack,
)
from .events import Event, NonPrivate
from .ledger_heads import Head, check_head, head_of
from .ledger_paths import default_root, ledger_path
from .ledger_record import (
    UNITS,
    Budget,
    Commit,
    Context,
    Header,
    Overrun,
    Record,
    Reserve,
    SampleRejected,
    Signer,
    public_key_of,
)
from .ledger_signing import public_hex
from .ledger_store import LedgerFile
from .ledger_view import Row, Verified, charged_events, export, settings, show, verify, verify_dir

__all__ = [
    "BudgetExceeded",
    "CommitMismatch",
    "Ledger",
    "LedgerBroken",
    "LedgerError",
    "LedgerLocked",
    "LedgerMismatch",
    "LedgerRolledBack",
    "Reservation",
    "Row",
    "Verified",
    "default_root",
    "export",
    "ledger_path",
    "show",
    "verify",
    "verify_dir",
]


@dataclass(frozen=True, slots=True)
class Reservation:
    """The receipt of a reserve: what may be done now, and the bound that holds if it is."""

    seq: int
    record_hash: str
    event: Event
    run_id: str
    round_index: int
    bound: Bound


class Ledger:
    """An open, locked ledger; use it in a `with` block. `Ledger.open` is the way in."""

    def __init__(self, file: LedgerFile, key: Ed25519PrivateKey | None) -> None:
        self._file, self._key = file, key

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        budget_epsilon: float,
        delta: float,
        data_id: str,
        client: str,
        unit: str | None = None,
        reason: str | None = None,
        key: Ed25519PrivateKey | None = None,
        heads: Sequence[Head] = (),
    ) -> Ledger:
        """Open or create the ledger of `client`'s data `data_id`; an infinite budget only records.

        `unit` is what epsilon protects, one of UNITS; None takes the ledger's, "pair" for a new one. With a `key`
        every record from now on is signed. `heads` are known heads of this ledger, which it must still contain.

        Raises LedgerLocked if another job holds it, LedgerBroken if its chain is, LedgerRolledBack if it is older than
        a head or diverges from one, LedgerMismatch if it belongs to other data, another client, another unit or
        another key, or has another budget or delta and no `reason` for the change is given. With a reason the change
        is recorded; what was spent before stays spent. Raises ValueError for a number out of range, an empty name or
        an unknown unit. What is refused is left as it was.
        """
        _check_settings(budget_epsilon, delta, data_id, client)
        if unit is not None and unit not in UNITS:
            raise ValueError(f"unit must be one of {', '.join(UNITS)}, got {unit!r}")
        if heads and not path.exists():
            raise LedgerRolledBack(f"{path}: is missing, but a head of {heads[0].records} records is known of it")
        ledger = cls(LedgerFile(path, key), key)
        try:
            ledger._settle(
                Header(
                    client=client,
                    data_id=data_id,
                    budget_epsilon=budget_epsilon,
                    delta=delta,
                    unit=unit or "pair",
                    relation=UNITS[unit or "pair"],
                    public_key=None if key is None else public_hex(key),
                ),
                unit=unit,
                reason=reason,
                heads=heads,
            )
        except BaseException:
            ledger.close()
            raise
        return ledger

    @property
    def records(self) -> tuple[Record, ...]:
        """All records, oldest first."""
        return self._file.records

    @property
    def head_hash(self) -> str:
        """Stands for the whole history; keep a copy elsewhere to notice a ledger restored from an older backup."""
        return self.records[-1].hash

    def head(self) -> Head:
        """What to keep elsewhere of this ledger as it now is; signed if the ledger is."""
        return head_of(self.records, self._key)

    def epsilon(self) -> Bound:
        """What has been charged: every reservation, committed or not, and every overrun."""
        return epsilon(charged_events(self.records), self._delta)

    def forecast(self, event: Event) -> Bound:
        """The bound if `event` were reserved now."""
        return epsilon([*charged_events(self.records), event], self._delta)

    def check(self, event: Event) -> Bound:
        """The forecast, if the budget allows it; raises BudgetExceeded if not. Writes nothing.

        Raises LedgerMismatch for an event that names another unit than the ledger's.
        """
        if not self._fits(event):
            raise LedgerMismatch(f"{self._file.path}: counts in units of one {self._unit}, not as {event} does")
        bound = self.forecast(event)
        if not bound.epsilon <= self._budget:
            raise BudgetExceeded(
                f"client {self._client}: this would bring epsilon to {bound.epsilon:.4f}, above the budget of "
                f"{self._budget:g} at delta {self._delta:g} (spent so far: {self.epsilon().epsilon:.4f})"
            )
        return bound

    def reserve(self, event: Event, run_id: str, round_index: int, context: Context | None = None) -> Reservation:
        """Charge `event`; when this returns the charge is on disk and the work may begin.

        Raises BudgetExceeded, or LedgerMismatch for another unit, before anything is written. `context` holds public
        facts of the run, such as a digest of its configuration; ValueError for a value in it that is not text or a
        finite number.
        """
        bound = self.check(event)
        details = dict(context or {})
        for name, value in details.items():
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if not number and not isinstance(value, str):
                raise ValueError(f"context {name!r} must be text or a finite number, got {value!r}")
        record = self._file.append(Reserve(event, run_id, round_index, bound.epsilon, details))
        return Reservation(record.seq, record.hash, event, run_id, round_index, bound)

    def commit(self, reservation: Reservation, event: Event) -> None:
        """Record what was done under a reservation: the same mechanism, at most the reserved steps. Refunds nothing.

        Raises CommitMismatch if more or something else was done, after recording and charging it; LedgerMismatch if
        the reservation is of another ledger or was committed before.
        """
        known = self.records[reservation.seq] if reservation.seq < len(self.records) else None
        if known is None or known.hash != reservation.record_hash or not isinstance(known.body, Reserve):
            raise LedgerMismatch(f"{self._file.path}: reservation {reservation.seq} is not of this ledger")
        if any(isinstance(r.body, Commit | Overrun) and r.body.reserve_seq == known.seq for r in self.records):
            raise LedgerMismatch(f"{self._file.path}: reservation {known.seq} was committed before")
        if not self._fits(event):
            event = NonPrivate(f"done in other units than one {self._unit}: {event}")
        if not _covers(known.body.event, event):
            self._file.append(Overrun(known.seq, event))
            raise CommitMismatch(
                f"client {self._client}: reserved {known.body.event}, but {event} was done; both are charged"
            )
        self._file.append(Commit(known.seq, event))

    def reject_samples(self, run_id: str) -> None:
        """Record that the samples of a run were not Poisson: from here on its events count without amplification.

        The budget may then be overspent, and no later reservation passes.
        """
        done = {record.body.run_id for record in self.records if isinstance(record.body, SampleRejected)}
        if run_id not in done:
            self._file.append(SampleRejected(run_id))

    def _fits(self, event: Event) -> bool:
        return getattr(event, "unit", self._unit) == self._unit

    def close(self) -> None:
        """Release the lock; the file stays."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _settle(self, wanted: Header, *, unit: str | None, reason: str | None, heads: Sequence[Head]) -> None:
        """Compare with what is there; only then write: a header or repairs, a first signature, a change of budget."""
        self._client, self._budget, self._delta = wanted.client, wanted.budget_epsilon, wanted.delta
        path, records = self._file.path, self.records
        for head in heads:
            check_head(records, head, path)
        found = settings(records) if records else wanted
        self._unit = found.unit
        self._check_owner(found, wanted, unit)
        changed = (found.budget_epsilon, found.delta) != (wanted.budget_epsilon, wanted.delta)
        if changed and not reason:
            raise LedgerMismatch(
                f"{path}: has budget {found.budget_epsilon:g} at delta {found.delta:g}, not "
                f"{wanted.budget_epsilon:g} at {wanted.delta:g}; a change must be given a reason, "
                "which is recorded (`reason`; privacy.raise_budget_reason in a configuration)"
            )
        self._file.repair(wanted, Signer(wanted.public_key) if wanted.public_key else None)
        if changed and reason:
            self._file.append(Budget(wanted.budget_epsilon, wanted.delta, reason))

    def _check_owner(self, found: Header, wanted: Header, unit: str | None) -> None:
        path, signer = self._file.path, public_key_of(self.records)
        for name in ("client", "data_id", *(("unit",) if unit else ())):
            if getattr(found, name) != getattr(wanted, name):
                raise LedgerMismatch(f"{path}: is of {name} {getattr(found, name)!r}, not {getattr(wanted, name)!r}")
        if signer is not None and signer != wanted.public_key:
            given = f"not {wanted.public_key}" if wanted.public_key else "and that key was not given"
            raise LedgerMismatch(f"{path}: is signed with the key {signer}, {given}")


def _check_settings(budget_epsilon: float, delta: float, data_id: str, client: str) -> None:
    if math.isnan(budget_epsilon) or budget_epsilon <= 0.0:
        raise ValueError(f"budget_epsilon must be above 0, got {budget_epsilon}")
    if not 0.0 < delta < 1.0:
        raise ValueError(f"delta must be in (0, 1), got {delta}")
    for name, value in (("data_id", data_id), ("client", client)):
        if not value:
            raise ValueError(f"{name} must not be empty")


def _covers(reserved: Event, done: Event) -> bool:
    """Whether what was done costs no more than what was reserved, because it is the same mechanism, no oftener."""
    if isinstance(reserved, NonPrivate):
        return True
    if isinstance(done, NonPrivate) or type(done) is not type(reserved) or done.steps > reserved.steps:
        return False
    return replace(done, steps=reserved.steps) == reserved
