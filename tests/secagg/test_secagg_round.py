"""Whole rounds: the sum over the survivors, whatever disappears, and no sum when too much does."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from secagg_harness import centred_sum, fixed_entropy, make_config, random_vectors, run_local

from secagg import (
    FixedPoint,
    LocalRound,
    Mode,
    RoundConfig,
    Stage,
    TooFewSurvivors,
    WrongPhase,
    default_threshold,
    from_ring,
    to_ring,
)
from secagg.messages import Message

STAGES = [stage for stage in Stage if stage is not Stage.AFTER_CONSENT]
LATE = (None, Stage.AFTER_MASKED, Stage.AFTER_CONSENT)  # after these the vector is in the sum
MALICIOUS = Mode.MALICIOUS_SERVER


def stages_of(config: RoundConfig) -> list[Stage]:
    return list(Stage) if config.malicious else STAGES


def expected_survivors(config: RoundConfig, drops: dict[int, Stage]) -> tuple[int, ...]:
    return tuple(client for client in config.clients if drops.get(client) in LATE)


ROUNDS = {
    "complete": make_config(6),
    "complete, malicious server": make_config(6, mode=MALICIOUS),
    "4-regular": make_config(9, neighbors=4, threshold=2),
    "6-regular, malicious server": make_config(11, neighbors=6, threshold=4, mode=MALICIOUS),
    "16 bits": make_config(6, bits=16),
}
each_round = pytest.mark.parametrize("config", ROUNDS.values(), ids=ROUNDS)
ROUND_STAGES = [
    pytest.param(config, stage, id=f"{name}: {stage.value}")
    for name, config in ROUNDS.items()
    for stage in stages_of(config)
]


@each_round
def test_without_drops_the_sum_is_that_of_all_clients(config: RoundConfig) -> None:
    vectors = random_vectors(config)
    result = run_local(config, vectors, entropy=os.urandom)
    assert np.array_equal(result.vector, sum(vectors.values()))
    assert result.vector.dtype == np.int64
    assert result.survivors == config.clients
    assert (result.dropped, result.recovered_mask_keys, result.recovered_self_masks) == ((), 0, 0)
    assert result.misfits == ()


@pytest.mark.parametrize(("config", "stage"), ROUND_STAGES)
@pytest.mark.parametrize("position", [0, 3, 5])
def test_one_client_lost_at_any_stage_leaves_the_sum_of_the_others(
    config: RoundConfig, stage: Stage, position: int
) -> None:
    vectors = random_vectors(config)
    lost = config.clients[position]
    result = run_local(config, vectors, {lost: stage})
    survivors = expected_survivors(config, {lost: stage})
    assert np.array_equal(result.vector, sum(vectors[client] for client in survivors))
    assert result.survivors == survivors
    assert result.dropped == ((lost, stage),)
    assert result.recovered_mask_keys == (stage is Stage.AFTER_SHARES)
    assert result.recovered_self_masks == (stage in (Stage.AFTER_MASKED, Stage.AFTER_CONSENT))


@pytest.mark.parametrize(
    ("mode", "stage"), [(Mode.SEMI_HONEST, s) for s in STAGES] + [(MALICIOUS, stage) for stage in Stage]
)
def test_as_many_clients_may_be_lost_at_a_stage_as_the_threshold_allows_and_not_one_more(
    mode: Mode, stage: Stage
) -> None:
    config = make_config(9, mode=mode)  # threshold 7
    vectors = random_vectors(config)
    for count in range(3):
        drops = dict.fromkeys(config.clients[2 : 2 + count], stage)
        result = run_local(config, vectors, drops)
        assert np.array_equal(result.vector, sum(vectors[client] for client in expected_survivors(config, drops)))
    with pytest.raises(TooFewSurvivors, match=r"6 clients .* at least 7 are needed"):
        run_local(config, vectors, dict.fromkeys(config.clients[2:5], stage))


@pytest.mark.parametrize("mode", Mode)
def test_one_client_lost_at_each_stage_in_the_same_round(mode: Mode) -> None:
    config = make_config(16, mode=mode)  # threshold 11: five may be lost
    vectors = random_vectors(config)
    drops = dict(zip(config.clients[::3], stages_of(config), strict=False))
    result = run_local(config, vectors, drops)
    assert np.array_equal(result.vector, sum(vectors[client] for client in expected_survivors(config, drops)))
    assert dict(result.dropped) == drops
    assert (result.recovered_mask_keys, result.recovered_self_masks) == (1, len(drops) - 3)


def test_a_client_that_is_expected_and_never_submits_counts_as_dropped_after_shares() -> None:
    config = make_config(6)
    vectors = random_vectors(config)
    local = LocalRound(config, {})
    silent, *others = local.open()
    for client in others:
        local.submit(client, vectors[client])
    result = local.finish()
    assert result.dropped == ((silent, Stage.AFTER_SHARES),)
    assert np.array_equal(result.vector, sum(vectors[client] for client in others))


def test_open_names_the_clients_that_are_expected_to_submit() -> None:
    config = make_config(13)
    drops = dict(zip(config.clients, STAGES, strict=False))
    assert LocalRound(config, drops).open() == config.clients[3:]


def test_nobody_drops_after_a_consent_that_the_mode_does_not_have() -> None:
    with pytest.raises(ValueError, match="nobody consents in semi-honest mode"):
        LocalRound(make_config(5), {10: Stage.AFTER_CONSENT})


@given(st.data())
@settings(max_examples=120, deadline=None)
def test_the_sum_is_the_plain_sum_over_survivors_or_there_is_none(data: st.DataObject) -> None:
    n = data.draw(st.integers(3, 9), "clients")
    mode = data.draw(st.sampled_from(Mode), "mode")
    least = n // 2 + 1 if mode is Mode.SEMI_HONEST else default_threshold(n)
    config = make_config(
        n,
        mode=mode,
        dim=data.draw(st.integers(1, 6), "dim"),
        bits=data.draw(st.sampled_from([16, 24, 32]), "bits"),
        threshold=data.draw(st.integers(least, n), "threshold"),
        min_survivors=data.draw(st.integers(3, n), "min_survivors"),
    )
    often = st.sampled_from([None] * 6 + stages_of(config))
    drops = {client: stage for client in config.clients if (stage := data.draw(often, f"drop {client}"))}
    words = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=config.dim, max_size=config.dim)
    vectors = {client: np.array(data.draw(words, f"vector {client}"), np.int64) for client in config.clients}
    survivors = expected_survivors(config, drops)
    answering = [client for client in config.clients if client not in drops]
    enough = len(survivors) >= max(config.threshold, config.min_survivors)
    if not enough or len(answering) < config.threshold:
        with pytest.raises(TooFewSurvivors):
            run_local(config, vectors, drops)
        return
    result = run_local(config, vectors, drops)
    assert result.survivors == survivors
    assert np.array_equal(result.vector, centred_sum([vectors[client] for client in survivors], config))
    assert dict(result.dropped) == drops


@pytest.mark.parametrize("bits", [16, 24, 32])
def test_the_sum_is_exact_at_both_ends_of_the_ring_and_wraps_one_beyond(bits: int) -> None:
    config = make_config(3, dim=4, bits=bits)
    half = 2 ** (bits - 1)
    first = np.array([half - 3, -half + 2, half - 2, -half + 1], np.int64)
    ones = np.array([1, -1, 1, -1], np.int64)
    result = run_local(config, dict(zip(config.clients, [first, ones, ones], strict=True)))
    assert result.vector.tolist() == [half - 1, -half, -half, half - 1]


def test_encoded_values_come_back_as_the_sum_of_what_plain_addition_of_the_same_integers_gives() -> None:
    config = make_config(5, dim=300)
    fixed = FixedPoint(bits=24, value_range=0.2, max_clients=5)
    rng = np.random.default_rng(3)
    vectors = {client: fixed.encode(rng.normal(size=300) / 10, rng).vector for client in config.clients}
    plain = sum(to_ring(vector, 24) for vector in vectors.values())
    assert np.array_equal(run_local(config, vectors).vector, from_ring(np.asarray(plain), 24))


def test_a_vector_longer_than_a_chunk_and_a_vector_of_one_word_are_summed_exactly() -> None:
    for dim in (1, 32768, 70_001):
        config = make_config(4, dim=dim)
        vectors = random_vectors(config)
        result = run_local(config, vectors, {config.clients[1]: Stage.AFTER_SHARES})
        assert np.array_equal(result.vector, sum(v for c, v in vectors.items() if c != config.clients[1]))


def test_two_survivors_make_no_sum_even_when_everything_else_would_allow_it() -> None:
    config = make_config(3, threshold=2)
    with pytest.raises(TooFewSurvivors, match="2 clients sent a masked vector, at least 3"):
        run_local(config, random_vectors(config), {config.clients[0]: Stage.AFTER_SHARES})


def test_after_too_few_survivors_there_is_no_sum_to_be_had() -> None:
    config = make_config(5)
    vectors = random_vectors(config)
    local = LocalRound(config, {})
    for client in local.open()[:2]:
        local.submit(client, vectors[client])
    with pytest.raises(TooFewSurvivors):
        local.finish()
    with pytest.raises(WrongPhase):
        local.finish()


@pytest.mark.parametrize("kind", ["Advertise", "PeerKeys", "Shares", "Delivery", "UnmaskRequest", "Reveal"])
def test_a_failed_round_keeps_no_client_and_gives_no_sum(kind: str) -> None:
    config = make_config(5)
    vectors = random_vectors(config)
    held: list[int] = []

    def tap(source: int, destination: int, message: Message, size: int) -> None:
        if type(message).__name__ == kind and config.clients[-1] in (source, destination):
            held.append(len(local._clients))
            raise ConnectionError("cut")

    local = LocalRound(config, {}, tap=tap)
    with pytest.raises(ConnectionError):
        for client in local.open():
            local.submit(client, vectors[client])
        local.finish()
    assert held == [5]
    assert local._clients == {}
    with pytest.raises(ValueError, match="client 10 is not expected"):
        local.submit(config.clients[0], vectors[config.clients[0]])
    with pytest.raises((TooFewSurvivors, WrongPhase)):
        local.finish()


def test_a_round_that_is_short_of_clients_keeps_none_of_them() -> None:
    config = make_config(5)
    few = LocalRound(config, dict.fromkeys(config.clients[:3], Stage.BEFORE_KEYS))
    with pytest.raises(TooFewSurvivors):
        few.open()
    silent = LocalRound(config, {})
    silent.open()
    with pytest.raises(TooFewSurvivors):
        silent.finish()
    assert few._clients == silent._clients == {}


def test_a_vector_is_refused_from_a_dropped_client_and_twice_from_one_client() -> None:
    config = make_config(5)
    vectors = random_vectors(config)
    local = LocalRound(config, {config.clients[0]: Stage.AFTER_SHARES})
    first, *_ = local.open()
    with pytest.raises(ValueError, match="client 10 is not expected"):
        local.submit(config.clients[0], vectors[first])
    local.submit(first, vectors[first])
    with pytest.raises(WrongPhase):
        local.submit(first, vectors[first])


def test_a_drop_outside_the_roster_is_refused() -> None:
    with pytest.raises(ValueError, match=r"drops: \[99\]"):
        LocalRound(make_config(5), {99: Stage.AFTER_KEYS})


def test_costs_are_reported_for_every_client_and_the_server() -> None:
    config = make_config(6)
    gone = config.clients[0]
    result = run_local(config, random_vectors(config), {gone: Stage.BEFORE_KEYS})
    assert set(result.upload_bytes) == set(result.download_bytes) == set(result.client_seconds) == set(config.clients)
    assert (result.upload_bytes[gone], result.download_bytes[gone], result.client_seconds[gone]) == (0, 0, 0.0)
    assert all(result.client_seconds[client] > 0 for client in result.survivors)
    assert result.server_seconds > 0


def test_the_tap_sees_every_message_with_its_source_and_destination() -> None:
    config = make_config(4)
    seen: list[tuple[int, int, str]] = []
    run_local(config, random_vectors(config), tap=lambda s, d, m, _: seen.append((s, d, type(m).__name__)))
    for client in config.clients:
        assert [name for source, _, name in seen if source == client] == [
            "Advertise",
            "Shares",
            "MaskedVector",
            "Reveal",
        ]
        assert [name for _, to, name in seen if to == client] == ["PeerKeys", "Delivery", "UnmaskRequest"]


def test_a_fixed_entropy_source_gives_the_same_masked_vectors_and_os_entropy_does_not() -> None:
    config = make_config(4)

    def masked(entropy: object) -> list[object]:
        sent: list[object] = []
        run_local(
            config,
            random_vectors(config),
            entropy=entropy,  # type: ignore[arg-type]
            tap=lambda s, d, m, _: sent.append(m) if type(m).__name__ == "MaskedVector" else None,
        )
        return sent

    assert masked(fixed_entropy()) == masked(fixed_entropy())
    assert masked(os.urandom) != masked(os.urandom)


def test_a_client_whose_secrets_too_few_hold_is_not_expected_and_the_others_go_on() -> None:
    """Its neighbours dropped before they shared: nobody could rebuild its masks, so it is left out in time."""
    config = make_config(21, neighbors=4, threshold=2)
    left_out = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        drops = dict.fromkeys(map(int, rng.choice(config.clients, 3, replace=False)), Stage.AFTER_KEYS)
        vectors = random_vectors(config, seed)
        local = LocalRound(config, drops, entropy=fixed_entropy(bytes([seed])))
        expected = local.open()
        for client in expected:
            local.submit(client, vectors[client])
        assert np.array_equal(local.finish().vector, sum(vectors[client] for client in expected))
        left_out += len(expected) < 18
    assert left_out > 0
