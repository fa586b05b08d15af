"""Malicious-server mode: which message fits which state, signed keys, one signed survivor list, nothing otherwise."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from secagg_harness import Federation, identities, identity_of, make_config, random_vectors
from secagg_hostile import make_clients, on, play

from secagg import BadMessage, Client, Mode, PeerMisbehaved, RoundConfig, SigningKey, TooFewSurvivors, WrongPhase
from secagg.client import TRANSITIONS
from secagg.client_steps import AwaitConsents, AwaitPeerKeys, AwaitRequest, Self
from secagg.messages import Advertise, Consent, Consents, Message, PeerKeys, Reveal, UnmaskRequest
from secagg.server import DEADLINE, RECEIVE
from secagg.statements import keys_statement, survivors_statement

MALICIOUS = Mode.MALICIOUS_SERVER
COMPLETE = make_config(7, mode=MALICIOUS)  # clients 10, 13, ..., 28; threshold 5
SPARSE = make_config(11, neighbors=6, threshold=5, mode=MALICIOUS)
CONFIGS = {"complete": COMPLETE, "6-regular": SPARSE}
each_graph = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
ME = COMPLETE.clients[0]

CLIENT_ACCEPTS = {
    "AwaitPeerKeys": "PeerKeys",
    "AwaitDelivery": "Delivery",
    "AwaitVector": "OwnVector",
    "AwaitRequest": "UnmaskRequest",
    "AwaitConsents": "Consents",
    "Done": None,
}
SERVER_ACCEPTS = {
    "CollectKeys": "Advertise",
    "CollectShares": "Shares",
    "CollectVectors": "MaskedVector",
    "CollectConsents": "Consent",
    "CollectReveals": "Reveal",
    "Done": None,
}


def steps(federation: Federation) -> dict[str, tuple[Callable[[], object], ...]]:
    """What brings a fresh federation to each state of its clients."""
    vectors = random_vectors(federation.config)
    all_steps = (
        federation.advertise,
        federation.share,
        federation.deliver,
        lambda: federation.mask(vectors),
        federation.consent,
        federation.reveal,
    )
    return {state: all_steps[: i + 1] for i, state in enumerate(CLIENT_ACCEPTS)}


def at(config: RoundConfig, state: str) -> Federation:
    federation = Federation(config)
    for step in steps(federation)[state]:
        step()
    return federation


def finished(config: RoundConfig) -> Federation:
    federation = at(config, "Done")
    federation.server.deadline()
    return federation


def example_of_each(config: RoundConfig) -> dict[str, Message]:
    return {type(message).__name__: message for message in finished(config).messages()}


EXAMPLES = {name: example_of_each(config) for name, config in CONFIGS.items()}


@pytest.mark.parametrize("state", CLIENT_ACCEPTS)
@pytest.mark.parametrize("name", CONFIGS)
def test_each_state_of_a_client_accepts_its_own_event_and_no_other(name: str, state: str) -> None:
    client = at(CONFIGS[name], state).clients[ME]
    reached = client._state
    for kind, message in (*EXAMPLES[name].items(), ("OwnVector", None)):
        offer = (
            (lambda: client.mask(np.zeros(40, np.int64))) if message is None else (lambda m=message: client.receive(m))
        )
        client._state = reached
        if kind == CLIENT_ACCEPTS[state]:
            offer()
            assert type(client._state).__name__ != state
            continue
        with pytest.raises(WrongPhase, match=f"client {ME} in state {state} accepts no {kind}"):
            offer()
        with pytest.raises(WrongPhase, match="in state Failed"):  # and nothing it accepts brings it back
            client.receive(EXAMPLES[name]["PeerKeys"])


@pytest.mark.parametrize("state", SERVER_ACCEPTS)
@pytest.mark.parametrize("name", CONFIGS)
def test_each_state_of_the_server_accepts_its_own_message_and_no_other(name: str, state: str) -> None:
    config = CONFIGS[name]
    before = {"CollectKeys": Federation, "CollectConsents": lambda c: at(c, "AwaitRequest"), "Done": finished}
    waiting = {"CollectShares": "AwaitPeerKeys", "CollectVectors": "AwaitVector", "CollectReveals": "AwaitConsents"}
    if state == "CollectReveals":
        federation = Federation(config)
        for step in steps(federation)["AwaitConsents"]:
            step()
    else:
        federation = before[state](config) if state in before else at(config, waiting[state])
    assert type(federation.server._state).__name__ == state
    reached = federation.server._state
    for kind, message in EXAMPLES[name].items():
        if kind == SERVER_ACCEPTS[state]:
            continue
        with pytest.raises(WrongPhase, match=f"the server in state {state} accepts no {kind}"):
            federation.server.receive(message)
        assert federation.server._state is reached
    if accepted := SERVER_ACCEPTS[state]:
        federation.server.receive(EXAMPLES[name][accepted])
        with pytest.raises(PeerMisbehaved, match=f"client {ME} sent its .* twice"):
            federation.server.receive(EXAMPLES[name][accepted])


def test_the_tables_are_the_ones_tested_here() -> None:
    accepted = {(state, event) for state, event in CLIENT_ACCEPTS.items() if event}
    assert {(state.__name__, event.__name__) for state, event in TRANSITIONS} == accepted
    received = {(state, message) for state, message in SERVER_ACCEPTS.items() if message}
    assert {(state.__name__, message.__name__) for state, message in RECEIVE} == received
    assert {state.__name__ for state in DEADLINE} == {state for state, _ in received}


# Keys


def neighbor(federation: Federation, client: int = ME) -> int:
    """The first client whose keys `client` is shown, besides its own."""
    return next(entry.client for entry in federation.keys(client).entries if entry.client != client)


def shown(keys: PeerKeys, entry: Advertise) -> PeerKeys:
    """The same message with another entry for one client, and with its hash brought into line."""
    entries = tuple(entry if e.client == entry.client else e for e in keys.entries)
    if not keys.hashes:
        return replace(keys, entries=entries)
    place = keys.present.index(entry.client)
    hashes = keys.hashes[: 32 * place] + entry.key_hash() + keys.hashes[32 * (place + 1) :]
    return replace(keys, hashes=hashes, entries=entries)


def entry_of(keys: PeerKeys, client: int) -> Advertise:
    return next(entry for entry in keys.entries if entry.client == client)


def flipped(data: bytes, bit: int) -> bytes:
    return (int.from_bytes(data, "big") ^ (1 << bit)).to_bytes(len(data), "big")


@pytest.mark.parametrize("field", ["signature", "channel_key", "mask_key"])
def test_one_flipped_bit_of_signed_keys_is_refused_naming_the_client_and_nothing_is_shared(field: str) -> None:
    """Every bit of every field, on the one step that judges them."""
    federation = Federation(COMPLETE).advertise()
    state = federation.clients[ME]._state
    assert isinstance(state, AwaitPeerKeys)
    keys, peer = federation.keys(ME), neighbor(federation)
    share = TRANSITIONS[AwaitPeerKeys, PeerKeys]
    good = getattr(entry_of(keys, peer), field)
    for bit in range(8 * len(good)):
        bad = shown(keys, replace(entry_of(keys, peer), **{field: flipped(good, bit)}))
        with pytest.raises(PeerMisbehaved, match=f"client {peer}: the signature of its public keys does not verify"):
            share(COMPLETE, Self(ME, identity_of(ME)), state, bad)
    share(COMPLETE, Self(ME, identity_of(ME)), state, keys)  # and the untouched message is good


def keys_of_another(config: RoundConfig, peer: int, key: SigningKey | None = None) -> Advertise:
    return Client(config, peer, identity=key or identity_of(peer)).greeting


FORGERIES: dict[str, Callable[[RoundConfig, Advertise], Advertise]] = {
    "another round": lambda c, e: keys_of_another(replace(c, round_index=c.round_index + 1), e.client),
    "another session": lambda c, e: keys_of_another(replace(c, session=b"another session!"), e.client),
    "another configuration": lambda c, e: keys_of_another(replace(c, dim=c.dim + 1), e.client),
    "another identity": lambda c, e: replace(
        keys_of_another(replace(c, identities=impostors(c, e.client)), e.client, IMPOSTOR), client=e.client
    ),
    "another client's": lambda c, e: replace(keys_of_another(c, c.clients[-1]), client=e.client),
    "no signature": lambda c, e: replace(e, signature=b""),
    "a signature of something else": lambda c, e: replace(
        e, signature=identity_of(e.client).sign(survivors_statement(c, bytes(32), c.clients))
    ),
}
IMPOSTOR = SigningKey.from_secret(bytes([7]) * 32)


def impostors(config: RoundConfig, client: int) -> tuple[bytes, ...]:
    """The roster's identities with the impostor in one client's place."""
    return tuple(
        IMPOSTOR.public if c == client else identity
        for c, identity in zip(config.clients, config.identities, strict=True)
    )


@pytest.mark.parametrize("forgery", FORGERIES)
@each_graph
def test_keys_that_their_client_did_not_sign_for_this_round_are_refused_naming_it(
    config: RoundConfig, forgery: str
) -> None:
    federation = Federation(config).advertise()
    if config.complete:
        peer = neighbor(federation)
        bad = FORGERIES[forgery](config, entry_of(federation.keys(ME), peer))
        with pytest.raises(PeerMisbehaved, match=f"client {peer}: the signature of its public keys does not verify"):
            federation.clients[ME].receive(shown(federation.keys(ME), bad))
        with pytest.raises(WrongPhase):
            federation.clients[ME].receive(federation.keys(ME))
        return
    # Other keys make another graph, so a lie that hides the change from the graph is tried: only the signature differs.
    peer = neighbor(federation)
    good = entry_of(federation.keys(ME), peer)
    bad = replace(good, signature=FORGERIES[forgery](config, good).signature)
    with pytest.raises(PeerMisbehaved, match=f"client {peer}: the signature of its public keys does not verify"):
        federation.clients[ME].receive(shown(federation.keys(ME), bad))


@pytest.mark.parametrize("forgery", FORGERIES)
@each_graph
def test_the_server_refuses_badly_signed_keys_on_arrival_and_the_round_goes_on(
    config: RoundConfig, forgery: str
) -> None:
    federation, vectors, peer = Federation(config), random_vectors(config), config.clients[2]
    for client in config.clients[:2]:
        federation.server.receive(federation.clients[client].greeting)
    good = federation.clients[peer].greeting
    with pytest.raises(PeerMisbehaved, match=f"client {peer}: the signature of its public keys does not verify"):
        federation.server.receive(FORGERIES[forgery](config, good))
    for client in config.clients[2:]:  # its own keys are still welcome
        federation.server.receive(federation.clients[client].greeting)
    federation.peer_keys = federation.server.deadline()
    federation.share().deliver().mask(vectors).reveal().server.deadline()
    assert federation.server.total.survivors == config.clients


def test_swapped_senders_are_refused_naming_one_of_them() -> None:
    federation = Federation(COMPLETE).advertise()
    keys, (first, second) = federation.keys(ME), COMPLETE.clients[1:3]
    one, two = entry_of(keys, first), entry_of(keys, second)
    swapped = shown(shown(keys, replace(two, client=first)), replace(one, client=second))
    with pytest.raises(PeerMisbehaved, match=f"client {first}: the signature of its public keys"):
        federation.clients[ME].receive(swapped)


@each_graph
def test_a_client_whose_own_keys_were_altered_refuses_even_if_it_signed_them_once(config: RoundConfig) -> None:
    federation = Federation(config).advertise()
    state, share = federation.clients[ME]._state, TRANSITIONS[AwaitPeerKeys, PeerKeys]
    for bad in (keys_of_another(config, ME), replace(federation.clients[ME].greeting, signature=bytes(64))):
        with pytest.raises(PeerMisbehaved, match=f"the server lacks or alters the keys of client {ME}"):
            share(config, Self(ME, identity_of(ME)), state, shown(federation.keys(ME), bad))


@pytest.mark.parametrize("field", ["channel_key", "mask_key"])
def test_a_public_key_that_a_hostile_client_copied_and_signed_is_refused(field: str) -> None:
    federation = Federation(COMPLETE).advertise()
    keys, (first, hostile) = federation.keys(ME), COMPLETE.clients[1:3]
    copied = replace(entry_of(keys, hostile), mask_key=getattr(entry_of(keys, first), field))
    statement = keys_statement(COMPLETE, hostile, copied.channel_key, copied.mask_key)
    copied = replace(copied, signature=identity_of(hostile).sign(statement))
    with pytest.raises(PeerMisbehaved, match="the server repeats a public key"):
        federation.clients[ME].receive(shown(keys, copied))


def test_what_is_signed_differs_with_every_part_of_it() -> None:
    other_round, other_model = replace(COMPLETE, round_index=8), replace(COMPLETE, model=bytes([1]) * 32)
    key, other = bytes(32), bytes([1]) * 32
    keys = [
        keys_statement(config, client, channel, mask)
        for config, client, channel, mask in (
            (COMPLETE, 10, key, other),
            (COMPLETE, 10, other, key),
            (COMPLETE, 13, key, other),
            (COMPLETE, 10, key, key),
            (other_round, 10, key, other),
        )
    ]
    lists = [
        survivors_statement(config, roster, survivors)
        for config, roster, survivors in (
            (COMPLETE, key, COMPLETE.clients),
            (COMPLETE, other, COMPLETE.clients),
            (COMPLETE, key, COMPLETE.clients[1:]),
            (COMPLETE, key, COMPLETE.clients[:-1]),
            (other_round, key, COMPLETE.clients),
            (other_model, key, COMPLETE.clients),
        )
    ]
    assert len({*keys, *lists}) == 11
    assert not any(one.startswith(two) for one in keys for two in lists)


@each_graph
def test_a_client_is_made_only_with_the_identity_that_the_roster_has_for_it(config: RoundConfig) -> None:
    with pytest.raises(ValueError, match=f"identity: the roster has another public key for client {ME}"):
        Client(config, ME, identity=identity_of(config.clients[1]))
    with pytest.raises(ValueError, match="identity: a client signs in malicious-server mode and only there"):
        Client(config, ME)
    assert Client(config, ME, identity=identity_of(ME)).greeting.signature != b""


def test_a_semi_honest_client_refuses_an_identity() -> None:
    config = make_config(5)
    with pytest.raises(ValueError, match="only there, this is semi-honest"):
        Client(config, config.clients[0], identity=identity_of(config.clients[0]))
    assert Client(config, config.clients[0]).greeting.signature == b""


# The survivor list


def consent_of(federation: Federation, client: int, survivors: tuple[int, ...]) -> Consent:
    """What `client` would sign if it were shown this list; it stays as it is."""
    state = federation.clients[client]._state
    assert isinstance(state, AwaitRequest)
    step = TRANSITIONS[AwaitRequest, UnmaskRequest]
    _, consent = step(
        federation.config, Self(client, identity_of(client)), state, federation.request(client, survivors)
    )
    assert isinstance(consent, Consent)
    return consent


def two_lists(config: RoundConfig) -> tuple[Federation, tuple[int, ...], tuple[int, ...]]:
    """A round stopped before U3 is shown, and two lists for it: everyone, and everyone but the last."""
    federation = at(config, "AwaitRequest")
    return federation, config.clients, config.clients[:-1]


def release(federation: Federation, shown_to: dict[int, tuple[int, ...]]) -> dict[int, Reveal]:
    """Show each client its list, hand it every consent to that list that its neighbours gave, and collect reveals."""
    config, consents, reveals = federation.config, dict[int, Consent](), dict[int, Reveal]()
    graph = federation.server._state.graph  # type: ignore[union-attr]
    for client, survivors in shown_to.items():
        reply = federation.clients[client].receive(federation.request(client, survivors))
        assert isinstance(reply, Consent)
        consents[client] = reply
    for client, survivors in shown_to.items():
        same = [c for c in graph.neighbors(client) if shown_to.get(c) == survivors and c in survivors]
        try:
            reply = federation.clients[client].receive(Consents(tuple(consents[c] for c in same)))
        except TooFewSurvivors as error:
            assert f"at least {config.threshold} are needed" in str(error)
            continue
        assert isinstance(reply, Reveal)
        reveals[client] = reply
    return reveals


@pytest.mark.parametrize("part", [3, 4])
def test_two_survivor_lists_shown_in_a_complete_graph_make_nobody_release_anything(part: int) -> None:
    federation, everyone, fewer = two_lists(COMPLETE)  # threshold 5 of 7
    assert release(federation, {c: fewer if i < part else everyone for i, c in enumerate(COMPLETE.clients)}) == {}


@pytest.mark.parametrize("part", [1, 2])
def test_whoever_releases_when_two_lists_are_shown_has_seen_the_one_that_enough_others_signed(part: int) -> None:
    federation, everyone, fewer = two_lists(COMPLETE)
    shown_to = {c: fewer if i < part else everyone for i, c in enumerate(COMPLETE.clients)}
    assert release(federation, shown_to).keys() == {c for c in everyone if shown_to[c] == everyone}


def test_one_survivor_list_shown_to_all_makes_everybody_release() -> None:
    federation, everyone, _ = two_lists(COMPLETE)
    assert release(federation, dict.fromkeys(everyone, everyone)).keys() == set(everyone)


def test_two_survivor_lists_shown_around_a_ring_make_nobody_release_anything() -> None:
    federation, everyone, fewer = two_lists(SPARSE)
    ring = federation.server._state.graph._ring  # type: ignore[union-attr]
    last = everyone[-1]
    ring = ring[ring.index(last) :] + ring[: ring.index(last)]
    shown_to = {client: everyone if i % 2 == 0 else fewer for i, client in enumerate(ring)}
    assert release(federation, shown_to) == {}


def test_one_survivor_list_shown_around_a_ring_makes_everybody_release() -> None:
    federation, everyone, _ = two_lists(SPARSE)
    assert release(federation, dict.fromkeys(everyone, everyone)).keys() == set(everyone)


@each_graph
def test_fewer_than_threshold_consents_release_nothing_and_threshold_of_them_do(config: RoundConfig) -> None:
    for given, enough in ((config.threshold - 1, False), (config.threshold, True)):
        federation, everyone, _ = two_lists(config)
        client = federation.clients[ME]
        client.receive(federation.request(ME, everyone))
        neighbors = federation.server._state.graph.neighbors(ME)  # type: ignore[union-attr]
        others = given - config.complete  # in the complete graph its own signature is one of them
        message = Consents(tuple(consent_of(federation, c, everyone) for c in neighbors[:others]))
        if enough:
            assert isinstance(client.receive(message), Reveal)
            continue
        with pytest.raises(TooFewSurvivors, match=f"{given} clients .itself and neighbours. signed this survivor list"):
            client.receive(message)
        with pytest.raises(WrongPhase, match="Failed accepts no Consents"):
            client.receive(Consents(tuple(consent_of(federation, c, everyone) for c in neighbors)))


def test_a_survivor_list_with_fewer_than_threshold_holders_of_its_shares_is_not_signed() -> None:
    """Where not everyone is a neighbour a list can be long enough and still leave a client's own seed unrecoverable."""
    config = replace(SPARSE, threshold=4)
    federation, _, _ = two_lists(config)
    neighbors = federation.server._state.graph.neighbors(ME)  # type: ignore[union-attr]
    far = [c for c in config.clients if c != ME and c not in neighbors]
    step, me = TRANSITIONS[AwaitRequest, UnmaskRequest], federation.clients[ME]
    for holders, enough in ((3, False), (4, True)):
        request = federation.request(ME, tuple(sorted((ME, *neighbors[:holders], *far))))
        if enough:
            assert isinstance(step(config, Self(ME, identity_of(ME)), me._state, request)[1], Consent)
            continue
        with pytest.raises(
            TooFewSurvivors, match="3 clients of those who hold its shares sent a masked vector, at least 4"
        ):
            step(config, Self(ME, identity_of(ME)), me._state, request)


