"""Mutations of byte strings, and what must hold whatever bytes a decoder of secagg is given."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from secagg_harness import finished_federation, make_config

from secagg import Mode, RoundConfig
from secagg.errors import BadMessage
from secagg.messages import Message
from secagg.wire import decode, encode

HEADER_BYTES = 34  # version, type and digest: whoever changes them learns only that they are compared


@dataclass(frozen=True)
class Example:
    """One kind of round and a message of each type from it, one client having dropped."""

    name: str
    config: RoundConfig
    messages: tuple[Message, ...]

    def encodings(self) -> list[bytes]:
        return [encode(message, self.config) for message in self.messages]


@lru_cache(maxsize=1)
def examples() -> tuple[Example, ...]:
    """Both modes, complete and sparse, with rosters that fill their last byte of bits and that do not."""
    configs = {
        "semi-honest, complete": make_config(8, dim=9),
        "semi-honest, sparse": make_config(17, dim=9, neighbors=6),
        "malicious-server, complete": make_config(5, dim=9, bits=16, threshold=4, mode=Mode.MALICIOUS_SERVER),
        "malicious-server, sparse": make_config(9, dim=9, bits=32, neighbors=6, mode=Mode.MALICIOUS_SERVER),
    }
    return tuple(
        Example(name, config, tuple(finished_federation(config, absent=config.clients[-1:]).messages()))
        for name, config in configs.items()
    )


def understood(data: bytes, config: RoundConfig) -> bool:
    """Whether `data` decodes, and then to a message with exactly this encoding. Lets all but BadMessage through."""
    try:
        message = decode(data, config)
    except BadMessage as error:
        assert 0 < len(str(error)) < 200 and "\n" not in str(error)
        return False
    assert encode(message, config) == data
    return True


def allocated(call: Callable[[], object]) -> int:
    """The most bytes that were in use at once during the call, above those in use before it."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        call()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


Mutation = Callable[[random.Random, bytes, Sequence[bytes]], bytes]


def _span(rng: random.Random, data: bytes) -> tuple[int, int]:
    """A piece of the data, mostly short."""
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.choice([1, 1, 2, 4, 32, 33, 37, 64, 86, 200]))


def flip_bits(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    value = int.from_bytes(data, "big")
    for _ in range(rng.choice([1, 1, 2, 8])):
        value ^= 1 << rng.randrange(max(1, 8 * len(data)))
    return value.to_bytes(len(data) + 1, "big")[1:]


def set_bytes(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + bytes([rng.choice([0, 1, 0x7F, 0x80, 0xFF])]) * (end - start) + data[end:]


def insert(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + rng.randbytes(end - start) + data[start:]


def delete(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + data[end:]


def duplicate(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    start, end = _span(rng, data)
    return data[:end] + data[start:]


def exchange(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Two pieces of the same length trade places."""
    start, end = _span(rng, data)
    other = rng.randrange(len(data) + 1)
    size = min(end - start, len(data) - other, abs(other - start))
    changed = bytearray(data)
    changed[start : start + size], changed[other : other + size] = (
        data[other : other + size],
        data[start : start + size],
    )
    return bytes(changed)


def splice(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """The beginning of one message and the end of another, or a piece of the other inside."""
    other = rng.choice(others)
    start, end = _span(rng, data)
    first, last = _span(rng, other)
    return data[:start] + (other[first:] if rng.random() < 0.5 else other[first:last] + data[end:])


def edit_number(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Some four bytes, as if they were a count or an id, get another value."""
    start = rng.randrange(max(1, len(data) - 3))
    return with_number(data, start, rng.choice(hostile_numbers(int.from_bytes(data[start : start + 4], "big"))))


def change_header(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Another type of message, with the right digest."""
    return rng.choice(others)[:HEADER_BYTES] + data[HEADER_BYTES:]


MUTATIONS: tuple[Mutation, ...] = (
    flip_bits,
    set_bytes,
    insert,
    delete,
    duplicate,
    exchange,
    splice,
    edit_number,
    change_header,
)


def hostile_numbers(value: int) -> list[int]:
    return [n % 2**32 for n in (0, value - 1, value + 1, value * 2, 255, 65536, 2**31 - 1, 2**31, 2**32 - 1)]


def with_number(data: bytes, start: int, value: int) -> bytes:
    return data[:start] + value.to_bytes(4, "big") + data[start + 4 :]


def mutated(data: bytes, others: Sequence[bytes], *, seed: int, count: int, keep: int) -> Iterator[bytes]:
    """`count` mutations of `data`; in most of them the first `keep` bytes are those of `data` or of another."""
    rng = random.Random(seed)
    for _ in range(count):
        changed = data
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            changed = rng.choice(MUTATIONS)(rng, changed, others)
        if rng.random() < 0.9:
            header = data if rng.random() < 0.8 else rng.choice(others)
            changed = header[:keep] + changed[keep:]
        yield changed
