"""What all parties of one round agree on before it starts."""

from __future__ import annotations

import hashlib
import struct
from bisect import bisect_left
from dataclasses import dataclass, field
from enum import Enum

from secagg.ring import RING_BITS

PROTOCOL = b"fedpdpo/secagg/v2/"
"""Prefix of every domain tag; changes with any change of key derivation, wire format or order of messages."""
IDENTITY_BYTES = 32
MIN_CLIENTS = 3
"""A sum of two tells each of the two the other's vector, so neither a roster nor a sum is smaller than this."""


class Mode(Enum):
    """Whom a round protects against."""

    SEMI_HONEST = "semi-honest"  # a server that follows the protocol and looks at what it receives
    MALICIOUS_SERVER = "malicious-server"  # one that lies: keys and survivor lists are signed, clients compare them


class Stage(Enum):
    """Where in a round a client disappears."""

    BEFORE_KEYS = "before_keys"  # never advertised a key
    AFTER_KEYS = "after_keys"  # advertised, never shared its secrets: simply not part of the round
    AFTER_SHARES = "after_shares"  # shared, no masked vector: its mask key is rebuilt
    AFTER_MASKED = "after_masked"  # its vector is in the sum; it does not help to unmask
    AFTER_CONSENT = "after_consent"  # malicious-server only: it signed the survivor list and is silent afterwards


def default_threshold(clients: int) -> int:
    """floor(2n/3) + 1 shares: the bound of Bonawitz et al. 2017, section 6, for fewer than n/3 corrupted."""
    return 2 * clients // 3 + 1


