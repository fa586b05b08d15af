"""Attacks played against real parties: those that succeed against Flower's SecAgg+, and those of the checklist.

Weaknesses of another system are facts about it (flwr 1.41); each test here says what the attack was there and shows
that it is refused here, with the client or the server named.
"""

import base64
import copy
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
from secagg_collusion import Collusion, Survivors, verify_each_signature_once
from secagg_harness import (
    Federation,
    fixed_entropy,
    identity_of,
    make_config,
    random_vectors,
    run_local,
)
from secagg_hostile import Outcome, make_clients, on, play, secrets_in

from secagg import (
    BadMessage,
    Client,
    FixedPoint,
    Mode,
    PeerMisbehaved,
    RoundConfig,
    SecAggError,
    SigningKey,
    Stage,
    TooFewSurvivors,
    WrongPhase,
    from_ring,
    to_ring,
)
from secagg.client_steps import AwaitRequest
from secagg.journal import FileJournal, Journal, MemoryJournal
from secagg.keys import KeyPair, pair_mask_key
from secagg.messages import (
    Advertise,
    Consents,
    Delivery,
    MaskedVector,
    Message,
    PeerKeys,
    Reveal,
    Share,
    Shares,
    UnmaskRequest,
)
from secagg.ring import word_dtype
from secagg.server import Server
from secagg.shamir import PRIME
from secagg.statements import keys_statement
from secagg.unmask import remove_masks
from secagg.wire import decode, encode

MALICIOUS = Mode.MALICIOUS_SERVER
KINDS = {
    "complete": make_config(7),
    "complete, malicious server": make_config(7, mode=MALICIOUS),
    "6-regular": make_config(11, neighbors=6, threshold=3),
    "6-regular, malicious server": make_config(11, neighbors=6, threshold=4, mode=MALICIOUS),
}
each_kind = pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
PLAIN, SIGNED = KINDS["complete"], KINDS["complete, malicious server"]  # clients 10, 13, ..., 28; threshold 5
ME = PLAIN.clients[0]


def total_of(outcome: Outcome) -> np.ndarray:
    return outcome.vector()


def sum_over(config: RoundConfig, clients: tuple[int, ...]) -> np.ndarray:
    vectors = random_vectors(config)
    return np.sum([vectors[client] for client in clients], axis=0)


def assert_sum(config: RoundConfig, outcome: Outcome, lost: tuple[int, ...] = ()) -> None:
    """The round ended with the exact sum of everyone but `lost`."""
    assert outcome.ended is None, outcome.ended
    assert outcome.total is not None
    survivors = tuple(client for client in config.clients if client not in lost)
    assert outcome.total.survivors == survivors
    assert np.array_equal(total_of(outcome), sum_over(config, survivors))


# What succeeds against Flower's SecAgg+ 1.41


def bit_deviation(keys: list[bytes]) -> float:
    """The largest deviation, in standard deviations, of the number of ones in any bit position."""
    ones = np.unpackbits(np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), -1), axis=1).sum(axis=0)
    return float(np.abs(ones - len(keys) / 2).max() / (len(keys) / 4) ** 0.5)


def pair_keys(count: int) -> list[bytes]:
    draw = fixed_entropy(b"pairs")
    pairs = [KeyPair.from_secret(draw(32)) for _ in range(count)]
    return [
        pair_mask_key(a, b.public, own_id=i, peer_id=j, digest=bytes(32))
        for (i, a), (j, b) in combinations(enumerate(pairs), 2)
    ]


def test_mask_keys_have_256_bits_of_which_each_is_a_fair_coin() -> None:
    """There: seeds are folded base64 text, so that 28 bits are left and one core tries them all in three minutes."""
    keys = pair_keys(50)
    assert len(set(keys)) == 1225
    assert {len(key) for key in keys} == {32}
    assert bit_deviation(keys) < 5.5  # 256 bits: chance 1e-5


