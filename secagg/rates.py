"""CPU seconds of the parts of a round on this machine, probed with the functions that rounds are made of."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from secagg.channel import SharePair, seal, unseal
from secagg.config import RoundConfig
from secagg.graph import Graph, key_hash
from secagg.identity import SigningKey, verify
from secagg.keys import KeyPair, channel_keys, has_small_order, pair_mask_key, seed_commitment, self_mask_key
from secagg.messages import Sealed
from secagg.prg import CHUNK_BYTES, aligned_bytes, apply_masks, open_stream
from secagg.ring import RING_BITS, RingVector, add_packed, pack, to_ring, word_dtype
from secagg.shamir import combine, split

MIN_REPEATS = 5
_WORDS = 2**18  # a vector that no second-level cache holds
_MASKS = 12
_SMALL, _LARGE = 8, 48  # thresholds
_RING_CLIENTS = 256
_DIGEST = bytes(32)


@dataclass(frozen=True, slots=True)
class WordRates:
    """CPU seconds per word of one ring."""

    add: float  # numpy's sum of two chunks that are in the cache
    reduce: float  # to_ring
    pack: float
    unpack: float  # add_packed
    expand: float  # one mask, keystream and addition, into a vector that is not in the cache


@dataclass(frozen=True, slots=True)
class Rates:
    """CPU seconds per unit; the two X25519 figures include reading the keys from bytes."""

    keystream: float  # per byte, in the cache
    words: Mapping[int, WordRates]  # by bits of the ring
    open_stream: float  # per mask, whatever its length
    mask_call: float  # per vector, whatever its length: to_ring, apply_masks and pack
    unpack_call: float  # the same of add_packed
    key_pair: float  # KeyPair.from_secret
    small_order: float  # has_small_order: one exchange
    channel: float  # channel_keys: one exchange and two HKDF
    pair_mask: float  # pair_mask_key: one exchange and one HKDF
    self_mask: float  # self_mask_key: one HKDF
    commitment: float  # seed_commitment: one hash
    key_hash: float
    seal: float
    unseal: float
    sign: float
    verify: float
    split_call: float  # of one secret
    split_product: float  # the same, per holder and unit of threshold
    combine_term: float  # per unit of threshold, Lagrange coefficients known
    lagrange_call: float  # of one set of holders
    lagrange_product: float  # the same, per square of the threshold
    permute: float  # per client on the ring of a sparse graph
    item: float  # one entry of a message made, checked and filed: what Python itself costs


@dataclass(frozen=True, slots=True)
class _Probe:
    name: str
    run: Callable[[], object]
    units: float  # a run counts for so many


def probe(budget: float = 1.0) -> Rates:
    """Time every part in turn, again and again, for about `budget` CPU seconds and at least five times.

    The figure of each is the lower quartile of its repeats: other work on the machine only ever adds time, and
    the very least of many is luckier than a round can be.
    """
    end = time.process_time() + budget
    probes = [*_vector_probes(), *_key_probes(), *_sharing_probes()]
    for one in probes:
        one.run()  # the first time pays for what is loaded late
    samples: dict[str, list[float]] = {one.name: [] for one in probes}
    repeats = 0
    while repeats < MIN_REPEATS or time.process_time() < end:
        for one in probes:
            start = time.process_time()
            one.run()
            samples[one.name].append((time.process_time() - start) / one.units)
        repeats += 1
    return _rates({name: sorted(values)[repeats // 4] for name, values in samples.items()})


def lower_bound_now(neighbors: int, dim: int, bits: int) -> float:
    """`cost.lower_bound` from rates probed at this moment, a few milliseconds of each."""
    seconds = []
    for one in (_keystream_probe(64), _add_probe(word_dtype(bits), 128)):
        one.run()
        start = time.process_time()
        one.run()
        seconds.append((time.process_time() - start) / one.units)
    return masking_bound(neighbors, dim, bits, *seconds)


def masking_bound(neighbors: int, dim: int, bits: int, keystream: float, add: float) -> float:
    """(neighbors + 1) * dim * (bytes of a word * seconds of keystream per byte + seconds of one addition)."""
    return (neighbors + 1) * dim * (word_dtype(bits).itemsize * keystream + add)


def _rates(s: Mapping[str, float]) -> Rates:
    """What is timed at two thresholds as a line in their square."""
    split_call, split_product = _line(s["split small"], s["split large"])
    lagrange_call, lagrange_product = _line(
        s["rebuild small"] - s["combine small"], s["rebuild large"] - s["combine large"]
    )
    return Rates(
        keystream=s["keystream"],
        words={bits: _word_rates(s, bits) for bits in RING_BITS},
        open_stream=s["open stream"],
        mask_call=s["mask call"] - s["open stream"],
        unpack_call=s["unpack call"],
        key_pair=s["key pair"],
        small_order=s["small order"],
        channel=s["channel"],
        pair_mask=s["pair mask"],
        self_mask=s["self mask"],
        commitment=s["commitment"],
        key_hash=s["key hash"],
        seal=s["seal"],
        unseal=s["unseal"],
        sign=s["sign"],
        verify=s["verify"],
        split_call=split_call,
        split_product=split_product,
        combine_term=s["combine large"] / _LARGE,
        lagrange_call=lagrange_call,
        lagrange_product=lagrange_product,
        permute=s["permute"],
        item=s["item"],
    )


def _word_rates(s: Mapping[str, float], bits: int) -> WordRates:
    width = word_dtype(bits).name
    return WordRates(
        add=s[f"add {width}"],
        reduce=s[f"reduce {bits}"],
        pack=s[f"pack {bits}"],
        unpack=s[f"unpack {bits}"],
        expand=s[f"expand {width}"] - s["open stream"] / _WORDS,
    )


def _line(small: float, large: float) -> tuple[float, float]:
    """(a, b) of a + b t^2 through both probes, neither below zero."""
    slope = max(0.0, (large - small) / (_LARGE**2 - _SMALL**2))
    return max(0.0, small - slope * _SMALL**2), slope


def _keystream_probe(repeats: int) -> _Probe:
    zeros, room = memoryview(bytes(CHUNK_BYTES)), aligned_bytes(CHUNK_BYTES + 15).data
    return _repeated("keystream", partial(open_stream(_DIGEST).update_into, zeros, room), repeats, CHUNK_BYTES)


def _add_probe(dtype: np.dtype[Any], repeats: int) -> _Probe:
    chunk, other = (aligned_bytes(CHUNK_BYTES).view(dtype) for _ in range(2))
    chunk[:], other[:] = 1, 1
    return _repeated(f"add {dtype.name}", partial(np.add, chunk, other, chunk), repeats, chunk.size)


def _vector_probes() -> Iterator[_Probe]:
    yield _keystream_probe(8)
    keys = [bytes([i]) * 32 for i in range(_MASKS)]
    for dtype in (word_dtype(16), word_dtype(32)):
        yield _add_probe(dtype, 16)
        yield _repeated(f"expand {dtype.name}", partial(_mask, np.zeros(_WORDS, dtype), keys), 1, _MASKS * _WORDS)
    vector = np.arange(_WORDS) - _WORDS // 2
    for bits in RING_BITS:
        words = to_ring(vector, bits)
        yield _repeated(f"reduce {bits}", partial(to_ring, vector, bits), 1, _WORDS)
        yield _repeated(f"pack {bits}", partial(pack, words, bits), 1, _WORDS)
        yield _repeated(f"unpack {bits}", partial(add_packed, words.copy(), pack(words, bits), bits), 1, _WORDS)
    few = np.zeros(4, np.uint32)
    yield _repeated("open stream", partial(_mask, few, keys * 3), 1, 3 * _MASKS)
    yield _repeated("mask call", lambda: pack(_mask(to_ring(vector[:4], 24), keys[:1]), 24), 16)
    yield _repeated("unpack call", partial(add_packed, few, pack(few, 24), 24), 32)


def _key_probes() -> Iterator[_Probe]:
    own, peer, signer = KeyPair.from_secret(_DIGEST), KeyPair.from_secret(bytes([8] * 32)), SigningKey.generate()
    pair, signature = SharePair(1, 2), signer.sign(_DIGEST)
    sealed = seal(_DIGEST, pair, digest=_DIGEST, sender=0, recipient=1)
    functions: dict[str, Callable[[], object]] = {
        "key pair": lambda: KeyPair.from_secret(_DIGEST),
        "small order": lambda: has_small_order(peer.public),
        "channel": lambda: channel_keys(own, peer.public, own_id=0, peer_id=1, digest=_DIGEST),
        "pair mask": lambda: pair_mask_key(own, peer.public, own_id=0, peer_id=1, digest=_DIGEST),
        "self mask": lambda: self_mask_key(_DIGEST, client=0, digest=_DIGEST),
        "commitment": lambda: seed_commitment(_DIGEST, client=0, digest=_DIGEST),
        "key hash": lambda: key_hash(0, own.public, peer.public),
        "seal": lambda: seal(_DIGEST, pair, digest=_DIGEST, sender=0, recipient=1),
        "unseal": lambda: unseal(_DIGEST, sealed, digest=_DIGEST, sender=0, recipient=1),
        "sign": lambda: signer.sign(_DIGEST),
        "verify": lambda: verify(signer.public, signature, _DIGEST, signer=0, what="probe"),
    }
    for name, function in functions.items():
        yield _repeated(name, function, 8)
    yield _repeated("item", lambda: {item.peer: item for item in [Sealed(peer, sealed) for peer in range(64)]}, 2, 64)


def _sharing_probes() -> Iterator[_Probe]:
    for name, threshold in (("small", _SMALL), ("large", _LARGE)):
        points = range(1, threshold + 1)
        sharing = partial(split, _DIGEST, threshold=threshold, points=points, entropy=os.urandom)
        yield _repeated(f"split {name}", sharing, 2)
        yield _repeated(f"combine {name}", partial(combine, dict.fromkeys(points, 1)), 8)
        yield _repeated(f"rebuild {name}", partial(_rebuild_elsewhere, threshold), 2)
    config = RoundConfig(
        session=bytes(16),
        round_index=0,
        clients=tuple(range(_RING_CLIENTS)),
        threshold=2,
        min_survivors=3,
        bits=24,
        dim=1,
        context=_DIGEST,
        neighbors=2,
    )
    yield _repeated("permute", partial(Graph.build, config, config.clients, _DIGEST), 2, _RING_CLIENTS)


def _repeated(name: str, function: Callable[[], object], repeats: int, units: float = 1.0) -> _Probe:
    """`repeats` calls, `units` each."""

    def run() -> None:
        for _ in range(repeats):
            function()

    return _Probe(name, run, repeats * units)


def _mask(words: RingVector, keys: Sequence[bytes]) -> RingVector:
    apply_masks(words, add=keys, subtract=(), threads=1)
    return words


def _rebuild_elsewhere(threshold: int) -> None:
    """Combine shares at points that are hardly ever the same, whose Lagrange coefficients are not known yet."""
    step = 1 + int.from_bytes(os.urandom(2), "big")
    combine({step * i % 65537: 1 for i in range(1, threshold + 1)})  # shares of the secret 1 under a constant
