"""Hundreds of rounds of every kind with clients lost anywhere: exact, or ended exactly when they must; no key twice."""

import gc
import os
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
from secagg_harness import centred_sum, fixed_entropy, identities, make_config

from secagg import Client, LocalRound, Mode, RoundConfig, Server, Stage, TooFewSurvivors, default_threshold
from secagg.channel import seal
from secagg.client_steps import AwaitVector, mask_keys_of
from secagg.graph import Graph, roster_hash
from secagg.messages import Message, PeerKeys

pytestmark = pytest.mark.slow
MALICIOUS = Mode.MALICIOUS_SERVER
DIM = 2000  # so that one vector kept in each round would show in memory


def random_config(rng: np.random.Generator, index: int) -> RoundConfig:
    mode = Mode.SEMI_HONEST if rng.random() < 0.5 else MALICIOUS
    bits = int(rng.choice([16, 24, 32]))
    if rng.random() < 0.5:
        n = int(rng.integers(3, 13))
        least = default_threshold(n) if mode is MALICIOUS else n // 2 + 1
        threshold = int(rng.integers(least, n + 1))
        return make_config(n, dim=DIM, bits=bits, mode=mode, threshold=threshold, round_index=index,
                           min_survivors=int(rng.integers(3, n + 1)))  # fmt: skip
    n = int(rng.integers(8, 17))
    neighbors = 2 * int(rng.integers(2, (n - 2) // 2 + 1))
    least = max(3, neighbors // 2 + 1) if mode is MALICIOUS else 3
    threshold = int(rng.integers(least, neighbors + 1))
    return make_config(n, dim=DIM, bits=bits, mode=mode, neighbors=neighbors, threshold=threshold, round_index=index)


def random_drops(rng: np.random.Generator, config: RoundConfig) -> dict[int, Stage]:
    stages = [stage for stage in Stage if config.malicious or stage is not Stage.AFTER_CONSENT]
    rate = rng.choice([0.0, 0.05, 0.15, 0.4])
    return {c: stages[rng.integers(len(stages))] for c in config.clients if rng.random() < rate}


def remaining(config: RoundConfig, drops: Mapping[int, Stage], upto: Stage) -> set[int]:
    """Those who have not disappeared by a stage."""
    order = list(Stage)
    return {c for c in config.clients if c not in drops or order.index(drops[c]) > order.index(upto)}


def expected_survivors(config: RoundConfig, drops: Mapping[int, Stage], graph: Graph | None) -> set[int] | None:
    """Who must be in the sum, or None where there can be none: counted from the graph, without any cryptography."""
    t = config.threshold
    advertised = remaining(config, drops, Stage.BEFORE_KEYS)
    if len(advertised) < config.quorum or graph is None:
        return None
    holders = {c: set(graph.holders(c)) for c in advertised}
    if any(len(held) < t for held in holders.values()):
        return None
    shared = remaining(config, drops, Stage.AFTER_KEYS)
    while not config.complete and (lost := [c for c in shared if len(holders[c] & shared) < t]):
        shared -= {lost[0]}
    survivors = shared & remaining(config, drops, Stage.AFTER_SHARES)
    if min(len(shared), len(survivors)) < config.quorum:
        return None
    asked = survivors & remaining(config, drops, Stage.AFTER_MASKED)
    if any(len(holders[c] & survivors) < t for c in asked):
        return None
    if config.malicious and len(asked) < t:
        return None
    answering = asked & remaining(config, drops, Stage.AFTER_CONSENT)
    if config.malicious and any(len(holders[c] & asked) < t for c in answering):
        return None
    for owner in shared:
        needed = owner in survivors or bool(set(graph.neighbors(owner)) & survivors)
        if needed and len(holders[owner] & answering) < t:
            return None
    return survivors


def play_one(config: RoundConfig, drops: Mapping[int, Stage], vectors: Mapping[int, np.ndarray]) -> str:
    """One round against the oracle; how it ended."""
    graphs: list[Graph] = []

    def tap(source: int, destination: int, message: Message, size: int) -> None:
        if isinstance(message, PeerKeys) and not graphs:
            hashes = message.hashes or b"".join(entry.key_hash() for entry in message.entries)
            graphs.append(Graph.build(config, message.present, roster_hash(config, message.present, hashes)))

    local, result = LocalRound(config, drops, identities=identities(config), entropy=os.urandom, tap=tap), None
    try:
        for client in local.open():
            local.submit(client, vectors[client])
        result = local.finish()
    except TooFewSurvivors:
        pass
    expected = expected_survivors(config, drops, graphs[0] if graphs else None)
    assert (result is None) == (expected is None), (config, drops)
    if result is None or expected is None:
        return "no sum"
    assert set(result.survivors) == expected
    assert np.array_equal(result.vector, centred_sum([vectors[c] for c in result.survivors], config))
    return f"{config.mode.value}, {'complete' if config.complete else 'regular'}, {config.bits}"


def rounds(count: int, seed: int) -> Iterator[tuple[RoundConfig, dict[int, Stage], dict[int, np.ndarray]]]:
    rng = np.random.default_rng(seed)
    for index in range(count):
        config = random_config(rng, index)
        half = 2 ** (config.bits - 1)
        vectors = {client: rng.integers(-half, half, DIM) for client in config.clients}
        yield config, random_drops(rng, config), vectors


def test_three_hundred_rounds_are_exact_or_end_exactly_when_they_must_and_keep_no_memory() -> None:
    ends: Counter[str] = Counter()
    at_round: dict[int, int] = {}
    tracemalloc.start()
    try:
        for index, (config, drops, vectors) in enumerate(rounds(300, seed=11)):
            if index in (50, 299):
                gc.collect()
                at_round[index] = tracemalloc.get_traced_memory()[0]
            ends[play_one(config, drops, vectors)] += 1
    finally:
        tracemalloc.stop()
    assert len(ends) == 1 + 12  # every mode, graph and ring
    assert 40 < ends["no sum"] < 260
    # A vector kept in each round would be 8 to 16 kB times 249; the cached Lagrange coefficients are 0.4 MB at most.
    assert at_round[299] - at_round[50] < 1_000_000


def test_the_memory_check_would_notice_one_vector_kept_in_each_round() -> None:
    kept = []
    tracemalloc.start()
    try:
        for _, _, vectors in rounds(249, seed=11):
            kept.append(next(iter(vectors.values())).astype(np.uint32))
        del vectors
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] > 1_000_000
    finally:
        tracemalloc.stop()
    assert len(kept) == 249


def test_no_key_with_its_nonce_and_no_mask_key_repeats_over_a_thousand_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the worst case: the entropy of every round is the same, so that only the round tells them apart."""
    sealed: list[bytes] = []

    def spy(key: bytes, *arguments: object, **named: object) -> bytes:
        sealed.append(key)  # the nonce is the same for all, so the keys must differ
        return seal(key, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr("secagg.client_steps.seal", spy)
    masks: Counter[bytes] = Counter()
    for index in range(1000):
        config, entropy = make_config(3, dim=1, round_index=index), fixed_entropy()
        clients = {client: Client(config, client, entropy=entropy) for client in config.clients}
        server = Server(config)
        for client in clients.values():
            server.receive(client.greeting)
        for recipient, message in server.deadline().items():
            server.receive(clients[recipient].receive(message))  # type: ignore[arg-type]
        for recipient, message in server.deadline().items():
            clients[recipient].receive(message)
            state = clients[recipient]._state
            assert isinstance(state, AwaitVector)
            for keys in mask_keys_of(config, recipient, state):
                masks.update(keys)
    assert len(sealed) == len(set(sealed)) == 6000
    assert Counter(masks.values()) == {1: 3000, 2: 3000}  # a self-mask once, a pair's mask at both its ends
    assert not set(sealed) & set(masks)
