"""What a client must never do twice in a round, remembered where a restart does not forget it.

A client answers one unmasking request of a round and masks one vector of it. A second answer, for another list of
survivors, gives the server both secrets of one client and so that client's vector; a second vector under the same
masks gives it the difference of the two. The machine of `client.py` refuses both while it lives. A journal refuses
them for longer: the client records the act before it sends anything, so whatever it may have sent stands on disk.

A file that is deleted or put back from an older copy forgets; only its owner can keep it from that. A local file
system is assumed, where locks and fsync mean what they say.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import stat
import struct
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Protocol

from secagg.config import PROTOCOL
from secagg.errors import SecAggError, WrongPhase

ENTRY_BYTES = 32
_LINE_BYTES = 2 * ENTRY_BYTES + 1  # hex and a newline
_LINE = re.compile(rb"[0-9a-f]{64}")
_TORN = re.compile(rb"([0-9a-f]{0,64})\x00*")  # a file system may have enlarged the file before it stored the bytes


class JournalError(SecAggError):
    """The journal cannot promise that an entry is new and will last; the act must not happen.

    To go on without it would let a restarted client answer again, with another list of survivors.
    """


class Journal(Protocol):
    """A memory of acts, for one client."""

    def once(self, entry: bytes, /) -> None:
        """Record 32-byte `entry` for good. Raises WrongPhase if it is there already."""


def entry(session: bytes, round_index: int, client: int, act: bytes) -> bytes:
    """The 32-byte entry for an act, which is a name, of a client in a round.

    session: 16 bytes. round_index and client: as in `RoundConfig`. Nothing else of the configuration or the model
    goes in, since whoever can change them could have the act done once for each. SHA-256, so that what is stored
    says nothing about the round. Raises ValueError for another length of session.
    """
    if len(session) != 16:
        raise ValueError(f"session must have 16 bytes, not {len(session)}")
    return hashlib.sha256(PROTOCOL + b"journal" + session + struct.pack(">QI", round_index, client) + act).digest()


class MemoryJournal:
    """A journal that ends with its process: for tests and simulations."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()
        self._lock = threading.Lock()

    def once(self, entry: bytes, /) -> None:
        """Record `entry`. Raises WrongPhase if it is there already, ValueError unless it has 32 bytes."""
        with self._lock:
            _require_new(entry, self._seen)
            self._seen.add(entry)


class FileJournal:
    """A journal in a file, held by an exclusive lock from construction to `close`; also a context manager.

    One line of 64 hex digits for each entry, appended and never changed. Readable by its owner alone. A process that
    forks cannot use it in the child.
    """

    def __init__(self, path: Path | str) -> None:
        """Open or create `path` (mode 0600) in an existing folder.

        The beginning of a line at the end of the file is what a crash inside `once` leaves. That call never
        returned, so nothing was sent, and the piece is removed; a last line that lacks only its newline counts.

        Raises JournalError if another process holds it, if it is a link, not a plain file, another user's or
        open to others, if it cannot be opened or stored, or if a line is malformed (naming the line).
        """
        self.path = Path(path)
        self._thread_lock, self._pid, self._usable = threading.Lock(), os.getpid(), False
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        except OSError as error:
            raise JournalError(f"{self.path}: cannot be opened as a plain file: {error.strerror}") from error
        try:
            self._open()
        except OSError as error:
            os.close(self._fd)
            raise JournalError(f"{self.path}: {error.strerror}") from error
        except BaseException:
            os.close(self._fd)
            raise

    def once(self, entry: bytes, /) -> None:
        """Record `entry`; when this returns it is on disk.

        Raises WrongPhase if it is there already, ValueError unless it has 32 bytes, and JournalError if it cannot
        be stored, after which the journal must be opened anew.
        """
        with self._thread_lock:
            if not self._usable or os.getpid() != self._pid:
                raise JournalError(f"{self.path}: closed, failed, or inherited by a fork; open it again")
            try:
                self._require_untouched()
                _require_new(entry, self._seen)
                self._append(entry.hex().encode() + b"\n")
            except OSError as error:
                raise JournalError(f"{self.path}: {error.strerror}") from error
            self._seen.add(entry)

    def close(self) -> None:
        """Release the lock. Closing twice does nothing."""
        with self._thread_lock:
            if self._fd >= 0:
                os.close(self._fd)
            self._usable, self._fd = False, -1

    def __enter__(self) -> FileJournal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> None:
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            raise JournalError(f"{self.path}: not a plain file")
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise JournalError(f"{self.path}: must belong to this user alone (mode 0600), not mode {mode:04o}")
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise JournalError(f"{self.path}: another process holds this journal; end it first") from error
        _sync_folder(self.path.parent)
        data = _read_all(self._fd)
        entries, self._size = _parse(data, self.path)
        self._seen = set(entries)
        if self._size < len(data):
            os.ftruncate(self._fd, self._size)
            _sync(self._fd)
        if self._size % _LINE_BYTES:
            self._append(b"\n")
        self._usable = True

    def _require_untouched(self) -> None:
        """The lock is advisory: another writer, a deletion or a replacement of the file would pass it by."""
        opened, named = os.fstat(self._fd), os.lstat(self.path)
        if opened.st_size != self._size or (opened.st_dev, opened.st_ino) != (named.st_dev, named.st_ino):
            self._usable = False
            raise JournalError(f"{self.path}: was changed or replaced by something that ignored the lock")

    def _append(self, data: bytes) -> None:
        self._usable = False  # stays so if anything below fails: how much of the line is stored is then unknown
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._fd, rest) :]
        _sync(self._fd)
        self._size += len(data)
        self._usable = True


def _require_new(entry: bytes, seen: set[bytes]) -> None:
    if len(entry) != ENTRY_BYTES:
        raise ValueError(f"entry must have {ENTRY_BYTES} bytes, not {len(entry)}")
    if entry in seen:
        raise WrongPhase("the journal says that this was done before in this round; it is done once")


def _parse(data: bytes, path: Path) -> tuple[list[bytes], int]:
    """The entries, and how many bytes of `data` are theirs (short of a newline if the last one lacks it)."""
    *lines, tail = data.split(b"\n")
    torn = _TORN.fullmatch(tail) if len(tail) <= _LINE_BYTES else None
    whole = torn is not None and len(torn[1]) == 2 * ENTRY_BYTES
    if torn is None or whole:
        lines.append(tail if torn is None else torn[1])
    first_at: dict[bytes, int] = {}
    for number, line in enumerate(lines, start=1):
        if _LINE.fullmatch(line) is None:
            raise JournalError(f"{path}, line {number}: not an entry of 64 hex digits; the file was damaged or edited")
        if first_at.setdefault(line, number) != number:
            raise JournalError(f"{path}, line {number}: repeats line {first_at[line]}, so two writers were at work")
    size = _LINE_BYTES * len(lines) - whole
    return [bytes.fromhex(line.decode()) for line in lines], size


def _read_all(fd: int) -> bytes:
    data = b""
    while part := os.pread(fd, 1 << 20, len(data)):
        data += part
    return data


def _sync(fd: int) -> None:
    if sys.platform == "darwin":
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)  # fsync alone stops at the drive's cache there
    else:
        os.fsync(fd)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
