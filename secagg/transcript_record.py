"""What a transcript says, as values: one record for each kind of line (`transcript_lines.py` makes them text).

    config     who could take part, and on what terms; its digest and the binding to the model
    keys       U1: the public keys that arrived, with their signatures in malicious-server mode
    shares     who shared its secrets, with its commitment and the number of sealed shares
    survivors  U3: whose vectors are in the sum
    consents   the signatures under U3 (malicious-server mode only)
    reveals    who answered, and of which OWNERS it gave a share of the self-mask seed or of the mask secret
    bytes      what was carried, by message and by client
    sum        the hash of the sum, who dropped where, which shares did not fit; or `aborted` with an error's class
    end        the number of lines

No line has room for a share, a ciphertext, a masked vector, a seed, a weight or a loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from secagg.config import PROTOCOL, Mode, RoundConfig, Stage
from secagg.messages import Advertise, Consent

VERSION = 1
"""Of the file's format; `protocol` is that of the messages."""
DIRECTIONS: Mapping[str, str] = MappingProxyType(
    {
        "Advertise": "upload",
        "PeerKeys": "download",
        "Shares": "upload",
        "Delivery": "download",
        "MaskedVector": "upload",
        "UnmaskRequest": "download",
        "Consent": "upload",
        "Consents": "download",
        "Reveal": "upload",
    }
)
"""The messages in their order; seen from a client."""


@dataclass(frozen=True, slots=True)
class Header:
    """The configuration as written down: not yet known to be a valid one."""

    version: int
    protocol: str
    session: bytes
    round_index: int
    clients: tuple[int, ...]
    threshold: int
    min_survivors: int
    bits: int
    dim: int
    neighbors: int | None
    least_present: int | None
    mode: Mode
    identities: tuple[bytes, ...]
    context: bytes
    model: bytes
    digest: bytes
    binding: bytes

    def round_config(self) -> RoundConfig:
        """The configuration. Raises ValueError naming the field and its bound."""
        return RoundConfig(
            session=self.session,
            round_index=self.round_index,
            clients=self.clients,
            threshold=self.threshold,
            min_survivors=self.min_survivors,
            bits=self.bits,
            dim=self.dim,
            context=self.context,
            neighbors=self.neighbors,
            least_present=self.least_present,
            mode=self.mode,
            identities=self.identities,
            model=self.model,
        )


@dataclass(frozen=True, slots=True)
class Shared:
    client: int
    commitment: bytes
    sealed: int  # number of ciphertexts


@dataclass(frozen=True, slots=True)
class Revealed:
    client: int
    self_mask_seeds: tuple[int, ...]  # owners
    mask_secrets: tuple[int, ...]  # owners


@dataclass(frozen=True, slots=True)
class Traffic:
    """One type of message: the clients it came from (upload) or went to (download), and all its bytes."""

    message: str
    direction: str
    clients: tuple[int, ...]
    size: int


@dataclass(frozen=True, slots=True)
class Carried:
    """The bytes of one client."""

    client: int
    upload: int
    download: int


@dataclass(frozen=True, slots=True)
class Released:
    sha256: bytes  # of the sum, int64[dim] little-endian
    survivors: int
    dropped: tuple[tuple[int, Stage], ...]
    misfits: tuple[tuple[int, int], ...]  # (holder, owner)


@dataclass(frozen=True, slots=True)
class Aborted:
    error: str  # name of its class; its text could quote what a client sent


@dataclass(frozen=True, slots=True)
class Transcript:
    """A whole file. `consents` is None where the line is absent."""

    header: Header
    keys: tuple[Advertise, ...]
    roster_hash: bytes
    shares: tuple[Shared, ...]
    survivors: tuple[int, ...]
    consents: tuple[Consent, ...] | None
    reveals: tuple[Revealed, ...]
    messages: tuple[Traffic, ...]
    clients: tuple[Carried, ...]
    outcome: Released | Aborted


def header_of(config: RoundConfig) -> Header:
    return Header(
        version=VERSION,
        protocol=PROTOCOL.decode("ascii"),
        session=config.session,
        round_index=config.round_index,
        clients=config.clients,
        threshold=config.threshold,
        min_survivors=config.min_survivors,
        bits=config.bits,
        dim=config.dim,
        neighbors=config.neighbors,
        least_present=config.least_present,
        mode=config.mode,
        identities=config.identities,
        context=config.context,
        model=config.model,
        digest=config.digest(),
        binding=config.binding(),
    )


def kinds_of(*, consents: bool, aborted: bool) -> tuple[str, ...]:
    """The kinds of line in their order."""
    middle = ("consents", "reveals", "bytes") if consents else ("reveals", "bytes")
    return ("config", "keys", "shares", "survivors", *middle, "aborted" if aborted else "sum", "end")