@each_graph
def test_a_client_signs_one_survivor_list_only(config: RoundConfig) -> None:
    federation, everyone, fewer = two_lists(config)
    client = federation.clients[ME]
    client.receive(federation.request(ME, everyone))
    for again in (fewer, everyone):
        with pytest.raises(WrongPhase):
            client.receive(federation.request(ME, again))


def bad_consents(config: RoundConfig, federation: Federation, peer: int) -> dict[str, tuple[Consent, str]]:
    """Consents that must not count, each with what the refusal says."""
    everyone = config.clients
    state = federation.clients[peer]._state
    assert isinstance(state, AwaitRequest)
    roster, key = state.graph.seed, identity_of(peer)
    good = consent_of(federation, peer, everyone)
    unverified = f"client {peer}: the signature of its survivor list does not verify"

    def signed(statement: bytes, by: SigningKey = key) -> Consent:
        return Consent(peer, by.sign(statement))

    other_round = replace(config, round_index=config.round_index + 1)
    other_model = replace(config, model=bytes([1]) * 32)
    return {
        "one bit flipped": (Consent(peer, flipped(good.signature, 300)), unverified),
        "another list": (signed(survivors_statement(config, roster, everyone[:-1])), unverified),
        "another round": (signed(survivors_statement(other_round, roster, everyone)), unverified),
        "another model": (signed(survivors_statement(other_model, roster, everyone)), unverified),
        "other keys": (signed(survivors_statement(config, bytes(32), everyone)), unverified),
        "another client's key": (signed(survivors_statement(config, roster, everyone), identity_of(ME)), unverified),
        "a signature of keys": (Consent(peer, federation.clients[peer].greeting.signature), unverified),
        "its own": (consent_of(federation, ME, everyone), f"client {ME}, which is no neighbour"),
        "a stranger": (Consent(999, good.signature), "client 999, which is no neighbour"),
    }


