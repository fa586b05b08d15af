"""Who exchanges keys with whom: everyone with everyone, or a random k-regular graph that the server does not choose.

The k-regular graph (Bell et al., "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead", CCS 2020,
section 3.2: a randomly relabelled Harary graph) puts the clients that advertised on a ring, in an order drawn
from a hash of all their keys, and joins each to the k/2 on either side. Every client computes it for itself from
hashes of all keys, of which it can check those of its neighbours alone: a malicious server may invent the others, and
show others to others. So it can try graphs, each for one hash and one sort, and hope; the solver pays for 2^64 tries.
Clients that were shown different hashes sign different statements, so they count for nothing to each other.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from secagg.config import PROTOCOL, RoundConfig

HASH_BYTES = 32


def key_hash(client: int, channel_key: bytes, mask_key: bytes) -> bytes:
    """The hash of one client's public keys (32 bytes)."""
    return hashlib.sha256(PROTOCOL + b"keys" + struct.pack(">I", client) + channel_key + mask_key).digest()


def roster_hash(config: RoundConfig, present: Sequence[int], hashes: bytes) -> bytes:
    """SHA-256 over who advertised and every `key_hash` in that order: the graph's seed, and part of what is signed."""
    ids = struct.pack(f">I{len(present)}I", len(present), *present)
    return hashlib.sha256(PROTOCOL + b"graph" + config.digest() + ids + hashes).digest()


@dataclass(frozen=True, slots=True)
class Graph:
    """The neighbours of every client of U1, and who holds the shares of whose secrets.

    clients: U1, ascending. seed: `roster_hash`.
    """

    clients: tuple[int, ...]
    seed: bytes
    degree: int | None  # None: complete
    _ring: tuple[int, ...] = field(repr=False)
    _position: Mapping[int, int] = field(repr=False)

    @classmethod
    def build(cls, config: RoundConfig, present: tuple[int, ...], seed: bytes) -> Graph:
        """The graph over `present` (ascending). With `neighbors` or fewer others left, everyone is a neighbour."""
        if config.neighbors is None:
            return cls(present, seed, None, (), {})
        ring = tuple(present[i] for i in _permutation(seed, len(present)))
        return cls(present, seed, config.neighbors, ring, {client: i for i, client in enumerate(ring)})

    def neighbors(self, client: int) -> tuple[int, ...]:
        """Those with whom `client` exchanges keys, ascending; the relation is symmetric."""
        if self.degree is None or self.degree >= len(self.clients) - 1:
            return tuple(other for other in self.clients if other != client)
        here, n, half = self._position[client], len(self._ring), self.degree // 2
        return tuple(sorted(self._ring[(here + step) % n] for step in (*range(-half, 0), *range(1, half + 1))))

    def holders(self, client: int) -> tuple[int, ...]:
        """Those who hold a share of its secrets, ascending: in the complete graph everyone, itself included.

        A k-regular client holds none of its own: the server could count that share with those of its
        neighbours, and the bound 2t > k + corrupted neighbours would be off by one.
        """
        return self.clients if self.degree is None else self.neighbors(client)


def _permutation(seed: bytes, size: int) -> list[int]:
    """A uniform order of `size` items: sorted by 64 bits of AES-256-CTR keystream each (ties: chance n^2 / 2^65)."""
    keystream = Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor().update(bytes(8 * size))
    order: list[int] = np.argsort(np.frombuffer(keystream, "<u8"), kind="stable").tolist()
    return order
