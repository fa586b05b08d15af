"""Whatever happens to the file, complete reservations count or the ledger is refused."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from privacy.accounting import epsilon
from privacy.events import gaussian_event
from privacy.ledger import Ledger, LedgerBroken, export, show, verify
from privacy.ledger_record import GENESIS, Header, Reserve, seal
from privacy.ledger_store import parse

ROUND = gaussian_event(noise_multiplier=4.0, sample_rate=1.0, steps=2)


def opened(path: Path) -> Ledger:
    return Ledger.open(path, budget_epsilon=5.0, delta=1e-5, data_id="demo", client="anna")


@pytest.fixture
def sound(tmp_path: Path) -> bytes:
    """A ledger of two committed rounds and one that was only reserved."""
    path = tmp_path / "sound.jsonl"
    with opened(path) as ledger:
        for index in (1, 2):
            ledger.commit(ledger.reserve(ROUND, "run", index), ROUND)
        ledger.reserve(ROUND, "run", 3)
    return path.read_bytes()


def complete_reserves(data: bytes) -> int:
    """Reservations whose JSON is complete in these bytes, by plain reading."""
    count = 0
    for line in data.split(b"\n"):
        with contextlib.suppress(ValueError):
            count += json.loads(line)["kind"] == "reserve"
    return count


def test_cut_at_any_byte_every_complete_reservation_still_counts(tmp_path: Path, sound: bytes) -> None:
    path = tmp_path / "cut.jsonl"
    for length in range(len(sound)):
        kept = complete_reserves(sound[:length])
        assert sum(record.kind == "reserve" for record in parse(sound[:length]).records) == kept
        if length % 37 and b"\n" not in sound[max(length - 2, 0) : length + 2]:
            continue  # the file itself, at some lengths and around every end of a line
        path.write_bytes(sound[:length])
        if length:
            assert math.isinf(verify(path).epsilon.epsilon) or verify(path).epsilon == epsilon([ROUND] * kept, 1e-5)
        with opened(path) as ledger:
            assert ledger.epsilon() == epsilon([ROUND] * kept, 1e-5)
            repaired = [record.kind for record in ledger.records]
        torn = not sound[:length].endswith(b"\n") and length > 0 and sound[length : length + 1] != b"\n"
        assert ("torn" in repaired) == torn
        assert verify(path).ok
        assert verify(path).epsilon == epsilon([ROUND] * kept, 1e-5)


def test_a_torn_line_is_noted_and_work_goes_on(tmp_path: Path, sound: bytes) -> None:
    path = tmp_path / "torn.jsonl"
    fragment = sound.splitlines()[-1][:50]
    path.write_bytes(b"".join(sound.splitlines(keepends=True)[:-1]) + fragment)
    with opened(path) as ledger:
        note = ledger.records[-1].body
        assert note.length == 50  # type: ignore[union-attr]
        assert note.sha256 == hashlib.sha256(fragment).hexdigest()  # type: ignore[union-attr]
        ledger.reserve(ROUND, "run", 3)
    assert [row.kind for row in show(path)][-2:] == ["torn", "reserve"]


@pytest.mark.parametrize("change", [lambda b: b ^ 1, lambda b: b ^ 0x20, lambda b: 10, lambda b: 32, lambda b: 0])
def test_any_edited_byte_is_refused(tmp_path: Path, sound: bytes, change: Callable[[int], int]) -> None:
    path = tmp_path / "edited.jsonl"
    for position in range(len(sound)):
        edited = bytearray(sound)
        edited[position] = change(sound[position])
        if edited == sound:
            continue
        with pytest.raises(LedgerBroken, match=r"line \d+"):
            parse(bytes(edited))
        if position % 41 and position != len(sound) - 1:
            continue  # the file itself, at some of the positions
        path.write_bytes(edited)
        checked = verify(path)
        assert not checked.ok, position
        assert math.isinf(checked.epsilon.epsilon)
        with pytest.raises(LedgerBroken, match=r"line \d+"):
            opened(path)
        assert path.read_bytes() == edited


@pytest.mark.parametrize("insertion", [b"x", b" ", b"\n", b"\0"])
def test_any_added_or_removed_byte_inside_is_refused(tmp_path: Path, sound: bytes, insertion: bytes) -> None:
    path = tmp_path / "edited.jsonl"
    for position in range(0, len(sound) - 1, 17):
        for edited in (sound[:position] + insertion + sound[position:], sound[:position] + sound[position + 1 :]):
            path.write_bytes(edited)
            assert not verify(path).ok, position


def test_lines_deleted_swapped_repeated_or_from_elsewhere_are_refused(tmp_path: Path, sound: bytes) -> None:
    lines = sound.splitlines(keepends=True)
    other = tmp_path / "other.jsonl"
    with opened(other) as ledger:
        ledger.reserve(ROUND, "another run", 1)
    damaged = {
        **{f"line {i} deleted": lines[:i] + lines[i + 1 :] for i in range(len(lines) - 1)},
        **{f"lines {i} swapped": [*lines[:i], lines[i + 1], lines[i], *lines[i + 2 :]] for i in range(len(lines) - 1)},
        "repeated": [*lines, lines[-1]],
        "from another ledger": [*lines[:1], other.read_bytes().splitlines(keepends=True)[1], *lines[2:]],
        "a second header": [*lines, lines[0]],
    }
    path = tmp_path / "damaged.jsonl"
    for name, content in damaged.items():
        path.write_bytes(b"".join(content))
        assert not verify(path).ok, name
        with pytest.raises(LedgerBroken, match=f"^{path}: line"):
            opened(path)


def chain(*bodies: Header | Reserve) -> bytes:
    """A ledger that someone wrote anew: every hash is right."""
    lines, previous = b"", GENESIS
    for seq, body in enumerate(bodies):
        record, line = seal(body, seq=seq, prev_hash=previous, time="2026-01-01T00:00:00+00:00")
        lines, previous = lines + line, record.hash
    return lines


HEADER = Header("anna", "demo", 1.0, 1e-5)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (chain(Reserve(ROUND, "run", 1, 0.1)), "is not a header"),
        (chain(HEADER, HEADER), "is a second header"),
        (chain(HEADER, Reserve(ROUND, "run", 1, 0.001)), "but its events give"),
        (
            chain(HEADER, *[Reserve(ROUND, "run", i, epsilon([ROUND] * i, 1e-5).epsilon) for i in range(1, 9)]),
            "above the budget",
        ),
    ],
)
def test_a_rewritten_chain_must_still_add_up(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "anna.jsonl"
    path.write_bytes(content)
    checked = verify(path)
    assert problem in str(checked.problem)
    with pytest.raises(LedgerBroken, match="not exported"):
        export(path, tmp_path / "copy.jsonl")
    assert not (tmp_path / "copy.jsonl").exists()


@pytest.mark.parametrize(
    "junk", [b"\n", b"[]\n", b"null\n", b'{"kind":"header"}\n', b"5\n", b"\xff\xfe\n", b"[" * 100_000 + b"\n", b"{}"]
)
def test_what_is_no_ledger_is_refused_and_left_alone(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "anna.jsonl"
    path.write_bytes(junk)
    with pytest.raises(LedgerBroken, match="line 1"):
        opened(path)
    assert path.read_bytes() == junk
    assert not verify(path).ok


def test_a_missing_ledger_is_a_problem_not_an_empty_one(tmp_path: Path) -> None:
    assert not verify(tmp_path / "none.jsonl").ok