@dataclass(frozen=True, slots=True)
class RoundConfig:
    """One round of secure aggregation. Raises ValueError naming the field and its bound.

    Each client makes it from its own configuration. Taken from the server, every number in it would be the server's.

    session: 16 bytes; with `round_index` it names the round, and no round has two vectors of one client.
    round_index: counter of the caller's, 0..2^63-1.
    clients: the roster: distinct ids, ascending, each 0..2^32-1; at least 3.
    threshold: shares that rebuild a secret. Complete graph: above half the roster, at most all of it, and at
        least floor(2n/3) + 1 in malicious-server mode (fewer than n/3 corrupted; Bonawitz et al. 2017, section
        6). Otherwise above 1 and at most `neighbors`, and above half of them in malicious-server mode.
    min_survivors: least number of vectors in a sum, 3 or more.
    bits: ring is the integers modulo 2^bits; 16, 24 or 32.
    dim: length of the vectors.
    context: 32-byte hash of whatever else must be common to all and is known before keys are exchanged.
    neighbors: how many others a client exchanges keys with: an even number from the solver (`solver.py`), or
        None for all of them (complete graph). In the complete graph a client also keeps one of its own shares.
    least_present: below so many advertised keys no neighbours are drawn, or None for the quorum; from the solver. A
        server that keeps honest clients away would otherwise raise the share of corrupted ones among neighbours, so
        a sparse graph in malicious-server mode must have a number here.
    mode: whom the round protects against.
    identities: malicious-server: the Ed25519 public key of each client, 32 bytes, in the order of `clients`.
    model: 32-byte hash of what is broadcast in this round (what the parties hold already is for `context` to name);
        bound into masks and all later messages by `binding`, not into `digest`, since keys may be exchanged before
        it exists (`folded.py`).
    """

    session: bytes
    round_index: int
    clients: tuple[int, ...]
    threshold: int
    min_survivors: int
    bits: int
    dim: int
    context: bytes
    neighbors: int | None = None
    least_present: int | None = None
    mode: Mode = Mode.SEMI_HONEST
    identities: tuple[bytes, ...] = field(default=(), repr=False)
    model: bytes = bytes(32)
    _digest: bytes = field(init=False, repr=False, compare=False)
    _binding: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        n = len(self.clients)
        for name, value, size in (
            ("session", self.session, 16),
            ("context", self.context, 32),
            ("model", self.model, 32),
        ):
            if len(value) != size:
                raise ValueError(f"{name} must have {size} bytes, not {len(value)}")
        if not 0 <= self.round_index < 2**63:
            raise ValueError(f"round_index must lie in 0..2^63-1, not {self.round_index}")
        if n < MIN_CLIENTS:
            raise ValueError(f"clients: {n} given, at least {MIN_CLIENTS} needed")
        if list(self.clients) != sorted(set(self.clients)):
            raise ValueError("clients must be distinct and ascending")
        if self.clients[0] < 0 or self.clients[-1] >= 2**32:
            raise ValueError("clients: an id must lie in 0..2^32-1")
        self._check_graph(n)
        self._check_identities(n)
        if not MIN_CLIENTS <= self.min_survivors <= n:
            raise ValueError(f"min_survivors must lie in {MIN_CLIENTS}..{n}, not {self.min_survivors}")
        if self.least_present is not None and not self.quorum <= self.least_present <= n:
            raise ValueError(f"least_present must lie in {self.quorum}..{n}, not {self.least_present}")
        if self.malicious and not self.complete and self.least_present is None:
            raise ValueError(
                f"least_present must be given in malicious-server mode with neighbors = {self.neighbors}: a server "
                "that keeps honest clients away would choose how many corrupted neighbours a client has"
            )
        if self.malicious and not self.complete and self.min_survivors > self.threshold:
            raise ValueError(
                f"min_survivors must be at most threshold = {self.threshold} in malicious-server mode with neighbors = "
                f"{self.neighbors}, not {self.min_survivors}: a client sees the signatures of its neighbours alone"
            )
        if self.bits not in RING_BITS:
            raise ValueError(f"bits must be one of {RING_BITS}, not {self.bits}")
        if not 1 <= self.dim < 2**31:
            raise ValueError(f"dim must lie in 1..2^31-1, not {self.dim}")
        digest = self._hash()
        object.__setattr__(self, "_digest", digest)
        object.__setattr__(self, "_binding", hashlib.sha256(PROTOCOL + b"model" + digest + self.model).digest())

    def digest(self) -> bytes:
        """SHA-256 over every field but `model`, in a fixed encoding; keys and shares of the round are bound to it."""
        return self._digest

    def binding(self) -> bytes:
        """SHA-256 over `digest` and `model`; masks, survivor lists and their signatures are bound to it."""
        return self._binding

    @property
    def complete(self) -> bool:
        """Whether every client exchanges keys with every other."""
        return self.neighbors is None

    @property
    def malicious(self) -> bool:
        return self.mode is Mode.MALICIOUS_SERVER

    @property
    def quorum(self) -> int:
        """The least number of clients with which any stage may go on."""
        return max(self.threshold, self.min_survivors)

    @property
    def least_advertised(self) -> int:
        """The least number of clients whose keys the round may go on with."""
        return self.quorum if self.least_present is None else self.least_present

    def point(self, client: int) -> int:
        """The client's x coordinate in secret sharing: its position in the roster, counted from 1."""
        return bisect_left(self.clients, client) + 1

    def identity(self, client: int) -> bytes:
        """The long-term public key of `client` (malicious-server mode)."""
        return self.identities[bisect_left(self.clients, client)]

    def _check_graph(self, n: int) -> None:
        t, k = self.threshold, self.neighbors
        if k is None:
            least = default_threshold(n) if self.malicious else n // 2 + 1
            if not least <= t <= n:
                raise ValueError(
                    f"threshold must lie in {least}..{n} for {n} clients in {self.mode.value} mode, not {t}"
                )
            return
        if k % 2 or not 2 <= k <= n - 2:
            raise ValueError(f"neighbors must be even and lie in 2..{n - 2} for {n} clients, not {k}; None is all")
        least = k // 2 + 1 if self.malicious else 2
        if not least <= t <= k:
            raise ValueError(f"threshold must lie in {least}..{k} for {k} neighbors in {self.mode.value} mode, not {t}")

    def _check_identities(self, n: int) -> None:
        if len(self.identities) != (n if self.malicious else 0):
            raise ValueError(f"identities: {len(self.identities)} given for {n} clients in {self.mode.value} mode")
        if any(len(identity) != IDENTITY_BYTES for identity in self.identities):
            raise ValueError(f"identities must have {IDENTITY_BYTES} bytes each")
        if len(set(self.identities)) != len(self.identities):
            raise ValueError("identities must be distinct")

    def _hash(self) -> bytes:
        sizes = (len(self.clients), self.threshold, self.min_survivors, self.bits, self.dim)
        graph = (self.neighbors or 0, self.least_present or 0)
        return hashlib.sha256(
            PROTOCOL
            + b"config"
            + self.session
            + struct.pack(">Q7IB", self.round_index, *sizes, *graph, self.malicious)
            + struct.pack(f">{len(self.clients)}I", *self.clients)
            + b"".join(self.identities)
            + self.context
        ).digest()
