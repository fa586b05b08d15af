"""Whose ledger it is, where it lies, who may read it, and what reading shows."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from privacy.accounting import epsilon
from privacy.ledger import BudgetExceeded, LedgerMismatch, default_root, export, ledger_path, show, verify, verify_dir

from .ledger_builders import DELTA, ROUND, opened, rounds_within


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
