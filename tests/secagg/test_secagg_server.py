"""What the server refuses, that a refusal leaves the round as it was, and how it treats wrong shares."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from secagg_harness import Federation, make_config, random_vectors

from secagg import BadMessage, PeerMisbehaved, RoundConfig, TooFewSurvivors, WrongPhase, client_steps, from_ring, unmask
from secagg.messages import Advertise, MaskedVector, Message, Reveal, Share, Shares
from secagg.prg import apply_masks
from secagg.server import DEADLINE, RECEIVE
from secagg.shamir import PRIME
from secagg.unmask import SharedClient

CONFIG = make_config(7)  # clients 10, 13, ..., 28; threshold 5
ME, LOST = CONFIG.clients[0], CONFIG.clients[-1]
VECTORS = random_vectors(CONFIG)

STATES: dict[str, Callable[[], Federation]] = {
    "CollectKeys": lambda: Federation(CONFIG),
    "CollectShares": lambda: Federation(CONFIG).advertise(),
    "CollectVectors": lambda: Federation(CONFIG).advertise().share().deliver(),
    "CollectReveals": lambda: revealing(),
    "Done": lambda: done(),
}
ACCEPTED = {
    ("CollectKeys", "Advertise"),
    ("CollectShares", "Shares"),
    ("CollectVectors", "MaskedVector"),
    ("CollectReveals", "Reveal"),
}


def revealing(absent: tuple[int, ...] = ()) -> Federation:
    return Federation(CONFIG).advertise().share().deliver().mask(VECTORS, absent)


def done() -> Federation:
    federation = revealing().reveal()
    federation.server.deadline()
    return federation


def examples() -> dict[str, Message]:
    messages = revealing().reveal().messages()
    return {type(message).__name__: message for message in messages}


EXAMPLES = examples()


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("state", STATES)
def test_each_state_accepts_its_own_message_and_no_other(state: str, name: str) -> None:
    federation = STATES[state]()
    if (state, name) in ACCEPTED:
        federation.server.receive(EXAMPLES[name])
        return
    with pytest.raises(WrongPhase, match=f"in state {state} accepts no {name}"):
        federation.server.receive(EXAMPLES[name])


def test_the_tables_are_the_ones_tested_here() -> None:
    signed = {("CollectConsents", "Consent")}  # malicious-server mode, tested in test_secagg_malicious.py
    assert {(state.__name__, message.__name__) for state, message in RECEIVE} == ACCEPTED | signed
    assert {state.__name__ for state in DEADLINE} == {state for state, _ in ACCEPTED | signed}


def total_of(federation: Federation) -> np.ndarray:
    federation.server.deadline()
    return from_ring(federation.server.total.vector, CONFIG.bits)


def test_a_late_vector_is_refused_once_unmasking_has_started_and_is_not_added() -> None:
    federation = Federation(CONFIG).advertise().share().deliver()
    late = federation.clients[LOST].mask(VECTORS[LOST])
    for client in CONFIG.clients[:-1]:
        federation.server.receive(federation.clients[client].mask(VECTORS[client]))
    federation.requests = federation.server.deadline()
    with pytest.raises(WrongPhase, match="CollectReveals accepts no MaskedVector"):
        federation.server.receive(late)
    expected = sum(VECTORS[client] for client in CONFIG.clients[:-1])
    assert np.array_equal(total_of(federation.reveal()), expected)


def test_a_second_message_of_a_client_and_a_strangers_are_refused_and_the_sum_is_right() -> None:
    federation = Federation(CONFIG)
    stranger = Advertise(99, bytes([1]) * 32, bytes([2]) * 32)
    with pytest.raises(PeerMisbehaved, match="client 99 may not send its advertisement"):
        federation.server.receive(stranger)
    federation.server.receive(federation.clients[ME].greeting)
    with pytest.raises(PeerMisbehaved, match="client 10 sent its advertisement twice"):
        federation.server.receive(federation.clients[ME].greeting)
    for client in CONFIG.clients[1:]:
        federation.server.receive(federation.clients[client].greeting)
    federation.peer_keys = federation.server.deadline()
    federation.share().deliver()
    masked = federation.clients[ME].mask(VECTORS[ME])
    federation.server.receive(masked)
    with pytest.raises(PeerMisbehaved, match="client 10 sent its masked vector twice"):
        federation.server.receive(masked)
    with pytest.raises(PeerMisbehaved, match="client 99 may not send its masked vector"):
        federation.server.receive(MaskedVector(99, masked.packed))
    for client in CONFIG.clients[1:]:
        federation.server.receive(federation.clients[client].mask(VECTORS[client]))
    federation.requests = federation.server.deadline()
    assert np.array_equal(total_of(federation.reveal()), sum(VECTORS.values()))


SMALL_ORDER = bytes([0xEC]) + bytes([0xFF]) * 30 + bytes([0x7F])  # minus one


@pytest.mark.parametrize(
    ("alter", "text"),
    [
        (lambda own, other: replace(own, channel_key=other.channel_key), "client 28 repeats a public key"),
        (lambda own, other: replace(own, channel_key=other.mask_key), "client 28 repeats a public key"),
        (lambda own, other: replace(own, mask_key=other.channel_key), "client 28 repeats a public key"),
        (lambda own, other: replace(own, mask_key=other.mask_key), "client 28 repeats a public key"),
        (lambda own, other: replace(own, mask_key=own.channel_key), "client 28 repeats a public key"),
        (lambda own, other: replace(own, channel_key=bytes(32)), "client 28 advertised a public key of small order"),
        (lambda own, other: replace(own, mask_key=SMALL_ORDER), "client 28 advertised a public key of small order"),
    ],
)
@pytest.mark.parametrize("present", [CONFIG.clients[:1], CONFIG.clients[:-1]], ids=["second", "last"])
def test_keys_over_which_the_clients_would_abort_are_refused_and_the_round_goes_on(
    alter: Callable[[Advertise, Advertise], Advertise], text: str, present: tuple[int, ...]
) -> None:
    federation = Federation(CONFIG)
    greetings = {client: machine.greeting for client, machine in federation.clients.items()}
    for client in present:
        federation.server.receive(greetings[client])
    with pytest.raises(PeerMisbehaved, match=text):
        federation.server.receive(alter(greetings[LOST], greetings[ME]))
    for client in CONFIG.clients[len(present) : -1]:
        federation.server.receive(greetings[client])
    federation.peer_keys = federation.server.deadline()
    del federation.clients[LOST]
    federation.share().deliver().mask(VECTORS).reveal()
    assert np.array_equal(total_of(federation), sum(VECTORS[client] for client in CONFIG.clients[:-1]))


def test_a_client_whose_keys_were_refused_may_still_send_good_ones() -> None:
    federation = Federation(CONFIG)
    greeting = federation.clients[ME].greeting
    with pytest.raises(PeerMisbehaved, match="client 10 repeats"):
        federation.server.receive(replace(greeting, mask_key=greeting.channel_key))
    federation.advertise().share().deliver().mask(VECTORS).reveal()
    assert np.array_equal(total_of(federation), sum(VECTORS.values()))


def test_a_vector_of_another_length_is_refused_and_leaves_the_accumulator() -> None:
    federation = Federation(CONFIG).advertise().share().deliver()
    for size in (0, 119, 121, 160):
        with pytest.raises(BadMessage, match="40 words of 24 bits"):
            federation.server.receive(MaskedVector(ME, bytes([1]) * size))
    federation.mask(VECTORS).reveal()
    assert np.array_equal(total_of(federation), sum(VECTORS.values()))


def test_shares_for_other_than_exactly_the_peers_are_refused() -> None:
    federation = Federation(CONFIG).advertise()
    shares = federation.clients[ME].receive(federation.keys())
    assert isinstance(shares, Shares)
    with pytest.raises(PeerMisbehaved, match="client 10 did not share with exactly its neighbours"):
        federation.server.receive(replace(shares, sealed=shares.sealed[1:]))
    federation.server.receive(shares)


def lie(reveal: Reveal, owner: int) -> Reveal:
    """The same answer with another share for `owner`."""

    def changed(shares: tuple[Share, ...]) -> tuple[Share, ...]:
        # Another error for each liar: equal ones at neighbouring points can cancel in the interpolation.
        return tuple(Share(s.owner, (s.value + reveal.client) % PRIME) if s.owner == owner else s for s in shares)

    return Reveal(reveal.client, changed(reveal.self_mask_seeds), changed(reveal.mask_secrets))


def reveal_with(
    federation: Federation, alter: Callable[[Reveal], Reveal], liars: tuple[int, ...], silent: int = 0
) -> None:
    survivors = sorted(federation.requests)
    for client in survivors[: len(survivors) - silent]:
        reply = federation.clients[client].receive(federation.requests[client])
        assert isinstance(reply, Reveal)
        federation.server.receive(alter(reply) if client in liars else reply)


@pytest.mark.parametrize("owner", [CONFIG.clients[1], LOST], ids=["a survivor's seed", "a dropped client's key"])
@pytest.mark.parametrize("liars", [CONFIG.clients[:1], CONFIG.clients[2:3], CONFIG.clients[5:6]])
def test_one_wrong_share_is_found_and_left_out_while_enough_others_remain(owner: int, liars: tuple[int, ...]) -> None:
    federation = revealing(absent=(LOST,))
    reveal_with(federation, lambda reveal: lie(reveal, owner), liars)
    assert np.array_equal(total_of(federation), sum(VECTORS[client] for client in CONFIG.clients[:-1]))
    used = liars[0] in CONFIG.clients[:5]  # the first five answers are tried first
    assert federation.server.total.misfits == (((liars[0], owner),) if used else ())


def test_two_wrong_shares_are_left_out_when_seven_answer() -> None:
    federation = revealing()
    owner = CONFIG.clients[3]
    reveal_with(federation, lambda reveal: lie(reveal, owner), CONFIG.clients[1:3])
    assert np.array_equal(total_of(federation), sum(VECTORS.values()))
    assert federation.server.total.misfits == ((CONFIG.clients[1], owner), (CONFIG.clients[2], owner))


def test_a_wrong_share_names_the_pair_whichever_of_the_two_lied(monkeypatch: pytest.MonkeyPatch) -> None:
    """An owner that deals one holder a wrong share looks just as a holder that changes it."""
    owner, holder = CONFIG.clients[3], CONFIG.clients[1]
    real = client_steps.split

    def crooked(secret: bytes, *, threshold: int, points: list[int], entropy: Callable[[int], bytes]) -> list[int]:
        values = list(real(secret, threshold=threshold, points=points, entropy=entropy))
        values[points.index(CONFIG.point(holder))] ^= 1
        return values

    federation = Federation(CONFIG).advertise()
    for client, message in federation.peer_keys.items():
        with monkeypatch.context() as patch:
            if client == owner:
                patch.setattr(client_steps, "split", crooked)
            reply = federation.clients[client].receive(message)
        assert reply is not None
        federation.server.receive(reply)
    federation.deliveries = federation.server.deadline()
    federation.deliver().mask(VECTORS).reveal()
    assert np.array_equal(total_of(federation), sum(VECTORS.values()))
    assert federation.server.total.misfits == ((holder, owner),)


def test_a_holder_found_wrong_once_costs_one_try_for_each_other_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: dict[int, int] = {}
    real = unmask._check

    def counting(config: RoundConfig, owner: int, public: SharedClient, *, alive: bool) -> Callable[[bytes], bool]:
        fits = real(config, owner, public, alive=alive)

        def counted(secret: bytes) -> bool:
            tries[owner] = tries.get(owner, 0) + 1
            return fits(secret)

        return counted

    monkeypatch.setattr(unmask, "_check", counting)
    federation, liars = revealing(), CONFIG.clients[1:3]

    def lie_about_everyone(reveal: Reveal) -> Reveal:
        for owner in CONFIG.clients[:-1]:
            reveal = lie(reveal, owner)
        return reveal

    reveal_with(federation, lie_about_everyone, liars)
    assert np.array_equal(total_of(federation), sum(VECTORS.values()))
    first, *rest = CONFIG.clients
    assert tries[first] > 3 and {tries[owner] for owner in rest} == {1}
    assert federation.server.total.misfits == tuple((liar, owner) for owner in CONFIG.clients[:-1] for liar in liars)


@pytest.mark.parametrize("owner", [CONFIG.clients[1], LOST], ids=["a survivor's seed", "a dropped client's key"])
def test_wrong_shares_that_cannot_be_left_out_end_the_round_without_a_sum(owner: int) -> None:
    federation = revealing(absent=(LOST,))
    reveal_with(federation, lambda reveal: lie(reveal, owner), CONFIG.clients[:1], silent=1)
    with pytest.raises(PeerMisbehaved, match=f"the secret that client {owner} committed to"):
        federation.server.deadline()
    with pytest.raises(WrongPhase, match="Failed has no sum"):
        _ = federation.server.total


@pytest.mark.parametrize(
    "alter",
    [
        lambda r: Reveal(r.client, r.self_mask_seeds[1:], r.mask_secrets),
        lambda r: Reveal(r.client, r.self_mask_seeds, ()),
        lambda r: Reveal(r.client, (*r.self_mask_seeds, Share(99, 1)), r.mask_secrets),
        lambda r: Reveal(r.client, r.self_mask_seeds[1:], (r.self_mask_seeds[0], *r.mask_secrets)),
    ],
    ids=["a seed missing", "a key missing", "a stranger's", "the wrong kind"],
)
def test_an_answer_for_other_than_the_asked_clients_is_refused(alter: Callable[[Reveal], Reveal]) -> None:
    federation = revealing(absent=(LOST,))
    reply = federation.clients[ME].receive(federation.requests[ME])
    assert isinstance(reply, Reveal)
    with pytest.raises(PeerMisbehaved, match="client 10 did not answer for exactly the clients"):
        federation.server.receive(alter(reply))
    federation.server.receive(reply)


def test_a_dropped_client_may_not_help_to_unmask() -> None:
    federation = revealing(absent=(LOST,))
    reply = federation.clients[ME].receive(federation.requests[ME])
    assert isinstance(reply, Reveal)
    with pytest.raises(PeerMisbehaved, match="client 28 may not send its reveal"):
        federation.server.receive(replace(reply, client=LOST))


def test_too_few_answers_leave_no_sum() -> None:
    federation = revealing()
    reveal_with(federation, lambda reveal: reveal, (), silent=3)
    with pytest.raises(TooFewSurvivors, match="4 clients answered the request to unmask, at least 5"):
        federation.server.deadline()
    with pytest.raises(WrongPhase, match="Failed"):
        federation.server.deadline()
    with pytest.raises(WrongPhase, match="has no sum"):
        _ = federation.server.total


@pytest.mark.parametrize(("threshold", "min_survivors"), [(6, 3), (4, 6)])
def test_the_server_itself_stops_below_the_quorum_at_every_stage(threshold: int, min_survivors: int) -> None:
    config = make_config(7, threshold=threshold, min_survivors=min_survivors)
    present = config.clients[:5]
    federation = Federation(config)
    for client in present:
        federation.server.receive(federation.clients[client].greeting)
    with pytest.raises(TooFewSurvivors, match="5 clients advertised keys, at least 6"):
        federation.server.deadline()
    federation = Federation(config).advertise()
    for client in present:
        federation.server.receive(federation.clients[client].receive(federation.keys()))  # type: ignore[arg-type]
    with pytest.raises(TooFewSurvivors, match="5 clients shared their secrets, at least 6"):
        federation.server.deadline()
    federation = Federation(config).advertise().share().deliver()
    with pytest.raises(TooFewSurvivors, match="5 clients sent a masked vector, at least 6"):
        federation.mask(VECTORS, absent=config.clients[5:])
    with pytest.raises(WrongPhase, match="Failed accepts no MaskedVector"):
        federation.server.receive(federation.sent["masked"][ME])


def test_masks_between_two_dropped_clients_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    federation = revealing(absent=CONFIG.clients[-2:]).reveal()
    keys: list[bytes] = []

    def counted(total: np.ndarray, *, add: list[bytes], subtract: list[bytes]) -> None:
        keys.extend([*add, *subtract])
        apply_masks(total, add=add, subtract=subtract)

    monkeypatch.setattr("secagg.unmask.apply_masks", counted)
    assert np.array_equal(total_of(federation), sum(VECTORS[client] for client in CONFIG.clients[:-2]))
    assert len(keys) == len(set(keys)) == 5 + 2 * 5  # five self-masks, and each dropped client with five survivors


def test_there_is_no_sum_before_the_end_and_no_deadline_after_it() -> None:
    federation = revealing()
    with pytest.raises(WrongPhase, match="CollectReveals has no sum"):
        _ = federation.server.total
    with pytest.raises(WrongPhase, match="Done has no deadline"):
        done().server.deadline()
