"""Lies of the server that a client refuses: forged rosters, deliveries and survivor lists."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from secagg_harness import Federation, altered, make_config, random_vectors

from secagg import PeerMisbehaved, SecAggError, TooFewSurvivors, WrongPhase
from secagg.client import AwaitVector
from secagg.messages import Advertise, Delivery, PeerKeys, Sealed, UnmaskRequest

CONFIG = make_config(6)  # clients 10, 13, ..., 25; threshold 5
ME, PEER = CONFIG.clients[0], CONFIG.clients[1]
VECTORS = random_vectors(CONFIG)


def at_roster() -> Federation:
    return Federation(CONFIG).advertise()


def at_delivery() -> Federation:
    return at_roster().share()


def at_request() -> Federation:
    return at_delivery().deliver().mask(VECTORS)


def without(keys: PeerKeys, client: int) -> PeerKeys:
    present = tuple(other for other in keys.present if other != client)
    return PeerKeys(present, keys.hashes, tuple(entry for entry in keys.entries if entry.client != client))


def with_stranger(keys: PeerKeys) -> PeerKeys:
    stranger = Advertise(99, bytes([1]) * 32, bytes([2]) * 32)
    return PeerKeys((*keys.present, 99), keys.hashes, (*keys.entries, stranger))


@pytest.mark.parametrize(
    ("alter", "text"),
    [
        (lambda r: without(r, ME), "lacks or alters the keys of client 10"),
        (lambda r: altered(r, ME, mask_key=bytes([9]) * 32), "lacks or alters the keys"),
        (lambda r: altered(r, ME, channel_key=bytes([9]) * 32), "lacks or alters the keys"),
        (lambda r: altered(r, PEER, mask_key=r.entries[2].mask_key), "repeats a public key"),
        (lambda r: altered(r, PEER, mask_key=r.entries[2].channel_key), "repeats a public key"),
        (lambda r: altered(r, PEER, channel_key=r.entries[0].mask_key), "repeats a public key"),
        (lambda r: altered(r, PEER, channel_key=bytes(32)), "small order"),
        (with_stranger, "not in the roster"),
    ],
    ids=[
        "own entry missing",
        "own mask key altered",
        "own channel key altered",
        "two equal mask keys",
        "mask key equals a channel key",
        "channel key equals own mask key",
        "channel key of small order",
        "stranger",
    ],
)
def test_a_forged_roster_is_refused_and_nothing_is_shared(alter: Callable[[PeerKeys], PeerKeys], text: str) -> None:
    federation = at_roster()
    client = federation.clients[ME]
    with pytest.raises(PeerMisbehaved, match=text):
        client.receive(alter(federation.keys()))
    with pytest.raises(WrongPhase):
        client.receive(federation.keys())


def test_a_mask_key_of_small_order_is_refused_before_anything_is_masked() -> None:
    federation = at_roster()
    roster = altered(federation.keys(), PEER, mask_key=bytes(32))
    for client in federation.clients.values():
        if client.client != PEER:
            federation.server.receive(client.receive(roster))  # type: ignore[arg-type]
    delivery = federation.server.deadline()[ME]
    assert PEER not in {item.peer for item in delivery.sealed}  # type: ignore[union-attr]
    client = at_delivery().deliver().clients[ME]
    state = client._state
    assert isinstance(state, AwaitVector)
    client._state = replace(state, mask_keys={**state.mask_keys, PEER: bytes(32)})
    with pytest.raises(PeerMisbehaved, match="small order"):
        client.mask(VECTORS[ME])


def test_a_roster_below_the_quorum_is_refused() -> None:
    federation = at_roster()
    roster = without(without(federation.keys(), PEER), CONFIG.clients[2])
    with pytest.raises(TooFewSurvivors, match="4 clients advertised keys, at least 5"):
        federation.clients[ME].receive(roster)


def test_min_survivors_above_the_threshold_counts_at_every_stage() -> None:
    config = make_config(6, threshold=4, min_survivors=6)
    federation = Federation(config).advertise()
    with pytest.raises(TooFewSurvivors, match="5 clients advertised keys, at least 6"):
        federation.clients[ME].receive(without(federation.keys(), PEER))
    federation = Federation(config).advertise().share()
    with pytest.raises(TooFewSurvivors, match=r"5 clients \(itself and neighbours\) shared their secrets, at least 6"):
        federation.clients[ME].receive(Delivery(federation.delivery(ME).sealed[1:]))
    federation = Federation(config).advertise().share().deliver().mask(random_vectors(config))
    with pytest.raises(TooFewSurvivors, match="5 clients sent a masked vector, at least 6"):
        federation.clients[ME].receive(UnmaskRequest(config.clients[:-1]))


@pytest.mark.parametrize(
    ("alter", "error", "text"),
    [
        (lambda sealed: sealed[2:], TooFewSurvivors, "4 clients"),
        (lambda sealed: (Sealed(ME, sealed[0].ciphertext), *sealed), PeerMisbehaved, "or of the client itself"),
        (lambda sealed: (*sealed, Sealed(99, sealed[0].ciphertext)), PeerMisbehaved, "that are no neighbours"),
        (
            lambda sealed: (Sealed(PEER, sealed[1].ciphertext), *sealed[1:]),
            PeerMisbehaved,
            "from client 13 to client 10 do not open",
        ),
        (lambda sealed: (Sealed(PEER, bytes(82)), *sealed[1:]), PeerMisbehaved, "from client 13"),
    ],
    ids=["too few", "own share", "stranger", "another sender's share", "noise"],
)
def test_a_forged_delivery_is_refused_before_anything_is_masked(
    alter: Callable[[tuple[Sealed, ...]], tuple[Sealed, ...]], error: type[SecAggError], text: str
) -> None:
    federation = at_delivery()
    client = federation.clients[ME]
    with pytest.raises(error, match=text):
        client.receive(Delivery(alter(federation.delivery(ME).sealed)))
    with pytest.raises(WrongPhase):
        client.mask(VECTORS[ME])


def test_shares_sealed_for_another_client_do_not_open() -> None:
    federation = at_delivery()
    third = CONFIG.clients[2]
    meant_for_third = next(item for item in federation.delivery(third).sealed if item.peer == PEER)
    sealed = (meant_for_third, *federation.delivery(ME).sealed[1:])
    with pytest.raises(PeerMisbehaved, match="from client 13 to client 10 do not open"):
        federation.clients[ME].receive(Delivery(sealed))


def test_shares_of_another_round_do_not_open_even_under_the_same_keys() -> None:
    old, new = at_delivery(), Federation(make_config(6, round_index=8)).advertise().share()
    assert old.clients[ME].greeting == new.clients[ME].greeting  # the fixed entropy repeats: worst case
    with pytest.raises(PeerMisbehaved, match="do not open"):
        new.clients[ME].receive(old.delivery(ME))


def test_clients_that_were_shown_different_models_cannot_open_each_others_shares() -> None:
    ours, theirs = at_delivery(), Federation(make_config(6, context=bytes([1]) * 32)).advertise().share()
    mixed = (theirs.delivery(ME).sealed[0], *ours.delivery(ME).sealed[1:])
    with pytest.raises(PeerMisbehaved, match="from client 13"):
        ours.clients[ME].receive(Delivery(mixed))


@pytest.mark.parametrize(
    ("survivors", "error", "text"),
    [
        (CONFIG.clients[1:], PeerMisbehaved, "whose vector is not in the sum"),
        ((*CONFIG.clients, 99), PeerMisbehaved, "never shared"),
        (CONFIG.clients[:4], TooFewSurvivors, "4 clients sent a masked vector, at least 5"),
        ((ME,), TooFewSurvivors, "1 clients"),
    ],
    ids=["without me", "stranger", "below the quorum", "a sum of one"],
)
def test_a_forged_survivor_list_is_refused_and_no_share_leaves(
    survivors: tuple[int, ...], error: type[SecAggError], text: str
) -> None:
    client = at_request().clients[ME]
    with pytest.raises(error, match=text):
        client.receive(UnmaskRequest(survivors))
    with pytest.raises(WrongPhase):
        client.receive(UnmaskRequest(CONFIG.clients))


def test_a_survivor_that_advertised_but_never_shared_is_refused() -> None:
    federation = at_roster()
    for client in CONFIG.clients[:-1]:
        federation.server.receive(federation.clients[client].receive(federation.keys()))  # type: ignore[arg-type]
    federation.deliveries = federation.server.deadline()
    federation.deliver()
    client = federation.clients[ME]
    client.mask(VECTORS[ME])
    with pytest.raises(PeerMisbehaved, match="never shared"):
        client.receive(UnmaskRequest(CONFIG.clients))
