"""The ledger charges before, refunds nothing, refuses what would overspend, and admits one writer."""

from __future__ import annotations

import json
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
    Ledger,
    LedgerBroken,
    LedgerError,
    LedgerLocked,
    LedgerMismatch,
    default_root,
    export,
    ledger_path,
    show,
    verify,
    verify_dir,
)

DELTA = 1e-5
ROUND = gaussian_event(noise_multiplier=4.0, sample_rate=1.0, steps=2)  # full batch: exact and quick


def opened(
    path: Path, *, budget: float = 3.0, delta: float = DELTA, client: str = "anna", reason: str | None = None
) -> Ledger:
    return Ledger.open(path, budget_epsilon=budget, delta=delta, data_id="demo", client=client, reason=reason)


def rounds_within(budget: float) -> int:
    """How many rounds a budget allows, from the accountant alone."""
    count = 0
    while epsilon([ROUND] * (count + 1), DELTA).epsilon <= budget:
        count += 1
    return count


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


# ---- whose ledger


@pytest.mark.parametrize(
    ("budget", "delta", "client", "message"),
    [
        (4.0, DELTA, "anna", "has budget 3 at delta 1e-05, not 4 at 1e-05"),
        (2.0, DELTA, "anna", "a change must be given a reason"),
        (3.0, 1e-6, "anna", "has budget 3 at delta 1e-05, not 3 at 1e-06"),
        (3.0, DELTA, "ben", "is of client 'anna', not 'ben'"),
    ],
)
def test_another_budget_delta_or_client_is_refused(
    tmp_path: Path, budget: float, delta: float, client: str, message: str
) -> None:
    path = tmp_path / "anna.jsonl"
    opened(path).close()
    before = path.read_bytes()
    with pytest.raises(LedgerMismatch, match=message):
        opened(path, budget=budget, delta=delta, client=client)
    assert path.read_bytes() == before


def test_a_change_of_budget_with_a_reason_is_recorded_and_keeps_what_was_spent(tmp_path: Path) -> None:
    path = tmp_path / "anna.jsonl"
    with opened(path) as ledger:
        for index in range(rounds_within(3.0)):
            ledger.reserve(ROUND, "run", index)
        spent = ledger.epsilon()
    with opened(path, budget=6.0, reason="the data owner agreed on 2026-11-20") as ledger:
        assert ledger.epsilon() == spent
        ledger.reserve(ROUND, "run", 99)
    with opened(path, budget=1.0, reason="stop here") as ledger, pytest.raises(BudgetExceeded):
        ledger.reserve(ROUND, "run", 100)
    with opened(path, budget=1.0):
        pass
    details = [row.detail for row in show(path) if row.kind == "budget"]
    assert details == [
        "budget 6 at delta 1e-05: the data owner agreed on 2026-11-20",
        "budget 1 at delta 1e-05: stop here",
    ]
    assert verify(path).ok  # nothing was reserved beyond the budget of its time


def test_another_delta_is_recomputed_from_the_history(tmp_path: Path) -> None:
    path = tmp_path / "anna.jsonl"
    with opened(path) as ledger:
        ledger.reserve(ROUND, "run", 1)
    with opened(path, delta=1e-7, reason="larger client") as ledger:
        assert ledger.epsilon() == epsilon([ROUND], 1e-7)
    assert verify(path).epsilon == epsilon([ROUND], 1e-7)


@pytest.mark.parametrize(
    ("budget", "delta", "client", "message"),
    [
        (0.0, DELTA, "a", "budget_epsilon"),
        (math.nan, DELTA, "a", "budget_epsilon"),
        (1.0, 1.0, "a", "delta"),
        (1.0, DELTA, "", "client"),
    ],
)
def test_numbers_out_of_range_create_no_file(
    tmp_path: Path, budget: float, delta: float, client: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        opened(tmp_path / "x.jsonl", budget=budget, delta=delta, client=client)
    assert list(tmp_path.iterdir()) == []


def test_context_is_kept_and_must_be_plain(tmp_path: Path) -> None:
    path = tmp_path / "anna.jsonl"
    with opened(path) as ledger:
        ledger.reserve(ROUND, "run", 1, {"config_digest": "ab12", "clients": 12})
        for bad in (math.nan, math.inf, True, [1], None):
            with pytest.raises(ValueError, match="context 'x'"):
                ledger.reserve(ROUND, "run", 2, {"x": bad})  # type: ignore[dict-item]
    assert json.loads(path.read_text().splitlines()[1])["body"]["context"] == {"config_digest": "ab12", "clients": 12}
    assert "config_digest=ab12" in list(show(path))[1].detail


# ---- places


def test_files_and_folders_are_the_owners_alone(tmp_path: Path) -> None:
    path = ledger_path(tmp_path / "state" / "ledgers", "demo", "anna")
    opened(path).close()
    assert path.stat().st_mode & 0o777 == 0o600
    for folder in path.parents[:3]:
        assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["..", ".", "a/b", "../../etc/passwd", "a\0b", "ü", ".hidden", "a%2Fb"])
def test_no_name_reaches_another_folder_or_file(tmp_path: Path, name: str) -> None:
    path = ledger_path(tmp_path, name, name)
    assert path.parent.parent == tmp_path
    assert path.name.isascii()
    assert not path.name.startswith(".")
    assert not path.parent.name.startswith(".")
    others = {ledger_path(tmp_path, "demo", other) for other in ("..", ".", "a/b", "a%2Fb", "a_b")}
    assert len(others) == 5


def test_names_that_fit_no_file_are_refused(tmp_path: Path) -> None:
    for client in ("", "x" * 201):
        with pytest.raises(ValueError, match="client must have 1 to 200"):
            ledger_path(tmp_path, "demo", client)


def test_the_default_root_is_the_users_state_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_root() == tmp_path / "fedpdpo" / "ledgers"
    for value in ("", "relative/path"):
        monkeypatch.setenv("XDG_STATE_HOME", value)
        assert default_root() == Path.home() / ".local" / "state" / "fedpdpo" / "ledgers"


# ---- reading


def test_a_folder_of_ledgers_is_verified_and_exported_without_a_lock(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "ledger"
    for client in ("anna", "ben"):
        with opened(folder / f"{client}.jsonl", client=client) as ledger:
            ledger.commit(ledger.reserve(ROUND, "run", 1), ROUND)
    (tmp_path / "run" / "rounds.jsonl").write_text("{}\n")
    for named in (tmp_path / "run", folder):
        checked = verify_dir(named)
        assert [(one.client, one.ok, one.epsilon) for one in checked] == [
            (client, True, epsilon([ROUND], DELTA)) for client in ("anna", "ben")
        ]
    with opened(folder / "anna.jsonl"):
        copy = export(folder / "anna.jsonl", tmp_path / "copy" / "anna.jsonl")
        assert copy.read_bytes() == (folder / "anna.jsonl").read_bytes()
    assert verify(copy).head_hash == verify(folder / "anna.jsonl").head_hash


def test_rows_show_the_running_epsilon(tmp_path: Path) -> None:
    path = tmp_path / "anna.jsonl"
    with opened(path) as ledger:
        for index in (1, 2):
            ledger.commit(ledger.reserve(ROUND, "run", index), ROUND)
    rows = list(show(path))
    assert [row.kind for row in rows] == ["header", "reserve", "commit", "reserve", "commit"]
    assert [row.epsilon for row in rows if row.kind == "reserve"] == [
        epsilon([ROUND] * count, DELTA).epsilon for count in (1, 2)
    ]
    assert [row.round_index for row in rows] == [None, 1, None, 2, None]
