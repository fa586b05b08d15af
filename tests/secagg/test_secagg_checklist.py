"""The thirty items that a secure aggregation must answer for, one test each: right accepted, wrong refused.

Items 26 to 30 are what the protocol does not give. Their tests carry the attack out, and hold the documents to it.
Other files test most items far more deeply; here the essential attack of each stands in one place, by number.
"""

import ast
import json
import re
from collections import Counter
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from secagg_harness import (
    Federation,
    finished_federation,
    fixed_entropy,
    identity_of,
    make_config,
    random_vectors,
    run_local,
)
from secagg_hostile import make_clients, on, play, secrets_in
from secagg_walk import reachable

from secagg import (
    BadMessage,
    Client,
    FixedPoint,
    LocalRound,
    Mode,
    PeerMisbehaved,
    RoundConfig,
    SigningKey,
    Stage,
    TooFewSurvivors,
    WrongPhase,
    from_ring,
    prg,
    to_ring,
)
from secagg.channel import seal, unseal
from secagg.client import AwaitDelivery, AwaitPeerKeys, AwaitVector
from secagg.client_steps import mask_keys_of
from secagg.journal import MemoryJournal
from secagg.keys import channel_keys, exchange, pair_mask_key
from secagg.messages import (
    Advertise,
    Consent,
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
from secagg.prg import apply_masks, open_stream
from secagg.server import CollectVectors
from secagg.shamir import PRIME
from secagg.solver import Assumptions, complete_graph, default_parameters, solve
from secagg.transcript import Recorder
from secagg.transcript_check import check
from secagg.transcript_series import series_warnings
from secagg.wire import decode, encode

ROOT = Path(__file__).resolve().parents[2]
MALICIOUS = Mode.MALICIOUS_SERVER
PLAIN = make_config(7)  # clients 10, 13, ..., 28; threshold 5
SIGNED = make_config(7, mode=MALICIOUS)
SPARSE = make_config(11, neighbors=6, threshold=4, mode=MALICIOUS)
ME, PEER = PLAIN.clients[:2]


def sum_of(clients: tuple[int, ...], config: RoundConfig = PLAIN) -> np.ndarray:
    vectors = random_vectors(config)
    return np.sum([vectors[client] for client in clients], axis=0)


def total(federation: Federation) -> np.ndarray:
    federation.server.deadline()
    return from_ring(federation.server.total.vector, federation.config.bits)


def masked(config: RoundConfig = PLAIN, absent: tuple[int, ...] = ()) -> Federation:
    return Federation(config).advertise().share().deliver().mask(random_vectors(config), absent)


def flip(data: bytes, bit: int = 0) -> bytes:
    return bytes([data[0] ^ (1 << bit)]) + data[1:]


# Thresholds and graph


@pytest.mark.parametrize("n", [3, 4, 5, 7, 9, 10, 50])
def test_item_01_thresholds_below_the_bound_of_the_mode_are_refused_with_the_bound(n: int) -> None:
    """Semi-honest: above half. Malicious server: t >= floor(2n/3) + 1, so 2t > n + corrupted below a third."""
    for mode, least in ((Mode.SEMI_HONEST, n // 2 + 1), (MALICIOUS, 2 * n // 3 + 1)):
        assert make_config(n, threshold=least, mode=mode).threshold == least
        with pytest.raises(ValueError, match=rf"threshold must lie in {least}\.\.{n} .* not {least - 1}"):
            make_config(n, threshold=least - 1, mode=mode)
        corrupted = (n - 1) // 3
        assert least > corrupted
        if mode is MALICIOUS:
            assert 2 * least > n + corrupted
    with pytest.raises(ValueError, match=r"dropped: .* fewer than the .* shares needed"):  # t <= n - dropped
        complete_graph(50, Assumptions(corrupted=0.1, dropped=0.4), malicious=True)
    assert complete_graph(50, Assumptions(corrupted=0.1, dropped=0.3), malicious=True).threshold == 34


def test_item_02_graph_and_threshold_come_from_a_solver_that_refuses_the_infeasible() -> None:
    """The published values of another parameter finder come out, and nothing is made up where nothing will do."""
    assumptions = Assumptions(0.33, 0.33, failure_bits=20, absent=0.0)
    for clients, expected in ((100, (68, 34)), (1000, (286, 150))):
        found = solve(clients, assumptions, malicious=False)
        assert (found.neighbors, found.threshold) == expected
    assert solve(10_000, assumptions, malicious=False).neighbors == 422
    with pytest.raises(ValueError, match=r"corrupted \+ dropped must stay below clients"):
        solve(100, Assumptions(0.5, 0.5), malicious=False)
    with pytest.raises(ValueError, match="malicious server"):
        solve(100, Assumptions(0.3, 0.4), malicious=True)
    with pytest.raises(ValueError, match="neighbors must be even"):
        make_config(11, neighbors=5, threshold=4)
    with pytest.raises(ValueError, match=r"threshold must lie in 4\.\.6"):
        make_config(11, neighbors=6, threshold=3, mode=MALICIOUS)


def test_item_03_the_table_comes_out_and_neighbours_are_drawn_from_everyones_keys_not_by_the_server() -> None:
    """(k, t) at 40 security bits; a client recomputes its own neighbours and refuses any others."""
    for malicious, row in ((False, (42, 32)), (True, (54, 44))):
        found = solve(100, Assumptions(0.33, 0.1, absent=0.0), malicious=malicious)
        assert (found.neighbors, found.threshold) == row
    federation = Federation(SPARSE).advertise()
    keys = federation.keys(ME)
    chosen = sorted((ME, *SPARSE.clients[-6:]))  # those whom the server would like beside the victim
    assert [entry.client for entry in keys.entries] != chosen
    with pytest.raises(PeerMisbehaved, match="not show client 10 the keys of exactly its neighbours"):
        federation.clients[ME].receive(replace(keys, entries=tuple(federation.clients[c].greeting for c in chosen)))
    federation.clients[PEER].receive(federation.keys(PEER))
    state = federation.clients[PEER]._state
    assert isinstance(state, AwaitDelivery)
    assert state.mask_keys.keys() == set(federation.server._state.graph.neighbors(PEER))  # type: ignore[union-attr]


@pytest.mark.parametrize("malicious", [False, True])
def test_item_04_at_small_n_bounds_hold_for_the_worst_case_not_by_chance(malicious: bool) -> None:
    """Below 50 clients a tail bound says little: the corrupted ones are few enough even if all are neighbours."""
    for n in range(10, 50):
        found = solve(n, Assumptions(0.1, 0.1), malicious=malicious)
        assert found.neighbors > n // 10
        worst = min(n // 10, found.neighbors)
        assert (2 * found.threshold > found.holders + worst) if malicious else (found.threshold > worst)
        assert found.security_bits == np.inf
        assert default_parameters(n, Assumptions(0.1, 0.1), malicious=malicious).complete


# Keys, channel, transcript


def test_item_05_keys_that_their_client_did_not_sign_for_this_round_are_refused_naming_it() -> None:
    """One flipped bit, a key from another round, a swapped sender."""
    federation = Federation(SIGNED).advertise()
    good = next(entry for entry in federation.keys().entries if entry.client == PEER)
    other = next(entry for entry in federation.keys().entries if entry.client == 16)
    old = Client(replace(SIGNED, round_index=6), PEER, identity=identity_of(PEER)).greeting
    shown = {entry.client: entry for entry in federation.keys().entries}
    me, waiting = federation.clients[ME], federation.clients[ME]._state
    for lie in (
        {PEER: replace(good, signature=flip(good.signature))},
        {PEER: replace(good, mask_key=flip(good.mask_key))},
        {PEER: replace(good, channel_key=flip(good.channel_key))},
        {PEER: old},
        {PEER: replace(old, signature=good.signature)},
        {PEER: replace(other, client=PEER), 16: replace(good, client=16)},  # the two have changed places
    ):
        me._state = waiting
        with pytest.raises(PeerMisbehaved, match=f"client {PEER}: the signature of its public keys does not verify"):
            me.receive(PeerKeys(SIGNED.clients, b"", tuple({**shown, **lie}.values())))
    me._state = waiting
    federation.share()  # the true ones are good


def test_item_06_two_clients_that_were_given_different_models_give_no_usable_sum() -> None:
    """The model's hash is in every mask key and every later signature; the configuration's in every key and share."""
    other = bytes([1]) * 32
    for field in ("session", "context", "round_index", "dim", "threshold", "min_survivors", "bits"):
        change = {"session": b"another session!", "context": other}.get(field) or getattr(PLAIN, field) + 1
        if field == "bits":
            change = 32
        assert replace(PLAIN, **{field: change}).digest() != PLAIN.digest()  # type: ignore[arg-type]
    clients = make_clients(SIGNED)
    clients[ME].bind(other)
    outcome = play(SIGNED, random_vectors(SIGNED), clients=clients)
    assert f"client {ME}: the signature of its survivor list does not verify" in str(outcome.refused[0][1])
    assert np.count_nonzero(outcome.vector() - sum_of(SIGNED.clients)) > 30  # noise: its masks do not cancel
    half = make_clients(SIGNED)
    for client in SIGNED.clients[:3]:
        half[client].bind(other)
    outcome = play(SIGNED, random_vectors(SIGNED), clients=half)
    assert isinstance(outcome.ended, TooFewSurvivors) and outcome.reveals == []
    message = masked(PLAIN).sent["masked"][ME]
    with pytest.raises(BadMessage, match="another model"):
        decode(encode(message, replace(PLAIN, model=other)), PLAIN)


def test_item_07_the_mask_secrets_of_dropped_clients_open_no_share_and_derived_keys_never_repeat() -> None:
    """Two key pairs a client and round; an all-zero shared secret is refused."""
    federation = Federation(PLAIN).advertise()
    states = {c: machine._state for c, machine in federation.clients.items()}
    rebuilt = {c: state.mask for c, state in states.items() if isinstance(state, AwaitPeerKeys)}
    channels = {entry.client: entry.channel_key for entry in federation.keys().entries}
    federation.share()
    for item in federation.delivery(ME).sealed:
        for key in channel_keys(rebuilt[ME], channels[item.peer], own_id=ME, peer_id=item.peer, digest=PLAIN.digest()):
            with pytest.raises(PeerMisbehaved, match="do not open"):
                unseal(key, item.ciphertext, digest=PLAIN.digest(), sender=item.peer, recipient=ME)
    keys: list[bytes] = []
    for config in (PLAIN, replace(PLAIN, round_index=8)):  # with the same entropy: the worst case
        machine = Federation(config).advertise().share().deliver().clients[ME]
        assert isinstance(machine._state, AwaitVector)
        add, subtract = mask_keys_of(config, ME, machine._state)
        keys += [*add, *subtract]
    assert len(keys) == len(set(keys)) == 14
    for key in (bytes(32), bytes([1]) + bytes(31)):
        with pytest.raises(PeerMisbehaved, match="all-zero"):
            exchange(bytes([9]) * 32, key)


def test_item_08_a_ciphertext_fails_in_another_round_direction_or_hand_and_no_key_seals_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The nonce is constant because the key belongs to one ordered pair in one round: (key, nonce) never repeats."""
    used: list[bytes] = []

    def spy(key: bytes, *arguments: object, **named: object) -> bytes:
        used.append(key)
        return seal(key, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr("secagg.client_steps.seal", spy)
    federations = [Federation(replace(PLAIN, round_index=i)).advertise().share() for i in range(4)]
    assert len(used) == len(set(used)) == 4 * 7 * 6
    this, other = federations[0], federations[1]
    from_peer, *rest = this.delivery(ME).sealed
    assert from_peer.peer == PEER
    for ciphertext in (
        other.delivery(ME).sealed[0].ciphertext,  # another round, the same keys
        this.sent["shares"][ME].sealed[0].ciphertext,  # type: ignore[union-attr]  # the other direction
        this.delivery(16).sealed[1].ciphertext,  # meant for another
    ):
        state = this.clients[ME]._state
        with pytest.raises(PeerMisbehaved, match=f"from client {PEER} to client {ME} do not open"):
            this.clients[ME].receive(Delivery((replace(from_peer, ciphertext=ciphertext), *rest)))
        this.clients[ME]._state = state
    this.clients[ME].receive(this.delivery(ME))


def test_item_09_masks_are_aes_256_ctr_of_a_key_used_once_whatever_the_chunks_and_threads() -> None:
    """NIST SP 800-38A F.5.5, and no numpy generator within reach of the masks."""
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    block = bytes.fromhex("6bc1bee22e409f96e93d7e117393172a")
    assert open_stream(key, bytes(range(0xF0, 0x100))).update(block).hex() == "601ec313775789a5b7a7f504bbf3d228"
    stream = np.frombuffer(open_stream(key).update(bytes(4 * 50_001)), "<u4")
    for threads, chunk_bytes in ((1, 16), (1, 128 * 1024), (2, 4096), (3, 1 << 20)):
        words = np.zeros(50_001, np.uint32)
        apply_masks(words, add=[key], subtract=[], threads=threads, chunk_bytes=chunk_bytes)
        assert np.array_equal(words, stream)
    assert abs(np.unpackbits(stream.view(np.uint8)).mean() - 0.5) < 5 * 0.5 / (50_001 * 32) ** 0.5
    source = ast.parse((ROOT / "secagg" / "prg.py").read_text())
    assert "random" not in {node.attr for node in ast.walk(source) if isinstance(node, ast.Attribute)}


@pytest.mark.parametrize("config", [PLAIN, SPARSE], ids=["plain", "signed and sparse"])
def test_item_10_every_message_has_one_encoding_and_every_prefix_and_extra_byte_is_refused(config: RoundConfig) -> None:
    """Fixed tags, lengths and order; no pickle, no JSON, no floats."""
    for message in finished_federation(config).messages():
        data = encode(message, config)
        assert decode(data, config) == message
        for bad in (*(data[:end] for end in range(len(data))), data + b"\x00"):
            with pytest.raises(BadMessage):
                decode(bad, config)


# Survivor consistency and secrets


def test_item_11_a_client_releases_one_kind_of_share_for_each_client_and_answers_once_even_after_a_restart() -> None:
    """Overlapping lists cannot be written, a second list is refused, and so is one after a restart with the journal."""
    with pytest.raises(BadMessage, match="both kinds of share"):
        Reveal(ME, (Share(PEER, 1),), (Share(PEER, 2),))
    federation, journal = Federation(PLAIN), MemoryJournal()
    federation.clients[ME] = Client(PLAIN, ME, entropy=fixed_entropy(b"journal"), journal=journal)
    federation.advertise().share().deliver().mask(random_vectors(PLAIN), PLAIN.clients[-1:])
    client = federation.clients[ME]
    waiting = client._state
    reveal = client.receive(federation.requests[ME])
    assert isinstance(reveal, Reveal)
    seeds, secrets = ({share.owner for share in part} for part in (reveal.self_mask_seeds, reveal.mask_secrets))
    assert seeds == set(PLAIN.clients[:-1]) and secrets == {PLAIN.clients[-1]}
    with pytest.raises(WrongPhase, match="in state Done accepts no UnmaskRequest"):
        client.receive(UnmaskRequest(PLAIN.clients))
    restarted = Client(PLAIN, ME, journal=journal)
    restarted._state = waiting
    with pytest.raises(WrongPhase, match="the journal says that this was done before"):
        restarted.receive(UnmaskRequest(PLAIN.clients))


def test_item_12_survivors_are_of_those_who_shared_with_oneself_among_them_and_enough_of_them() -> None:
    """U3 within U2 within U1 within the roster; each violation, and then the right list."""
    lost = PLAIN.clients[-1]
    config = make_config(7, min_survivors=6)
    bad: list[tuple[RoundConfig, tuple[int, ...], type[Exception], str]] = [
        (PLAIN, (*PLAIN.clients[:-1], 99), PeerMisbehaved, "never shared"),  # no client of the roster
        (PLAIN, PLAIN.clients, PeerMisbehaved, "never shared"),  # one who advertised and did not share
        (PLAIN, PLAIN.clients[1:-1], PeerMisbehaved, "whose vector is not in the sum"),
        (PLAIN, PLAIN.clients[:4], TooFewSurvivors, "4 clients sent a masked vector, at least 5"),
        (config, config.clients[:5], TooFewSurvivors, "5 clients sent a masked vector, at least 6"),
    ]
    for round_config, survivors, error, text in bad:
        federation = Federation(round_config).advertise()
        for client, message in federation.peer_keys.items():
            if client != lost:
                federation.server.receive(federation.clients[client].receive(message))  # type: ignore[arg-type]
        federation.deliveries = federation.server.deadline()
        federation.deliver()
        federation.clients[ME].mask(random_vectors(round_config)[ME])
        waiting = federation.clients[ME]._state
        with pytest.raises(error, match=text):
            federation.clients[ME].receive(UnmaskRequest(survivors))
        federation.clients[ME]._state = waiting
        assert isinstance(federation.clients[ME].receive(UnmaskRequest(PLAIN.clients[:-1])), Reveal)


def test_item_13_two_survivor_lists_make_nobody_release_anything() -> None:
    """Each client signs the one list that it saw, and waits for `threshold` signatures under the same."""
    for lists, released in (((SIGNED.clients, SIGNED.clients[:-1]), 0), ((SIGNED.clients, SIGNED.clients), 7)):
        federation = masked(SIGNED)
        shown = {c: lists[0] if c in (*SIGNED.clients[:3], SIGNED.clients[-1]) else lists[1] for c in SIGNED.clients}
        consents = {c: federation.clients[c].receive(federation.request(c, shown[c])) for c in SIGNED.clients}
        reveals = 0
        for client in SIGNED.clients:
            same = tuple(consents[c] for c in SIGNED.clients if c != client and shown[c] == shown[client])
            try:
                reveals += isinstance(federation.clients[client].receive(Consents(same)), Reveal)  # type: ignore[arg-type]
            except TooFewSurvivors as error:
                assert "signed this survivor list, at least 5" in str(error)
        assert reveals == released


@pytest.mark.parametrize("mode", Mode)
def test_item_14_clients_may_disappear_at_every_stage_up_to_n_less_threshold_of_them(mode: Mode) -> None:
    """Those who are lost before sharing are simply not part of the round."""
    config = make_config(7, mode=mode)
    for stage in Stage if config.malicious else list(Stage)[:-1]:
        for count in range(4):
            lost = config.clients[1 : 1 + count]
            late = stage in (Stage.AFTER_MASKED, Stage.AFTER_CONSENT)
            if count == 3:
                with pytest.raises(TooFewSurvivors, match="at least 5 are needed"):
                    run_local(config, random_vectors(config), dict.fromkeys(lost, stage))
                continue
            result = run_local(config, random_vectors(config), dict.fromkeys(lost, stage))
            survivors = tuple(c for c in config.clients if late or c not in lost)
            assert result.survivors == survivors
            assert np.array_equal(result.vector, sum_of(survivors, config))


def test_item_15_with_too_few_survivors_no_share_leaves_and_no_partial_sum_is_anywhere(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither the server nor the clients go on, nothing is logged, and the failed server holds no accumulator."""
    for mode in Mode:
        config = make_config(7, mode=mode)
        outcome = play(
            config, random_vectors(config), client=lambda c, m: () if isinstance(m, MaskedVector) and c > 19 else (m,)
        )
        assert isinstance(outcome.ended, TooFewSurvivors)
        assert "4 clients sent a masked vector, at least 5" in str(outcome.ended)
        assert outcome.reveals == [] and outcome.total is None
        federation = Federation(config).advertise().share().deliver()
        assert [stored for stored in reachable(federation.server) if len(stored) == 4 * config.dim]
        with pytest.raises(TooFewSurvivors):
            federation.mask(random_vectors(config), config.clients[4:])
        assert not [stored for stored in reachable(federation.server) if len(stored) == 4 * config.dim]
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


def test_item_16_a_vector_that_comes_after_the_survivors_were_fixed_is_refused_and_not_added() -> None:
    """Its mask key is being rebuilt by then; only its self-mask protects it."""
    late = PLAIN.clients[-1]
    federation = Federation(PLAIN).advertise().share().deliver()
    message = federation.clients[late].mask(random_vectors(PLAIN)[late])
    del federation.clients[late]
    federation.mask(random_vectors(PLAIN))
    with pytest.raises(WrongPhase, match="the server in state CollectReveals accepts no MaskedVector"):
        federation.server.receive(message)
    assert np.array_equal(total(federation.reveal()), sum_of(PLAIN.clients[:-1]))


def test_item_17_a_finished_or_failed_client_holds_no_secret_and_keystream_is_overwritten() -> None:
    """References go with the phase. Python promises no more than that, and the documents say so."""
    federation = Federation(PLAIN)
    client = federation.clients[ME]
    secrets: list[bytes] = secrets_in(client)
    for step in (federation.advertise, federation.share, federation.deliver):
        step()
        secrets += secrets_in(client)
    assert len(secrets) > 6
    assert [stored for stored in reachable(client) if secrets[-1] in stored or secrets[1] in stored]  # they are found
    federation.mask(random_vectors(PLAIN)).reveal()
    del federation.sent["reveal"]
    small = [secret for secret in secrets if len(secret) == 32]
    assert not [stored for stored in reachable(client) for secret in small if secret in stored]
    failed = Federation(PLAIN).advertise().clients[PEER]
    secrets = secrets_in(failed)
    with pytest.raises(WrongPhase):
        failed.receive(UnmaskRequest(PLAIN.clients))
    greeting = {failed.greeting.channel_key, failed.greeting.mask_key}
    assert not [s for s in reachable(failed) for secret in secrets if secret in s and s not in greeting]
    local = LocalRound(PLAIN, {})
    for expected in local.open():
        local.submit(expected, random_vectors(PLAIN)[expected])
    local.finish()
    assert local._clients == {}
    scratch: list[np.ndarray] = []
    with pytest.MonkeyPatch.context() as patch:
        made = prg.aligned_bytes
        patch.setattr(prg, "aligned_bytes", lambda size: scratch.append(made(size)) or scratch[-1])
        apply_masks(np.zeros(5000, np.uint32), add=[bytes(32)], subtract=[])
    assert scratch and not any(part.any() for part in scratch)
    assert "Python cannot promise" in security()


def test_item_18_a_client_masks_one_vector_in_a_session_and_round() -> None:
    """y - y' under the same masks is x - x'."""
    federation = Federation(PLAIN).advertise().share().deliver()
    federation.clients[ME].mask(random_vectors(PLAIN)[ME])
    with pytest.raises(WrongPhase, match="accepts no OwnVector"):
        federation.clients[ME].mask(random_vectors(PLAIN)[ME] + 1)
    journal = MemoryJournal()
    for attempt, allowed in ((0, True), (1, False)):
        federation = Federation(PLAIN)
        federation.clients[ME] = Client(PLAIN, ME, entropy=fixed_entropy(b"%d" % attempt), journal=journal)
        federation.advertise().share().deliver()
        if allowed:
            federation.clients[ME].mask(random_vectors(PLAIN)[ME])
        else:
            with pytest.raises(WrongPhase, match="the journal says"):
                federation.clients[ME].mask(random_vectors(PLAIN)[ME])
    first, second = (Client(PLAIN, ME).greeting for _ in range(2))
    assert first.mask_key != second.mask_key  # the same round, chosen by the server, and other masks all the same


# Inputs and arithmetic


def test_item_19_a_ring_that_the_worst_sum_would_overflow_is_refused_at_the_exact_boundary() -> None:
    """n_max * ceil(range * scale) < 2^(bits-1), before a round exists."""
    with pytest.raises(ValueError, match=r"max_clients=128 .* at most 127 clients"):
        FixedPoint(bits=16, value_range=1.0, max_clients=128)
    for clients in (127, 1024):
        fixed = FixedPoint(bits=16 if clients == 127 else 24, value_range=1.0, max_clients=clients)
        assert clients * fixed.level < 2 ** (fixed.bits - 1) <= clients * 2 * fixed.level + clients
        words = to_ring(fixed.encode(np.array([1.0, -1.0]), None).vector, fixed.bits)
        accumulator = np.zeros_like(words)
        for _ in range(clients):
            accumulator += words
        assert fixed.decode(from_ring(accumulator, fixed.bits)).tolist() == [clients, -clients]


def test_item_20_clipping_is_counted_rounding_is_unbiased_and_repeatable_and_nan_is_refused() -> None:
    """Within four standard errors over a million roundings."""
    fixed = FixedPoint()
    for value in (0.25, -3.75):
        rounded = fixed.encode(np.full(10**6, value / fixed.scale), np.random.default_rng(5)).vector
        part = value - np.floor(value)
        assert abs(rounded.mean() - value) < 4 * (part * (1 - part) / 10**6) ** 0.5
        assert set(rounded.tolist()) == {int(np.floor(value)), int(np.ceil(value))}
    assert fixed.encode(np.array([0.5, 1.5, -7.0]), None).clipped == 2
    values = np.random.default_rng(1).normal(size=1000) / 9
    first, again = (fixed.encode(values, np.random.default_rng(3)).vector for _ in range(2))
    assert np.array_equal(first, again)
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match="finite"):
            fixed.encode(np.array([bad]), None)


def test_item_21_weights_travel_inside_the_vector_and_no_message_has_a_place_for_them() -> None:
    """A weighted mean is sum(w x) / sum(w), both from the masked sum."""
    weights = {client: 1 + i for i, client in enumerate(PLAIN.clients)}
    values = random_vectors(replace(PLAIN, dim=39))
    vectors = {c: np.concatenate([[w], w * values[c]]) for c, w in weights.items()}
    result = run_local(PLAIN, vectors)
    mean = result.vector[1:] / result.vector[0]
    expected = np.average(np.stack(list(values.values())), axis=0, weights=list(weights.values()))
    assert np.allclose(mean, expected)
    names = {field.name for kind in Message.__args__ for field in fields(kind)}
    assert not {name for name in names if re.search("weight|example|metric|loss|count", name)}
    number_types = {str(field.type) for kind in Message.__args__ for field in fields(kind)}
    assert "float" not in " ".join(number_types)


def test_item_22_nobody_answers_for_a_sum_of_fewer_than_agreed_and_the_sum_says_how_many_it_is_of() -> None:
    """Clients enforce it, not only the server: a sum of one is that client's vector."""
    for survivors in ((ME,), PLAIN.clients[:2], PLAIN.clients[:4]):
        with pytest.raises(TooFewSurvivors, match=f"{len(survivors)} clients sent a masked vector, at least 5"):
            masked().clients[ME].receive(UnmaskRequest(survivors))
    with pytest.raises(ValueError, match=r"min_survivors must lie in 3\.\.7, not 2"):
        make_config(7, min_survivors=2)
    with pytest.raises(TooFewSurvivors, match="2 clients sent a masked vector, at least 3"):
        run_local(make_config(3, threshold=2), random_vectors(PLAIN), {ME: Stage.AFTER_SHARES})
    result = run_local(PLAIN, random_vectors(PLAIN), {ME: Stage.AFTER_SHARES})
    assert len(result.survivors) == 6


def test_item_23_malformed_messages_are_refused_before_anything_is_allocated() -> None:
    """Wrong length, share outside the field, wrong holder, doubled, oversized, more records than neighbours."""
    for message, before in ((Delivery(()), b""), (Reveal(ME, (), ()), ME.to_bytes(4, "big"))):
        header = encode(message, PLAIN)[:34]
        with pytest.raises(BadMessage, match="a list of 4294967295, at most 7 are possible"):
            decode(header + before + b"\xff" * 4, PLAIN)
    huge = make_config(7, dim=2**31 - 1)  # 6 GB of vector: a header alone must not make room for it
    with pytest.raises(BadMessage, match="message ends after"):
        decode(encode(MaskedVector(ME, b""), huge), huge)
    with pytest.raises(BadMessage, match="outside the field"):
        Share(ME, PRIME)
    with pytest.raises(BadMessage, match="distinct, ascending"):
        Reveal(ME, (Share(13, 1), Share(13, 2)), ())
    fresh = Federation(PLAIN).advertise().share().deliver()
    for size in (119, 121):
        with pytest.raises(BadMessage, match="40 words of 24 bits"):
            fresh.server.receive(MaskedVector(ME, bytes(size)))
    again = masked()
    answer = again.clients[PEER].receive(again.requests[PEER])
    assert isinstance(answer, Reveal)
    for bad in (
        Reveal(PEER, answer.self_mask_seeds[1:], ()),
        Reveal(PEER, (*answer.self_mask_seeds, Share(99, 1)), ()),
    ):
        with pytest.raises(PeerMisbehaved, match=f"client {PEER} did not answer for exactly"):
            again.server.receive(bad)


def test_item_24_a_wrong_share_is_found_by_the_public_key_or_the_commitment_and_names_holder_and_owner() -> None:
    """While enough others answer the sum is exact; where they do not, there is none."""
    owner = PLAIN.clients[-1]

    def lie(client: int, message: Reveal) -> Reveal:
        changed = [
            tuple(Share(s.owner, (s.value + client) % PRIME) if s.owner == owner else s for s in part)
            for part in (message.self_mask_seeds, message.mask_secrets)
        ]
        return Reveal(client, *changed)

    for dropped in (False, True):
        silent = lambda c, m, gone=dropped: gone and c == owner and isinstance(m, MaskedVector)  # noqa: E731
        outcome = play(
            PLAIN,
            random_vectors(PLAIN),
            client=lambda c, m, s=silent: () if s(c, m) else on(Reveal, lie, [PEER])(c, m),
        )
        survivors = PLAIN.clients[:-1] if dropped else PLAIN.clients
        assert outcome.total is not None and outcome.total.misfits == ((PEER, owner),)
        assert np.array_equal(outcome.vector(), sum_of(survivors))
    outcome = play(PLAIN, random_vectors(PLAIN), client=on(Reveal, lie, PLAIN.clients[:4]))
    assert isinstance(outcome.ended, PeerMisbehaved)
    assert f"do not rebuild the secret that client {owner} committed to" in str(outcome.ended)


def test_item_25_the_key_of_a_dropped_client_is_used_for_survivors_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks between two that both dropped never entered the sum, and are not computed."""
    derived: list[tuple[int, int]] = []

    def spy(*arguments: object, own_id: int, peer_id: int, digest: bytes) -> bytes:
        derived.append((own_id, peer_id))
        return pair_mask_key(*arguments, own_id=own_id, peer_id=peer_id, digest=digest)  # type: ignore[arg-type]

    federation = masked(absent=PLAIN.clients[-2:]).reveal()
    monkeypatch.setattr("secagg.unmask.pair_mask_key", spy)
    assert np.array_equal(total(federation), sum_of(PLAIN.clients[:-2]))
    assert sorted(derived) == sorted((d, s) for d in PLAIN.clients[-2:] for s in PLAIN.clients[:-2])


# What the protocol does not give: attacks that succeed, and where it is said


def security() -> str:
    return " ".join((ROOT / "SECURITY.md").read_text(encoding="utf-8").split())


def recorded(
    config: RoundConfig, vectors: dict[int, np.ndarray], drops: dict[int, Stage]
) -> tuple[np.ndarray, list[str]]:
    recorder = Recorder(config)
    result = run_local(config, vectors, drops, tap=recorder)
    return result.vector, recorder.finish(result)


@pytest.mark.parametrize("mode", Mode)
def test_item_26_two_sums_whose_clients_differ_by_one_give_that_clients_vector_and_a_warning(mode: Mode) -> None:
    """So et al. 2023. The attack succeeds whatever the mode; the check of a run's transcripts warns of such pairs."""
    first = make_config(7, mode=mode)
    second = replace(first, round_index=first.round_index + 1)
    vectors, lost = random_vectors(first), first.clients[3]
    one, lines = recorded(first, vectors, {})
    two, more = recorded(second, vectors, {lost: Stage.BEFORE_KEYS})
    assert np.array_equal(one - two, vectors[lost])
    (warning,) = series_warnings([check(lines), check(more)])
    assert "1 of 1 pairs of sums are over survivors that differ by fewer than min_survivors clients" in warning
    _, same = recorded(second, vectors, {})
    assert series_warnings([check(lines), check(same)]) == ()
    assert any("together with the sums of other rounds" in limit for limit in check(lines).cannot_show)


def test_item_27_a_coordinate_that_one_client_alone_holds_is_in_the_clear_in_the_sum() -> None:
    """A rare token's row, a rare module: aggregation is no privacy by itself."""
    vectors = {client: np.where(np.arange(40) < 30, v, 0) for client, v in random_vectors(PLAIN).items()}
    vectors[ME][30:] = [7, -3, 11, 0, 5, 2, -9, 4, 1, -6]
    result = run_local(PLAIN, vectors)
    assert np.array_equal(result.vector[30:], vectors[ME][30:])
    assert not np.array_equal(result.vector[:30], vectors[ME][:30])
    assert any("what the sum tells about a vector in it" in limit for limit in limits(PLAIN))


def test_item_28_one_crafted_model_for_everybody_is_not_refused() -> None:
    """The binding stops models that differ between clients, not a model that is hostile to all of them alike.

    The crafted model: its layer answers to one client's data alone, so everybody else's update is zero there.
    """
    crafted = replace(SIGNED, model=bytes([0xEE]) * 32)
    update = np.arange(40) - 20
    vectors = {client: update if client == ME else np.zeros(40, np.int64) for client in SIGNED.clients}
    assert np.array_equal(run_local(crafted, vectors).vector, update)
    outcome = play(crafted, vectors)
    assert outcome.refused == [] and outcome.refusals == {}
    assert np.array_equal(outcome.vector(), update)


def test_item_29_a_server_that_fills_the_roster_reads_the_one_client_that_is_not_its_own() -> None:
    """n - 1 Sybils: all signatures verify. Only the people who make the roster can keep them out."""
    sybils = {c: SigningKey.from_secret(bytes([c]) * 32) for c in SIGNED.clients}
    keys = {**sybils, ME: identity_of(ME)}
    config = replace(SIGNED, identities=tuple(keys[c].public for c in SIGNED.clients))
    vectors = {c: np.zeros(40, np.int64) for c in SIGNED.clients} | {ME: random_vectors(SIGNED)[ME]}
    outcome = play(config, vectors, clients=make_clients(config, keys))
    assert np.array_equal(outcome.vector(), vectors[ME])
    with pytest.raises(ValueError, match="the roster has another public key"):  # against the true roster they cannot
        Client(SIGNED, PEER, identity=sybils[PEER])
    assert any("a server that fills the roster with clients of its own" in limit for limit in limits(SIGNED))
    poisoned = {c: np.full(40, 10**6) if c == PEER else random_vectors(PLAIN)[c] for c in PLAIN.clients}
    assert np.abs(run_local(PLAIN, poisoned).vector).min() > 9 * 10**5  # and nobody sees whose it was
    assert any("a masked vector cannot be looked into" in limit for limit in limits(PLAIN))


@pytest.mark.parametrize("mode", Mode)
def test_item_30_the_server_knows_who_was_asked_and_who_answered(mode: Mode) -> None:
    """So no amplification by a secret sample of clients can be claimed: every stage names its senders."""
    config = make_config(7, mode=mode)
    seen: Counter[str] = Counter()
    senders: dict[str, set[int]] = {}

    def tap(source: int, destination: int, message: Message, size: int) -> None:
        if isinstance(message, Advertise | Shares | MaskedVector | Consent | Reveal):
            seen[type(message).__name__] += 1
            senders.setdefault(type(message).__name__, set()).add(message.client)

    result = run_local(config, random_vectors(config), {ME: Stage.BEFORE_KEYS}, tap=tap)
    assert ME not in result.survivors and len(result.survivors) == 6
    assert all(who == set(result.survivors) for who in senders.values())
    assert result.dropped == ((ME, Stage.BEFORE_KEYS),)
    state = Federation(config).advertise().share().server._state
    assert isinstance(state, CollectVectors) and set(state.shared) == set(config.clients)


def limits(config: RoundConfig) -> tuple[str, ...]:
    """What the check of a round's transcript says that it cannot show."""
    _, lines = recorded(config, random_vectors(config), {})
    assert all(json.loads(line) for line in lines)
    return check(lines).cannot_show


SAID = {
    26: "cohort",
    27: "one client alone|held by one client",
    28: "crafted",
    29: "Sybil",
    30: "amplification",
}
without_table = pytest.mark.skipif(
    "## Checklist" not in (ROOT / "SECURITY.md").read_text(), reason="no checklist there yet"
)


@without_table
@pytest.mark.parametrize("item", SAID)
def test_the_document_says_what_the_protocol_does_not_give(item: int) -> None:
    assert re.search(SAID[item], security(), re.IGNORECASE)


def checklist_rows() -> dict[int, list[str]]:
    """Item -> cells of its row in the table under the heading."""
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8").split("## Checklist", 1)[1]
    rows: dict[int, list[str]] = {}
    for line in re.split(r"\n## ", text)[0].splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.lstrip().startswith("|") and cells[0].isdigit():
            assert int(cells[0]) not in rows, f"item {cells[0]} stands there twice"
            rows[int(cells[0])] = cells
    return rows


def existing_tests() -> set[str]:
    """The names of all test functions and test files."""
    names: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        names.add(path.name)
        names |= set(re.findall(r"^ *def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE))
    return names


@without_table
def test_the_table_has_a_row_for_each_item_that_names_a_test_that_exists() -> None:
    rows, known = checklist_rows(), existing_tests()
    assert list(rows) == list(range(1, 31))
    for item, cells in rows.items():
        named = re.findall(r"test_\w+(?:\.py)?", cells[-1])
        assert named, f"item {item} names no test"
        assert not [name for name in named if name not in known], f"item {item}"
        assert all(cells)


def test_there_is_a_test_for_each_item_in_order() -> None:
    names = [node.name for node in ast.parse(Path(__file__).read_text()).body if isinstance(node, ast.FunctionDef)]
    numbers = [int(found[1]) for name in names if (found := re.match(r"test_item_(\d\d)_", name))]
    assert numbers == list(range(1, 31))
    assert all(a < b for a, b in pairwise(numbers))
