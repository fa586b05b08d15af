"""A program that the journal's tests kill: `python journal_victim.py COMMAND ARGUMENTS...`, one line per result.

Each command forks its victims from one process, because a fresh interpreter for each would take most of the time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import sys
from collections.abc import Callable

import secagg.journal
from secagg.errors import WrongPhase
from secagg.journal import FileJournal, JournalError


def numbered_entry(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()


def write_all(acknowledge: int, path: str, first: int, last: int) -> None:
    """Record entries first..last-1, and write each one's number to the descriptor once `once` has returned."""
    with FileJournal(path) as journal:
        for number in range(first, last):
            journal.once(numbered_entry(number))
            os.write(acknowledge, b"%d\n" % number)


def in_victim(body: Callable[[int], None]) -> tuple[str, int]:
    """What a forked child that runs `body` wrote to the descriptor given to it, and the signal that ended it."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        try:
            body(write_end)
            os._exit(0)
        finally:
            os._exit(1)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        written = pipe.read()
    _, status = os.waitpid(child, 0)
    return written, os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)


class DyingSystem:
    """Stands for `os` in the journal's module: kills the process at a chosen byte or at a chosen fsync."""

    def __init__(self, *, byte: int | None = None, sync: int | None = None, after: bool = False) -> None:
        self._byte, self._sync, self._after = byte, sync, after

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)

    def write(self, fd: int, data: bytes) -> int:
        if self._byte is not None and self._byte < len(data):
            os.write(fd, bytes(data[: self._byte]))
            os.kill(os.getpid(), signal.SIGKILL)
        written = os.write(fd, data)
        if self._byte is not None:
            self._byte -= written
        return written

    def fsync(self, fd: int) -> None:
        dies = self._sync == 0
        if self._sync is not None:
            self._sync -= 1
        if dies and not self._after:
            os.kill(os.getpid(), signal.SIGKILL)
        os.fsync(fd)
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)


def die_at(system: DyingSystem, path: str, first: int) -> None:
    def body(acknowledge: int) -> None:
        secagg.journal.os = system  # type: ignore[attr-defined]
        write_all(acknowledge, path, first, first + 8)

    written, died = in_victim(body)
    print(died, *written.split())


def die_at_every_byte(path: str) -> None:
    """One victim for each byte of three lines, all on one file, each with eight new entries."""
    for byte in range(3 * 65 + 1):
        die_at(DyingSystem(byte=byte), path, 8 * byte)


def die_at_every_sync(path: str) -> None:
    for point in range(12):
        die_at(DyingSystem(sync=point // 2, after=point % 2 == 1), path, 8 * point)


def race(path: str, workers: str) -> None:
    """Workers that all want the same forty entries; each opens the journal anew for each entry."""

    def worker(number: int) -> Callable[[int], None]:
        def body(acknowledge: int) -> None:
            for wanted in range(40):
                while True:
                    try:
                        with FileJournal(path) as journal, contextlib.suppress(WrongPhase):
                            journal.once(numbered_entry(wanted))
                            os.write(acknowledge, b"%d:%d\n" % (wanted, number))
                        break
                    except JournalError as error:
                        assert "another process holds" in str(error)

        return body

    read_end, write_end = os.pipe()
    children = []
    for number in range(int(workers)):
        child = os.fork()
        if child == 0:
            try:
                worker(number)(write_end)
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        print(*pipe.read().split())
    print(*(os.waitpid(child, 0)[1] for child in children))


def hold(path: str) -> None:
    """Hold the journal until killed."""
    with FileJournal(path):
        print("held", flush=True)
        signal.pause()


def stream(path: str) -> None:
    """Record entries without end, one line of output after each."""
    write_all(sys.stdout.fileno(), path, 0, 2**62)


if __name__ == "__main__":
    COMMANDS = {f.__name__: f for f in (die_at_every_byte, die_at_every_sync, race, hold, stream)}
    COMMANDS[sys.argv[1]](*sys.argv[2:])
