"""Killed at any point, a ledger never reports less than what was released, and can be used again."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import privacy.ledger
from privacy.ledger import show, verify

VICTIM = Path(__file__).with_name("ledger_victim.py")
SEARCH_PATH = str(Path(privacy.ledger.__file__).parents[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("victims")


@pytest.fixture(scope="module")
def victims(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """What became of the victims, by case."""
    command = [sys.executable, str(VICTIM), "everything", str(folder)]
    environment = os.environ | {"PYTHONPATH": SEARCH_PATH}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(line) for line in done.stdout.splitlines())


Victims = dict[str, list[dict[str, Any]]]


def under_reports(row: dict[str, Any]) -> bool:
    return bool(row["charged"] < row["released"] or row["spent"] < row["due"] or not row["sound"])


def test_killed_at_any_place_a_ledger_never_under_reports_and_goes_on(victims: Victims) -> None:
    rows = victims["careful"]
    assert len(rows) > 50  # places: before, in and after every write, and around every other change of the disk
    assert [row["died"] for row in rows] == [True] * (len(rows) - 1) + [False]
    assert not [row for row in rows if under_reports(row)]
    assert all(row["charged"] <= row["released"] + 1 for row in rows)  # what was reserved and then cut
    assert {row["released"] for row in rows} == {0, 1, 2}
    assert any(row["charged"] > row["released"] for row in rows)


def test_the_same_kills_show_a_client_that_releases_before_it_reserves(victims: Victims) -> None:
    assert any(under_reports(row) for row in victims["careless"])


def test_kills_during_repairs_do_not_under_report_either(victims: Victims, folder: Path) -> None:
    rows = victims["again"]
    assert sum(row["died"] for row in rows) > 30
    assert all(row["charged"] >= row["released"] for row in rows)
    assert rows[-1]["released"] > 10
    path = folder / "again" / "demo" / "anna.jsonl"
    assert sum(row.kind == "torn" for row in show(path)) > 2
    assert verify(path).ok


def test_of_processes_that_charge_the_same_rows_under_other_names_at_once_one_is_served(victims: Victims) -> None:
    assert victims["race"] == [{"codes": [0, 2, 2]}]


@pytest.mark.slow
def test_killed_from_outside_at_random_times_a_ledger_never_under_reports(tmp_path: Path) -> None:
    released, delays = 0, random.Random(5)
    for _ in range(8):
        command = [sys.executable, str(VICTIM), "stream", str(tmp_path)]
        environment = os.environ | {"PYTHONPATH": SEARCH_PATH}
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdout is not None
            released += len(process.stdout.read(1))  # it is at work
            time.sleep(delays.uniform(0.0, 0.3))
            process.kill()
            released += len(process.stdout.read())
        assert verify(tmp_path / "demo" / "anna.jsonl").reserved >= released
    assert released > 8
