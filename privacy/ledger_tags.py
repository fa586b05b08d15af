"""Keyed tags of the rows that were charged, so that the same rows under another name cannot spend a second budget.

A budget belongs to a name (`data_id`) that the data's owner chose, and nothing but these tags ties the name to rows. A
tag is HMAC-SHA-256 of a row's bytes, cut to 128 bits, under a random key of this folder of ledgers; without the key a
tag says nothing of its row, with it one can test whether a guessed row was charged. Key and tags are files for the
owner alone (0600), in the ledgers' own folder, and are neither exported nor reported.

    <root>/rows.key                   32 random bytes
    <root>/<data_id>/<client>.rows    a line that names the format and the key, then sorted tags of 16 bytes

The rule: a client's rows are refused if more than 1 % of its distinct rows, or of the other name's if those are
fewer, are tagged under another `data_id`; below 100 rows one row is enough. Identical trivial rows ("Hi." / "Hello.")
occur in unrelated data, and that small share is granted to them. Under the same `data_id` a row may belong to several
clients, each of which is charged for its own copy; but a row that was charged to one client, is no longer dealt to it
and now comes to another is refused, whatever the number.
"""

from __future__ import annotations

import fcntl
import hmac
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

from .errors import LedgerBroken, RowsChargedElsewhere
from .ledger_paths import ledger_path
from .ledger_store import make_private_folder

ALLOWED_SHARE = 0.01
TAG_BYTES = 16
_KEY_FILE, _SUFFIX, _FORMAT = "rows.key", ".rows", b"fedpdpo row tags 1 "

Tags = frozenset[bytes]


class RowTags:
    """The tags under one root of ledgers."""

    def __init__(self, root: Path) -> None:
        """Read the root's key, or make it. Raises LedgerBroken if the key was lost while tags made with it exist."""
        self._root = root
        self._key = _key(root)
        self._first_line = (
            _FORMAT + hmac.digest(self._key, b"fedpdpo/rows/v1/name", "sha256")[:8].hex().encode() + b"\n"
        )

    def tag(self, row: bytes) -> bytes:
        """The tag of a row: of bytes in a form that does not depend on where the row stands or who reads it."""
        return hmac.digest(self._key, b"fedpdpo/rows/v1/row" + row, "sha256")[:TAG_BYTES]

    def check(self, data_id: str, rows: Mapping[str, Tags]) -> None:
        """Raise RowsChargedElsewhere, naming the other name or client, if these clients' rows belong to it.

        `rows` holds the tags of every client's rows of this run. Raises LedgerBroken for a file that is none of tags
        or was made with another key.
        """
        other_names: dict[str, set[bytes]] = {}
        here: dict[str, Tags] = {}
        for path in sorted(self._root.glob(f"*/*{_SUFFIX}")):
            name, client = unquote(path.parent.name), unquote(path.name.removesuffix(_SUFFIX))
            if name == data_id:
                here[client] = self._read(path)
            else:
                other_names.setdefault(name, set()).update(self._read(path))
        for name, charged in other_names.items():
            for client, tags in rows.items():
                shared = len(tags & charged)
                if shared > ALLOWED_SHARE * min(len(tags), len(charged)):
                    raise RowsChargedElsewhere(
                        f"data.id: {shared} of the {len(tags)} rows of client {client} were charged as {name!r}; under "
                        f"the name {data_id!r} they would spend a second budget. Use data.id: {name}, or leave them out"
                    )
        _check_movers(data_id, here, rows)

    def charge(self, data_id: str, rows: Mapping[str, Tags]) -> None:
        """Check once more, then record these rows as charged; on disk when this returns, before anything is trained.

        One process at a time: of two that charge the same rows under two names, the later one is refused.
        """
        with self._alone():
            self.check(data_id, rows)
            for client, tags in rows.items():
                path = self._path(data_id, client)
                known = self._read(path) if path.exists() else frozenset()
                if tags - known:
                    make_private_folder(path.parent)
                    _replace(path, self._first_line + b"".join(sorted(known | tags)))

    def _path(self, data_id: str, client: str) -> Path:
        return ledger_path(self._root, data_id, client).with_suffix(_SUFFIX)

    def _read(self, path: Path) -> Tags:
        data = path.read_bytes()
        first, content = data[: len(self._first_line)], data[len(self._first_line) :]
        if not first.startswith(_FORMAT) or len(content) % TAG_BYTES:
            raise LedgerBroken(f"{path}: is not a file of row tags")
        if first != self._first_line:
            raise LedgerBroken(f"{path}: was made with another key than {self._root / _KEY_FILE}; put that one back")
        return frozenset(content[start : start + TAG_BYTES] for start in range(0, len(content), TAG_BYTES))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        descriptor = os.open(self._root / _KEY_FILE, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _check_movers(data_id: str, charged: Mapping[str, Tags], rows: Mapping[str, Tags]) -> None:
    """Refuse rows that changed hands under one name: two ledgers would each give them a budget."""
    for client, tags in rows.items():
        new = tags - charged.get(client, frozenset())
        for owner, theirs in charged.items():
            moved = (new & theirs) - rows.get(owner, frozenset()) if owner != client else frozenset()
            if moved:
                raise RowsChargedElsewhere(
                    f"data.id: {len(moved)} rows of {data_id!r} that were charged to client {owner} are now dealt to "
                    f"client {client}, and would spend a second budget there"
                )


def _key(root: Path) -> bytes:
    path = root / _KEY_FILE
    if not path.exists():
        tagged = next(root.glob(f"*/*{_SUFFIX}"), None)
        if tagged is not None:
            raise LedgerBroken(f"{path}: is missing, and {tagged} cannot be read without it; put it back")
        make_private_folder(root)
        _create(path, os.urandom(32))
    key = path.read_bytes()
    if len(key) != 32 or path.stat().st_mode & 0o077:
        raise LedgerBroken(f"{path}: must have 32 bytes and be readable by its owner alone (mode 0600)")
    return key


def _create(path: Path, data: bytes) -> None:
    """Write a new file whole; if another process was first, its file stays."""
    scratch = _written(path, data)
    try:
        os.link(scratch, path)
    except FileExistsError:
        pass
    finally:
        os.unlink(scratch)
    _sync_folder(path.parent)


def _replace(path: Path, data: bytes) -> None:
    os.replace(_written(path, data), path)
    _sync_folder(path.parent)


def _written(path: Path, data: bytes) -> str:
    """A new file beside `path`, mode 0600, with `data` on disk."""
    descriptor, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    return scratch


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
