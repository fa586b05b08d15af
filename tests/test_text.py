"""The files of the project speak of the project: no path of one machine, nothing left unfinished."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Written in pieces so that this file does not find itself.
_FOLDERS = "|".join(["wo" + "rk", "ro" + "ot", "ho" + "me", "Us" + "ers"])
_WORDS = "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "NotImplemented" + "Error"])
MACHINE_PATHS = re.compile(rf"(?<![\w.~}}$/])/(?:{_FOLDERS})/")
UNFINISHED = re.compile(rf"\b(?:{_WORDS})\b")


def project_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    paths = (ROOT / name for name in listed.stdout.split("\0") if name)
    return [path for path in paths if path.is_file()]


def lines_matching(pattern: re.Pattern[str], text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if pattern.search(line)]


@pytest.mark.parametrize("pattern", [MACHINE_PATHS, UNFINISHED], ids=["machine paths", "unfinished words"])
def test_no_file_holds(pattern: re.Pattern[str]) -> None:
    found = {}
    for path in project_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if lines := lines_matching(pattern, text):
            found[str(path.relative_to(ROOT))] = lines
    assert found == {}


def test_the_search_finds_what_it_is_for() -> None:
    assert lines_matching(MACHINE_PATHS, 'open("/' + 'work/data")')
    assert lines_matching(MACHINE_PATHS, "cd /" + "root/x")
    assert not lines_matching(MACHINE_PATHS, "runs/work/x and my-" + "work/x")
    assert lines_matching(UNFINISHED, "# TO" + "DO: later")