def test_the_same_statistic_rejects_keys_as_base64_text_and_keys_with_one_slightly_unfair_bit() -> None:
    keys = pair_keys(50)
    text = [base64.urlsafe_b64encode(key) for key in keys]
    assert bit_deviation(text) > 30  # the top bit of every byte is zero
    folded = np.bitwise_xor.reduce(np.frombuffer(b"".join(t[:32] for t in text), "<u4").reshape(-1, 8), axis=1)
    assert np.bitwise_or.reduce(folded) & 0x80808080 == 0  # the 28 bits
    rng = np.random.default_rng(0)
    unfair = [bytes([key[0] | (128 if rng.random() < 0.2 else 0)]) + key[1:] for key in keys]
    assert bit_deviation(unfair) > 5.5


def test_a_victim_on_the_active_and_on_the_dead_list_gets_neither_shares_nor_a_message() -> None:
    """There: the client answers both lists, and the server reads the victim's vector to seven digits."""
    with pytest.raises(BadMessage, match="a reveal holds both kinds of share of one client"):
        Reveal(ME, (Share(13, 1),), (Share(13, 2),))
    for config in KINDS.values():  # one list is all that can be asked, and who is missing follows from it
        assert {field.name for field in fields(UnmaskRequest)} == {"survivors", "tags"}
        with pytest.raises(BadMessage, match="survivors: ids must be distinct"):
            UnmaskRequest((*config.clients, config.clients[-1]))


@each_kind
def test_a_second_unmasking_request_with_the_victim_on_the_other_side_is_refused(config: RoundConfig) -> None:
    everyone, fewer = config.clients, config.clients[:-1]

    def twice(client: int, message: Message) -> Iterator[Message]:
        yield message
        if isinstance(message, UnmaskRequest):
            yield UnmaskRequest(fewer)

    outcome = play(config, random_vectors(config), server=twice)
    assert set(outcome.refusals) == set(everyone)
    for client, error in outcome.refusals.items():
        assert isinstance(error, WrongPhase)
        assert f"client {client} in state " in str(error)
    released = {share.owner for reveal in outcome.reveals for share in reveal.mask_secrets}
    assert not released  # whoever answered had answered the first list


def test_the_halves_of_the_clients_shown_different_lists_never_give_both_secrets_even_to_a_semi_honest_round() -> None:
    collusion = Collusion(PLAIN, (), PLAIN.clients[-1])
    everyone, without = PLAIN.clients, PLAIN.clients[:-1]
    others = PLAIN.clients[:-1]
    for choice in product((everyone, without, None), repeat=len(others)):
        shown = {c: survivors for c, survivors in zip(others, choice, strict=True) if survivors is not None}
        shown[collusion.victim] = everyone
        assert collusion.vector(shown) is None


def victim_among_fakes(config: RoundConfig, victim: int, key: SigningKey) -> Outcome:
    """The server plays everyone but the victim, with keys that it made itself, signed as well as it can."""
    fakes = make_clients(replace(config, mode=Mode.SEMI_HONEST, identities=()))
    clients = {**fakes, victim: make_clients(config)[victim]}
    if config.malicious:
        forger = make_clients(config)  # as if it were its own code; the signatures are what it cannot make
        clients = {**forger, victim: clients[victim]}

    def forge(client: int, message: Advertise) -> Advertise:
        if not config.malicious:
            return message
        return replace(
            message, signature=key.sign(keys_statement(config, client, message.channel_key, message.mask_key))
        )

    def lie(client: int, message: PeerKeys) -> PeerKeys:
        return replace(message, entries=tuple(e if e.client == victim else forge(e.client, e) for e in message.entries))

    zeros = {client: np.zeros(config.dim, np.int64) for client in config.clients}
    vectors = {**zeros, victim: random_vectors(config)[victim]}
    return play(config, vectors, server=on(PeerKeys, lie, clients=[victim]), clients=clients)


def test_a_server_that_plays_all_the_others_reads_the_victim_unless_keys_are_signed() -> None:
    """There: nothing is signed. Here: the semi-honest mode does not claim to stop it, the other mode does."""
    stranger = SigningKey.from_secret(bytes([5]) * 32)
    outcome = victim_among_fakes(PLAIN, ME, stranger)
    assert np.array_equal(total_of(outcome), random_vectors(PLAIN)[ME])  # the attack works where it may
    outcome = victim_among_fakes(SIGNED, ME, stranger)
    assert isinstance(outcome.refusals[ME], PeerMisbehaved)
    assert "client 13: the signature of its public keys does not verify" in str(outcome.refusals[ME])
    assert not any(isinstance(m, Shares | MaskedVector) and m.client == ME for m in outcome.heard)


