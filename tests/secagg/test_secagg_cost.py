"""Predicted costs: bytes exact, counts of cryptographic work exact, and laws that hold at any rates."""

from __future__ import annotations

import importlib
import math
import tracemalloc
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from secagg_harness import make_config, random_vectors, run_local

from secagg import Mode, RoundConfig, RoundSum, Stage, cost, sizes, unmask
from secagg.cost import Rates, RoundShape, WordRates, expansions, lower_bound, predict, probe
from secagg.graph import Graph
from secagg.ring import RING_BITS


def rates_of(seconds: float, **other: float) -> Rates:
    """Every unit costs `seconds`, except those that are named."""
    names = [field.name for field in fields(Rates) if field.name != "words"]
    word = WordRates(*[other.pop("word", seconds)] * len(fields(WordRates)))
    values = dict.fromkeys(names, seconds) | other
    assert len(values) == len(names)
    return Rates(words=dict.fromkeys(RING_BITS, word), **values)


RATES = rates_of(1e-6, word=1e-9, keystream=1e-10)
shapes = st.builds(
    lambda clients, degree, share, **rest: RoundShape(
        clients, min(degree, clients - 1), 1 + int(share * (min(degree, clients - 1) - 1)), **rest
    ),
    clients=st.integers(3, 10**6),
    degree=st.integers(1, 2000),
    share=st.floats(0, 1),
    bits=st.sampled_from(RING_BITS),
    dim=st.integers(1, 10**9),
    dropped=st.floats(0, 0.99),
    malicious=st.booleans(),
)


def shape_of(config: RoundConfig, gone: int = 0) -> RoundShape:
    return RoundShape(
        len(config.clients),
        config.neighbors,
        config.threshold,
        config.bits,
        config.dim,
        gone / len(config.clients),
        config.malicious,
    )


def dropping(config: RoundConfig, gone: int) -> dict[int, Stage]:
    return dict.fromkeys(config.clients[1 : 1 + gone], Stage.AFTER_SHARES)


def round_of(config: RoundConfig, gone: int = 0) -> RoundSum:
    return run_local(config, random_vectors(config), dropping(config, gone))


ROUNDS = [
    make_config(7, bits=16),
    make_config(9, dim=1001),
    make_config(17, bits=32, mode=Mode.MALICIOUS_SERVER),
    make_config(12, neighbors=6),
    make_config(14, neighbors=8, mode=Mode.MALICIOUS_SERVER),
]


@pytest.mark.parametrize("config", ROUNDS, ids=lambda c: f"{len(c.clients)}-{c.neighbors}-{c.mode.value}")
def test_the_bytes_of_every_message_are_those_of_a_real_round(config: RoundConfig) -> None:
    shape, total = shape_of(config), round_of(config)
    formulas: dict[str, Callable[[RoundShape], int]] = {
        "Advertise": sizes.advertise,
        "PeerKeys": sizes.peer_keys,
        "Shares": sizes.shares,
        "Delivery": sizes.delivery,
        "MaskedVector": sizes.masked_vector,
        "UnmaskRequest": sizes.unmask_request,
        "Consent": sizes.consent,
        "Consents": sizes.consents,
        "Reveal": sizes.reveal,
    }
    sent = {name: shape.clients * formula(shape) for name, formula in formulas.items() if formula(shape)}
    assert sent == dict(total.bytes_by_message)
    costs = predict(shape, RATES)
    assert set(total.upload_bytes.values()) == {costs.upload_bytes}
    assert set(total.download_bytes.values()) == {costs.download_bytes}


@pytest.mark.parametrize("mode", Mode)
def test_the_bytes_of_a_survivor_are_those_of_a_real_round_with_drops(mode: Mode) -> None:
    config = make_config(10, mode=mode)
    total, costs = round_of(config, 3), predict(shape_of(config, 3), RATES)
    assert {total.upload_bytes[client] for client in total.survivors} == {costs.upload_bytes}
    assert {total.download_bytes[client] for client in total.survivors} == {costs.download_bytes}


@pytest.mark.parametrize("config", ROUNDS, ids=lambda c: f"{len(c.clients)}-{c.neighbors}-{c.mode.value}")
def test_the_stages_have_the_names_of_a_real_round(config: RoundConfig) -> None:
    total, costs = round_of(config), predict(shape_of(config), RATES)
    assert costs.client_stages.keys() == total.client_stages.keys()
    assert costs.server_stages.keys() == total.server_stages.keys()
    assert costs.client_seconds == pytest.approx(sum(costs.client_stages.values()))
    assert costs.server_seconds == pytest.approx(sum(costs.server_stages.values()))
    assert costs.client_mask_seconds == costs.client_stages["mask"]


