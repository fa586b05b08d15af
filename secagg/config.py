"""What all parties of one round agree on before it starts."""

from __future__ import annotations

import hashlib
import struct
from bisect import bisect_left
from dataclasses import dataclass, field
from enum import Enum

from secagg.ring import RING_BITS

PROTOCOL = b"fedpdpo/secagg/v1/"
"""Prefix of every domain tag; changes with any change of key derivation, wire format or order of messages."""
MIN_CLIENTS = 3
"""A sum of two tells each of the two the other's vector, so neither a roster nor a sum is smaller than this."""


class Stage(Enum):
    """Where in a round a client disappears."""

    BEFORE_KEYS = "before_keys"  # never advertised a key
    AFTER_KEYS = "after_keys"  # advertised, never shared its secrets: simply not part of the round
    AFTER_SHARES = "after_shares"  # shared, no masked vector: its mask key is rebuilt
    AFTER_MASKED = "after_masked"  # its vector is in the sum; it does not help to unmask


def default_threshold(clients: int) -> int:
    """floor(2n/3) + 1 shares: the bound of Bonawitz et al. 2017, section 6, for fewer than n/3 corrupted."""
    return 2 * clients // 3 + 1


@dataclass(frozen=True, slots=True)
class RoundConfig:
    """One round of secure aggregation. Raises ValueError naming the field and its bound.

    session: 16 bytes, never used twice.
    round_index: counter of the caller's, 0..2^63-1.
    clients: the roster: distinct ids, ascending, each 0..2^32-1; at least 3.
    threshold: shares that rebuild a secret, above half the roster and at most all of it.
    min_survivors: least number of vectors in a sum, 3 or more.
    bits: ring is the integers modulo 2^bits; 16, 24 or 32.
    dim: length of the vectors.
    context: 32-byte hash of whatever else must be common to all (configuration, broadcast model).
    """

    session: bytes
    round_index: int
    clients: tuple[int, ...]
    threshold: int
    min_survivors: int
    bits: int
    dim: int
    context: bytes
    _digest: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        n = len(self.clients)
        if len(self.session) != 16:
            raise ValueError(f"session must have 16 bytes, not {len(self.session)}")
        if len(self.context) != 32:
            raise ValueError(f"context must have 32 bytes, not {len(self.context)}")
        if not 0 <= self.round_index < 2**63:
            raise ValueError(f"round_index must lie in 0..2^63-1, not {self.round_index}")
        if n < MIN_CLIENTS:
            raise ValueError(f"clients: {n} given, at least {MIN_CLIENTS} needed")
        if list(self.clients) != sorted(set(self.clients)):
            raise ValueError("clients must be distinct and ascending")
        if self.clients[0] < 0 or self.clients[-1] >= 2**32:
            raise ValueError("clients: an id must lie in 0..2^32-1")
        if not n < 2 * self.threshold <= 2 * n:
            raise ValueError(f"threshold must lie in {n // 2 + 1}..{n} for {n} clients, not {self.threshold}")
        if not MIN_CLIENTS <= self.min_survivors <= n:
            raise ValueError(f"min_survivors must lie in {MIN_CLIENTS}..{n}, not {self.min_survivors}")
        if self.bits not in RING_BITS:
            raise ValueError(f"bits must be one of {RING_BITS}, not {self.bits}")
        if not 1 <= self.dim < 2**31:
            raise ValueError(f"dim must lie in 1..2^31-1, not {self.dim}")
        object.__setattr__(self, "_digest", self._hash())

    def digest(self) -> bytes:
        """SHA-256 over every field in a fixed encoding; all keys and messages of the round are bound to it."""
        return self._digest

    @property
    def quorum(self) -> int:
        """The least number of clients with which any stage may go on."""
        return max(self.threshold, self.min_survivors)

    def point(self, client: int) -> int:
        """The client's x coordinate in secret sharing: its position in the roster, counted from 1."""
        return bisect_left(self.clients, client) + 1

    def _hash(self) -> bytes:
        sizes = (len(self.clients), self.threshold, self.min_survivors, self.bits, self.dim)
        return hashlib.sha256(
            PROTOCOL
            + b"config"
            + self.session
            + struct.pack(">Q5I", self.round_index, *sizes)
            + struct.pack(f">{len(self.clients)}I", *self.clients)
            + self.context
        ).digest()
