"""Ed25519 (RFC 8032) for ledgers: the owner signs every record, and a peer countersigns heads.

A statement that is signed begins with what it is, so that a signature of one kind is none of another. A key file has
two lines, `fedpdpo ledger key 1` and 64 hexadecimal digits, and belongs to its owner alone.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from .errors import LedgerError

OWNER_KEY = "owner.key"  # beside the ledgers of one owner; where it is, they are signed
_HEADER = "fedpdpo ledger key 1"


def public_hex(key: Ed25519PrivateKey) -> str:
    """The public half, 64 hexadecimal digits."""
    return key.public_key().public_bytes_raw().hex()


def sign(key: Ed25519PrivateKey, statement: bytes) -> str:
    """The signature, 128 hexadecimal digits."""
    return key.sign(statement).hex()


def signature_holds(public_key: str, signature: str, statement: bytes) -> bool:
    """Whether `signature` is that of `public_key` over `statement`; text that is none of either does not hold."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key)).verify(bytes.fromhex(signature), statement)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return _is_hex(signature, 128)  # one spelling: a record has one line


def check_public_key(public_key: str) -> None:
    """Raises ValueError unless it is 64 lower-case hexadecimal digits."""
    if not _is_hex(public_key, 64):
        raise ValueError(f"public_key must be 64 lower-case hexadecimal digits, got {public_key!r}")


def _is_hex(text: object, digits: int) -> bool:
    return isinstance(text, str) and len(text) == digits and not set(text) - set("0123456789abcdef")


def read_key(path: Path) -> Ed25519PrivateKey:
    """The key in the file at `path`. Raises LedgerError in one line if it is open to others or holds no key."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise LedgerError(f"{path}: cannot be read ({error.strerror})") from error
    with open(descriptor, "rb") as file:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode) or mode & 0o077:
            raise LedgerError(f"{path}: must be a file that its owner alone can read (mode 0600)")
        header, _, digits = file.read(200).decode("latin-1").partition("\n")
    if header != _HEADER or not _is_hex(digits.removesuffix("\n"), 64):
        raise LedgerError(f"{path}: is not a ledger's key")
    return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(digits))


def make_key(path: Path) -> Ed25519PrivateKey:
    """A new key, in a new file for its owner alone. Raises LedgerError rather than overwrite a file."""
    key = Ed25519PrivateKey.generate()
    text = f"{_HEADER}\n{key.private_bytes_raw().hex()}\n".encode("ascii")
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise LedgerError(f"{path}: cannot be made ({error.strerror}); a key is never overwritten") from error
    with open(descriptor, "wb") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    return key


def owner_key(root: Path) -> Ed25519PrivateKey | None:
    """The key that signs the ledgers under `root`: that of the file `owner.key` in it, None where there is none."""
    path = root / OWNER_KEY
    return read_key(path) if os.path.lexists(path) else None
