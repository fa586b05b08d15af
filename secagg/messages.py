"""The messages of one round, in the order in which they are sent.

    client                                      server
    Advertise(two public keys, signature) -----> U1
                                          <----- PeerKeys(hashes of all keys of U1, keys of the neighbours)
    Shares(sealed, one per neighbour)     -----> U2
                                          <----- Delivery(those sealed for me, from U2)
    MaskedVector(+ a tag per neighbour)   -----> U3, added to one accumulator on arrival
                                          <----- UnmaskRequest(U3, + tags for me from U3)
    Consent(signature over U3)            ----->          in malicious-server mode only, as are the tags
                                          <----- Consents(those of the neighbours)     likewise
    Reveal(one share per client)          -----> sum over U3

Bonawitz et al. 2017, figure 4; Bell et al. 2020. A message that breaks its own structure cannot be constructed
(BadMessage); whether it fits the round is for the party that receives it to judge. Lists are ascending by id, so
each message has one encoding.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from secagg.channel import SEALED_BYTES
from secagg.errors import BadMessage
from secagg.graph import HASH_BYTES, key_hash
from secagg.identity import SIGNATURE_BYTES
from secagg.keys import PUBLIC_KEY_BYTES, TAG_BYTES
from secagg.shamir import PRIME

COMMITMENT_BYTES = 32


@dataclass(frozen=True, slots=True)
class Advertise:
    """Client to server: its two public keys of this round, 32 bytes each, signed in malicious-server mode."""

    client: int
    channel_key: bytes
    mask_key: bytes
    signature: bytes = field(default=b"", repr=False)  # 64 bytes, or none in semi-honest mode

    def __post_init__(self) -> None:
        _require_id(self.client)
        _require_size("channel_key", self.channel_key, PUBLIC_KEY_BYTES)
        _require_size("mask_key", self.mask_key, PUBLIC_KEY_BYTES)
        _require_size("signature", self.signature, len(self.signature) and SIGNATURE_BYTES)

    def key_hash(self) -> bytes:
        """The hash of both keys and the id, 32 bytes."""
        return key_hash(self.client, self.channel_key, self.mask_key)


@dataclass(frozen=True, slots=True)
class PeerKeys:
    """Server to client: who advertised (U1), a hash of each one's keys, and the keys of its neighbours and its own.

    In the complete graph the keys are all there and `hashes` is empty.
    """

    present: tuple[int, ...]
    hashes: bytes = field(repr=False)  # 32 bytes for each of `present`, or none
    entries: tuple[Advertise, ...]

    def __post_init__(self) -> None:
        _require_ascending("present", self.present)
        _require_size("hashes", self.hashes, len(self.hashes) and HASH_BYTES * len(self.present))
        _require_ascending("keys", (entry.client for entry in self.entries))


@dataclass(frozen=True, slots=True)
class Sealed:
    """One sealed pair of shares; `peer` is the recipient in Shares and the sender in Delivery."""

    peer: int
    ciphertext: bytes = field(repr=False)

    def __post_init__(self) -> None:
        _require_size("ciphertext", self.ciphertext, SEALED_BYTES)


@dataclass(frozen=True, slots=True)
class Shares:
    """Client to server: a commitment to its self-mask seed, and its shares sealed for each neighbour of U1."""

    client: int
    commitment: bytes
    sealed: tuple[Sealed, ...]

    def __post_init__(self) -> None:
        _require_id(self.client)
        _require_size("commitment", self.commitment, COMMITMENT_BYTES)
        _require_ascending("sealed shares", (item.peer for item in self.sealed))


@dataclass(frozen=True, slots=True)
class Delivery:
    """Server to client: what its neighbours in U2 sealed for it."""

    sealed: tuple[Sealed, ...]

    def __post_init__(self) -> None:
        _require_ascending("delivered shares", (item.peer for item in self.sealed))


@dataclass(frozen=True, slots=True)
class Included:
    """That a masked vector carries the mask common to two neighbours, in a tag that only they can make (`keys`).

    `peer` is whom it is for in MaskedVector and whom it is from in UnmaskRequest.
    """

    peer: int
    tag: bytes = field(repr=False)

    def __post_init__(self) -> None:
        _require_size("tag", self.tag, TAG_BYTES)


@dataclass(frozen=True, slots=True)
class MaskedVector:
    """Client to server: the masked vector, packed to the ring's bits (`ring.pack`).

    In malicious-server mode with a tag for each neighbour in U2, in semi-honest mode with none.
    """

    client: int
    packed: bytes = field(repr=False)
    tags: tuple[Included, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        _require_id(self.client)
        _require_ascending("tags", (item.peer for item in self.tags))


@dataclass(frozen=True, slots=True)
class UnmaskRequest:
    """Server to client: whose vectors are in the sum, U3. Who dropped is for the client to work out.

    In malicious-server mode with the tags that its neighbours in U3 made for it, in semi-honest mode with none.
    """

    survivors: tuple[int, ...]
    tags: tuple[Included, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        _require_ascending("survivors", self.survivors)
        _require_ascending("tags", (item.peer for item in self.tags))


@dataclass(frozen=True, slots=True)
class Consent:
    """Client to server: its signature over the survivor list that it was shown (malicious-server mode)."""

    client: int
    signature: bytes = field(repr=False)

    def __post_init__(self) -> None:
        _require_id(self.client)
        _require_size("signature", self.signature, SIGNATURE_BYTES)


@dataclass(frozen=True, slots=True)
class Consents:
    """Server to client: the consents of its neighbours."""

    consents: tuple[Consent, ...]

    def __post_init__(self) -> None:
        _require_ascending("consents", (consent.client for consent in self.consents))


@dataclass(frozen=True, slots=True)
class Share:
    """A share of one secret of `owner`: an element of the field."""

    owner: int
    value: int = field(repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.value < PRIME:
            raise BadMessage(f"the share of client {self.owner} is outside the field")


@dataclass(frozen=True, slots=True)
class Reveal:
    """Client to server: for each neighbour in U2 one share, of the self-mask seed or of the mask secret.

    Both kinds for one owner would unmask its vector, so such a message cannot be constructed.
    """

    client: int
    self_mask_seeds: tuple[Share, ...]  # of survivors
    mask_secrets: tuple[Share, ...]  # of those who dropped after sharing

    def __post_init__(self) -> None:
        _require_id(self.client)
        survivors = [share.owner for share in self.self_mask_seeds]
        dropped = [share.owner for share in self.mask_secrets]
        _require_ascending("self-mask seeds", survivors)
        _require_ascending("mask secrets", dropped)
        if set(survivors) & set(dropped):
            raise BadMessage("a reveal holds both kinds of share of one client")


Message = Advertise | PeerKeys | Shares | Delivery | MaskedVector | UnmaskRequest | Consent | Consents | Reveal

FROM_CLIENTS = (Advertise, Shares, MaskedVector, Consent, Reveal)
"""What clients send; each of these says in `client` whom it is from."""


def _require_id(client: int) -> None:
    if not 0 <= client < 2**32:
        raise BadMessage(f"client id {client} is outside 0..2^32-1")


def _require_size(name: str, value: bytes, size: int) -> None:
    if len(value) != size:
        raise BadMessage(f"{name} has {len(value)} bytes, not {size}")


def _require_ascending(name: str, ids: Iterable[int]) -> None:
    previous = -1
    for client in ids:
        if not previous < client < 2**32:
            raise BadMessage(f"{name}: ids must be distinct, ascending and below 2^32")
        previous = client
