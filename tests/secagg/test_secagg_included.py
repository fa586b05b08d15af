"""The tag with which a client says that its vector holds a mask, and the part of the sum that opens without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from secagg_harness import Federation, identity_of, make_config, random_vectors, request_for
from secagg_hostile import make_clients, on, play, rebuilt, shares_for

from secagg import Client, Mode, RoundConfig, SecAggError, Server, from_ring
from secagg.client import TRANSITIONS
from secagg.client_steps import AwaitRequest, Self
from secagg.errors import BadMessage, PeerMisbehaved, TooFewSurvivors
from secagg.keys import KeyPair, channel_keys, channel_keys_and_tags, pair_mask_key, self_mask_key
from secagg.messages import Consent, Consents, Delivery, Included, MaskedVector, Reveal, Sealed, Shares, UnmaskRequest
from secagg.prg import apply_masks
from secagg.ring import add_packed, word_dtype
from secagg.server import CollectShares
from secagg.solver import GraphParameters
from secagg.wire import decode, encode

MALICIOUS = Mode.MALICIOUS_SERVER
CONFIGS = {
    "complete": make_config(7, mode=MALICIOUS),
    "sparse": make_config(9, neighbors=6, threshold=4, mode=MALICIOUS),
}
each_graph = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
ME = 10


# A server that withholds deliveries, to cut a part smaller than `honest_part` out of a sparse sum. Nobody is corrupted.

RING = make_config(40, dim=8, neighbors=22, threshold=12, mode=MALICIOUS)
PART, CALLED_DROPPED = range(11), (16, 17, 33, 34)  # places on the ring; found by search
CLAIMED = GraphParameters(40, 22, 12, 12, False, 0, 40.0, 30.0).honest_part


class Cut:
    """The part is kept from the shares of all outside it; those called dropped are dropped for the others only.

    Part and called dropped are shown a list without the part's other neighbours, the others one without the called
    dropped: they release the part's self-mask seeds and the mask secrets of the called dropped.
    """

    def __init__(self) -> None:
        self.clients = make_clients(RING)
        server = Server(RING)
        for client in self.clients.values():
            server.receive(client.greeting)
        keys = server.deadline()
        assert isinstance(server._state, CollectShares)
        self.graph = server._state.graph
        ring = self.graph._ring
        self.part, self.called = ([ring[place] for place in places] for places in (PART, CALLED_DROPPED))
        self._withhold(keys)
        self.vectors = random_vectors(RING)
        self.masked = {c: machine.mask(self.vectors[c]) for c, machine in self.clients.items()}
        beside = {peer for c in self.part for peer in self.graph.neighbors(c)}
        here = {*self.part, *self.called}
        inner = tuple(sorted(here | (set(RING.clients) - beside)))
        outer = tuple(c for c in RING.clients if c not in self.called)
        self.shown = {c: inner if c in here else outer for c in RING.clients}
        self.refusals: dict[int, SecAggError] = {}
        self.reveals = self._answers()

    def _withhold(self, keys: Mapping[int, object]) -> None:
        inbox: dict[int, list[Sealed]] = {client: [] for client in self.clients}
        for client, machine in self.clients.items():
            sent = machine.receive(keys[client])  # type: ignore[arg-type]
            assert isinstance(sent, Shares)
            for item in sent.sealed:
                if item.peer not in self.part or client in self.part or client in self.called:
                    inbox[item.peer].append(Sealed(client, item.ciphertext))
        for client, machine in self.clients.items():
            machine.receive(Delivery(tuple(inbox[client])))

    def _answers(self) -> list[Reveal]:
        consents: dict[int, Consent] = {}
        for client, machine in self.clients.items():
            try:
                reply = machine.receive(request_for(client, self.shown[client], self.masked))
            except SecAggError as error:
                self.refusals[client] = error
                continue
            assert isinstance(reply, Consent)
            consents[client] = reply
        reveals = []
        for client in consents:
            same = [p for p in self.graph.neighbors(client) if p in consents and self.shown[p] == self.shown[client]]
            signed = tuple(consents[peer] for peer in same if peer in self.shown[client])
            try:
                reveal = self.clients[client].receive(Consents(signed))
            except TooFewSurvivors:
                continue
            assert isinstance(reveal, Reveal)
            reveals.append(reveal)
        return reveals

    def opened(self) -> NDArray[np.int64]:
        """The sum over the part, from what was released. Raises TooFewSurvivors if that is not enough."""
        words = np.zeros(RING.dim, word_dtype(RING.bits))
        add, subtract = [], []
        for client in self.part:
            seeds, _ = shares_for(client, self.reveals, RING)
            add_packed(words, self.masked[client].packed, RING.bits)
            subtract.append(self_mask_key(self._secret(seeds), client=client, digest=RING.binding()))
        for client in self.called:
            _, secrets = shares_for(client, self.reveals, RING)
            own = KeyPair.from_secret(self._secret(secrets))
            for peer in set(self.part) & set(self.graph.neighbors(client)):
                public = self.clients[peer].greeting.mask_key
                key = pair_mask_key(own, public, own_id=client, peer_id=peer, digest=RING.binding())
                (subtract if client > peer else add).append(key)
        apply_masks(words, add=add, subtract=subtract)
        return from_ring(words & words.dtype.type(2**RING.bits - 1), RING.bits)

    @staticmethod
    def _secret(shares: Mapping[int, int]) -> bytes:
        if len(shares) < RING.threshold:
            raise TooFewSurvivors(f"{len(shares)} shares")
        return rebuilt(shares, RING)


def test_without_the_tags_a_server_that_withholds_deliveries_opens_a_part_smaller_than_promised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("secagg.client_steps._check_included", lambda *_: None)
    cut = Cut()
    assert len(cut.part) < CLAIMED
    assert np.array_equal(cut.opened(), sum(cut.vectors[client] for client in cut.part))


def test_with_the_tags_nobody_beside_the_part_signs_and_no_secret_of_it_can_be_rebuilt() -> None:
    cut = Cut()
    beside = {peer for client in cut.part for peer in cut.graph.neighbors(client)} - {*cut.part, *cut.called}
    assert beside <= cut.refusals.keys()
    for client in beside:
        named = next(peer for peer in cut.graph.neighbors(client) if peer in cut.part)
        assert isinstance(cut.refusals[client], PeerMisbehaved)
        assert f"the vector of client {named} holds its mask with client {client}" in str(cut.refusals[client])
    for client in (*cut.part, *cut.called):
        assert all(len(shares) < RING.threshold for shares in shares_for(client, cut.reveals, RING))
    with pytest.raises(TooFewSurvivors):
        cut.opened()


@each_graph
def test_a_client_whose_shares_were_kept_from_one_neighbour_refuses_to_sign_and_names_it(config: RoundConfig) -> None:
    """The neighbour's vector holds no mask with it, so it has no tag of it to show; all others sign."""
    federation = Federation(config).advertise().share()
    kept_from = federation.server._state.graph.neighbors(ME)[0]  # type: ignore[union-attr]
    sealed = federation.delivery(kept_from).sealed
    federation.deliveries = {
        **federation.deliveries,
        kept_from: Delivery(tuple(item for item in sealed if item.peer != ME)),
    }
    federation.deliver()
    vectors = random_vectors(config)
    masked = {client: machine.mask(vectors[client]) for client, machine in federation.clients.items()}
    with pytest.raises(PeerMisbehaved, match=f"client {kept_from} did not send its tags to exactly its neighbours"):
        federation.server.receive(masked[kept_from])
    refused = {}
    for client, machine in federation.clients.items():
        try:
            assert isinstance(machine.receive(request_for(client, config.clients, masked)), Consent)
        except PeerMisbehaved as error:
            refused[client] = str(error)
    assert refused.keys() == {ME, kept_from}
    assert f"the vector of client {kept_from} holds its mask with client {ME}" in refused[ME]
    assert "survivors that never shared" in refused[kept_from]


