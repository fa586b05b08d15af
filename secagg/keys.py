"""Keys of one client in one round: X25519 (RFC 7748), HKDF-SHA256 (RFC 5869), and what is derived from them.

A client has two key pairs. `channel` encrypts shares between clients; its secret is never shared and never
rebuilt. `mask` gives the pairwise masks; its secret is shared out, and the server rebuilds it if the client
drops. With a single pair every drop would open that client's ciphertexts to the server.

Every derived key is bound to a digest of the round, its purpose, both ids and both public keys: share channels
and commitments to `RoundConfig.digest`, masks to `RoundConfig.binding`, which holds the broadcast model too.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field
from functools import cache
from typing import NoReturn

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from secagg.config import PROTOCOL
from secagg.errors import PeerMisbehaved

PUBLIC_KEY_BYTES = 32
TAG_BYTES = 16


@dataclass(frozen=True, slots=True)
class KeyPair:
    """An X25519 key pair as raw bytes (32 each); the secret does not show in repr, and there are no copies.

    The secret is loaded once: that costs as much as an exchange.
    """

    secret: bytes = field(repr=False)
    public: bytes
    _loaded: X25519PrivateKey = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_loaded", X25519PrivateKey.from_private_bytes(self.secret))

    @classmethod
    def from_secret(cls, secret: bytes) -> KeyPair:
        return cls(secret, X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw())

    def exchange(self, peer_public: bytes) -> bytes:
        """The shared secret (32 bytes) with the owner of `peer_public`. Raises PeerMisbehaved, see `exchange`."""
        return _exchange(self._loaded, peer_public)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secagg key pair is a one-time secret and cannot be copied or pickled")


def exchange(secret: bytes, peer_public: bytes) -> bytes:
    """The X25519 shared secret (32 bytes). Raises PeerMisbehaved if it is all zero, RFC 7748 section 6.1."""
    return _exchange(X25519PrivateKey.from_private_bytes(secret), peer_public)


def _exchange(loaded: X25519PrivateKey, peer_public: bytes) -> bytes:
    try:
        return loaded.exchange(X25519PublicKey.from_public_bytes(peer_public))
    except ValueError as error:
        if len(peer_public) != PUBLIC_KEY_BYTES:
            raise PeerMisbehaved(f"a public key has {PUBLIC_KEY_BYTES} bytes, not {len(peer_public)}") from error
        raise PeerMisbehaved("a public key of small order gives an all-zero shared secret") from error


def has_small_order(public: bytes) -> bool:
    """Whether a public key (32 bytes) gives the all-zero shared secret; if with one secret, then with every one.

    RFC 7748, section 5: a clamped scalar is a multiple of the cofactor and of no large prime order, so the
    result is zero for the points of small order and for no others.
    """
    try:
        _exchange(_probe_key(), public)
    except PeerMisbehaved:
        return True
    return False


@cache
def _probe_key() -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(bytes(32))  # clamped to 2^254; no secret


def hkdf(secret: bytes, *, salt: bytes, info: bytes) -> bytes:
    """32 bytes of HKDF-SHA256."""
    return HKDF(hashes.SHA256(), 32, salt=salt, info=info).derive(secret)


def pair_mask_key(
    own: KeyPair, peer_public: bytes, *, own_id: int, peer_id: int, digest: bytes
) -> bytes:  # 32 bytes, the same at both ends
    """The key of the mask that the lower id adds and the higher id subtracts; `digest` is the round's `binding`."""
    low, high = sorted([(own_id, own.public), (peer_id, peer_public)])
    info = PROTOCOL + b"mask" + struct.pack(">II", low[0], high[0]) + low[1] + high[1]
    return hkdf(_shared_with(own, peer_public, peer_id), salt=digest, info=info)


def channel_keys(own: KeyPair, peer_public: bytes, *, own_id: int, peer_id: int, digest: bytes) -> tuple[bytes, bytes]:
    """The keys (to the peer, from the peer) of the share channel, 32 bytes each: one per ordered pair."""
    shared = _shared_with(own, peer_public, peer_id)
    return _both_ways(b"share", shared, (own_id, own.public), (peer_id, peer_public), digest)


def channel_keys_and_tags(
    own: KeyPair, peer_public: bytes, *, own_id: int, peer_id: int, digest: bytes
) -> tuple[bytes, bytes, bytes, bytes]:
    """`channel_keys`, and from the same exchange the tags (to the peer, from the peer), 16 bytes each.

    With its tag a client tells one neighbour that its masked vector carries the mask that the two have in common.
    Only those two can make it, so the server can withhold a tag and not invent one.
    """
    shared = _shared_with(own, peer_public, peer_id)
    here, there = (own_id, own.public), (peer_id, peer_public)
    sent, expected = _both_ways(b"included", shared, here, there, digest)
    return *_both_ways(b"share", shared, here, there, digest), sent[:TAG_BYTES], expected[:TAG_BYTES]


def _both_ways(
    purpose: bytes, shared: bytes, here: tuple[int, bytes], there: tuple[int, bytes], digest: bytes
) -> tuple[bytes, bytes]:
    """32 bytes for what goes from here to there, and 32 for the way back; each end is an id and a public key."""

    def directed(sender: tuple[int, bytes], recipient: tuple[int, bytes]) -> bytes:
        ids = struct.pack(">II", sender[0], recipient[0])
        return hkdf(shared, salt=digest, info=PROTOCOL + purpose + ids + sender[1] + recipient[1])

    return directed(here, there), directed(there, here)


def _shared_with(own: KeyPair, peer_public: bytes, peer_id: int) -> bytes:
    try:
        return own.exchange(peer_public)
    except PeerMisbehaved as error:
        raise PeerMisbehaved(f"client {peer_id}: {error}") from error


def self_mask_key(seed: bytes, *, client: int, digest: bytes) -> bytes:
    """The key of a client's self-mask, from its 32-byte seed; `digest` is the round's `binding`."""
    return hkdf(seed, salt=digest, info=PROTOCOL + b"self" + struct.pack(">I", client))


def seed_commitment(seed: bytes, *, client: int, digest: bytes) -> bytes:
    """SHA-256 commitment to a self-mask seed; hiding because the seed has 256 bits of entropy."""
    return hashlib.sha256(PROTOCOL + b"commit" + digest + struct.pack(">I", client) + seed).digest()