BAD = (
    "one bit flipped", "another list", "another round", "another model", "other keys", "another client's key",
    "a signature of keys", "its own", "a stranger",
)  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
@each_graph
def test_a_consent_that_is_not_a_neighbours_to_this_very_list_is_refused_by_name(
    config: RoundConfig, kind: str
) -> None:
    federation, everyone, _ = two_lists(config)
    graph = federation.server._state.graph  # type: ignore[union-attr]
    peer = graph.neighbors(ME)[0]
    bad, text = bad_consents(config, federation, peer)[kind]
    good = {c: consent_of(federation, c, everyone) for c in graph.neighbors(ME)}
    federation.clients[ME].receive(federation.request(ME, everyone))
    shown_consents = tuple(consent for _, consent in sorted({**good, bad.client: bad}.items()))
    with pytest.raises(PeerMisbehaved, match=text):
        federation.clients[ME].receive(Consents(shown_consents))
    with pytest.raises(WrongPhase, match="Failed"):
        federation.clients[ME].receive(Consents(tuple(good.values())))


def test_a_consent_of_a_client_that_is_not_on_the_list_does_not_count() -> None:
    federation, everyone, fewer = two_lists(COMPLETE)
    last = everyone[-1]
    federation.clients[ME].receive(federation.request(ME, fewer))
    consents = [consent_of(federation, c, fewer) for c in fewer[1:]]
    forced = Consent(last, identity_of(last).sign(survivors_statement(COMPLETE, graph_seed(federation), fewer)))
    with pytest.raises(PeerMisbehaved, match=f"client {last}, which is no neighbour in U3"):
        federation.clients[ME].receive(Consents((*consents, forced)))


