"""A program that the ledger's tests kill: `python ledger_victim.py everything|stream FOLDER`.

Victims are forked from one process, because a fresh interpreter for each would take most of the time.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import privacy.ledger_heads
import privacy.ledger_store
import privacy.ledger_tags
from privacy.accounting import epsilon
from privacy.errors import RowsChargedElsewhere
from privacy.events import Event, NonPrivate, gaussian_event
from privacy.ledger import Ledger, verify
from privacy.ledger_heads import HEADS_FILE, read_heads, write_heads
from privacy.ledger_record import Reserve
from privacy.ledger_store import parse
from privacy.ledger_tags import RowTags

ROUND = gaussian_event(noise_multiplier=4.0, sample_rate=1.0, steps=2)
COUNTED = NonPrivate("only counted")  # epsilon of many rounds takes long; of this one it takes nothing
DELTA = 1e-5


class DyingSystem:
    """Stands for `os` in the ledger's modules: kills the process at one of the places where the disk changes.

    Each call has a place before it and one after it, a write one more in its middle.
    """

    def __init__(self, place: int) -> None:
        self._left = place

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def _here(self) -> None:
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1

    def _around(self, call: Callable[..., Any], *arguments: Any) -> Any:
        self._here()
        result = call(*arguments)
        self._here()
        return result

    def write(self, fd: int, data: bytes) -> int:
        self._here()
        if self._left == 0:
            os.write(fd, bytes(data[: len(data) // 2]))
        self._here()
        written = os.write(fd, data)
        self._here()
        return written

    def open(self, *arguments: Any) -> int:
        return int(self._around(os.open, *arguments))

    def fsync(self, fd: int) -> None:
        self._around(os.fsync, fd)

    def ftruncate(self, fd: int, length: int) -> None:
        self._around(os.ftruncate, fd, length)

    def replace(self, source: str, target: Path) -> None:
        self._around(os.replace, source, target)

    def link(self, source: str, target: Path) -> None:
        self._around(os.link, source, target)


def opened(folder: Path) -> Ledger:
    heads = read_heads(folder / HEADS_FILE) if (folder / HEADS_FILE).exists() else ()
    path = folder / "demo" / "anna.jsonl"
    return Ledger.open(path, budget_epsilon=float("inf"), delta=DELTA, data_id="demo", client="anna", heads=heads)


def run_rounds(folder: Path, release: int, event: Event, rounds: int, *, careless: bool) -> None:
    """What a client does: tag its rows; then each round reserve, keep the head, train, release (one byte to the
    descriptor), commit. A careless one releases first."""
    tags = RowTags(folder)
    tags.charge("demo", {"anna": frozenset(tags.tag(bytes([number])) for number in range(5))})
    for index in range(1, rounds + 1):
        if careless:
            os.write(release, b".")
        with opened(folder) as ledger:
            receipt = ledger.reserve(event, "run", index)
            write_heads(folder / HEADS_FILE, [ledger.head()])
        if not careless:
            os.write(release, b".")
        with opened(folder) as ledger:
            ledger.commit(receipt, event)


def killed(place: int, folder: Path, event: Event, rounds: int, *, careless: bool) -> tuple[bool, int]:
    """(whether it was killed, how many rounds it released) of a forked victim that dies at `place`."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        try:
            for module in (privacy.ledger_store, privacy.ledger_heads, privacy.ledger_tags):
                module.os = DyingSystem(place)  # type: ignore[attr-defined]
            run_rounds(folder, write_end, event, rounds, careless=careless)
            os._exit(0)
        finally:
            os._exit(1)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        released = len(pipe.read())
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True, released
    if os.WEXITSTATUS(status):
        raise RuntimeError(f"the victim at place {place} failed")
    return False, released


def reserved(path: Path) -> int:
    """Complete reservations in a file, however it ends."""
    records = parse(path.read_bytes()).records if path.exists() else ()
    return sum(isinstance(record.body, Reserve) for record in records)


def die_once_everywhere(folder: Path, rounds: int, *, careless: bool) -> Iterator[dict[str, object]]:
    """A fresh ledger for every place; after each death it is opened, checked and used again."""
    for count in range(rounds + 2):
        epsilon([ROUND] * count, DELTA)  # computed once, before the forks
    place, died = 0, True
    while died:
        here = folder / str(place)
        died, released = killed(place, here, ROUND, rounds, careless=careless)
        with opened(here) as ledger:
            spent, charged = ledger.epsilon().epsilon, reserved(here / "demo" / "anna.jsonl")
            ledger.reserve(ROUND, "after", 1)
        due = epsilon([ROUND] * released, DELTA).epsilon
        sound = verify(here / "demo" / "anna.jsonl").ok
        yield {"died": died, "released": released, "charged": charged, "spent": spent, "due": due, "sound": sound}
        place += 1


def die_again_and_again(folder: Path) -> Iterator[dict[str, object]]:
    """One ledger for all victims, so that repairs are cut short too."""
    total, places, ledger = 0, random.Random(7), folder / "demo" / "anna.jsonl"
    for _ in range(60):
        died, released = killed(places.randrange(30), folder, COUNTED, 1, careless=False)
        total += released
        if ledger.exists() and places.random() < 0.5:  # else the next victim finds it as this one left it
            opened(folder).close()
        yield {"died": died, "released": total, "charged": reserved(ledger)}


def race_for_rows(folder: Path) -> Iterator[dict[str, object]]:
    """Three processes charge the same rows under three names at once."""
    RowTags(folder)
    children = []
    for name in ("a", "b", "c"):
        child = os.fork()
        if child == 0:
            tags, code = RowTags(folder), 1
            try:
                tags.charge(name, {"anna": frozenset(tags.tag(b"%d" % number) for number in range(20_000))})
                code = 0
            except RowsChargedElsewhere:
                code = 2
            finally:
                os._exit(code)
        children.append(child)
    yield {"codes": sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)}


def everything(folder: str) -> None:
    """All cases, one JSON object each: its name and its rows."""
    cases = {
        "careful": die_once_everywhere(Path(folder) / "careful", 2, careless=False),
        "careless": die_once_everywhere(Path(folder) / "careless", 1, careless=True),
        "again": die_again_and_again(Path(folder) / "again"),
        "race": race_for_rows(Path(folder) / "race"),
    }
    for name, rows in cases.items():
        print(json.dumps([name, list(rows)]), flush=True)


def stream(folder: str) -> None:
    """Rounds without end, a dot on stdout for each release."""
    run_rounds(Path(folder), sys.stdout.fileno(), COUNTED, 2**62, careless=False)


if __name__ == "__main__":
    {"everything": everything, "stream": stream}[sys.argv[1]](sys.argv[2])