@each_kind
def test_messages_of_an_earlier_round_and_earlier_stages_again_are_refused(config: RoundConfig) -> None:
    """There: a client goes back to the first stage whenever it is told to."""
    earlier = replace(config, round_index=config.round_index - 1)
    old = Federation(earlier).advertise().share().deliver().mask(random_vectors(config)).reveal()
    for message in old.messages():
        with pytest.raises(BadMessage, match="another round"):
            decode(encode(message, earlier), config)
    new = Federation(config).advertise().share().deliver().mask(random_vectors(config))
    reached = new.clients[ME]._state
    for message in (new.keys(ME), new.deliveries[ME]):
        new.clients[ME]._state = reached
        with pytest.raises(WrongPhase, match=f"client {ME} in state AwaitRequest accepts no {type(message).__name__}"):
            new.clients[ME].receive(message)
    new.clients[ME]._state = reached
    for message in (new.clients[ME].greeting, new.sent["shares"][ME], new.sent["masked"][ME]):
        with pytest.raises(WrongPhase, match=f"the server in state Collect.* accepts no {type(message).__name__}"):
            new.server.receive(message)
    new.reveal().server.deadline()
    assert np.array_equal(from_ring(new.server.total.vector, 24), sum_over(config, config.clients))


@each_kind
def test_a_late_vector_is_refused_and_not_in_the_sum(config: RoundConfig) -> None:
    late = config.clients[3]
    held: list[Message] = []

    def slow(client: int, message: Message) -> Iterator[Message]:
        if isinstance(message, MaskedVector) and client == late:
            held.append(message)
            return
        yield message
        if not isinstance(message, Advertise | Shares | MaskedVector):
            yield from held  # arrives after everyone else's answer
            held.clear()

    outcome = play(config, random_vectors(config), client=slow)
    assert [(sender != late, type(error)) for sender, error in outcome.refused] == [(True, WrongPhase)]
    assert "accepts no MaskedVector" in str(outcome.refused[0][1])
    assert_sum(config, outcome, lost=(late,))


@each_kind
@pytest.mark.parametrize("stage", [Stage.BEFORE_KEYS, Stage.AFTER_KEYS])
def test_a_drop_out_in_the_first_two_stages_does_not_end_the_round(config: RoundConfig, stage: Stage) -> None:
    """There: KeyError at every client, and the round is halted."""
    lost = config.clients[4]
    result = run_local(config, random_vectors(config), {lost: stage})
    assert result.dropped == ((lost, stage),)
    assert np.array_equal(result.vector, sum_over(config, result.survivors))


def test_an_even_number_of_neighbours_works_and_an_odd_one_is_refused_by_name() -> None:
    """There: 20 shares among 50 clients end in an IndexError, and 21 are used where 20 are told."""
    config = make_config(50, neighbors=20, dim=5)
    result = run_local(config, random_vectors(config), {config.clients[7]: Stage.AFTER_SHARES})
    assert len(result.survivors) == 49
    assert np.array_equal(result.vector, sum_over(config, result.survivors))
    for neighbors in (19, 21, 0, 50):
        with pytest.raises(ValueError, match=r"neighbors must be even and lie in 2\.\.48"):
            replace(config, neighbors=neighbors)


@pytest.mark.parametrize(("clients", "value_range", "bits"), [(1024, 8.0, 32), (1024, 1.0, 24), (1023, 8.0, 24)])
def test_a_thousand_clients_at_the_edge_of_the_range_do_not_overflow(
    clients: int, value_range: float, bits: int
) -> None:
    """There: from 1024 clients of the largest weight on a mean of 7.0 is decoded as infinite, without an error."""
    fixed = FixedPoint(bits=bits, value_range=value_range, max_clients=clients)
    words = to_ring(fixed.encode(np.array([7.0, -8.0]).clip(-value_range, value_range), None).vector, bits)
    total = np.zeros(2, word_dtype(bits))
    for _ in range(clients):
        total += words
    mean = fixed.decode(from_ring(total, bits)) / clients
    assert np.abs(mean - np.array([7.0, -8.0]).clip(-value_range, value_range)).max() <= 1 / fixed.scale
    with pytest.raises(ValueError, match=r"max_clients=.* leaves fewer than 256 levels"):
        FixedPoint(bits=16, value_range=value_range, max_clients=clients)


