"""Masks: AES-256 in counter mode, added into or subtracted from a vector of uint32 words.

Each key is used for one mask of one round and for nothing else, so the counter always starts at zero. Word i
of a mask is bytes 4i..4i+3 of the keystream, little-endian, whatever the ring is (a smaller ring keeps the
low bits). No other generator is reachable from here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from secagg.ring import RingVector

KEY_BYTES = 32
CHUNK_BYTES = 128 * 1024
"""One chunk of the vector and one of keystream stay in the second-level cache (128-256 KiB measured best)."""


def open_stream(key: bytes, counter: bytes = bytes(16)) -> CipherContext:
    """The AES-256-CTR keystream (NIST SP 800-38A, 6.5) of `key`, as an encryptor of zeros."""
    if len(key) != KEY_BYTES:
        raise ValueError(f"a mask key has {KEY_BYTES} bytes, not {len(key)}")
    return Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()


def apply_masks(
    vector: RingVector,  # uint32[D], changed in place
    *,
    add: Sequence[bytes],
    subtract: Sequence[bytes],
    chunk_bytes: int = CHUNK_BYTES,
) -> None:
    """Add the masks of the keys in `add` to `vector` and subtract those in `subtract`, modulo 2^32, in place.

    Chunk outside, key inside: every stream stays open and each chunk of the vector is loaded once, so nothing
    of the length of the vector is allocated. The result does not depend on `chunk_bytes`.
    """
    streams: list[tuple[CipherContext, np.ufunc]] = [(open_stream(key), np.add) for key in add]
    streams += [(open_stream(key), np.subtract) for key in subtract]
    zeros = memoryview(bytes(chunk_bytes))
    buffer = bytearray(chunk_bytes + 15)  # update_into wants room for one more block, less a byte
    keystream = np.frombuffer(buffer, "<u4", count=chunk_bytes // 4)
    for start in range(0, vector.size, keystream.size):
        chunk = vector[start : start + keystream.size]
        for stream, combine in streams:
            stream.update_into(zeros[: 4 * chunk.size], buffer)
            combine(chunk, keystream[: chunk.size], out=chunk)
