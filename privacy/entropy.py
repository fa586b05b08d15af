"""Secret randomness for noise and Poisson samples: AES-256 in counter mode, keyed by the operating system.

No torch and no numpy generator is touched. Torch's CPU generator keeps 32 bits of any seed, so noise drawn from it
can be enumerated and subtracted. Every keystream has a key of its own, used once. The Gaussian transform is float64:
epsilon is proved for real arithmetic and an ideal generator; the transform is not hardened against floating-point
side channels (Mironov, "On significance of the least significant bits for differential privacy", CCS 2012), and not
constant-time.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

_CHUNK = 1 << 15  # words per pass: the transform's temporaries stay in the processor's cache


class Keystream:
    """The AES-256-CTR stream of one key. Not copied, not pickled, not used after a fork: noise drawn twice is none."""

    __slots__ = ("_encryptor", "_pid")

    def __init__(self, key: bytes) -> None:
        if len(key) != 32:
            raise ValueError(f"key must have 32 bytes, got {len(key)}")
        # The counter may start at zero because the key is never used for a second stream.
        self._encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
        self._pid = os.getpid()

    def words(self, n: int) -> NDArray[np.uint64]:
        """The next n words, uint64[n], read-only."""
        if n < 0:
            raise ValueError(f"n must be at least 0, got {n}")
        if os.getpid() != self._pid:
            raise RuntimeError("a keystream does not survive a fork: both processes would draw the same noise")
        return np.frombuffer(self._encryptor.update(bytes(8 * n)), dtype="<u8").astype(np.uint64, copy=False)

    def uniform(self, n: int) -> NDArray[np.float64]:
        """float64[n] in (0, 1): odd multiples of 2^-53, so never 0 or 1, and symmetric about 1/2."""
        odd = (self.words(n) >> np.uint64(11)) | np.uint64(1)
        return odd.astype(np.float64) * 2.0**-53

    def normal(self, n: int) -> NDArray[np.float64]:
        """float64[n], independent standard normals (Box and Muller 1958); the largest possible value is 8.57."""
        out = np.empty(n, dtype=np.float64)
        for start in range(0, n, _CHUNK):
            stop = min(start + _CHUNK, n)
            half = (stop - start + 1) // 2
            radius = np.sqrt(-2.0 * np.log(self.uniform(half)))
            angle = (2.0 * np.pi) * self.uniform(half)
            out[start : start + half] = radius * np.cos(angle)
            out[start + half : stop] = (radius * np.sin(angle))[: stop - start - half]
        return out

    def __copy__(self) -> NoReturn:
        raise TypeError("a keystream cannot be copied: the copy would repeat its noise")

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise TypeError("a keystream cannot be copied: the copy would repeat its noise")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a keystream cannot be pickled: the copy would repeat its noise")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Entropy:
    """Where keys come from: the operating system, or, in tests alone, a seed. Make one with `os()` or `seeded()`.

    A seeded source repeats itself, so whoever uses it must treat epsilon as infinite; `is_seeded` says so.
    """

    _root: bytes | None
    _counter: Iterator[int] = field(default_factory=itertools.count)

    @classmethod
    def os(cls) -> Entropy:
        """Each keystream gets a fresh key from `os.urandom`; no key is kept here."""
        return cls(None)

    @classmethod
    def seeded(cls, seed: int) -> Entropy:
        """Reproducible keystreams for tests. NOT PRIVATE: `is_seeded` is True and epsilon is infinite."""
        return cls(hashlib.sha256(b"fedpdpo insecure seed\0" + str(int(seed)).encode()).digest())

    @property
    def is_seeded(self) -> bool:
        """Whether the keystreams can be repeated by whoever knows the seed."""
        return self._root is not None

    def child(self, *labels: str | int) -> Entropy:
        """A source for one purpose. Seeded: derived from the labels alone. OS: the source itself."""
        if self._root is None:
            return self
        path = "".join(f"{type(label).__name__}:{len(str(label))}:{label};" for label in labels)
        return Entropy(hmac.digest(self._root, b"child\0" + path.encode(), "sha256"))

    def keystream(self) -> Keystream:
        """A stream under a key used nowhere else. Seeded: successive streams differ, and repeat with the seed."""
        if self._root is None:
            return Keystream(os.urandom(32))
        return Keystream(hmac.digest(self._root, b"stream\0" + str(next(self._counter)).encode(), "sha256"))

    def __repr__(self) -> str:
        return "Entropy.os()" if self._root is None else "Entropy.seeded(...)"


def poisson_sample(size: int, sample_rate: float, entropy: Entropy) -> NDArray[np.int64]:
    """Indices of a Poisson sample, int64[k], sorted: each of `size` pairs is in it independently.

    A pair is included if its 64-bit word is below floor(sample_rate * 2^64), so the true rate is below the stated one
    by less than 2^-64, and exactly 1 at rate 1. k = 0 is legal and must still cost a noisy step. Raises ValueError
    unless size >= 0 and 0 < sample_rate <= 1.
    """
    if size < 0:
        raise ValueError(f"size must be at least 0, got {size}")
    if not 0.0 < sample_rate <= 1.0:
        raise ValueError(f"sample_rate must be in (0, 1], got {sample_rate}")
    words = entropy.keystream().words(size)
    threshold = int(math.ldexp(sample_rate, 64))  # exact: scaling by a power of two rounds nothing
    if threshold == 1 << 64:
        return np.arange(size, dtype=np.int64)
    return np.flatnonzero(words < np.uint64(threshold)).astype(np.int64, copy=False)
