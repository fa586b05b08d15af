"""The ring of integers modulo 2^bits: reduction, centred lift, and words packed to `bits` on the wire.

Arithmetic is done in uint32 whatever `bits` is: sums wrap modulo 2^32, and the low `bits` bits of such a sum
are the sum modulo 2^bits. Nothing here clips, rounds or scales; see `encoding.py` for that.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secagg.errors import BadMessage

RING_BITS = (16, 24, 32)
"""Ring sizes on offer: whole bytes, so that packing has no padding bits and is canonical."""

RingVector = NDArray[np.uint32]
_CHUNK_WORDS = 32 * 1024  # 128 KiB stay in the second-level cache


def to_ring(
    vector: NDArray[np.int64],  # int64[D]
    bits: int,
) -> RingVector:  # uint32[D], each word below 2^bits
    """Reduce integers modulo 2^bits; the result is a new array.

    >>> to_ring(np.array([-1, 5]), 16).tolist()
    [65535, 5]
    """
    words = vector.astype(np.uint32)  # C conversion: modulo 2^32
    words &= np.uint32(2**bits - 1)
    return words


def from_ring(
    words: RingVector,  # uint32[D]; bits above `bits` are ignored
    bits: int,
) -> NDArray[np.int64]:  # int64[D] in [-2^(bits-1), 2^(bits-1))
    """The centred lift: the representative of each residue that is nearest to zero.

    >>> from_ring(np.array([65535, 5], np.uint32), 16).tolist()
    [-1, 5]
    """
    half = np.int64(2 ** (bits - 1))
    lifted = words.astype(np.int64)
    lifted += half
    lifted &= np.int64(2**bits - 1)
    lifted -= half
    return lifted


def packed_size(dim: int, bits: int) -> int:
    """Bytes of `dim` words of `bits` bits."""
    return dim * bits // 8


def pack(words: RingVector, bits: int) -> bytes:
    """The low `bits` bits of each word, little-endian, without padding (24 bits: 3 bytes a word)."""
    octets = words.astype("<u4", copy=False).view(np.uint8).reshape(-1, 4)
    packed = np.empty((words.size, bits // 8), np.uint8)
    for i in range(bits // 8):  # strided byte copies are several times faster than one fancy copy
        packed[:, i] = octets[:, i]
    return packed.tobytes()


def add_packed(
    accumulator: RingVector,  # uint32[D], changed in place modulo 2^32
    packed: bytes,
    bits: int,
) -> None:
    """Add what `pack` made of a vector of the same length; chunk by chunk, without a second whole vector.

    Raises BadMessage, the accumulator unchanged, if the length is another.
    """
    width = bits // 8
    if len(packed) != packed_size(accumulator.size, bits):
        raise BadMessage(f"{len(packed)} bytes are not {accumulator.size} words of {bits} bits")
    octets = np.frombuffer(packed, np.uint8).reshape(-1, width)
    buffer = np.zeros((_CHUNK_WORDS, 4), np.uint8)
    words = buffer.view("<u4").reshape(-1)
    for start in range(0, accumulator.size, _CHUNK_WORDS):
        chunk = accumulator[start : start + _CHUNK_WORDS]
        for i in range(width):
            buffer[: chunk.size, i] = octets[start : start + chunk.size, i]
        np.add(chunk, words[: chunk.size], out=chunk)
