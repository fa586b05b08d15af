"""The ledger charges before, refunds nothing, refuses what would overspend, and admits one writer."""

from __future__ import annotations

import math
import multiprocessing
import os
from pathlib import Path

import pytest

from privacy.accounting import epsilon
from privacy.events import Event, NonPrivate, gaussian_event
from privacy.ledger import (
    BudgetExceeded,
    CommitMismatch,
    LedgerBroken,
    LedgerError,
    LedgerLocked,
    LedgerMismatch,
    verify,
)

from .ledger_builders import DELTA, ROUND, opened, rounds_within


def test_the_budget_stops_exactly_the_round_that_would_overspend(tmp_path: Path) -> None:
    path = tmp_path / "anna.jsonl"
    with opened(path) as ledger:
        allowed = rounds_within(3.0)
        assert allowed > 1
        for index in range(allowed):
            receipt = ledger.reserve(ROUND, "run", index + 1)
            assert receipt.bound == epsilon([ROUND] * (index + 1), DELTA)
            ledger.commit(receipt, ROUND)
        before = path.read_bytes()
        with pytest.raises(
            BudgetExceeded, match=r"client anna: .* above the budget of 3 at delta 1e-05 \(spent so far"
        ):
            ledger.reserve(ROUND, "run", allowed + 1)
        assert path.read_bytes() == before
        assert ledger.epsilon().epsilon <= 3.0 < ledger.forecast(ROUND).epsilon
        with pytest.raises(BudgetExceeded):
            ledger.check(ROUND)


def test_a_reserve_without_a_commit_stays_charged_when_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "anna.jsonl"
    with opened(path) as ledger:
        ledger.reserve(ROUND, "run", 1)
    with opened(path) as ledger:
        assert ledger.epsilon() == epsilon([ROUND], DELTA)
        ledger.reserve(ROUND, "run", 1)
        assert ledger.epsilon() == epsilon([ROUND] * 2, DELTA)
    checked = verify(path)
    assert (checked.reserved, checked.committed, checked.uncommitted) == (2, 0, 2)
    assert checked.ok


def test_the_charge_is_on_disk_before_reserve_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, order = tmp_path / "anna.jsonl", []
    with opened(path) as ledger:
        write, fsync = os.write, os.fsync
        monkeypatch.setattr(os, "write", lambda fd, data: order.append("write") or write(fd, data))
        monkeypatch.setattr(os, "fsync", lambda fd: order.append("fsync") or fsync(fd))
        ledger.reserve(ROUND, "run", 1)
        assert order == ["write", "fsync"]
        monkeypatch.undo()


def test_fewer_steps_than_reserved_are_recorded_but_refund_nothing(tmp_path: Path) -> None:
    fewer = gaussian_event(noise_multiplier=4.0, sample_rate=1.0, steps=1)
    with opened(tmp_path / "anna.jsonl") as ledger:
        ledger.commit(ledger.reserve(ROUND, "run", 1), fewer)
        assert ledger.epsilon() == epsilon([ROUND], DELTA)


@pytest.mark.parametrize(
    "done",
    [
        gaussian_event(noise_multiplier=4.0, sample_rate=1.0, steps=3),
        gaussian_event(noise_multiplier=3.9, sample_rate=1.0, steps=2),
        gaussian_event(noise_multiplier=4.0, sample_rate=0.5, steps=2),
        NonPrivate("noise: seeded"),
    ],
)
def test_more_than_was_reserved_is_charged_and_raised(tmp_path: Path, done: Event) -> None:
    path = tmp_path / "anna.jsonl"
    with opened(path) as ledger:
        receipt = ledger.reserve(ROUND, "run", 1)
        with pytest.raises(CommitMismatch, match="both are charged"):
            ledger.commit(receipt, done)
        assert ledger.epsilon() == epsilon([ROUND, done], DELTA)
    checked = verify(path)
    assert not checked.ok
    assert "more was done than reserved" in str(checked.problem)


