"""The ledger's file: one writer, append only, on disk before anything else happens."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from .errors import LedgerBroken, LedgerError, LedgerLocked
from .ledger_record import GENESIS, Body, Record, Torn, public_key_of, seal, unseal


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file holds: the complete records, and a torn last line if there is one."""

    records: tuple[Record, ...]
    torn: bytes = b""
    unterminated: bool = False  # the last record is complete but its newline is missing

    @property
    def head_hash(self) -> str:
        """Hash of the last record; it stands for the whole history."""
        return self.records[-1].hash if self.records else GENESIS


def parse(data: bytes) -> Contents:
    """The records of a ledger's bytes. Raises LedgerBroken naming the line, unless only the last line is cut short.

    A line and its newline are one write, on disk before the next one starts, so a crash can only shorten the last
    line. Whatever holds a whole JSON value or ends in a newline is no shortened line: then it must be a record, or
    was edited.
    """
    *lines, last = data.split(b"\n")
    torn = bool(last) and not _starts_with_json(last)
    records: list[Record] = []
    prev_hash, public_key = GENESIS, None
    for line in [*lines, *([last] if last and not torn else [])]:
        record = unseal(line, seq=len(records), prev_hash=prev_hash, public_key=public_key)
        prev_hash, public_key = record.hash, public_key or public_key_of([record])
        records.append(record)
    return Contents(tuple(records), torn=last if torn else b"", unterminated=bool(last) and not torn)


def _starts_with_json(line: bytes) -> bool:
    try:
        json.JSONDecoder().raw_decode(line.decode("latin-1"))
    except (ValueError, RecursionError):
        return False
    return True


def read(path: Path) -> Contents:
    """The contents of the file at `path`, without locking it. Raises LedgerBroken naming file and line."""
    return _parse(path.read_bytes(), path)


def _parse(data: bytes, path: Path) -> Contents:
    try:
        return parse(data)
    except LedgerBroken as error:
        raise LedgerBroken(f"{path}: {error}") from error


class LedgerFile:
    """An open ledger file, held by an exclusive lock from construction to `close`.

    It is read when it is opened, and written from `repair` on: what will not be used is left as it is.
    """

    def __init__(self, path: Path, key: Ed25519PrivateKey | None = None) -> None:
        """Open or create `path` (mode 0600, folders 0700); records are signed with `key`, if there is one.

        Raises LedgerLocked at once if another job holds it.
        """
        self.path, self._key = path, key
        make_private_folder(path.parent)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        try:
            _lock(self._fd, path)
            _sync_folder(path.parent)
            data = _read_all(self._fd)
            self._contents = _parse(data, path)
            self._pid, self._size, self._usable = os.getpid(), len(data), False
            self.records = self._contents.records
        except BaseException:
            os.close(self._fd)
            raise

    def repair(self, header: Body, signer: Body | None) -> None:
        """Make the file ready for records.

        Removes a torn last line, with a note of it; begins an empty file with `header`, and lets an unsigned one
        be signed from now on with the record `signer`, if there is one.
        """
        torn = self._contents.torn
        if self._contents.unterminated:
            self._write(b"\n")
        if torn:
            os.ftruncate(self._fd, self._size - len(torn))
            _sync(self._fd)
            self._size -= len(torn)
        self._usable = True
        if not self.records:
            self.append(header)
        if signer is not None and public_key_of(self.records) is None:
            self.append(signer)
        if torn:
            self.append(Torn(length=len(torn), sha256=hashlib.sha256(torn).hexdigest()))

    def append(self, body: Body) -> Record:
        """Write one record; when this returns it is on disk. Raises LedgerBroken if the file changed under the lock."""
        if not self._usable or os.getpid() != self._pid:
            raise LedgerError(f"{self.path}: closed, failed, or inherited by a fork; open it again")
        if os.fstat(self._fd).st_size != self._size:
            raise LedgerBroken(f"{self.path}: was changed by another process that ignored the lock")
        prev_hash = self.records[-1].hash if self.records else GENESIS
        now = datetime.now(UTC).isoformat(timespec="microseconds")  # so fine that no other history has the same hashes
        record, line = seal(body, seq=len(self.records), prev_hash=prev_hash, time=now, key=self._key)
        signer = public_key_of(self.records)
        unseal(line[:-1], seq=record.seq, prev_hash=prev_hash, public_key=signer)  # only what can be read back
        self._write(line)
        self.records = (*self.records, record)
        return record

    def close(self) -> None:
        """Release the lock."""
        if self._fd >= 0:
            os.close(self._fd)
            self._usable, self._fd = False, -1

    def _write(self, data: bytes) -> None:
        self._usable = False  # a failed write leaves a torn line, which the next opening removes
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._fd, rest) :]
        _sync(self._fd)
        self._size += len(data)
        self._usable = True


def make_private_folder(folder: Path) -> None:
    """Create `folder` and what is missing above it, readable by the owner alone."""
    if not folder.is_dir():
        make_private_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        _sync_folder(folder.parent)


def _lock(fd: int, path: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise LedgerLocked(f"{path}: another job holds this ledger; wait for it or end it") from error


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
