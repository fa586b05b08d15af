"""The ring of integers modulo 2^bits: reduction, centred lift, and words packed to `bits` on the wire.

A 16-bit ring computes in uint16, twice as fast as uint32; the 24 and 32-bit rings compute in uint32. Sums wrap
modulo 2^16 or 2^32, and the low `bits` bits of such a sum are the sum modulo 2^bits. Nothing here clips, rounds
or scales; see `encoding.py` for that.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg.errors import BadMessage

RING_BITS = (16, 24, 32)
"""Ring sizes on offer: whole bytes, so that packing has no padding bits and is canonical."""

RingVector = NDArray[np.uint16] | NDArray[np.uint32]
_CHUNK_WORDS = 32 * 1024  # 128 KiB stay in the second-level cache


def word_dtype(bits: int) -> np.dtype[Any]:
    """The type of a word of the ring: uint16 for 16 bits, uint32 for 24 and 32."""
    return np.dtype(np.uint16 if bits == 16 else np.uint32)


def to_ring(
    vector: NDArray[np.int64],  # int64[D]
    bits: int,
) -> RingVector:  # word_dtype(bits)[D], each word below 2^bits
    """Reduce integers modulo 2^bits; the result is a new array.

    >>> to_ring(np.array([-1, 5]), 16).tolist()
    [65535, 5]
    """
    words: RingVector = vector.astype(word_dtype(bits))  # C conversion: modulo 2^16 or 2^32
    if bits == 24:
        words &= np.uint32(2**24 - 1)
    return words


def from_ring(
    words: RingVector,  # word_dtype(bits)[D]; bits above `bits` are ignored
    bits: int,
) -> NDArray[np.int64]:  # int64[D] in [-2^(bits-1), 2^(bits-1))
    """The centred lift: the representative of each residue that is nearest to zero.

    Raises ValueError for words of another type.

    >>> from_ring(np.array([65535, 5], np.uint16), 16).tolist()
    [-1, 5]
    """
    _check_words(words, bits)
    if bits == 16:
        return words.view(np.int16).astype(np.int64)
    if bits == 32:
        return words.view(np.int32).astype(np.int64)
    lifted = (words << np.uint32(8)).view(np.int32)
    lifted >>= np.int32(8)  # carries the sign down
    return lifted.astype(np.int64)


def packed_size(dim: int, bits: int) -> int:
    """Bytes of `dim` words of `bits` bits."""
    return dim * bits // 8


def pack(
    words: RingVector,  # word_dtype(bits)[D]
    bits: int,
) -> bytes:
    """The low `bits` bits of each word, little-endian, without padding (24 bits: 3 bytes a word).

    Raises ValueError for words of another type.
    """
    _check_words(words, bits)
    little = words.astype(words.dtype.newbyteorder("<"), copy=False)
    return _pack_24(little) if bits == 24 and little.size else little.tobytes()


def add_packed(
    accumulator: RingVector,  # word_dtype(bits)[D], changed in place, in its own width
    packed: bytes,
    bits: int,
) -> None:
    """Add what `pack` made of a vector of the same length; chunk by chunk, without a second whole vector.

    Raises BadMessage, the accumulator unchanged, if the length is another, and ValueError for an accumulator of
    another type.
    """
    _check_words(accumulator, bits)
    if len(packed) != packed_size(accumulator.size, bits):
        raise BadMessage(f"{len(packed)} bytes are not {accumulator.size} words of {bits} bits")
    if bits != 24:
        np.add(accumulator, np.frombuffer(packed, accumulator.dtype.newbyteorder("<")), out=accumulator)
    elif accumulator.size:
        _add_packed_24(accumulator, packed)


def _pack_24(words: NDArray[Any]) -> bytes:  # little-endian uint32[D], D > 0
    """Words stored four bytes at a time, three apart: three times as fast as three strided copies of one byte.

    The fourth byte of a word lands on the first of the next, and is put right when that is stored: numpy copies
    one-dimensional arrays from the front. The last word has no next. A BytesIO gives its own buffer away, so
    the packed bytes are not copied again.
    """
    target = io.BytesIO(bytes(3 * words.size))
    with target.getbuffer() as octets:
        spread: NDArray[Any] = np.ndarray(words.size - 1, words.dtype, octets, strides=(3,))
        spread[:] = words[:-1]
        octets[-3:] = words[-1:].tobytes()[:3]
        del spread  # a view of the buffer, which must be let go
    return target.getvalue()


def _add_packed_24(accumulator: RingVector, packed: bytes) -> None:
    """Read words four bytes at a time, three apart, and drop the fourth byte; the last word has none to drop."""
    words: NDArray[Any] = np.ndarray(accumulator.size - 1, "<u4", packed, strides=(3,))
    scratch = np.empty(min(words.size, _CHUNK_WORDS), np.uint32)
    for start in range(0, words.size, _CHUNK_WORDS):
        chunk = accumulator[start : min(start + _CHUNK_WORDS, words.size)]
        part = scratch[: chunk.size]
        part[:] = words[start : start + _CHUNK_WORDS]
        part &= np.uint32(2**24 - 1)
        np.add(chunk, part, out=chunk)
    accumulator[-1:] += np.uint32(int.from_bytes(packed[-3:], "little"))


def _check_words(words: RingVector, bits: int) -> None:
    if words.dtype != word_dtype(bits):
        raise ValueError(f"words of a {bits}-bit ring must be {word_dtype(bits)}, not {words.dtype}")