# What is shown of a tag


def answered(config: RoundConfig, federation: Federation, request: UnmaskRequest) -> object:
    """The client's reply; it stays as it is."""
    state = federation.clients[ME]._state
    assert isinstance(state, AwaitRequest)
    who = Self(ME, identity_of(ME) if config.malicious else None)
    return TRANSITIONS[AwaitRequest, UnmaskRequest](config, who, state, request)[1]


def masked(config: RoundConfig) -> Federation:
    return Federation(config).advertise().share().deliver().mask(random_vectors(config))


@each_graph
def test_every_tag_must_be_there_and_be_the_one_that_this_neighbour_makes_for_this_client(config: RoundConfig) -> None:
    federation = masked(config)
    honest = federation.requests[ME]
    assert isinstance(honest, UnmaskRequest) and honest == federation.request(ME, config.clients)
    assert isinstance(answered(config, federation, honest), Consent)
    own = federation.sent["masked"][ME]
    assert isinstance(own, MaskedVector)
    to_others = {item.peer: item.tag for item in own.tags}
    assert to_others.keys() == {item.peer for item in honest.tags}
    for place, item in enumerate(honest.tags):
        before, after = honest.tags[:place], honest.tags[place + 1 :]
        flipped = bytes([item.tag[0] ^ 1]) + item.tag[1:]
        another = honest.tags[place - 1].tag
        for tag in (flipped, another, to_others[item.peer], bytes(16)):  # its own tag, sent back, is no proof either
            with pytest.raises(PeerMisbehaved, match=f"the vector of client {item.peer} holds its mask with client"):
                answered(config, federation, replace(honest, tags=(*before, Included(item.peer, tag), *after)))
        with pytest.raises(PeerMisbehaved, match=f"the vector of client {item.peer} holds its mask with client"):
            answered(config, federation, replace(honest, tags=(*before, *after)))
    with pytest.raises(PeerMisbehaved, match="tags of clients that are no neighbours in U3"):
        answered(config, federation, replace(honest, tags=(*honest.tags, Included(999, bytes(16)))))


