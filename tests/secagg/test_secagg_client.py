"""What a client refuses, in which state, and that it never works again afterwards."""

import copy
import pickle
import threading
from collections.abc import Callable

import numpy as np
import pytest
from secagg_harness import Federation, altered, fixed_entropy, make_config, random_vectors
from secagg_hostile import secrets_in
from secagg_walk import reachable

from secagg import Client, MemoryJournal, SecAggError, WrongPhase
from secagg.client import TRANSITIONS, AwaitDelivery, AwaitPeerKeys, AwaitRequest, AwaitVector, OwnVector
from secagg.messages import Delivery, Message, Reveal, UnmaskRequest
from secagg.shamir import PRIME

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
    "AwaitPeerKeys": at_roster,
    "AwaitDelivery": at_delivery,
    "AwaitVector": at_vector,
    "AwaitRequest": at_request,
    "Done": at_end,
}
EVENTS = ("PeerKeys", "Delivery", "OwnVector", "UnmaskRequest", "Advertise", "Reveal")
ACCEPTED = {
    ("AwaitPeerKeys", "PeerKeys"),
    ("AwaitDelivery", "Delivery"),
    ("AwaitVector", "OwnVector"),
    ("AwaitRequest", "UnmaskRequest"),
    ("AwaitConsents", "Consents"),
}


def offer(federation: Federation, client: Client, event: str) -> object:
    if event == "OwnVector":
        return client.mask(VECTORS[client.client])
    messages: dict[str, Message] = {
        "PeerKeys": federation.keys(),
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


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickle.dumps])
def test_no_state_of_a_client_that_holds_secrets_can_be_copied_deeply_or_pickled(
    duplicate: Callable[[object], object],
) -> None:
    for federation in (at_roster(), at_delivery(), at_vector(), at_request()):
        with pytest.raises(TypeError, match="one-time secret"):
            duplicate(federation.clients[ME]._state)


def test_the_two_secrets_of_a_client_are_shared_with_independent_polynomials() -> None:
    """With the same coefficients the two shares of every holder would differ by the same: secret minus seed."""
    states = [client._state for client in at_vector().clients.values()]
    for owner in CONFIG.clients:
        pairs = [state.shares[owner] for state in states if isinstance(state, AwaitVector)]
        differences = {(pair.mask_secret - pair.self_mask_seed) % PRIME for pair in pairs}
        assert len(differences) == len(CONFIG.clients)


def test_nothing_is_drawn_after_the_shares() -> None:
    draw, spent = fixed_entropy(), False

    def entropy(size: int) -> bytes:
        assert not spent
        return draw(size)

    federation = at_roster()
    client = Client(CONFIG, ME, entropy=entropy)
    client.receive(altered(federation.keys(), ME, **keys_of(client)))
    spent = True
    assert isinstance(client._state, AwaitDelivery)
    for state in (AwaitDelivery, AwaitVector, AwaitRequest):
        assert "entropy" not in state.__dataclass_fields__
    assert "entropy" in AwaitPeerKeys.__dataclass_fields__


def keys_of(client: Client) -> dict[str, bytes]:
    return {"channel_key": client.greeting.channel_key, "mask_key": client.greeting.mask_key}


def test_the_vector_is_an_event_like_any_other() -> None:
    assert (AwaitVector, OwnVector) in TRANSITIONS


@pytest.mark.parametrize("name", ["AwaitPeerKeys", "AwaitDelivery", "AwaitVector", "AwaitRequest"])
@pytest.mark.parametrize("message", [Delivery(()), UnmaskRequest(CONFIG.clients[1:])])
def test_the_traceback_of_a_refusal_leads_to_no_secret(name: str, message: Message) -> None:
    """A caller that keeps or logs the exception would else keep what the failed client let go."""
    client = STATES[name]().clients[ME]
    public = {client.greeting.channel_key, client.greeting.mask_key}
    secrets = {secret for secret in secrets_in(client) if len(secret) == 32} - public
    pairs = list(getattr(client._state, "shares", {}).values())
    with pytest.raises(SecAggError) as caught:
        client.receive(message)
    frames, place = [], caught.value.__traceback__
    while place is not None:
        if place.tb_frame.f_globals["__name__"].startswith("secagg."):
            frames.append(place.tb_frame)
        place = place.tb_next
    assert frames
    held = [value for frame in frames for value in frame.f_locals.values()]
    assert not any(secret in stored for secret in secrets for stored in reachable(held))
    assert not any(value is pair for value in held for pair in pairs)
    assert not any(type(value).__name__.startswith("Await") for value in held)


def test_two_threads_that_mask_at_once_get_one_vector_and_one_refusal() -> None:
    waiting, results = threading.Event(), list[str]()

    def mask() -> None:
        waiting.set()
        try:
            client.mask(VECTORS[ME])
        except WrongPhase as error:
            results.append(str(error))

    second = threading.Thread(target=mask)

    class Slow(MemoryJournal):
        def once(self, entry: bytes, /) -> None:
            second.start()
            waiting.wait()
            second.join(0.2)  # without the lock it would find the client between two states and fail it
            super().once(entry)

    federation = Federation(CONFIG)
    client = federation.clients[ME] = Client(CONFIG, ME, entropy=fixed_entropy(b"threads"), journal=Slow())
    federation.advertise().share().deliver()
    client.mask(VECTORS[ME])
    second.join()
    assert results == [f"client {ME} in state AwaitRequest accepts no OwnVector"]
