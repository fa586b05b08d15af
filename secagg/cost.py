"""What a round will cost before it runs: CPU seconds, bytes and memory from its shape and the rates of a machine.

Seconds are the sum over all threads. They hold what `RoundSum` counts: no encoding of messages, no network and no
training. Nothing here allocates with the size of a round, so a million clients cost as little as three.

Counts of cryptographic work follow Bonawitz et al. 2017 and Bell et al. 2020 and are exact; what Python adds for each
entry of a message was fitted to measured rounds (the constants below).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from secagg.prg import CHUNK_BYTES, OPEN_STREAMS
from secagg.rates import Rates, WordRates, masking_bound, probe
from secagg.ring import packed_size, word_dtype
from secagg.sizes import RoundShape, download, upload

__all__ = ["Rates", "RoundCosts", "RoundShape", "WordRates", "expansions", "lower_bound", "predict", "probe"]

_COLD = 1.06
"""A function in a round, between others, against the same function in the tight loop of a probe."""

_STREAM_BYTES = 850  # an open keystream
_KEY_BYTES = 73  # a derived key in a list
_NEIGHBOR_BYTES = 600  # a client's keys and shares of one neighbour
_ROSTER_BYTES = 250  # one client in a graph, with the hash of its keys
_CLIENT_BYTES = 1000  # what the server keeps of one client
_SEALED_BYTES = 245  # a sealed pair of shares at the server
_REVEALED_BYTES = 200  # a revealed share at the server
_TAG_BYTES = 150  # a tag, at either party


@dataclass(frozen=True, slots=True)
class RoundCosts:
    """What one round costs; client figures are of one client that stays to the end.

    client_mask_seconds: of the stage that masks the vector, derivation of the mask keys included.
    client_stages, server_stages: the same seconds by stage, with the names of `RoundSum`.
    expansions: masks that the server computes, an expected number in a sparse graph.
    client_memory_bytes, server_memory_bytes: peak of vectors, keys and shares, without interpreter and model.
    """

    client_seconds: float
    client_mask_seconds: float
    server_seconds: float
    upload_bytes: int
    download_bytes: int
    client_memory_bytes: int
    server_memory_bytes: int
    expansions: float
    client_stages: Mapping[str, float]
    server_stages: Mapping[str, float]


def predict(shape: RoundShape, rates: Rates) -> RoundCosts:
    """The costs of a round of this shape on the machine that the rates are of."""
    client, server = _client_stages(shape, rates), _server_stages(shape, rates)
    return RoundCosts(
        client_seconds=sum(client.values()),
        client_mask_seconds=client["mask"],
        server_seconds=sum(server.values()),
        upload_bytes=upload(shape),
        download_bytes=download(shape),
        client_memory_bytes=_client_memory(shape),
        server_memory_bytes=_server_memory(shape),
        expansions=expansions(shape),
        client_stages=client,
        server_stages=server,
    )


def lower_bound(neighbors: int, dim: int, bits: int, rates: Rates) -> float:
    """CPU seconds below which no one masks `dim` words for `neighbors` others and itself this way.

    (neighbors + 1) * dim * (bytes of a word / keystream rate + 1 / addition rate), both in the cache.
    """
    return masking_bound(neighbors, dim, bits, rates.keystream, rates.words[bits].add)


def expansions(shape: RoundShape) -> float:
    """Masks that the server computes: one of each survivor, and those between a dropped client and its survivors."""
    return shape.survivors + shape.gone * shape.surviving_neighbors(of_dropped=True)


def _client_stages(shape: RoundShape, rates: Rates) -> dict[str, float]:
    n, k, words = shape.clients, shape.degree, rates.words[shape.bits]
    signing = shape.malicious * k * (rates.verify + 2 * rates.self_mask)  # a tag is one HKDF, as a self-mask key is
    graph = 0.0 if shape.complete else n * rates.permute
    split = 2 * (rates.split_call + rates.split_product * shape.holders * shape.threshold)
    sharing = split + k * rates.channel + (k + 1) * rates.key_hash + graph + signing
    masking = k * rates.pair_mask + rates.self_mask + (k + 1) * rates.open_stream + rates.mask_call
    stages = {
        "advertise": 2 * rates.key_pair + shape.malicious * rates.sign,
        "share": _COLD * sharing + k * rates.seal + rates.item * (100 + 8 * k + n / 4),
        "open": k * rates.unseal,
        "mask": _COLD * masking + shape.dim * (words.reduce + (k + 1) * words.expand + words.pack),
    }
    answer = rates.item * (30 + 1.3 * k + n / 10)
    if not shape.malicious:
        return {**stages, "reveal": answer}
    consent = _COLD * rates.sign + rates.item * (30 + n / 4)
    verified = shape.surviving_neighbors(of_dropped=False) * rates.verify
    return {**stages, "consent": consent, "reveal": _COLD * verified + answer}


def _server_stages(shape: RoundShape, rates: Rates) -> dict[str, float]:
    n, k, survivors, words = shape.clients, shape.degree, shape.survivors, rates.words[shape.bits]
    sparse, tags = not shape.complete, 2 * shape.degree * shape.malicious
    advertised = 2 * rates.small_order + rates.key_hash + shape.malicious * rates.verify + sparse * rates.permute
    stages = {
        "advertise": n * (_COLD * advertised + rates.item * (5 + 40 * sparse)),
        "share": n * rates.item * (5 + 35 * sparse + 1.6 * k),
        "mask": survivors * (rates.unpack_call + (40 + tags) * rates.item + shape.dim * words.unpack),
    }
    if shape.malicious:
        entries = rates.item * (survivors / 10 + 0.6 * k)
        stages["consent"] = survivors * (_COLD * rates.verify + entries)
    return {**stages, "reveal": _unmasking(shape, rates)}


def _unmasking(shape: RoundShape, rates: Rates) -> float:
    """Rebuild a secret of every client and take out the masks; each set of holders needs Lagrange coefficients once."""
    t, computed = shape.threshold, expansions(shape)
    sets = 1 if shape.complete else shape.clients
    pairs = computed - shape.survivors
    rebuilding = sets * (rates.lagrange_call + rates.lagrange_product * t**2) + shape.clients * rates.combine_term * t
    keys = (
        shape.survivors * (rates.commitment + rates.self_mask)
        + shape.gone * rates.key_pair
        + pairs * rates.pair_mask
        + computed * rates.open_stream
    )
    entries = rates.item * (20 * shape.clients + 1.2 * shape.survivors * shape.degree)
    return _COLD * (rebuilding + keys) + entries + shape.dim * computed * rates.words[shape.bits].expand


def _client_memory(shape: RoundShape) -> int:
    """The caller's int64 vector beside the ring words and the packed copy, or beside two of the packed copies."""
    packed = packed_size(shape.dim, shape.bits)
    vectors = 8 * shape.dim + packed + max(packed, shape.dim * word_dtype(shape.bits).itemsize)
    streams = min(shape.degree + 1, OPEN_STREAMS) * _STREAM_BYTES + 2 * CHUNK_BYTES
    neighbor = _NEIGHBOR_BYTES + 3 * _TAG_BYTES * shape.malicious
    return vectors + streams + shape.degree * neighbor + shape.clients * _ROSTER_BYTES


def _server_memory(shape: RoundShape) -> int:
    """The sealed shares of all before there are vectors, or the sum, a message into it and what unmasking needs."""
    entries = shape.clients * shape.degree
    vectors = shape.dim * word_dtype(shape.bits).itemsize + 2 * packed_size(shape.dim, shape.bits)
    computed = round(expansions(shape))
    keys = computed * _KEY_BYTES + 2 * CHUNK_BYTES + min(computed, OPEN_STREAMS) * _STREAM_BYTES
    tags = 2 * entries * _TAG_BYTES * shape.malicious  # as they came and as they go out
    stages = entries * _SEALED_BYTES, vectors + tags, vectors + keys + entries * _REVEALED_BYTES
    return shape.clients * _CLIENT_BYTES + max(stages)
