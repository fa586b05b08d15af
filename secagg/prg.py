"""Masks: AES-256 in counter mode, added into or subtracted from a vector of ring words.

Each key is used for one mask of one round and for nothing else, so the counter always starts at zero. Word i
of a mask is the i-th piece of the keystream of the vector's own width, little-endian: bytes 2i and 2i+1 for
uint16, bytes 4i to 4i+3 for uint32 (the 24-bit ring keeps the low bits). No other generator is reachable from
here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

from secagg.ring import RingVector

KEY_BYTES = 32
CHUNK_BYTES = 128 * 1024
"""A chunk of the vector and one of keystream stay in the second-level cache; 128 to 256 KiB measured best."""
OPEN_STREAMS = 256
"""Streams open at once, 0.8 KiB each. All at once was no faster for 1000 and 3000 keys, and a server has thousands."""
MAX_THREADS = 8
"""A thread holds the interpreter's lock about 1 us of every 20, so more than some 16 would wait for each other."""
BYTES_PER_THREAD = 2**26
"""Keystream for one thread, some 10 ms of it, before a second starts: that costs 0.2 ms and 8 us for each key."""

_BLOCK = 16
_LINE = 64  # bytes of a cache line; sums of chunks that start on one take a quarter less time
_ZEROS = bytes(_BLOCK)


def open_stream(key: bytes, counter: bytes = _ZEROS) -> CipherContext:
    """The AES-256-CTR keystream (NIST SP 800-38A, 6.5) of `key`, as an encryptor of zeros."""
    if len(key) != KEY_BYTES:
        raise ValueError(f"a mask key has {KEY_BYTES} bytes, not {len(key)}")
    return Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()


def apply_masks(
    vector: RingVector,  # uint16[D] or uint32[D], changed in place
    *,
    add: Sequence[bytes],
    subtract: Sequence[bytes],
    chunk_bytes: int = CHUNK_BYTES,
    threads: int | None = None,
) -> None:
    """Add the masks of the keys in `add` to `vector` and subtract those in `subtract`, in place, in its own width.

    Chunk outside, key inside: each chunk of the vector is loaded once for up to 256 keys, and nothing of the
    length of the vector is allocated. The result depends neither on `chunk_bytes` (a multiple of 16) nor on
    `threads`; None takes as many threads as this process has cores and the work pays for, eight at most.
    Keystream is zeroed in its buffer before returning. Raises ValueError for another type of vector, a key
    that has not 32 bytes (the vector is then half masked, and of no use), or a bad `chunk_bytes` or `threads`.
    """
    if vector.dtype not in (np.uint16, np.uint32) or vector.ndim != 1:
        raise ValueError(f"vector must be uint16[D] or uint32[D], not {vector.dtype}{list(vector.shape)}")
    if chunk_bytes < _BLOCK or chunk_bytes % _BLOCK:
        raise ValueError(f"chunk_bytes must be a positive multiple of {_BLOCK}, not {chunk_bytes}")
    if threads is None:
        threads = _paying_threads(vector.nbytes * (len(add) + len(subtract)))
    if threads < 1:
        raise ValueError(f"threads must be at least 1, not {threads}")
    keys = [(key, np.add) for key in add] + [(key, np.subtract) for key in subtract]
    blocks = -(-vector.nbytes // _BLOCK)
    share = max(1, -(-blocks // threads)) * _BLOCK // vector.itemsize  # words of one thread, whole blocks of them
    starts = range(0, vector.size, share)
    if len(starts) <= 1:
        return _mask_range(vector, 0, keys, chunk_bytes)
    from concurrent.futures import ThreadPoolExecutor  # here, because it brings logging along: 10 ms

    with ThreadPoolExecutor(len(starts)) as pool:
        parts = [pool.submit(_mask_range, vector[i : i + share], i, keys, chunk_bytes) for i in starts]
    for part in parts:
        part.result()  # raises what the thread raised


def _mask_range(part: RingVector, offset: int, keys: Sequence[tuple[bytes, np.ufunc]], chunk_bytes: int) -> None:
    """Mask `part`, whose first word is word `offset` of the vector; `offset` is that of a whole block."""
    size = part.itemsize
    counter = (offset * size // _BLOCK).to_bytes(_BLOCK, "big")
    zeros = memoryview(bytes(chunk_bytes))
    scratch = aligned_bytes(chunk_bytes + _BLOCK - 1)  # update_into wants room for one more block, less a byte
    room = scratch.data
    keystream = scratch[:chunk_bytes].view(part.dtype.newbyteorder("<"))
    # The first chunk is the blocks before a cache line, if any: numpy's own arrays start 16 bytes after one.
    first = min(-part.ctypes.data % _LINE // _BLOCK * _BLOCK, chunk_bytes) or chunk_bytes
    bounds = [0, *range(first // size, part.size, chunk_bytes // size), part.size]
    try:
        for batch in range(0, len(keys), OPEN_STREAMS):
            opened = keys[batch : batch + OPEN_STREAMS]
            streams = [(open_stream(key, counter).update_into, combine) for key, combine in opened]
            for start, stop in pairwise(bounds):
                chunk = part[start:stop]
                source, words = zeros[: chunk.nbytes], keystream[: chunk.size]
                for fill, combine in streams:
                    fill(source, room)
                    combine(chunk, words, chunk)
    finally:
        scratch[:] = 0


def aligned_bytes(size: int) -> NDArray[np.uint8]:
    """`size` bytes of new memory, not initialised, that begin at a cache line."""
    space = np.empty(size + _LINE, np.uint8)
    start = -space.ctypes.data % _LINE
    return space[start : start + size]


def _paying_threads(keystream_bytes: int) -> int:
    return max(1, min(_usable_cores(), MAX_THREADS, keystream_bytes // BYTES_PER_THREAD))


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux: the cores this process may run on
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
