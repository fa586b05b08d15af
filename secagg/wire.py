"""Messages as bytes: one canonical encoding each, sizes checked against the round before anything is read.

    version (1 byte) | type (1 byte) | configuration digest (32 bytes) | body

Integers are big-endian, ids and counts 4 bytes, shares 33 bytes; a masked vector is its packed words alone,
since the round fixes their number. Every prefix, every extra byte and every message of another round is
refused with BadMessage, and `decode` raises nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from secagg.channel import SEALED_BYTES
from secagg.config import RoundConfig
from secagg.errors import BadMessage
from secagg.keys import PUBLIC_KEY_BYTES
from secagg.messages import (
    COMMITMENT_BYTES,
    Advertise,
    Delivery,
    MaskedVector,
    Message,
    Reveal,
    Roster,
    Sealed,
    Share,
    Shares,
    UnmaskRequest,
)
from secagg.ring import packed_size
from secagg.shamir import SHARE_BYTES

VERSION = 1
Item = TypeVar("Item")


def encode(message: Message, config: RoundConfig) -> bytes:
    """The one encoding of `message` in the round `config`."""
    kind, body = _body(message)
    return b"".join([bytes([VERSION, kind]), config.digest(), *body])


def decode(data: bytes, config: RoundConfig) -> Message:
    """Inverse of `encode`. Raises BadMessage on anything that `encode` could not have written."""
    reader = _Reader(data, limit=len(config.clients))
    version, kind = reader.take(2)
    if version != VERSION:
        raise BadMessage(f"wire version {version}, this is version {VERSION}")
    if reader.take(32) != config.digest():
        raise BadMessage("the message belongs to another round or another configuration")
    if kind not in _READERS:
        raise BadMessage(f"message type {kind} does not exist")
    message = _READERS[kind](reader, config)
    reader.end()
    return message


class _Reader:
    """A position in bytes; no list may be longer than `limit`, the number of clients."""

    def __init__(self, data: bytes, limit: int) -> None:
        self._data, self._position, self._limit = data, 0, limit

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
            raise BadMessage(f"a list of {count} in a round of {self._limit} clients")
        return tuple(read(self) for _ in range(count))

    def end(self) -> None:
        if self._position != len(self._data):
            raise BadMessage(f"{len(self._data) - self._position} bytes after the end of the message")


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def _advertise(entry: Advertise) -> bytes:
    return _u32(entry.client) + entry.channel_key + entry.mask_key


def _read_advertise(reader: _Reader) -> Advertise:
    return Advertise(reader.integer(), reader.take(PUBLIC_KEY_BYTES), reader.take(PUBLIC_KEY_BYTES))


def _sealed(items: Sequence[Sealed]) -> list[bytes]:
    return [_u32(len(items)), *(_u32(item.peer) + item.ciphertext for item in items)]


def _read_sealed(reader: _Reader) -> Sealed:
    return Sealed(reader.integer(), reader.take(SEALED_BYTES))


def _shares(items: Sequence[Share]) -> list[bytes]:
    return [_u32(len(items)), *(_u32(item.owner) + item.value.to_bytes(SHARE_BYTES, "big") for item in items)]


def _read_share(reader: _Reader) -> Share:
    return Share(reader.integer(), reader.integer(SHARE_BYTES))


def _body(message: Message) -> tuple[int, list[bytes]]:
    match message:
        case Advertise():
            return 1, [_advertise(message)]
        case Roster(entries):
            return 2, [_u32(len(entries)), *map(_advertise, entries)]
        case Shares(client, commitment, sealed):
            return 3, [_u32(client), commitment, *_sealed(sealed)]
        case Delivery(sealed):
            return 4, _sealed(sealed)
        case MaskedVector(client, packed):
            return 5, [_u32(client), packed]
        case UnmaskRequest(survivors):
            return 6, [_u32(len(survivors)), *map(_u32, survivors)]
        case Reveal(client, self_mask_seeds, mask_secrets):
            return 7, [_u32(client), *_shares(self_mask_seeds), *_shares(mask_secrets)]


_READERS: dict[int, Callable[[_Reader, RoundConfig], Message]] = {
    1: lambda r, _: _read_advertise(r),
    2: lambda r, _: Roster(r.items(_read_advertise)),
    3: lambda r, _: Shares(r.integer(), r.take(COMMITMENT_BYTES), r.items(_read_sealed)),
    4: lambda r, _: Delivery(r.items(_read_sealed)),
    5: lambda r, config: MaskedVector(r.integer(), r.take(packed_size(config.dim, config.bits))),
    6: lambda r, _: UnmaskRequest(r.items(_Reader.integer)),
    7: lambda r, _: Reveal(r.integer(), r.items(_read_share), r.items(_read_share)),
}