@each_graph
def test_tags_of_those_who_dropped_are_not_asked_for_and_not_taken(config: RoundConfig) -> None:
    federation = masked(config)
    gone = federation.server._state.graph.neighbors(ME)[-1]  # type: ignore[union-attr]
    fewer = tuple(client for client in config.clients if client != gone)
    assert isinstance(answered(config, federation, federation.request(ME, fewer)), Consent)
    with pytest.raises(PeerMisbehaved, match="tags of clients that are no neighbours in U3"):
        answered(config, federation, replace(federation.request(ME, config.clients), survivors=fewer))


@each_graph
def test_tags_of_another_round_or_session_are_refused(config: RoundConfig) -> None:
    federation = masked(config)
    for change in ({"round_index": 8}, {"session": b"another session!"}, {"context": bytes([1]) * 32}):
        other = masked(replace(config, **change))  # type: ignore[arg-type]
        with pytest.raises(PeerMisbehaved, match="holds its mask with client"):
            answered(config, federation, other.request(ME, config.clients))


@each_graph
def test_a_vector_with_other_tags_than_for_its_neighbours_leaves_the_round_as_it_was(config: RoundConfig) -> None:
    federation = Federation(config).advertise().share().deliver()
    vectors = random_vectors(config)
    sent = federation.clients[ME].mask(vectors[ME])
    for tags in ((), sent.tags[1:], sent.tags[:-1], (*sent.tags, Included(10**6, bytes(16)))):
        with pytest.raises(PeerMisbehaved, match=f"client {ME} did not send its tags to exactly its neighbours"):
            federation.server.receive(replace(sent, tags=tags))
    federation.server.receive(sent)
    assert federation.server._state.accumulator.tobytes() != bytes(4 * config.dim)  # type: ignore[union-attr]