def test_values_beyond_the_range_are_clipped_and_counted_not_silently_changed() -> None:
    """There: a weight above the maximum is a warning, and then values clip. Weights are no matter of this package:
    it sums integers of its callers, and what does not fit the range is counted for the client that sent it."""
    encoded = FixedPoint(value_range=8.0).encode(np.array([5000 * 2.0, 1.0, -9.0]), None)
    assert encoded.clipped == 2


def test_lora_size_values_keep_their_precision() -> None:
    """There: 3.1 % relative error of the mean at a standard deviation of 1e-3, 31 % at 1e-4, with 10 clients."""
    rng = np.random.default_rng(2)
    fixed = FixedPoint(bits=24, value_range=0.1, max_clients=10)
    for deviation, worst in ((1e-3, 0.0012), (1e-4, 0.0125)):
        values = rng.normal(scale=deviation, size=(10, 20_000))
        total = np.sum([fixed.encode(v, rng).vector for v in values], axis=0)
        error = fixed.decode(total) - values.sum(axis=0)
        assert np.sqrt((error**2).mean() / (values.sum(axis=0) ** 2).mean()) < worst


@each_kind
def test_no_secret_of_a_client_is_in_anything_that_can_be_stored_or_shown(config: RoundConfig) -> None:
    """There: both secret keys, the seed and all shares lie in plain text in the client's state between messages."""
    federation = Federation(config)
    client = federation.clients[ME]
    steps = (lambda: federation.advertise(), federation.share, federation.deliver, lambda: None)
    for step in steps:
        secrets = secrets_in(client)
        assert secrets
        for store in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="cannot be copied or pickled"):
                store(client)
            if store is not copy.copy:
                with pytest.raises(TypeError, match="one-time secret"):
                    store(client._state)
        text = f"{client} {client!r} {client._state!r} {client.greeting!r}"
        assert not any(
            secret.hex() in text or repr(secret)[2:-1] in text or str(int.from_bytes(secret)) in text
            for secret in secrets
        )
        step()


def test_no_message_has_room_for_a_weight_a_metric_or_a_count_of_examples() -> None:
    """There: the number of examples and all metrics stay readable beside the masked vector."""
    names = {kind.__name__: {field.name for field in fields(kind)} for kind in Message.__args__}
    assert names["MaskedVector"] == {"client", "packed", "tags"}
    from_clients = names["Advertise"] | names["Shares"] | names["MaskedVector"] | names["Reveal"] | names["Consent"]
    assert from_clients == {
        "client", "channel_key", "mask_key", "signature", "commitment", "sealed", "packed", "tags",
        "self_mask_seeds", "mask_secrets",
    }  # fmt: skip


