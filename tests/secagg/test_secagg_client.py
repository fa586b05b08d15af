"""What a client refuses, in which state, and that it never works again afterwards."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from secagg_harness import Federation, fixed_entropy, make_config, random_vectors

from secagg import Client, PeerMisbehaved, SecAggError, TooFewSurvivors, WrongPhase
from secagg.client import TRANSITIONS, AwaitDelivery, AwaitRequest, AwaitRoster, AwaitVector, OwnVector
from secagg.messages import Advertise, Delivery, Message, Reveal, Roster, Sealed, UnmaskRequest

CONFIG = make_config(6)  # clients 10, 13, ..., 25; threshold 5
ME, PEER = CONFIG.clients[0], CONFIG.clients[1]
VECTORS = random_vectors(CONFIG)


def at_roster() -> Federation:
    return Federation(CONFIG).advertise()


def at_delivery() -> Federation:
    return at_roster().share()


def at_vector() -> Federation:
    return at_delivery().deliver()


def at_request(absent: tuple[int, ...] = ()) -> Federation:
    return at_vector().mask(VECTORS, absent)


def at_end() -> Federation:
    return at_request().reveal()


STATES: dict[str, Callable[[], Federation]] = {
    "AwaitRoster": at_roster,
    "AwaitDelivery": at_delivery,
    "AwaitVector": at_vector,
    "AwaitRequest": at_request,
    "Done": at_end,
}
EVENTS = ("Roster", "Delivery", "OwnVector", "UnmaskRequest", "Advertise", "Reveal")
ACCEPTED = {
    ("AwaitRoster", "Roster"),
    ("AwaitDelivery", "Delivery"),
    ("AwaitVector", "OwnVector"),
    ("AwaitRequest", "UnmaskRequest"),
}


def offer(federation: Federation, client: Client, event: str) -> object:
    if event == "OwnVector":
        return client.mask(VECTORS[client.client])
    messages: dict[str, Message] = {
        "Roster": federation.roster(),
        "Delivery": federation.deliveries.get(ME, Delivery(())),
        "UnmaskRequest": UnmaskRequest(CONFIG.clients),
        "Advertise": client.greeting,
        "Reveal": Reveal(ME, (), ()),
    }
    return client.receive(messages[event])


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("state", STATES)
def test_each_state_accepts_its_own_event_and_no_other(state: str, event: str) -> None:
    federation = STATES[state]()
    client = federation.clients[ME]
    if (state, event) in ACCEPTED:
        offer(federation, client, event)
        return
    with pytest.raises(WrongPhase, match=f"client {ME} in state {state} accepts no {event}"):
        offer(federation, client, event)
    for later in EVENTS:  # and it stays failed, whatever comes
        with pytest.raises(WrongPhase, match="in state Failed"):
            offer(federation, client, later)


def test_the_transition_table_is_the_one_tested_here() -> None:
    assert {(state.__name__, event.__name__) for state, event in TRANSITIONS} == ACCEPTED


def without(roster: Roster, client: int) -> Roster:
    return Roster(tuple(entry for entry in roster.entries if entry.client != client))


def altered(roster: Roster, client: int, **change: bytes) -> Roster:
    return Roster(tuple(replace(e, **change) if e.client == client else e for e in roster.entries))


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
        (lambda r: Roster((*r.entries, Advertise(99, bytes([1]) * 32, bytes([2]) * 32))), "not in the round"),
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
def test_a_forged_roster_is_refused_and_nothing_is_shared(alter: Callable[[Roster], Roster], text: str) -> None:
    federation = at_roster()
    client = federation.clients[ME]
    with pytest.raises(PeerMisbehaved, match=text):
        client.receive(alter(federation.roster()))
    with pytest.raises(WrongPhase):
        client.receive(federation.roster())


def test_a_mask_key_of_small_order_is_refused_before_anything_is_masked() -> None:
    federation = at_roster()
    roster = altered(federation.roster(), PEER, mask_key=bytes(32))
    for client in federation.clients.values():
        if client.client != PEER:
            federation.server.receive(client.receive(roster))  # type: ignore[arg-type]
    delivery = federation.server.deadline()[ME]
    assert PEER not in {item.peer for item in delivery.sealed}  # type: ignore[union-attr]
    honest = at_delivery()
    state = honest.clients[ME]._state
    assert isinstance(state, AwaitDelivery)
    poisoned = replace(state, mask_keys={**state.mask_keys, PEER: bytes(32)})
    with pytest.raises(PeerMisbehaved, match="small order"):
        TRANSITIONS[AwaitDelivery, Delivery](CONFIG, ME, poisoned, honest.delivery(ME))


def test_a_roster_below_the_quorum_is_refused() -> None:
    federation = at_roster()
    roster = without(without(federation.roster(), PEER), CONFIG.clients[2])
    with pytest.raises(TooFewSurvivors, match="4 clients advertised keys, at least 5"):
        federation.clients[ME].receive(roster)


def test_min_survivors_above_the_threshold_counts_at_every_stage() -> None:
    config = make_config(6, threshold=4, min_survivors=6)
    federation = Federation(config).advertise()
    with pytest.raises(TooFewSurvivors, match="5 clients advertised keys, at least 6"):
        federation.clients[ME].receive(without(federation.roster(), PEER))
    federation = Federation(config).advertise().share()
    with pytest.raises(TooFewSurvivors, match="5 clients shared their secrets, at least 6"):
        federation.clients[ME].receive(Delivery(federation.delivery(ME).sealed[1:]))
    federation = Federation(config).advertise().share().deliver().mask(random_vectors(config))
    with pytest.raises(TooFewSurvivors, match="5 clients sent a masked vector, at least 6"):
        federation.clients[ME].receive(UnmaskRequest(config.clients[:-1]))


@pytest.mark.parametrize(
    ("alter", "error", "text"),
    [
        (lambda sealed: sealed[2:], TooFewSurvivors, "4 clients shared their secrets"),
        (lambda sealed: (Sealed(ME, sealed[0].ciphertext), *sealed), PeerMisbehaved, "or of the client itself"),
        (lambda sealed: (*sealed, Sealed(99, sealed[0].ciphertext)), PeerMisbehaved, "outside the roster"),
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
        federation.server.receive(federation.clients[client].receive(federation.roster()))  # type: ignore[arg-type]
    federation.deliveries = federation.server.deadline()
    federation.deliver()
    client = federation.clients[ME]
    client.mask(VECTORS[ME])
    with pytest.raises(PeerMisbehaved, match="never shared"):
        client.receive(UnmaskRequest(CONFIG.clients))


def test_for_each_client_exactly_one_kind_of_share_is_released() -> None:
    federation = at_request(absent=CONFIG.clients[-1:])
    reveal = federation.clients[ME].receive(federation.requests[ME])
    assert isinstance(reveal, Reveal)
    assert tuple(share.owner for share in reveal.self_mask_seeds) == CONFIG.clients[:-1]
    assert tuple(share.owner for share in reveal.mask_secrets) == CONFIG.clients[-1:]


def test_a_second_request_with_another_survivor_list_is_refused() -> None:
    client = at_request().clients[ME]
    client.receive(UnmaskRequest(CONFIG.clients))
    with pytest.raises(WrongPhase, match="in state Done"):
        client.receive(UnmaskRequest(CONFIG.clients[:-1]))


def test_a_second_vector_is_refused_because_its_masks_would_cancel() -> None:
    federation, twin = at_vector(), at_vector()  # the same entropy: what a second mask() would have given
    first = federation.clients[ME].mask(VECTORS[ME])
    second = twin.clients[ME].mask(VECTORS[ME] + 5)
    difference = (np.frombuffer(second.packed, np.uint8).astype(int) - np.frombuffer(first.packed, np.uint8)).reshape(
        -1, 3
    )
    assert ((difference @ [1, 256, 65536] - 5) % 2**24 == 0).all()
    with pytest.raises(WrongPhase, match="in state AwaitRequest accepts no OwnVector"):
        federation.clients[ME].mask(VECTORS[ME] + 5)


@pytest.mark.parametrize(
    "vector",
    [np.zeros(41, np.int64), np.zeros((1, 40), np.int64), np.zeros(40, np.int32), np.zeros(40, np.float64)],
    ids=["length", "shape", "int32", "float"],
)
def test_a_vector_of_another_shape_or_type_is_refused_and_spends_nothing(vector: np.ndarray) -> None:
    client = at_vector().clients[ME]
    with pytest.raises(ValueError, match=r"vector must be int64\[40\]"):
        client.mask(vector)
    client.mask(VECTORS[ME])


def test_masking_leaves_the_callers_vector_alone() -> None:
    vector = VECTORS[ME].copy()
    at_vector().clients[ME].mask(vector)
    assert np.array_equal(vector, VECTORS[ME])


def test_a_client_outside_the_roster_is_refused() -> None:
    with pytest.raises(ValueError, match="client 11 is not among the clients"):
        Client(CONFIG, 11)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_client_can_be_neither_copied_nor_pickled(duplicate: Callable[[Client], object]) -> None:
    for federation in (at_roster(), at_vector(), at_request()):
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            duplicate(federation.clients[ME])


def test_nothing_is_drawn_after_the_shares() -> None:
    draw, spent = fixed_entropy(), False

    def entropy(size: int) -> bytes:
        assert not spent
        return draw(size)

    federation = at_roster()
    client = Client(CONFIG, ME, entropy=entropy)
    client.receive(altered(federation.roster(), ME, **keys_of(client)))
    spent = True
    assert isinstance(client._state, AwaitDelivery)
    for state in (AwaitDelivery, AwaitVector, AwaitRequest):
        assert "entropy" not in state.__dataclass_fields__
    assert "entropy" in AwaitRoster.__dataclass_fields__


def keys_of(client: Client) -> dict[str, bytes]:
    return {"channel_key": client.greeting.channel_key, "mask_key": client.greeting.mask_key}


def test_the_vector_is_an_event_like_any_other() -> None:
    assert (AwaitVector, OwnVector) in TRANSITIONS