@each_graph
def test_a_hostile_client_that_sends_wrong_tags_is_named_by_its_neighbours(config: RoundConfig) -> None:
    def change(client: int, message: MaskedVector) -> MaskedVector:
        return replace(message, tags=tuple(Included(item.peer, bytes(16)) for item in message.tags))

    outcome = play(config, random_vectors(config), client=on(MaskedVector, change, [ME]))
    assert outcome.total is None
    assert outcome.refusals and ME not in outcome.refusals
    assert all(f"the vector of client {ME} holds" in str(error) for error in outcome.refusals.values())


# Nothing of it in semi-honest mode


def test_in_semi_honest_mode_there_are_no_tags_and_not_a_byte_of_them() -> None:
    config = make_config(5)
    federation = masked(config)
    sent, request = federation.sent["masked"][ME], federation.requests[ME]
    assert isinstance(sent, MaskedVector) and sent.tags == ()
    assert encode(sent, config)[34:] == ME.to_bytes(4, "big") + sent.packed
    assert encode(request, config)[34:] == b"\xf8"
    one = (Included(13, bytes(16)),)
    for message in (replace(sent, tags=one), UnmaskRequest(config.clients, one)):
        with pytest.raises(BadMessage, match="tags are sent in malicious-server mode, and only there"):
            encode(message, config)
    with pytest.raises(PeerMisbehaved, match="did not send its tags to exactly its neighbours"):
        Federation(config).advertise().share().deliver().server.receive(replace(sent, tags=one))
    with pytest.raises(PeerMisbehaved, match="tags of clients that are no neighbours"):
        answered(config, federation, UnmaskRequest(config.clients, one))


@each_graph
def test_tags_are_written_after_words_and_list_and_read_back(config: RoundConfig) -> None:
    federation = masked(config)
    sent, request = federation.sent["masked"][ME], federation.requests[ME]
    assert isinstance(sent, MaskedVector) and isinstance(request, UnmaskRequest)
    for message in (sent, request):
        written = b"".join(item.peer.to_bytes(4, "big") + item.tag for item in message.tags)
        data = encode(message, config)
        assert data.endswith(len(message.tags).to_bytes(4, "big") + written)
        assert decode(data, config) == message
        swapped = data[: -len(written)] + written[20:40] + written[:20] + written[40:]
        with pytest.raises(BadMessage, match="tags: ids must be distinct, ascending"):
            decode(swapped, config)
    limit = len(config.clients) if config.complete else (config.neighbors or 0) + 1
    for count in (limit + 1, 2**32 - 1):
        data = encode(replace(request, tags=()), config)[:-4] + count.to_bytes(4, "big")
        with pytest.raises(BadMessage, match=f"at most {limit} are possible"):
            decode(data, config)


@pytest.mark.parametrize("size", [0, 15, 17, 32])
def test_a_tag_has_sixteen_bytes(size: int) -> None:
    with pytest.raises(BadMessage, match=f"tag has {size} bytes, not 16"):
        Included(13, bytes(size))


# How it is made


def test_both_ends_make_the_same_tags_and_they_differ_from_the_keys_and_from_each_other() -> None:
    a, b = KeyPair.from_secret(b"a" * 32), KeyPair.from_secret(b"b" * 32)
    here = channel_keys_and_tags(a, b.public, own_id=1, peer_id=2, digest=bytes(32))
    there = channel_keys_and_tags(b, a.public, own_id=2, peer_id=1, digest=bytes(32))
    assert here == (there[1], there[0], there[3], there[2])
    assert here[:2] == channel_keys(a, b.public, own_id=1, peer_id=2, digest=bytes(32))
    assert len({here[0][:16], here[1][:16], here[2], here[3]}) == 4


def test_the_secrets_behind_the_tags_are_gone_when_their_state_is() -> None:
    config = CONFIGS["complete"]
    federation = Federation(config).advertise().share().deliver()
    client: Client = federation.clients[ME]
    expected = [tag for _, tag in client._state.tags.values()]  # type: ignore[union-attr]
    federation.mask(random_vectors(config))
    assert isinstance(client._state, AwaitRequest) and list(client._state.tags.values()) == expected
    federation.consent()
    assert not hasattr(client._state, "tags")
