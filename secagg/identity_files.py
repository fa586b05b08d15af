"""Rosters and signing keys as files: a roster is public JSON, a signing key belongs to one owner alone.

    {"version": 1, "clients": [
      {"id": 0, "identity": "<64 hexadecimal digits>"},
      ...
    ]}

A signing key is two lines: `fedpdpo signing key 1` and 64 hexadecimal digits.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from secagg.identity import IDENTITY_BYTES, Roster, SigningKey

ROSTER_NAME = "roster.json"
"""Its usual name, beside the keys of `key_name`."""
ROSTER_VERSION = 1
MAX_ROSTER_BYTES = 16 * 2**20
"""About 150,000 clients; a larger file is refused before it is parsed."""
_KEY_HEADER = "fedpdpo signing key 1"
_KEY_BYTES = len(_KEY_HEADER) + 2 * IDENTITY_BYTES + 2
_HEX = re.compile(rf"[0-9a-f]{{{2 * IDENTITY_BYTES}}}")  # one spelling: a roster has one text for one identity


def key_name(client: int, clients: int) -> str:
    """The usual name of a client's key file among `clients` of them: client-07.key."""
    return f"client-{client:0{max(2, len(str(clients - 1)))}d}.key"


def read_roster(path: Path) -> Roster:
    """The roster in the file at `path`. Raises ValueError in one line: path, field and what is wrong with it."""
    data = _read(path, limit=MAX_ROSTER_BYTES)
    try:
        return parse_roster(data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def write_roster(path: Path, roster: Roster) -> None:
    """Write a new roster file (mode 0644). Raises FileExistsError rather than overwrite one."""
    _write_new(path, format_roster(roster).encode("ascii"), mode=0o644)


def read_signing_key(path: Path) -> SigningKey:
    """The key in the file at `path`. Raises ValueError, in one line, if it is open to others or holds no key."""
    data = _read(path, limit=_KEY_BYTES, private=True)
    header, _, digits = data.decode("latin-1").partition("\n")
    if header != _KEY_HEADER:
        raise ValueError(f"{path}: is not a signing key (first line is not {_KEY_HEADER!r})")
    if not digits.endswith("\n") or not _HEX.fullmatch(digits[:-1]):
        raise ValueError(f"{path}: secret must be {2 * IDENTITY_BYTES} lower-case hexadecimal digits and a newline")
    return SigningKey.from_secret(bytes.fromhex(digits))


def write_signing_key(path: Path, key: SigningKey) -> None:
    """Write a new key file for its owner alone (mode 0600). Raises FileExistsError rather than overwrite one."""
    _write_new(path, f"{_KEY_HEADER}\n{key.secret.hex()}\n".encode("ascii"), mode=0o600)


def format_roster(roster: Roster) -> str:
    """The text of a roster file, one client a line."""
    members = zip(roster.clients, roster.identities, strict=True)
    lines = ",\n".join(f'  {{"id": {client}, "identity": "{identity.hex()}"}}' for client, identity in members)
    return f'{{"version": {ROSTER_VERSION}, "clients": [\n{lines}\n]}}\n'


def parse_roster(data: bytes) -> Roster:
    """The roster that the bytes of a file stand for. Raises ValueError naming the field."""
    try:
        document = json.loads(data.decode("utf-8"), object_pairs_hook=_object)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"is not JSON: {error}") from error
    fields = _fields(document, ("version", "clients"), place="the roster")
    if type(fields["version"]) is not int or fields["version"] != ROSTER_VERSION:
        raise ValueError(f"version must be {ROSTER_VERSION}, not {_shown(fields['version'])}")
    if not isinstance(fields["clients"], list):
        raise ValueError("clients must be a list")
    members = [_member(entry, f"clients[{place}]") for place, entry in enumerate(fields["clients"])]
    return Roster(tuple(client for client, _ in members), tuple(identity for _, identity in members))


def _member(entry: Any, place: str) -> tuple[int, bytes]:
    fields = _fields(entry, ("id", "identity"), place=place)
    client, digits = fields["id"], fields["identity"]
    if type(client) is not int:  # True is an int to isinstance
        raise ValueError(f"{place}.id must be an integer, not {_shown(client)}")
    if not isinstance(digits, str) or not _HEX.fullmatch(digits):
        raise ValueError(f"{place}.identity must be {2 * IDENTITY_BYTES} lower-case hexadecimal digits")
    return client, bytes.fromhex(digits)


def _fields(value: Any, names: Sequence[str], *, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{place} must be an object with the fields {', '.join(names)}")
    for name in (*names, *value):
        if name not in value:
            raise ValueError(f"{place}: field {name} is missing")
        if name not in names:
            raise ValueError(f"{place}: unknown field {_shown(name)}")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):  # readers differ in which of two they take
        raise ValueError(f"a field is given twice among {_shown([name for name, _ in pairs])}")
    return fields


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _read(path: Path, *, limit: int, private: bool = False) -> bytes:
    """The whole file, at most `limit` bytes of it; a private one must be its owner's alone."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a FIFO must not make the reader wait
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path}: is not a file")
        if private and status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise ValueError(f"{path}: mode {mode:04o} lets others read or change this secret, make it 0600")
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    finally:
        os.close(descriptor)
    if len(data) > limit:
        raise ValueError(f"{path}: is longer than {limit} bytes")
    return data


def _write_new(path: Path, data: bytes, *, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise FileExistsError(f"{path}: exists already and is never overwritten") from error
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)  # whatever the umask is
            file.write(data)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
