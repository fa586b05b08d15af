"""Messages as bytes: one canonical encoding each, sizes checked against the round before anything is read.

    version (1 byte) | type (1 byte) | digest (32 bytes) | body

The digest is the configuration's for keys and shares, and the one bound to the model from the masked vector on.
Integers are big-endian, ids and counts 4 bytes, shares 33 bytes. U1 and U3 are one bit for each client of the
roster, most significant first; a masked vector has no count before its packed words, since the round fixes it.
Tags (16 bytes) follow the words and U3 in malicious-server mode; in semi-honest mode there are none and no count.
Every prefix, every extra byte and every message of another round is refused with BadMessage, and `decode` raises
nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from secagg.channel import SEALED_BYTES
from secagg.config import RoundConfig
from secagg.errors import BadMessage
from secagg.graph import HASH_BYTES
from secagg.identity import SIGNATURE_BYTES
from secagg.keys import PUBLIC_KEY_BYTES, TAG_BYTES
from secagg.messages import (
    COMMITMENT_BYTES,
    Advertise,
    Consent,
    Consents,
    Delivery,
    Included,
    MaskedVector,
    Message,
    PeerKeys,
    Reveal,
    Sealed,
    Share,
    Shares,
    UnmaskRequest,
)
from secagg.ring import packed_size
from secagg.shamir import SHARE_BYTES

VERSION = 2
Item = TypeVar("Item")


def encode(message: Message, config: RoundConfig) -> bytes:
    """The one encoding of `message` in the round `config`. Raises BadMessage for ids outside the roster."""
    kind, body = _body(message, config)
    return b"".join([bytes([VERSION, kind]), _digest(kind, config), *body])


def decode(data: bytes, config: RoundConfig) -> Message:
    """Inverse of `encode`. Raises BadMessage on anything that `encode` could not have written."""
    reader = _Reader(data, config)
    version, kind = reader.take(2)
    if version != VERSION:
        raise BadMessage(f"wire version {version}, this is version {VERSION}")
    if kind not in _READERS:
        raise BadMessage(f"message type {kind} does not exist")
    if reader.take(32) != _digest(kind, config):
        raise BadMessage("the message belongs to another round, another configuration or another model")
    message = _READERS[kind](reader)
    reader.end()
    return message


def _digest(kind: int, config: RoundConfig) -> bytes:
    return config.digest() if kind in _BEFORE_MODEL else config.binding()


class _Reader:
    """A position in bytes. No list is longer than a client's neighbourhood, itself included."""

    def __init__(self, data: bytes, config: RoundConfig) -> None:
        self._data, self._position, self.config = data, 0, config
        self._limit = len(config.clients) if config.neighbors is None else config.neighbors + 1

    def take(self, size: int) -> bytes:
        end = self._position + size
        if end > len(self._data):
            raise BadMessage(f"message ends after {len(self._data)} bytes, {end} needed")
        part = self._data[self._position : end]
        self._position = end
        return part

    def integer(self, size: int = 4) -> int:
        return int.from_bytes(self.take(size), "big")

    def items(self, read: Callable[[_Reader], Item]) -> tuple[Item, ...]:
        count = self.integer()
        if count > self._limit:
            raise BadMessage(f"a list of {count}, at most {self._limit} are possible in this round")
        return tuple(read(self) for _ in range(count))

    def members(self) -> tuple[int, ...]:
        """Clients of the roster, from one bit each."""
        clients = self.config.clients
        bits = np.unpackbits(np.frombuffer(self.take(-(-len(clients) // 8)), np.uint8))
        if bits[len(clients) :].any():
            raise BadMessage("a bit is set for a client beyond the roster")
        return tuple(clients[i] for i in np.flatnonzero(bits).tolist())

    def end(self) -> None:
        if self._position != len(self._data):
            raise BadMessage(f"{len(self._data) - self._position} bytes after the end of the message")


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def _members(ids: Sequence[int], config: RoundConfig) -> bytes:
    bits = np.zeros(len(config.clients), np.uint8)
    positions = np.searchsorted(config.clients, ids)
    if any(p == len(config.clients) or config.clients[p] != c for p, c in zip(positions, ids, strict=True)):
        raise BadMessage("a list names a client outside the roster")
    bits[positions] = 1
    return np.packbits(bits).tobytes()


def _advertise(entry: Advertise, config: RoundConfig) -> bytes:
    if len(entry.signature) != _signature_bytes(config):
        raise BadMessage(f"client {entry.client}: keys are signed in malicious-server mode, and only there")
    return _u32(entry.client) + entry.channel_key + entry.mask_key + entry.signature


def _read_advertise(reader: _Reader) -> Advertise:
    client, channel_key, mask_key = reader.integer(), reader.take(PUBLIC_KEY_BYTES), reader.take(PUBLIC_KEY_BYTES)
    return Advertise(client, channel_key, mask_key, reader.take(_signature_bytes(reader.config)))


def _signature_bytes(config: RoundConfig) -> int:
    return SIGNATURE_BYTES if config.malicious else 0


def _read_peer_keys(reader: _Reader) -> PeerKeys:
    present = reader.members()
    hashes = b"" if reader.config.complete else reader.take(HASH_BYTES * len(present))
    return PeerKeys(present, hashes, reader.items(_read_advertise))


def _peer_keys(message: PeerKeys, config: RoundConfig) -> list[bytes]:
    if len(message.hashes) != (0 if config.complete else HASH_BYTES * len(message.present)):
        raise BadMessage("hashes of all keys are sent where not everyone is a neighbour, and only there")
    entries = [_advertise(entry, config) for entry in message.entries]
    return [_members(message.present, config), message.hashes, _u32(len(entries)), *entries]


def _sealed(items: Sequence[Sealed]) -> list[bytes]:
    return [_u32(len(items)), *(_u32(item.peer) + item.ciphertext for item in items)]


def _read_sealed(reader: _Reader) -> Sealed:
    return Sealed(reader.integer(), reader.take(SEALED_BYTES))


def _tags(items: Sequence[Included], config: RoundConfig) -> list[bytes]:
    if config.malicious:
        return [_u32(len(items)), *(_u32(item.peer) + item.tag for item in items)]
    if items:
        raise BadMessage("tags are sent in malicious-server mode, and only there")
    return []


def _read_tags(reader: _Reader) -> tuple[Included, ...]:
    return reader.items(lambda r: Included(r.integer(), r.take(TAG_BYTES))) if reader.config.malicious else ()


def _consent(item: Consent) -> bytes:
    return _u32(item.client) + item.signature


def _read_consent(reader: _Reader) -> Consent:
    return Consent(reader.integer(), reader.take(SIGNATURE_BYTES))


def _shares(items: Sequence[Share]) -> list[bytes]:
    return [_u32(len(items)), *(_u32(item.owner) + item.value.to_bytes(SHARE_BYTES, "big") for item in items)]


def _read_share(reader: _Reader) -> Share:
    return Share(reader.integer(), reader.integer(SHARE_BYTES))


def _body(message: Message, config: RoundConfig) -> tuple[int, list[bytes]]:
    match message:
        case Advertise():
            return 1, [_advertise(message, config)]
        case PeerKeys():
            return 2, _peer_keys(message, config)
        case Shares(client, commitment, sealed):
            return 3, [_u32(client), commitment, *_sealed(sealed)]
        case Delivery(sealed):
            return 4, _sealed(sealed)
        case MaskedVector(client, packed, tags):
            return 5, [_u32(client), packed, *_tags(tags, config)]
        case UnmaskRequest(survivors, tags):
            return 6, [_members(survivors, config), *_tags(tags, config)]
        case Reveal(client, self_mask_seeds, mask_secrets):
            return 7, [_u32(client), *_shares(self_mask_seeds), *_shares(mask_secrets)]
        case Consent():
            return 8, [_consent(message)]
        case Consents(consents):
            return 9, [_u32(len(consents)), *map(_consent, consents)]


_BEFORE_MODEL = frozenset({1, 2, 3, 4})  # may be exchanged before the round's model exists
_READERS: dict[int, Callable[[_Reader], Message]] = {
    1: _read_advertise,
    2: _read_peer_keys,
    3: lambda r: Shares(r.integer(), r.take(COMMITMENT_BYTES), r.items(_read_sealed)),
    4: lambda r: Delivery(r.items(_read_sealed)),
    5: lambda r: MaskedVector(r.integer(), r.take(packed_size(r.config.dim, r.config.bits)), _read_tags(r)),
    6: lambda r: UnmaskRequest(r.members(), _read_tags(r)),
    7: lambda r: Reveal(r.integer(), r.items(_read_share), r.items(_read_share)),
    8: _read_consent,
    9: lambda r: Consents(r.items(_read_consent)),
}
