"""The durable record of what one client's data was put through, and the guard that refuses to overspend.

One file per client and data identity. Reserve before training, commit after; a reservation is charged for good (a
crash, a lost message or a stopped job refunds nothing), because what left the process cannot be taken back. Without
torch: an auditor checks a ledger on any machine.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from .accounting import Bound, epsilon
from .errors import BudgetExceeded, CommitMismatch, LedgerBroken, LedgerError, LedgerLocked, LedgerMismatch
from .events import Event, NonPrivate
from .ledger_record import Budget, Commit, Context, Header, Overrun, Record, Reserve
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

    def __init__(self, file: LedgerFile) -> None:
        self._file = file

    @classmethod
    def open(
        cls, path: Path, *, budget_epsilon: float, delta: float, data_id: str, client: str, reason: str | None = None
    ) -> Ledger:
        """Open or create the ledger of `client`'s data `data_id`; an infinite budget only records.

        Raises LedgerLocked if another job holds it, LedgerBroken if its chain is, LedgerMismatch if it belongs to
        other data or another client, or has another budget or delta and no `reason` for the change is given. With a
        reason the change is recorded; what was spent before stays spent. Raises ValueError for a number out of range
        or an empty name.
        """
        _check_settings(budget_epsilon, delta, data_id, client)
        ledger = cls(LedgerFile(path))
        try:
            ledger._settle(Header(client, data_id, budget_epsilon, delta), reason)
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

    def epsilon(self) -> Bound:
        """What has been charged: every reservation, committed or not, and every overrun."""
        return epsilon(charged_events(self.records), self._delta)

    def forecast(self, event: Event) -> Bound:
        """The bound if `event` were reserved now."""
        return epsilon([*charged_events(self.records), event], self._delta)

    def check(self, event: Event) -> Bound:
        """The forecast, if the budget allows it; raises BudgetExceeded if not. Writes nothing."""
        bound = self.forecast(event)
        if not bound.epsilon <= self._budget:
            raise BudgetExceeded(
                f"client {self._client}: this would bring epsilon to {bound.epsilon:.4f}, above the budget of "
                f"{self._budget:g} at delta {self._delta:g} (spent so far: {self.epsilon().epsilon:.4f})"
            )
        return bound

    def reserve(self, event: Event, run_id: str, round_index: int, context: Context | None = None) -> Reservation:
        """Charge `event`; when this returns the charge is on disk and the work may begin.

        Raises BudgetExceeded before anything is written. `context` holds public facts of the run, such as a digest of
        its configuration; ValueError for a value in it that is not text or a finite number.
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
        if not _covers(known.body.event, event):
            self._file.append(Overrun(known.seq, event))
            raise CommitMismatch(
                f"client {self._client}: reserved {known.body.event}, but {event} was done; both are charged"
            )
        self._file.append(Commit(known.seq, event))

    def close(self) -> None:
        """Release the lock; the file stays."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _settle(self, wanted: Header, reason: str | None) -> None:
        """Write or compare the header, note a torn line, record a change of budget."""
        self._client, self._budget, self._delta = wanted.client, wanted.budget_epsilon, wanted.delta
        if not self.records:
            self._file.append(wanted)
            self._file.note_torn_line()
            return
        self._file.note_torn_line()
        found = settings(self.records)
        for name in ("client", "data_id"):
            if getattr(found, name) != getattr(wanted, name):
                raise LedgerMismatch(
                    f"{self._file.path}: is of {name} {getattr(found, name)!r}, not {getattr(wanted, name)!r}"
                )
        if (found.budget_epsilon, found.delta) == (wanted.budget_epsilon, wanted.delta):
            return
        if not reason:
            raise LedgerMismatch(
                f"{self._file.path}: has budget {found.budget_epsilon:g} at delta {found.delta:g}, not "
                f"{wanted.budget_epsilon:g} at {wanted.delta:g}; a change must be given a reason "
                "(privacy.raise_budget_reason), which is recorded"
            )
        self._file.append(Budget(wanted.budget_epsilon, wanted.delta, reason))


def default_root() -> Path:
    """The user's state folder for ledgers: $XDG_STATE_HOME/fedpdpo/ledgers, by default under ~/.local/state."""
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    return base / "fedpdpo" / "ledgers"


def ledger_path(root: Path, data_id: str, client: str) -> Path:
    """<root>/<data_id>/<client>.jsonl, with names escaped so that no name can reach another folder or file."""
    return root / _file_name(data_id, "data_id") / f"{_file_name(client, 'client')}.jsonl"


def _file_name(name: str, field: str) -> str:
    escaped = quote(name, safe="")
    if escaped.startswith("."):
        escaped = "%2E" + escaped[1:]
    if not 0 < len(escaped) <= 200:
        raise ValueError(f"{field} must have 1 to 200 characters once escaped for a file name, got {name!r}")
    return escaped


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
    return _mechanism(done) == _mechanism(reserved)


def _mechanism(event: Event) -> Sequence[float]:
    return [] if isinstance(event, NonPrivate) else [event.noise_multiplier, getattr(event, "sample_rate", 1.0)]