def graph_seed(federation: Federation) -> bytes:
    seed: bytes = federation.server._state.graph.seed  # type: ignore[union-attr]
    return seed


def test_consents_of_strangers_in_the_graph_do_not_count_in_a_ring() -> None:
    federation, everyone, _ = two_lists(SPARSE)
    neighbors = federation.server._state.graph.neighbors(ME)  # type: ignore[union-attr]
    far = next(c for c in everyone if c != ME and c not in neighbors)
    federation.clients[ME].receive(federation.request(ME, everyone))
    with pytest.raises(PeerMisbehaved, match=f"client {far}, which is no neighbour in U3"):
        federation.clients[ME].receive(Consents((consent_of(federation, far, everyone),)))


def test_a_consent_shown_twice_cannot_be_written() -> None:
    consent = Consent(ME, bytes(64))
    with pytest.raises(BadMessage, match="consents: ids must be distinct"):
        Consents((consent, consent))


@pytest.mark.parametrize("kind", [kind for kind in BAD if kind not in ("its own", "a stranger")])
@each_graph
def test_the_server_refuses_a_bad_consent_on_arrival_and_the_round_goes_on(config: RoundConfig, kind: str) -> None:
    federation, vectors = at(config, "AwaitRequest"), random_vectors(config)
    peer = federation.server._state.graph.neighbors(ME)[0]  # type: ignore[union-attr]
    bad, text = bad_consents(config, federation, peer)[kind]
    with pytest.raises(PeerMisbehaved, match=text):
        federation.server.receive(bad)
    federation.reveal().server.deadline()
    assert np.array_equal(np.asarray(federation.server.total.survivors), config.clients)
    assert federation.server.total.dropped == ()
    expected = sum(vectors.values())
    assert np.array_equal((federation.server.total.vector - expected.astype(np.uint32)) % 2**24, np.zeros(40))


