"""Long-term identities: Ed25519 (RFC 8032) keys that sign a client's one-time keys, and the roster of a federation.

Identities reach every client out of band, before a federation starts. Without them a server that lies could put keys
of its own between two clients, or fill a round with clients of its own. Files are in `identity_files.py`.
"""

from __future__ import annotations

import hashlib
import os
import struct
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from secagg.config import IDENTITY_BYTES, MIN_CLIENTS
from secagg.errors import PeerMisbehaved
from secagg.shamir import Entropy

__all__ = ["IDENTITY_BYTES", "SIGNATURE_BYTES", "Roster", "SigningKey", "check_identity", "fingerprint", "verify"]

SIGNATURE_BYTES = 64
_TAG = b"fedpdpo/identity/v1/"  # not the protocol's: a roster outlives a change of messages
_PRIME = 2**255 - 19
_D = -121665 * pow(121666, -1, _PRIME) % _PRIME
_ORDER_8_Y = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_SMALL_ORDER_Y = frozenset({0, 1, _PRIME - 1, _ORDER_8_Y, _PRIME - _ORDER_8_Y})
"""The y coordinates of the 8 points whose order divides the cofactor; both signs of x are such points."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The secret of a long-term identity (32 bytes); it does not show in repr, and there are no copies."""

    secret: bytes = field(repr=False)
    public: bytes

    @classmethod
    def from_secret(cls, secret: bytes) -> SigningKey:
        """The key with the 32-byte secret of RFC 8032, section 5.1.5. Raises ValueError for another length."""
        if len(secret) != IDENTITY_BYTES:
            raise ValueError(f"a signing key has a secret of {IDENTITY_BYTES} bytes, not {len(secret)}")
        return cls(secret, Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw())

    @classmethod
    def generate(cls, entropy: Entropy = os.urandom) -> SigningKey:
        return cls.from_secret(entropy(IDENTITY_BYTES))

    def sign(self, message: bytes) -> bytes:
        """The signature, 64 bytes. The message must say what it is and for which round (`statements.py`)."""
        return Ed25519PrivateKey.from_private_bytes(self.secret).sign(message)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a signing key is a secret and cannot be copied or pickled")


def verify(identity: bytes, signature: bytes, message: bytes, *, signer: int, what: str) -> None:
    """Check a signature over `message` by the client `signer`. Raises PeerMisbehaved naming the client and `what`.

    RFC 8032, section 5.1.7, without the cofactor: a second half of the signature at or above the group's order is
    refused, so nobody makes a second signature out of one. An identity that is no canonical point, or one of small
    order, is refused before: under such a key one signature fits one message in eight, or all of them.
    """
    try:
        _check_encoding(identity)
        Ed25519PublicKey.from_public_bytes(identity).verify(signature, message)
    except ValueError as error:
        raise PeerMisbehaved(f"client {signer}: {error}, so its {what} cannot be verified") from error
    except InvalidSignature as error:
        raise PeerMisbehaved(f"client {signer}: the signature of its {what} does not verify") from error


def check_identity(identity: bytes) -> None:
    """Raises ValueError unless the bytes are a point of the curve in its one encoding and not of small order."""
    y = _check_encoding(identity)
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _PRIME) % _PRIME  # x^2, from the curve's equation
    if pow(square, (_PRIME - 1) // 2, _PRIME) != 1:
        raise ValueError("identity is not a point of the curve")


def _check_encoding(identity: bytes) -> int:
    """The y coordinate."""
    if len(identity) != IDENTITY_BYTES:
        raise ValueError(f"identity must have {IDENTITY_BYTES} bytes, not {len(identity)}")
    y = int.from_bytes(identity, "little") & (2**255 - 1)  # the top bit is the sign of x
    if y >= _PRIME:
        raise ValueError("identity is not in its one encoding (y at or above the prime)")
    if y in _SMALL_ORDER_Y:
        raise ValueError("identity is a point of small order")
    return y


def fingerprint(identity: bytes) -> str:
    """What two people compare by voice: 128 bits of SHA-256 of an identity, in hexadecimal groups of 4."""
    digits = hashlib.sha256(_TAG + b"fingerprint" + identity).hexdigest()[:32]
    return " ".join(digits[start : start + 4] for start in range(0, 32, 4))


@dataclass(frozen=True, slots=True)
class Roster:
    """Who belongs to a federation. Raises ValueError naming the field, and the client by id.

    clients: distinct ids, ascending, each 0..2^32-1; at least 3.
    identities: the Ed25519 public key of each, 32 bytes, distinct, in the order of `clients`.
    """

    clients: tuple[int, ...]
    identities: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if len(self.clients) < MIN_CLIENTS:
            raise ValueError(f"clients: {len(self.clients)} given, at least {MIN_CLIENTS} needed")
        if len(self.identities) != len(self.clients):
            raise ValueError(f"identities: {len(self.identities)} given for {len(self.clients)} clients")
        owner: dict[bytes, int] = {}
        for place, (client, identity) in enumerate(zip(self.clients, self.identities, strict=True)):
            if not 0 <= client < 2**32:
                raise ValueError(f"clients: id {client} does not lie in 0..2^32-1")
            if place and client <= self.clients[place - 1]:
                raise ValueError(f"clients: id {client} does not follow {self.clients[place - 1]} in ascending order")
            try:
                check_identity(identity)
            except ValueError as error:
                raise ValueError(f"client {client}: {error}") from error
            if identity in owner:
                raise ValueError(f"client {client}: identity is that of client {owner[identity]}")
            owner[identity] = client

    def digest(self) -> bytes:
        """SHA-256 over ids and identities (32 bytes): two parties with the same digest have the same roster."""
        ids = struct.pack(f">I{len(self.clients)}I", len(self.clients), *self.clients)
        return hashlib.sha256(_TAG + b"roster" + ids + b"".join(self.identities)).digest()

    def identity(self, client: int) -> bytes | None:
        """The identity of `client`, or None for one that is not in the roster."""
        place = bisect_left(self.clients, client)
        return self.identities[place] if client in self.clients[place : place + 1] else None