@pytest.mark.parametrize("n", [3, 4, 5, 6, 7, 12, 50])
def test_a_threshold_of_half_or_less_is_refused_with_the_bound(n: int) -> None:
    """There: any fraction is taken."""
    with pytest.raises(ValueError, match=rf"threshold must lie in {n // 2 + 1}\.\.{n} for {n} clients"):
        make_config(n, threshold=n // 2)
    assert make_config(n, threshold=n // 2 + 1).threshold == n // 2 + 1


# Hostile clients


@each_kind
def test_keys_of_small_order_are_refused_by_the_server_naming_the_client(config: RoundConfig) -> None:
    hostile = config.clients[2]

    def small(client: int, message: Advertise) -> Advertise:
        bad = replace(message, mask_key=bytes([1]) + bytes(31))
        if config.malicious:  # signed by the hostile client itself
            statement = keys_statement(config, client, bad.channel_key, bad.mask_key)
            bad = replace(bad, signature=identity_of(client).sign(statement))
        return bad

    outcome = play(config, random_vectors(config), client=on(Advertise, small, clients=[hostile]))
    assert f"client {hostile} advertised a public key of small order" in str(outcome.refused[0][1])
    assert_sum(config, outcome, lost=(hostile,))


SMALL_ORDER = [bytes(32), bytes([1]) + bytes(31), bytes([0xEC]) + bytes([0xFF]) * 30 + bytes([0x7F])]


@pytest.mark.parametrize("key", SMALL_ORDER)
@pytest.mark.parametrize("field", ["channel_key", "mask_key"])
def test_keys_of_small_order_from_the_server_are_refused_by_the_client_before_anything_is_masked(
    field: str, key: bytes
) -> None:
    def small(client: int, message: PeerKeys) -> PeerKeys:
        return replace(
            message, entries=tuple(replace(e, **{field: key}) if e.client == 13 else e for e in message.entries)
        )

    outcome = play(PLAIN, random_vectors(PLAIN), server=on(PeerKeys, small, clients=[ME]))
    assert isinstance(outcome.refusals[ME], PeerMisbehaved)
    assert "client 13: a public key of small order" in str(outcome.refusals[ME])
    assert not any(isinstance(m, MaskedVector) and m.client == ME for m in outcome.heard)
    assert_sum(PLAIN, outcome, lost=(ME,))


def swapped(first: int, second: int) -> Callable[[int, Delivery], Delivery]:
    """The ciphertexts of two senders exchanged."""

    def swap(client: int, message: Delivery) -> Delivery:
        by = {item.peer: item.ciphertext for item in message.sealed}
        if not {first, second} <= by.keys():
            return message
        by[first], by[second] = by[second], by[first]
        return Delivery(tuple(replace(item, ciphertext=by[item.peer]) for item in message.sealed))

    return swap


def test_shares_in_another_senders_name_do_not_open_and_the_client_masks_nothing() -> None:
    outcome = play(PLAIN, random_vectors(PLAIN), server=on(Delivery, swapped(13, 16), clients=[ME]))
    assert isinstance(outcome.refusals[ME], PeerMisbehaved)
    assert "the shares from client 13 to client 10 do not open" in str(outcome.refusals[ME])
    assert_sum(PLAIN, outcome, lost=(ME,))


def test_shares_of_an_earlier_round_sealed_for_another_or_made_up_do_not_open() -> None:
    earlier = Federation(replace(PLAIN, round_index=6)).advertise().share()
    this = Federation(PLAIN).advertise().share()
    for ciphertext in (
        earlier.delivery(ME).sealed[0].ciphertext,
        this.delivery(16).sealed[1].ciphertext,  # from 13 to 16
        this.sent["shares"][ME].sealed[0].ciphertext,  # type: ignore[union-attr]  # its own, reflected
        bytes(82),
    ):
        federation = Federation(PLAIN).advertise().share()
        first, *rest = federation.delivery(ME).sealed
        with pytest.raises(PeerMisbehaved, match="the shares from client 13 to client 10 do not open"):
            federation.clients[ME].receive(Delivery((replace(first, ciphertext=ciphertext), *rest)))


@each_kind
def test_a_wrong_commitment_ends_the_round_naming_its_owner_and_there_is_no_sum(config: RoundConfig) -> None:
    hostile = config.clients[1]
    lie = on(Shares, lambda client, message: replace(message, commitment=bytes(32)), clients=[hostile])
    outcome = play(config, random_vectors(config), client=lie)
    assert isinstance(outcome.ended, PeerMisbehaved)
    assert f"the secret that client {hostile} committed to" in str(outcome.ended)
    assert outcome.total is None


def wrong(shares: tuple[Share, ...], owner: int, holder: int) -> tuple[Share, ...]:
    return tuple(Share(s.owner, (s.value + holder) % PRIME) if s.owner == owner else s for s in shares)


@each_kind
@pytest.mark.parametrize("dropped", [False, True], ids=["a survivor's seed", "a dropped client's key"])
def test_one_wrong_share_is_left_out_and_names_holder_and_owner(config: RoundConfig, dropped: bool) -> None:
    owner = config.clients[-1]
    graph_peers = peers_of(config, owner)
    hostile = graph_peers[0]

    def lie(client: int, message: Reveal) -> Reveal:
        return Reveal(client, wrong(message.self_mask_seeds, owner, client), wrong(message.mask_secrets, owner, client))

    def told(client: int, message: Message) -> Iterator[Message]:
        if dropped and client == owner and not isinstance(message, Advertise | Shares):
            return
        yield lie(client, message) if isinstance(message, Reveal) and client == hostile else message

    outcome = play(config, random_vectors(config), client=told)
    assert_sum(config, outcome, lost=(owner,) if dropped else ())
    assert outcome.total is not None and outcome.total.misfits == ((hostile, owner),)


def peers_of(config: RoundConfig, client: int) -> tuple[int, ...]:
    """Its neighbours in the round that `play` plays, where entropy is fixed."""
    federation = Federation(config)
    federation.clients = make_clients(config)
    neighbors: tuple[int, ...] = federation.advertise().server._state.graph.neighbors(client)  # type: ignore[union-attr]
    return neighbors


def test_a_client_that_deals_bad_shares_to_one_other_only_silences_that_one() -> None:
    """A denial of service that stays open: whoever cannot open its shares refuses, naming the dealer."""
    hostile, hit = PLAIN.clients[1], PLAIN.clients[2]

    def garble(client: int, message: Shares) -> Shares:
        sealed = tuple(replace(i, ciphertext=bytes(82)) if i.peer == hit else i for i in message.sealed)
        return replace(message, sealed=sealed)

    outcome = play(PLAIN, random_vectors(PLAIN), client=on(Shares, garble, clients=[hostile]))
    assert f"the shares from client {hostile} to client {hit} do not open" in str(outcome.refusals[hit])
    assert_sum(PLAIN, outcome, lost=(hit,))


@each_kind
def test_an_answer_after_the_sum_is_refused_and_changes_nothing(config: RoundConfig) -> None:
    federation = Federation(config).advertise().share().deliver().mask(random_vectors(config)).reveal()
    federation.server.deadline()
    before = federation.server.total.vector.copy()
    with pytest.raises(WrongPhase, match="the server in state Done accepts no Reveal"):
        federation.server.receive(federation.sent["reveal"][ME])
    with pytest.raises(WrongPhase, match="the server in state Done has no deadline"):
        federation.server.deadline()
    assert np.array_equal(federation.server.total.vector, before)


@pytest.mark.parametrize("kind", ["memory", "file"])
@each_kind
def test_a_client_that_restarts_with_its_journal_neither_masks_nor_answers_again(
    config: RoundConfig, kind: str, tmp_path: Path
) -> None:
    """The same round opened twice: keys and shares may be exchanged anew, a second vector or answer is refused."""
    identity = identity_of(ME) if config.malicious else None

    def open_journal() -> Journal:
        return memory if kind == "memory" else FileJournal(tmp_path / "journal")

    def start(journal: Journal, config: RoundConfig = config, seed: bytes = b"") -> tuple[Federation, Client]:
        federation = Federation(config)
        me = Client(config, ME, identity=identity, entropy=fixed_entropy(b"restart" + seed), journal=journal)
        federation.clients[ME] = me
        federation.advertise().share().deliver()
        return federation, me

    def end(journal: Journal) -> None:
        if isinstance(journal, FileJournal):
            journal.close()

    memory = MemoryJournal()
    journal = open_journal()
    start(journal)  # ends before the vector: nothing is spent
    end(journal)
    journal = open_journal()
    federation, me = start(journal, seed=b"2")
    federation.mask(random_vectors(config))
    waiting = me._state
    me.receive(federation.request(ME, config.clients))
    end(journal)
    journal = open_journal()
    _, again = start(journal, seed=b"3")
    with pytest.raises(WrongPhase, match="the journal says that this was done before in this round"):
        again.mask(random_vectors(config)[ME])
    assert repr(again) == f"Client({ME}, Failed)"
    _, again = start(journal, seed=b"4")
    again.bind(bytes([1]) * 32)  # not even for another model of the same round
    with pytest.raises(WrongPhase, match="the journal says"):
        again.mask(random_vectors(config)[ME])
    _, again = start(journal, replace(config, context=bytes([1]) * 32), seed=b"6")  # nor in another configuration
    with pytest.raises(WrongPhase, match="the journal says"):
        again.mask(random_vectors(config)[ME])
    _, again = start(journal, seed=b"5")
    assert isinstance(waiting, AwaitRequest)
    again._state = waiting  # as if a process had kept its state: the list is another one now
    with pytest.raises(WrongPhase, match="the journal says"):
        again.receive(federation.request(ME, config.clients[:-1]))
    _, fresh = start(journal, replace(config, round_index=config.round_index + 1))
    fresh.mask(random_vectors(config)[ME])  # another round is another matter
    end(journal)


def test_without_a_journal_a_restart_would_give_the_difference_of_two_vectors() -> None:
    """The attack that the journal is for, with the masks repeated as a restored backup would repeat them."""
    first, second = (Federation(PLAIN).advertise().share().deliver().clients[ME] for _ in range(2))
    vector = random_vectors(PLAIN)[ME]
    one, two = (np.frombuffer(c.mask(v).packed, np.uint8).reshape(-1, 3).astype(int) @ [1, 256, 65536]
                for c, v in ((first, vector), (second, vector + 3)))  # fmt: skip
    assert ((two - one) % 2**24 == 3).all()


# A malicious server with clients of its own


def assignments(collusion: Collusion, lists: tuple[Survivors, Survivors]) -> Iterator[Mapping[int, Survivors]]:
    """Every way to show the honest clients one of two lists, or nothing; a list without oneself is never accepted."""
    choices = [[None, *(s for s in lists if client in s)] for client in collusion.honest]
    for choice in product(*choices):
        yield {c: survivors for c, survivors in zip(collusion.honest, choice, strict=True) if survivors is not None}


def subsets(clients: tuple[int, ...], least: int) -> Iterator[Survivors]:
    for size in range(least, len(clients) + 1):
        yield from combinations(clients, size)


@pytest.mark.parametrize(("n", "corrupted"), [(4, 1), (5, 1)])
def test_no_two_lists_however_shown_give_both_secrets_of_a_client_with_fewer_than_a_third_corrupted(
    n: int, corrupted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All pairs of lists, with and without the victim, and all ways to show them."""
    verify_each_signature_once(monkeypatch)
    config = make_config(n, mode=MALICIOUS, dim=5)
    collusion = Collusion(config, config.clients[:corrupted], config.clients[-1])
    others = config.clients[:-1]
    tried = 0
    for with_victim in (tuple(sorted((*s, collusion.victim))) for s in subsets(others, config.threshold - 1)):
        for without in subsets(others, config.threshold):
            for shown in assignments(collusion, (with_victim, without)):
                assert collusion.vector(shown) is None
                tried += 1
    assert tried > 50


SEVEN = [make_config(7, mode=MALICIOUS, dim=5)]
EIGHT = [make_config(8, neighbors=6, threshold=5, mode=MALICIOUS, dim=5, round_index=i) for i in range(8)]  # 8 graphs


@pytest.mark.parametrize(("configs", "corrupted"), [(SEVEN, 2), (EIGHT[:3], 3)], ids=["complete", "6-regular"])
def test_nor_does_any_split_between_everyone_and_everyone_but_the_victim(
    configs: list[RoundConfig], corrupted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify_each_signature_once(monkeypatch)
    for config in configs:
        victim = config.clients[-1]
        collusion = Collusion(config, corrupt_neighbors(config, victim, corrupted), victim)
        released = set()
        for shown in assignments(collusion, (config.clients, config.clients[:-1])):
            seeds, secrets = collusion.shares(shown)
            assert min(len(seeds), len(secrets)) < config.threshold
            released |= {len(seeds) >= config.threshold, 2 * (len(secrets) >= config.threshold)}
        assert released == {0, 1, 2}  # either secret alone is there to be had, so the search has teeth


def corrupt_neighbors(config: RoundConfig, victim: int, count: int) -> tuple[int, ...]:
    """The worst place for them: beside the victim."""
    return Collusion(config, (), victim).graph.neighbors(victim)[:count]


@pytest.mark.parametrize(("configs", "corrupted"), [(SEVEN, 3), (EIGHT, 4)], ids=["complete", "6-regular"])
def test_one_corrupted_client_more_than_the_bound_and_the_victims_vector_is_read(
    configs: list[RoundConfig], corrupted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """3 of 7 is not below a third, and 2 x 5 is not above 6 + 4: the searches above would find an attack.

    In a 6-regular graph not on every graph: the corrupted clients must be neighbours of the right others as well.
    """
    verify_each_signature_once(monkeypatch)
    found = 0
    for config in configs:
        victim = config.clients[-1]
        collusion = Collusion(config, corrupt_neighbors(config, victim, corrupted), victim)
        for shown in assignments(collusion, (config.clients, config.clients[:-1])):
            vector = collusion.vector(shown)
            if vector is not None:
                assert np.array_equal(vector, collusion.vectors[victim])
                found += 1
    assert found


def test_the_threshold_of_the_other_mode_would_not_withstand_two_corrupted_of_seven() -> None:
    """Four of seven is enough for a server that follows the protocol, and is refused for one that lies."""
    config = make_config(7, threshold=4, dim=5)
    collusion = Collusion(config, config.clients[:2], config.clients[-1])
    assert any(
        collusion.vector(shown) is not None for shown in assignments(collusion, (config.clients, config.clients[:-1]))
    )
    with pytest.raises(ValueError, match=r"threshold must lie in 5\.\.7 for 7 clients in malicious-server mode, not 4"):
        make_config(7, threshold=4, mode=MALICIOUS)


def staggered_lists(config: RoundConfig, left_out: tuple[int, ...]) -> dict[int, Survivors]:
    """Lists of quorum length, one for each client, that leave each of `left_out` out nine times."""
    shown = {}
    for position, client in enumerate(config.clients):
        kept = client if client in left_out else left_out[position % len(left_out)]
        shown[client] = tuple(c for c in config.clients if c not in left_out or c == kept)
    return shown


def sum_of_the_rest(
    config: RoundConfig, left_out: tuple[int, ...], reveals: list[Reveal], keys: Federation
) -> np.ndarray:
    """What a lying server makes of the reveals: the sum of fewer clients than it may have."""
    survivors = tuple(c for c in config.clients if c not in left_out)
    state = keys.server._state
    total = np.zeros(config.dim, np.uint32)
    for client in survivors:
        words = keys.sent["masked"][client].packed  # type: ignore[union-attr]
        total += np.frombuffer(words, np.uint8).reshape(-1, 3).astype(np.uint32) @ np.array([1, 256, 65536], np.uint32)
    chosen = {
        reveal.client: Reveal(
            reveal.client,
            tuple(s for s in reveal.self_mask_seeds if s.owner in survivors),
            tuple(s for s in reveal.mask_secrets if s.owner in left_out),
        )
        for reveal in reveals
    }
    remove_masks(config, total, graph=state.graph, shared=state.shared, survivors=survivors, reveals=chosen)  # type: ignore[union-attr]
    return from_ring(total & np.uint32(2**24 - 1), 24)


def test_without_a_common_list_a_server_gets_a_sum_of_eight_where_nine_are_asked_for() -> None:
    """What the signed list is for: every client sees nine survivors, and the sum that comes out is of eight."""
    config = make_config(12)  # threshold 9
    federation = Federation(config).advertise().share().deliver().mask(random_vectors(config))
    left_out = config.clients[-4:]
    shown = staggered_lists(config, left_out)
    assert {len(survivors) for survivors in shown.values()} == {config.quorum} == {9}
    reveals = [federation.clients[c].receive(federation.request(c, survivors)) for c, survivors in shown.items()]
    total = sum_of_the_rest(config, left_out, reveals, federation)  # type: ignore[arg-type]
    assert np.array_equal(total, sum_over(config, config.clients[:8]))


def test_with_signed_lists_the_same_lie_gets_nothing_from_anybody() -> None:
    config = make_config(12, mode=MALICIOUS)
    federation = Federation(config).advertise().share().deliver().mask(random_vectors(config))
    shown = staggered_lists(config, config.clients[-4:])
    consents = {c: federation.clients[c].receive(federation.request(c, survivors)) for c, survivors in shown.items()}
    for client, survivors in shown.items():
        same = tuple(consents[c] for c in config.clients if c != client and shown[c] == survivors)
        with pytest.raises(TooFewSurvivors, match="signed this survivor list, at least 9 are needed"):
            federation.clients[client].receive(Consents(same))  # type: ignore[arg-type]


def test_every_refusal_of_an_attack_is_an_error_of_the_package() -> None:
    for error in (BadMessage, PeerMisbehaved, TooFewSurvivors, WrongPhase):
        assert issubclass(error, SecAggError)
    assert isinstance(Server(PLAIN), Server)
