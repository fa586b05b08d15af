"""The two shares that one client entrusts to another, sealed so that the server can only forward them.

AES-256-GCM. The key belongs to one ordered pair of clients in one round and seals exactly one message, so the
nonce is constant. Associated data repeat what the key is already bound to: digest, stage, sender, recipient.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from secagg.config import PROTOCOL
from secagg.errors import PeerMisbehaved
from secagg.shamir import PRIME, SHARE_BYTES

SEALED_BYTES = 2 * SHARE_BYTES + 16
_NONCE = bytes(12)


@dataclass(frozen=True, slots=True, repr=False)
class SharePair:
    """A holder's shares of one owner's two secrets: field elements. There are no copies."""

    mask_secret: int
    self_mask_seed: int

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secagg pair of shares is a one-time secret and cannot be copied or pickled")


def seal(key: bytes, pair: SharePair, *, digest: bytes, sender: int, recipient: int) -> bytes:
    """SEALED_BYTES of ciphertext and tag. A key must not seal twice."""
    plain = pair.mask_secret.to_bytes(SHARE_BYTES, "big") + pair.self_mask_seed.to_bytes(SHARE_BYTES, "big")
    return AESGCM(key).encrypt(_NONCE, plain, _associated(digest, sender, recipient))


def unseal(key: bytes, sealed: bytes, *, digest: bytes, sender: int, recipient: int) -> SharePair:
    """Open what `sender` sealed for `recipient`. Raises PeerMisbehaved naming the sender."""
    try:
        plain = AESGCM(key).decrypt(_NONCE, sealed, _associated(digest, sender, recipient))
    except InvalidTag as error:
        raise PeerMisbehaved(f"the shares from client {sender} to client {recipient} do not open") from error
    mask_secret = int.from_bytes(plain[:SHARE_BYTES], "big")
    self_mask_seed = int.from_bytes(plain[SHARE_BYTES:], "big")
    if len(plain) != 2 * SHARE_BYTES or mask_secret >= PRIME or self_mask_seed >= PRIME:
        raise PeerMisbehaved(f"client {sender} sent shares outside the field")
    return SharePair(mask_secret, self_mask_seed)


def _associated(digest: bytes, sender: int, recipient: int) -> bytes:
    return PROTOCOL + b"share" + digest + struct.pack(">II", sender, recipient)