def test_the_server_refuses_consents_of_strangers_of_the_dropped_and_of_those_who_gave_one() -> None:
    federation = at(COMPLETE, "AwaitVector")
    dropped = COMPLETE.clients[-1]
    federation.mask(random_vectors(COMPLETE), (dropped,))
    reply = federation.clients[ME].receive(federation.requests[ME])
    assert isinstance(reply, Consent)
    for client in (dropped, 999):
        with pytest.raises(PeerMisbehaved, match=f"client {client} may not send its consent"):
            federation.server.receive(Consent(client, reply.signature))
    federation.server.receive(reply)
    with pytest.raises(PeerMisbehaved, match=f"client {ME} sent its consent twice"):
        federation.server.receive(reply)


def test_the_server_stops_where_fewer_than_threshold_consent_and_nobody_was_shown_a_consent() -> None:
    silent = COMPLETE.clients[4:]
    outcome = play(
        COMPLETE, random_vectors(COMPLETE), client=lambda c, m: () if isinstance(m, Consent) and c in silent else (m,)
    )
    assert isinstance(outcome.ended, TooFewSurvivors)
    assert "4 clients signed the survivor list, at least 5" in str(outcome.ended)
    assert outcome.reveals == []


@each_graph
def test_clients_that_were_shown_different_models_give_no_sum_at_all(config: RoundConfig) -> None:
    clients = make_clients(config)
    clients[ME].bind(bytes([1]) * 32)
    outcome = play(config, random_vectors(config), clients=clients)
    # The one with the other model signs a list of another model; the server refuses that consent by name.
    assert [(who, type(error)) for who, error in outcome.refused] == [(ME, PeerMisbehaved)]
    assert f"client {ME}: the signature of its survivor list" in str(outcome.refused[0][1])
    wrong = outcome.vector() - np.sum(list(random_vectors(config).values()), axis=0)
    assert np.count_nonzero(wrong) > 30  # what is left is noise: its masks do not cancel