def test_a_reservation_is_committed_once_and_only_in_its_own_ledger(tmp_path: Path) -> None:
    with opened(tmp_path / "anna.jsonl") as ledger, opened(tmp_path / "ben.jsonl", client="ben") as other:
        receipt, foreign = ledger.reserve(ROUND, "run", 1), other.reserve(ROUND, "run", 1)
        ledger.commit(receipt, ROUND)
        with pytest.raises(LedgerMismatch, match="committed before"):
            ledger.commit(receipt, ROUND)
        with pytest.raises(LedgerMismatch, match="not of this ledger"):
            ledger.commit(foreign, ROUND)


def test_a_commit_finds_its_reservation_after_the_ledger_was_closed(tmp_path: Path) -> None:
    with opened(tmp_path / "anna.jsonl") as ledger:
        receipt = ledger.reserve(ROUND, "run", 1)
    with opened(tmp_path / "anna.jsonl") as ledger:
        ledger.commit(receipt, ROUND)
    assert verify(tmp_path / "anna.jsonl").uncommitted == 0


def test_what_is_not_private_fits_no_finite_budget(tmp_path: Path) -> None:
    seeded = NonPrivate("noise: seeded")
    with opened(tmp_path / "anna.jsonl") as ledger, pytest.raises(BudgetExceeded, match="epsilon to inf"):
        ledger.reserve(seeded, "run", 1)
    path = tmp_path / "free.jsonl"
    with opened(path, budget=math.inf) as ledger:
        ledger.commit(ledger.reserve(seeded, "run", 1), seeded)
        assert ledger.epsilon().epsilon == math.inf
    assert verify(path).ok
    assert verify(path).epsilon.epsilon == math.inf
    assert "Infinity" not in path.read_text()


def test_a_second_writer_is_refused_at_once_in_this_and_in_another_process(tmp_path: Path) -> None:
    path = tmp_path / "anna.jsonl"
    with opened(path):
        with pytest.raises(LedgerLocked, match="another job holds this ledger"):
            opened(path)
        context = multiprocessing.get_context("spawn")
        answers = context.SimpleQueue()
        process = context.Process(target=try_to_open, args=(str(path), answers))
        process.start()
        process.join()
        assert answers.get() == "LedgerLocked"
    opened(path).close()


def try_to_open(path: str, answers: multiprocessing.SimpleQueue) -> None:  # type: ignore[type-arg]
    try:
        opened(Path(path)).close()
        answers.put("opened")
    except LedgerError as error:
        answers.put(type(error).__name__)


def test_a_ledger_inherited_by_a_fork_or_closed_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = opened(tmp_path / "anna.jsonl")
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)
        with pytest.raises(LedgerError, match="fork"):
            ledger.reserve(ROUND, "run", 1)
    ledger.close()
    ledger.close()
    with pytest.raises(LedgerError, match="closed"):
        ledger.reserve(ROUND, "run", 1)


def test_a_failed_write_leaves_a_ledger_that_spends_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "anna.jsonl"
    ledger, write = opened(path), os.write

    def half(fd: int, data: bytes) -> int:
        write(fd, bytes(data)[:40])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(OSError, match="No space"):
            ledger.reserve(ROUND, "run", 1)
    with pytest.raises(LedgerError, match="closed, failed, or"):
        ledger.reserve(ROUND, "run", 1)
    ledger.close()
    with opened(path) as again:
        assert [record.kind for record in again.records] == ["header", "torn"]
        assert again.epsilon().epsilon == 0.0


def test_a_writer_that_ignores_the_lock_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "anna.jsonl"
    with opened(path) as ledger:
        with path.open("ab") as other:
            other.write(b"{}\n")
        with pytest.raises(LedgerBroken, match="ignored the lock"):
            ledger.reserve(ROUND, "run", 1)