COUNTED = [  # where, function, rate, stages of a client or of the server
    ("client_steps", "{channel}", "channel", ("share",)),
    ("client_steps", "pair_mask_key", "pair_mask", ("mask",)),
    ("client_steps", "self_mask_key", "self_mask", ("mask",)),
    ("client_steps", "seal", "seal", ("share",)),
    ("client_steps", "unseal", "unseal", ("open",)),
    ("client_steps", "verify", "verify", ("share", "reveal")),
    ("server_steps", "has_small_order", "small_order", ("advertise",)),
    ("server_steps", "verify", "verify", ("advertise", "consent")),
    ("unmask", "pair_mask_key", "pair_mask", ("reveal",)),
    ("unmask", "self_mask_key", "self_mask", ("reveal",)),
    ("unmask", "seed_commitment", "commitment", ("reveal",)),
]


@pytest.mark.parametrize(("config", "gone"), [(ROUNDS[1], 2), (ROUNDS[2], 0), (ROUNDS[2], 3), (ROUNDS[3], 0)])
@pytest.mark.parametrize(("module", "function", "rate", "stages"), COUNTED, ids=lambda value: str(value))
def test_as_many_cryptographic_operations_are_predicted_as_a_real_round_does(
    config: RoundConfig,
    gone: int,
    module: str,
    function: str,
    rate: str,
    stages: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []
    function = function.format(channel="channel_keys_and_tags" if config.malicious else "channel_keys")
    real = getattr(importlib.import_module(f"secagg.{module}"), function)

    def counted(*arguments: Any, **named: Any) -> Any:
        calls.append(function)
        return real(*arguments, **named)

    monkeypatch.setattr(f"secagg.{module}.{function}", counted)
    round_of(config, gone)
    shape = shape_of(config, gone)
    costs = predict(shape, rates_of(0.0, **{rate: 1.0}))
    by_stage = costs.client_stages if module == "client_steps" else costs.server_stages
    parties = {
        stage: shape.survivors if stage in ("open", "mask", "reveal") else shape.clients
        for stage in costs.client_stages
    }
    expected = sum(by_stage.get(stage, 0.0) * (parties[stage] if module == "client_steps" else 1) for stage in stages)
    factor = 1.0 if rate in ("seal", "unseal") else cost._COLD
    assert expected / factor == pytest.approx(len(calls))


@pytest.mark.parametrize(("clients", "gone"), [(5, 0), (9, 2), (12, 3)])
def test_the_server_expands_as_many_masks_as_predicted(
    clients: int, gone: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    real = unmask.apply_masks

    def apply(words: Any, *, add: Any, subtract: Any) -> None:
        counted.append(len(add) + len(subtract))
        real(words, add=add, subtract=subtract)

    monkeypatch.setattr("secagg.unmask.apply_masks", apply)
    config = make_config(clients)
    round_of(config, gone)
    assert sum(counted) == expansions(shape_of(config, gone)) == (clients - gone) * (1 + gone)


def test_the_expansions_in_a_sparse_graph_are_the_mean_over_graphs() -> None:
    n, k, gone, graphs = 20, 6, 5, 400
    config = make_config(n, neighbors=k)
    dropped = set(config.clients[:gone])
    counts = []
    for seed in range(graphs):
        graph = Graph.build(config, config.clients, seed.to_bytes(32, "big"))
        pairs = sum(len(set(graph.neighbors(client)) - dropped) for client in dropped)
        counts.append(n - gone + pairs)
    mean = sum(counts) / graphs
    error = math.sqrt(sum((c - mean) ** 2 for c in counts)) / graphs
    expected = expansions(shape_of(config, gone))
    assert expected == pytest.approx(15 + 5 * 6 * 15 / 19)
    assert abs(mean - expected) < 4 * error
    assert abs(mean - (n - gone + gone * k)) > 8 * error  # all pairs of a dropped client would be noticed


@given(shapes)
def test_costs_are_linear_in_the_length_of_the_vector(shape: RoundShape) -> None:
    one, two, three = (predict(replace(shape, dim=factor * 24), RATES) for factor in (1, 2, 3))
    for name in ("client_seconds", "client_mask_seconds", "server_seconds", "upload_bytes", "client_memory_bytes"):
        first, second, third = (getattr(costs, name) for costs in (one, two, three))
        assert third - second == pytest.approx(second - first, rel=1e-6, abs=1e-9)
        assert third > second > first
    assert one.download_bytes == three.download_bytes
    assert one.expansions == three.expansions


@given(shapes)
def test_a_word_costs_a_client_its_masks_and_its_way_to_the_wire(shape: RoundShape) -> None:
    rates = rates_of(0.0, word=1.0)
    assert predict(shape, rates).client_seconds == pytest.approx((shape.degree + 3) * shape.dim)
    per_word = predict(shape, rates).server_seconds / shape.dim
    assert per_word == pytest.approx(shape.survivors + expansions(shape))


@given(shapes, st.floats(0, 0.5), st.floats(0, 0.5))
def test_more_drops_never_cost_a_server_fewer_expansions_below_one_half(
    shape: RoundShape, one: float, other: float
) -> None:
    fewer, more = (expansions(replace(shape, dropped=fraction)) for fraction in sorted((one, other)))
    if shape.degree >= 4:  # with hardly any neighbours a lost vector saves more than its masks cost
        assert more >= fewer - 1e-6 * fewer
    assert expansions(replace(shape, dropped=0.0)) == shape.clients


def test_drops_cost_a_server_more_when_vectors_are_long() -> None:
    seconds = [
        predict(RoundShape(100, 40, 22, 24, 10**6, dropped), RATES).server_seconds
        for dropped in (0.0, 0.05, 0.1, 0.2, 0.3, 0.4)
    ]
    assert seconds == sorted(seconds)
    assert seconds[-1] > 4 * seconds[0]


@given(shapes)
def test_malice_costs_more_of_everything_but_memory_and_expansions(shape: RoundShape) -> None:
    honest, malicious = (predict(replace(shape, malicious=mode), RATES) for mode in (False, True))
    assert malicious.client_seconds > honest.client_seconds
    assert malicious.server_seconds > honest.server_seconds
    tags = 4 + shape.degree * (4 + 16)
    assert malicious.upload_bytes == honest.upload_bytes + 64 + 2 + 32 + 4 + 64 + tags
    assert malicious.download_bytes > honest.download_bytes
    assert malicious.expansions == honest.expansions


def test_a_million_clients_are_predicted_without_a_list_of_them() -> None:
    shape = RoundShape(10**6, 150, 100, 24, 10**9, 0.1, malicious=True)
    predict(shape, RATES)
    tracemalloc.start()
    costs = predict(shape, RATES)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50_000
    assert costs.upload_bytes > 3 * 10**9
    assert costs.expansions == pytest.approx(900_000 + 100_000 * 150 * 0.9, rel=1e-5)
    assert costs.server_memory_bytes > 150 * 10**6
    assert math.isfinite(costs.server_seconds)


@pytest.mark.parametrize(("bits", "width"), [(16, 2), (24, 4), (32, 4)])
def test_the_lower_bound_is_keystream_and_addition_of_every_word(bits: int, width: int) -> None:
    rates = rates_of(9.0, word=0.25, keystream=0.125)
    assert lower_bound(20, 1000, bits, rates) == 21 * 1000 * (width * 0.125 + 0.25)


def test_probed_rates_are_positive_and_a_sum_of_half_the_bytes_costs_less() -> None:
    rates = probe(0.05)
    for field in fields(Rates):
        value = getattr(rates, field.name)
        if field.name == "words":
            assert set(value) == set(RING_BITS)
            assert all(getattr(word, f.name) > 0 for word in value.values() for f in fields(WordRates))
            assert value[24].add == value[32].add
        else:
            assert math.isfinite(value)
            assert value >= 0
            assert value > 0 or field.name in {"split_call", "lagrange_call", "mask_call"}  # the rest of a line


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"clients": 2}, "clients must be at least 3"),
        ({"neighbors": 0}, "neighbors must lie in 1..9"),
        ({"neighbors": 10}, "neighbors must lie in 1..9"),
        ({"threshold": 0}, "threshold must lie in 1..10"),
        ({"threshold": 11}, "threshold must lie in 1..10"),
        ({"neighbors": 4, "threshold": 5}, "threshold must lie in 1..4"),
        ({"bits": 20}, "bits must be one of"),
        ({"dim": 0}, "dim must be at least 1"),
        ({"dropped": 1.0}, "dropped must be a fraction"),
        ({"dropped": -0.1}, "dropped must be a fraction"),
        ({"dropped": math.nan}, "dropped must be a fraction"),
    ],
)
def test_a_shape_that_no_round_has_is_refused(change: dict[str, Any], text: str) -> None:
    shape = RoundShape(10, None, 7, 24, 100)
    with pytest.raises(ValueError, match=text):
        replace(shape, **change)


def test_all_others_as_neighbours_are_the_complete_graph() -> None:
    shape = RoundShape(10, None, 7, 24, 100, 0.2, malicious=True)
    assert predict(replace(shape, neighbors=9), RATES) == predict(shape, RATES)
