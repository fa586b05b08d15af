"""Bytes of every message of a round, from its shape alone: the formulas of `wire.py` without the messages.

Figures are of one client that stays to the end; the model itself travels elsewhere and is not counted.
"""

from __future__ import annotations

from dataclasses import dataclass

from secagg.channel import SEALED_BYTES
from secagg.config import MIN_CLIENTS
from secagg.graph import HASH_BYTES
from secagg.identity import SIGNATURE_BYTES
from secagg.keys import PUBLIC_KEY_BYTES, TAG_BYTES
from secagg.messages import COMMITMENT_BYTES
from secagg.ring import RING_BITS, packed_size
from secagg.shamir import SHARE_BYTES

_HEADER = 2 + 32  # version, type, digest
_ID = 4
_COUNT = 4


@dataclass(frozen=True, slots=True)
class RoundShape:
    """The sizes of a round that its costs depend on. Raises ValueError naming the field and its bound.

    clients: on the roster; all of them advertise keys and share their secrets.
    neighbors: how many others each exchanges keys with; None or clients - 1 is the complete graph.
    threshold: shares that rebuild a secret.
    bits, dim: of the ring and of the vectors.
    dropped: fraction of the clients that disappear after sharing and before their vector, 0 or more and below 1.
    malicious: keys and survivor lists are signed, and masked vectors carry a tag for each neighbour.
    """

    clients: int
    neighbors: int | None
    threshold: int
    bits: int
    dim: int
    dropped: float = 0.0
    malicious: bool = False

    def __post_init__(self) -> None:
        if self.clients < MIN_CLIENTS:
            raise ValueError(f"clients must be at least {MIN_CLIENTS}, not {self.clients}")
        if self.neighbors is not None and not 1 <= self.neighbors < self.clients:
            raise ValueError(f"neighbors must lie in 1..{self.clients - 1}, not {self.neighbors}")
        if not 1 <= self.threshold <= self.holders:
            raise ValueError(f"threshold must lie in 1..{self.holders}, not {self.threshold}")
        if self.bits not in RING_BITS:
            raise ValueError(f"bits must be one of {RING_BITS}, not {self.bits}")
        if self.dim < 1:
            raise ValueError(f"dim must be at least 1, not {self.dim}")
        if not 0 <= self.dropped < 1:
            raise ValueError(f"dropped must be a fraction in [0, 1), not {self.dropped}")

    @property
    def complete(self) -> bool:
        return self.neighbors is None or self.neighbors == self.clients - 1

    @property
    def degree(self) -> int:
        """With how many others each client exchanges keys."""
        return self.clients - 1 if self.neighbors is None else self.neighbors

    @property
    def holders(self) -> int:
        """How many hold a share of each secret: in the complete graph the client itself does too."""
        return self.clients if self.complete else self.degree

    @property
    def gone(self) -> int:
        """How many clients drop."""
        return min(round(self.dropped * self.clients), self.clients - 1)

    @property
    def survivors(self) -> int:
        return self.clients - self.gone

    def surviving_neighbors(self, *, of_dropped: bool) -> float:
        """The expected number of survivors among a client's neighbours; exact in the complete graph."""
        others = self.survivors if of_dropped else self.survivors - 1
        return self.degree * others / (self.clients - 1)


def advertise(shape: RoundShape) -> int:
    return _HEADER + _keys(shape)


def peer_keys(shape: RoundShape) -> int:
    hashes = 0 if shape.complete else HASH_BYTES * shape.clients
    return _HEADER + _bitmap(shape) + hashes + _COUNT + (shape.degree + 1) * _keys(shape)


def shares(shape: RoundShape) -> int:
    return _HEADER + _ID + COMMITMENT_BYTES + _COUNT + shape.degree * (_ID + SEALED_BYTES)


def delivery(shape: RoundShape) -> int:
    return _HEADER + _COUNT + shape.degree * (_ID + SEALED_BYTES)


def masked_vector(shape: RoundShape) -> int:
    return _HEADER + _ID + packed_size(shape.dim, shape.bits) + _tags(shape, shape.degree)


def unmask_request(shape: RoundShape) -> int:
    return _HEADER + _bitmap(shape) + _tags(shape, round(shape.surviving_neighbors(of_dropped=False)))


def consent(shape: RoundShape) -> int:
    return _HEADER + _ID + SIGNATURE_BYTES if shape.malicious else 0


def consents(shape: RoundShape) -> int:
    signed = round(shape.surviving_neighbors(of_dropped=False))
    return _HEADER + _COUNT + signed * (_ID + SIGNATURE_BYTES) if shape.malicious else 0


def reveal(shape: RoundShape) -> int:
    owners = shape.degree + shape.complete  # its own too, where it holds one
    return _HEADER + _ID + 2 * _COUNT + owners * (_ID + SHARE_BYTES)


def upload(shape: RoundShape) -> int:
    """All that one client sends."""
    return sum(message(shape) for message in (advertise, shares, masked_vector, consent, reveal))


def download(shape: RoundShape) -> int:
    """All that one client receives."""
    return sum(message(shape) for message in (peer_keys, delivery, unmask_request, consents))


def _keys(shape: RoundShape) -> int:
    return _ID + 2 * PUBLIC_KEY_BYTES + (SIGNATURE_BYTES if shape.malicious else 0)


def _tags(shape: RoundShape, count: int) -> int:
    return _COUNT + count * (_ID + TAG_BYTES) if shape.malicious else 0


def _bitmap(shape: RoundShape) -> int:
    return -(-shape.clients // 8)
