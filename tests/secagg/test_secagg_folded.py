"""Rounds in a chain: fewer messages, the same sums and refusals, fresh keys, and clients that come and go."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from secagg_harness import fixed_entropy, identities, make_config
from secagg_hostile import secrets_in
from secagg_walk import reachable

from secagg import BadMessage, Mode, RoundConfig, TooFewSurvivors, WrongPhase, from_ring
from secagg.errors import SecAggError
from secagg.folded import Folded, FoldedClient, FoldedServer, decode_folded, encode_folded, next_round
from secagg.journal import JournalError, MemoryJournal
from secagg.messages import Advertise, Delivery, MaskedVector, PeerKeys, Reveal, UnmaskRequest

ROUNDS = {
    "complete": make_config(6),
    "complete, malicious server": make_config(6, mode=Mode.MALICIOUS_SERVER),
    "6-regular": make_config(11, neighbors=6, threshold=3),
    "6-regular, malicious server": make_config(11, neighbors=6, threshold=4, mode=Mode.MALICIOUS_SERVER),
}
each_round = pytest.mark.parametrize("config", ROUNDS.values(), ids=ROUNDS)


def model_of(round_index: int) -> bytes:
    return round_index.to_bytes(32, "big")


class Chain:
    """Folded clients and a folded server, with every message through its bytes and counted."""

    def __init__(self, config: RoundConfig, *, journal: MemoryJournal | None = None) -> None:
        entropy, keys = fixed_entropy(), identities(config)
        self.config = config  # of the round that is prepared
        self.clients = {
            c: FoldedClient(config, c, identity=keys.get(c), entropy=entropy, journal=journal) for c in config.clients
        }
        self.server = FoldedServer(config)
        self.current: RoundConfig | None = None
        self.sent: list[Folded] = []
        self.messages: Counter[int] = Counter()

    def to_server(self, client: int, message: Folded) -> None:
        data = encode_folded(message, self.current, self.config)
        self.messages[client] += 1
        received = decode_folded(data, self.current, self.config)
        assert received == message
        self.sent.append(received)
        self.server.receive(received)

    def stage(self, absent: frozenset[int] = frozenset()) -> Mapping[int, Folded]:
        """One deadline, its messages to those who are there, and their replies."""
        outgoing = self.server.deadline()
        for client, message in outgoing.items():
            if client not in absent:
                data = encode_folded(message, self.current, self.config)
                reply = self.clients[client].receive(decode_folded(data, self.current, self.config))
                if reply is not None:
                    self.to_server(client, reply)
        return outgoing

    def open(self, absent: frozenset[int] = frozenset()) -> None:
        for client in self.config.clients:
            if client not in absent:
                self.to_server(client, self.clients[client].join(self.config.round_index))
        self.stage(absent)
        self.stage(absent)

    def round(
        self,
        vectors: Mapping[int, np.ndarray],
        *,
        silent: frozenset[int] = frozenset(),
        leaving: frozenset[int] = frozenset(),
    ) -> np.ndarray:
        """One round: `silent` clients never submit (and may join the next), `leaving` ones submit and are gone."""
        model = model_of(self.config.round_index)
        self.server.begin(model)
        self.current, self.config = replace(self.config, model=model), next_round(self.config)
        for client, machine in self.clients.items():
            if client not in silent and machine.ready:
                self.to_server(client, machine.submit(vectors[client], model))
            else:
                self.to_server(client, machine.join(self.config.round_index))
        self.stage(leaving)
        self.stage(leaving)
        if self.config.malicious:
            self.stage(leaving)
        return from_ring(self.server.total.vector, self.config.bits)


def vectors_of(config: RoundConfig, seed: int) -> dict[int, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {client: rng.integers(-900, 900, config.dim) for client in config.clients}


@each_round
def test_a_chain_of_rounds_gives_each_rounds_sum(config: RoundConfig) -> None:
    chain = Chain(config)
    chain.open()
    for index in range(4):
        vectors = vectors_of(config, index)
        assert np.array_equal(chain.round(vectors), sum(vectors.values()))


@each_round
def test_a_round_takes_two_messages_from_each_client_and_three_with_consistency(config: RoundConfig) -> None:
    chain = Chain(config)
    chain.open()
    for index in range(3):
        chain.messages.clear()
        chain.round(vectors_of(config, index))
        assert set(chain.messages.values()) == {3 if config.malicious else 2}
        assert chain.server.prepared


@each_round
def test_a_client_that_misses_a_round_is_left_out_and_comes_back(config: RoundConfig) -> None:
    chain, lost = Chain(config), config.clients[2]
    chain.open()
    vectors = vectors_of(config, 1)
    others = sum(vector for client, vector in vectors.items() if client != lost)
    assert np.array_equal(chain.round(vectors, silent=frozenset({lost})), others)
    assert np.array_equal(chain.round(vectors), sum(vectors.values()))


@each_round
def test_a_client_that_leaves_after_its_vector_is_in_this_sum_and_not_in_the_next(config: RoundConfig) -> None:
    chain, lost = Chain(config), config.clients[-1]
    chain.open()
    vectors = vectors_of(config, 1)
    assert np.array_equal(chain.round(vectors, leaving=frozenset({lost})), sum(vectors.values()))
    del chain.clients[lost]
    others = sum(vector for client, vector in vectors.items() if client != lost)
    assert np.array_equal(chain.round(vectors), others)


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_whoever_comes_and_goes_a_sum_is_that_of_those_who_submitted_or_there_is_none(data: st.DataObject) -> None:
    config = data.draw(st.sampled_from(list(ROUNDS.values())))
    chain = Chain(config)
    chain.open()
    few = st.frozensets(st.sampled_from(config.clients), max_size=2)
    for index in range(3):
        vectors, silent, leaving = vectors_of(config, index), data.draw(few), data.draw(few)
        submitting = [c for c, machine in chain.clients.items() if machine.ready and c not in silent]
        if not chain.server.prepared:
            return
        try:
            total = chain.round(vectors, silent=silent, leaving=leaving)
        except TooFewSurvivors:
            return
        assert np.array_equal(total, sum(vectors[client] for client in submitting))


def test_keys_are_fresh_in_every_round() -> None:
    chain = Chain(ROUNDS["complete"])
    chain.open()
    for index in range(5):
        chain.round(vectors_of(chain.config, index))
    adverts = [m.following for m in chain.sent if isinstance(m.following, Advertise)]
    keys = [key for advert in adverts for key in (advert.channel_key, advert.mask_key)]
    assert len(keys) == len(set(keys)) == 2 * 6 * 6
    assert len({m.current.packed for m in chain.sent if isinstance(m.current, MaskedVector)}) == 5 * 6


def test_masks_of_clients_that_were_shown_different_models_give_no_sum() -> None:
    for name in ("complete", "complete, malicious server"):
        config = ROUNDS[name]
        chain = Chain(config)
        chain.open()
        chain.server.begin(model_of(1))
        chain.current, chain.config = replace(config, model=model_of(1)), next_round(config)
        vectors = vectors_of(config, 0)
        victim = config.clients[0]
        for client, machine in chain.clients.items():
            message = machine.submit(vectors[client], model_of(2 if client == victim else 1))
            chain.server.receive(message)  # objects, not bytes: a server that does not care about the binding
        outgoing = chain.server.deadline()
        bytes_for_victim = encode_folded(outgoing[victim], chain.current, chain.config)
        with pytest.raises(BadMessage, match="another model"):
            decode_folded(bytes_for_victim, replace(chain.current, model=model_of(2)), chain.config)
        with pytest.raises(SecAggError):
            for client, message in outgoing.items():
                reply = chain.clients[client].receive(message)
                assert reply is not None
                chain.server.receive(reply)
            chain.server.deadline()
            total = from_ring(chain.server.total.vector, config.bits)
            assert not np.array_equal(total, sum(vectors.values()))
            raise SecAggError("semi-honest: the masks did not cancel")


def test_a_second_vector_and_a_round_that_was_left_are_refused() -> None:
    chain = Chain(ROUNDS["complete"])
    chain.open()
    client = chain.clients[10]
    client.submit(vectors_of(chain.config, 0)[10], model_of(1))
    with pytest.raises(WrongPhase, match="no round prepared"):
        client.submit(vectors_of(chain.config, 0)[10], model_of(1))
    with pytest.raises(WrongPhase, match="does not join round 7"):
        client.join(7)


def test_a_restarted_client_with_a_journal_cannot_mask_in_a_round_again() -> None:
    journal = MemoryJournal()
    chain = Chain(ROUNDS["complete"], journal=journal)
    chain.open()
    chain.round(vectors_of(chain.config, 0))
    again = Chain(ROUNDS["complete"], journal=journal)  # same session and round, fresh process
    again.open()
    with pytest.raises(WrongPhase):
        again.round(vectors_of(chain.config, 1))


def test_a_failed_client_stays_failed_and_reveals_nothing_of_either_round() -> None:
    chain = Chain(ROUNDS["complete"])
    chain.open()
    chain.server.begin(model_of(1))
    client = chain.clients[10]
    client.submit(vectors_of(chain.config, 0)[10], model_of(1))
    forged = PeerKeys(chain.config.clients, b"", ())
    with pytest.raises(SecAggError):
        client.receive(Folded(UnmaskRequest(chain.config.clients), forged))
    with pytest.raises(WrongPhase, match="failed"):
        client.receive(Folded(UnmaskRequest(chain.config.clients), None))
    with pytest.raises(WrongPhase):
        client.join(100)


def secrets_of(client: FoldedClient) -> set[bytes]:
    """The secrets that a folded client holds of both its rounds."""
    machines = [machine for machine in (client._current, client._following) if machine is not None]
    return {secret for machine in machines for secret in secrets_in(machine)}


def test_a_failed_client_holds_nothing_of_either_round() -> None:
    chain = Chain(ROUNDS["complete, malicious server"])
    chain.open()
    chain.server.begin(model_of(1))
    client = chain.clients[10]
    client.submit(vectors_of(chain.config, 0)[10], model_of(1))
    tags = {secret for secret in secrets_of(client) if len(secret) == 16}
    assert len(tags) == 5 and tags & set(reachable(client._current))
    with pytest.raises(SecAggError) as caught:
        client.receive(Folded(None, Delivery(())))
    assert client._current is None and client._following is None and not client.ready
    assert not tags & set(reachable(client))
    assert caught.value.__traceback__ is not None
    for call in (lambda: client.join(100), lambda: client.submit(vectors_of(chain.config, 0)[10], model_of(2))):
        with pytest.raises(WrongPhase):
            call()


def test_a_call_that_is_refused_before_anything_is_masked_spends_nothing() -> None:
    chain = Chain(ROUNDS["complete"])
    client = chain.clients[10]
    with pytest.raises(WrongPhase, match="no round prepared"):
        client.submit(vectors_of(chain.config, 0)[10], model_of(1))
    chain.open()
    with pytest.raises(WrongPhase, match="does not join round 7"):
        client.join(7)
    with pytest.raises(ValueError, match="vector must be"):
        client.submit(np.zeros(3, np.int64), model_of(1))
    with pytest.raises(ValueError, match="model must have 32 bytes"):
        client.submit(vectors_of(chain.config, 0)[10], b"")
    with pytest.raises(ValueError, match="round_index"):
        client.join(2**63)
    vectors = vectors_of(chain.config, 0)
    assert client.ready and np.array_equal(chain.round(vectors), sum(vectors.values()))


def test_a_client_that_could_not_record_its_vector_is_failed_and_empty() -> None:
    class Full(MemoryJournal):
        def once(self, entry: bytes, /) -> None:
            raise JournalError("no space left")

    chain = Chain(ROUNDS["complete"], journal=Full())
    chain.open()
    client = chain.clients[10]
    with pytest.raises(JournalError):
        client.submit(vectors_of(chain.config, 0)[10], model_of(1))
    assert client._current is None and client._following is None
    with pytest.raises(WrongPhase):
        client.join(100)


def test_a_part_that_is_refused_does_not_hold_up_the_other() -> None:
    chain = Chain(ROUNDS["complete"])
    chain.open()
    chain.server.begin(model_of(1))
    message = chain.clients[10].submit(vectors_of(chain.config, 0)[10], model_of(1))
    chain.server.receive(Folded(message.current, None))
    with pytest.raises(SecAggError, match="twice"):
        chain.server.receive(message)
    with pytest.raises(SecAggError, match="client 10 sent its advertisement twice"):
        chain.server.receive(Folded(None, message.following))


def test_a_next_round_without_enough_clients_is_given_up_and_the_current_one_ends_well() -> None:
    chain = Chain(ROUNDS["complete"])
    chain.open()
    chain.server.begin(model_of(1))
    vectors = vectors_of(chain.config, 0)
    for client, machine in chain.clients.items():
        message = machine.submit(vectors[client], model_of(1))
        chain.server.receive(Folded(message.current, message.following if client < 19 else None))
    for client, message in chain.server.deadline().items():
        assert message.following is None
        reply = chain.clients[client].receive(message)
        assert isinstance(reply, Folded) and isinstance(reply.current, Reveal) and reply.following is None
        chain.server.receive(reply)
    chain.server.deadline()
    assert np.array_equal(from_ring(chain.server.total.vector, 24), sum(vectors.values()))
    assert not chain.server.prepared
    with pytest.raises(WrongPhase, match="no round is prepared"):
        chain.server.begin(model_of(2))
    chain.server.reopen()
    chain.current, chain.config = None, next_round(next_round(chain.config))
    chain.open()
    assert np.array_equal(chain.round(vectors), sum(vectors.values()))


def test_a_folded_message_is_never_empty_and_garbage_is_refused() -> None:
    config = ROUNDS["complete"]
    with pytest.raises(BadMessage):
        Folded(None, None)
    rng = random.Random(5)
    for _ in range(500):
        with pytest.raises(BadMessage):
            decode_folded(rng.randbytes(rng.randrange(60)), config, next_round(config))
    with pytest.raises(BadMessage, match="no current round"):
        decode_folded(encode_folded(Folded(UnmaskRequest(config.clients), None), config, config), None, config)