def test_a_lying_server_cannot_get_past_the_consents_of_half_the_clients_that_saw_another_model() -> None:
    clients = make_clients(COMPLETE)
    for client in COMPLETE.clients[:3]:
        clients[client].bind(bytes([1]) * 32)
    outcome = play(COMPLETE, random_vectors(COMPLETE), clients=clients)
    assert "4 clients signed the survivor list" in str(outcome.ended)
    assert outcome.reveals == []


def test_an_unsigned_answer_leaves_no_way_around_the_consents() -> None:
    """A request in place of the consents, or consents in place of the request: the order of stages is fixed."""
    out_of_order: dict[str, Any] = {
        "AwaitRequest": Consents(()),
        "AwaitConsents": UnmaskRequest(COMPLETE.clients),
    }
    for state, message in out_of_order.items():
        federation = at(COMPLETE, "AwaitRequest")
        client = federation.clients[ME]
        if state == "AwaitConsents":
            client.receive(federation.request(ME, COMPLETE.clients))
            assert isinstance(client._state, AwaitConsents)
        with pytest.raises(WrongPhase, match=f"in state {state} accepts no"):
            client.receive(message)


def test_a_server_that_shows_one_client_nobody_elses_signature_gets_nothing_of_it() -> None:
    lie = on(Consents, lambda client, message: Consents(()), clients=[ME])
    outcome = play(COMPLETE, random_vectors(COMPLETE), server=lie)
    assert set(outcome.refusals) == {ME}
    assert isinstance(outcome.refusals[ME], TooFewSurvivors)
    assert ME not in {reveal.client for reveal in outcome.reveals}
    assert outcome.total is not None and outcome.total.survivors == COMPLETE.clients


def test_the_roster_of_identities_is_part_of_what_is_signed() -> None:
    """A server that gives each client its own roster has each of them sign for another round."""
    other = replace(COMPLETE, identities=impostors(COMPLETE, COMPLETE.clients[-1]))
    greeting = Client(other, ME, identity=identities(COMPLETE)[ME]).greeting
    federation = Federation(COMPLETE)
    with pytest.raises(PeerMisbehaved, match=f"client {ME}: the signature of its public keys"):
        federation.server.receive(greeting)
