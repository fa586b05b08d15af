"""One round: both ways to sum add the same integers, the server sees nothing unmasked, weights stay in the vector."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fedpdpo_secure import aggregate, round
from fedpdpo_secure.config import Config, ConfigError
from fedpdpo_secure.local.plan import LocalUpdate
from fedpdpo_secure.vector import LOSS_BOUND, VectorPlan
from secagg import FixedPoint, LocalRound, Stage, TooFewSurvivors, to_ring
from secagg.ring import add_packed
from tests.fed.builders import small_config
from tests.fed.runs import FREE, Recorder, run

SEEDED = {"privacy": {"insecure_seed": 3}}


class Recording:
    """An aggregation that keeps what went in and came out of the real one."""

    def __init__(self, inner: aggregate.Aggregation) -> None:
        self.inner, self.vectors, self.total = inner, {}, None

    def open(self) -> tuple[int, ...]:
        return self.inner.open()

    def submit(self, client: int, vector: np.ndarray) -> None:
        self.vectors[client] = vector.copy()
        self.inner.submit(client, vector)

    def finish(self):
        self.total = self.inner.finish()
        return self.total


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Recording]]:
    """Every aggregation that rounds open."""
    opened: list[Recording] = []
    original = aggregate.open_aggregation

    def opening(config: Config, round_index: int, dim: int, lora: np.ndarray, transcripts: Path | None) -> Recording:
        opened.append(Recording(original(config, round_index, dim, lora, transcripts)))
        return opened[-1]

    monkeypatch.setattr(round, "open_aggregation", opening)
    yield opened


@pytest.mark.parametrize("sections", [FREE, SEEDED], ids=["no noise", "seeded noise"])
def test_plain_and_secure_aggregation_sum_the_same_integers(tmp_path, recorded, sections) -> None:
    stages = [("before_keys", "after_shares"), ("after_keys", "after_masked")]
    drop = [
        {"round": r + 1, "client": c + 1, "stage": stage}
        for r, pair in enumerate(stages)
        for c, stage in enumerate(pair)
    ]
    federation = {"clients": 5, "rounds": 2, "local_steps": 1, "drop": drop}
    shared = {**sections, "federation": federation}
    run(tmp_path / "secure", **shared, secagg={"threshold": 3})
    secure = list(recorded)
    recorded.clear()
    run(tmp_path / "plain", **shared, secagg={"enabled": False})
    assert len(secure) == len(recorded) == 2
    for masked, plain in zip(secure, recorded, strict=True):
        assert isinstance(masked.inner, aggregate.RecordedRound) and isinstance(plain.inner, aggregate.PlainRound)
        assert masked.vectors.keys() == plain.vectors.keys()
        np.testing.assert_array_equal(masked.total.vector, plain.total.vector)
        np.testing.assert_array_equal(masked.total.vector, sum(masked.vectors.values()))
        assert masked.total.survivors == plain.total.survivors
        assert masked.total.dropped == plain.total.dropped


def test_the_sums_are_those_of_real_training_and_differ_between_clients(tmp_path, recorded) -> None:
    run(tmp_path, **FREE)
    vectors = list(recorded[0].vectors.values())
    assert all(vector.any() for vector in vectors)
    assert len({vector.tobytes() for vector in vectors}) == len(vectors)


def unpacked(packed: bytes) -> np.ndarray:
    """uint32 words of a 24-bit packed vector."""
    words = np.zeros(len(packed) // 3, np.uint32)
    add_packed(words, packed, 24)
    return words


def reachable_arrays(thing: object) -> list[np.ndarray]:
    """Every array that can be reached from `thing` through the garbage collector's eyes and through slots."""
    seen: set[int] = set()
    waiting, found = [thing], []
    while waiting:
        value = waiting.pop()
        if id(value) in seen or isinstance(value, type) or callable(value):
            continue
        seen.add(id(value))
        if isinstance(value, np.ndarray):
            found.append(value)
            continue
        if isinstance(value, bytes):
            found += [unpacked(value)] if len(value) % 3 == 0 else []
            continue
        waiting.extend(gc.get_referents(value))
    return found


def test_after_a_round_of_training_the_server_reaches_no_unmasked_vector(tmp_path, monkeypatch) -> None:
    received, servers, plain, leaks = [], [], {}, []
    original_init, original_submit = LocalRound.__init__, LocalRound.submit

    def tapping(self, config, drops, **_):
        original_init(self, config, drops, tap=lambda _, destination, m, __: received.append((destination, m)))
        servers.append(self._server)

    def keeping(self, client, vector):
        plain[client] = to_ring(vector, 24)
        original_submit(self, client, vector)
        leaks.extend(found(servers, plain[client]) if len(plain) > 1 else [])

    monkeypatch.setattr(LocalRound, "__init__", tapping)
    monkeypatch.setattr(LocalRound, "submit", keeping)
    run(tmp_path, federation={"clients": 4, "rounds": 1, "local_steps": 1})
    sent = [message for destination, message in received if destination == -1]
    assert len(plain) == 4 and not leaks
    assert sum(a.size == plain[0].size for message in sent for a in reachable_arrays(message)) == 4
    assert not any(found(sent, vector) for vector in plain.values())
    assert found([[plain[1].astype(np.int64)]], plain[1])  # a stored vector would be seen


def found(things: object, vector: np.ndarray) -> list[np.ndarray]:
    """Arrays reachable from `things` that hold the ring words of `vector`, as integers or as decoded floats."""
    encoding = FixedPoint(bits=24, value_range=1.0, max_clients=4)
    arrays = [a for a in reachable_arrays(things) if a.size == vector.size]
    words = [
        np.rint(a * encoding.scale).astype(np.int64) if a.dtype.kind == "f" else a.astype(np.int64) for a in arrays
    ]
    return [a for a in words if ((a % 2**24) == vector).mean() > 0.01]


def test_a_private_vector_holds_the_update_alone() -> None:
    encoding = FixedPoint(bits=24, value_range=1.0, max_clients=4)
    private = VectorPlan(size=5, weighted=False, pairs_bound=100, encoding=encoding)
    update = np.array([0.1, -0.2, 0.3, 0.0, 0.9])
    few, many = (
        private.encode(LocalUpdate(update, pairs, loss, 1), np.random.default_rng(0))[0]
        for pairs, loss in ((1, 0.1), (100, 7.0))
    )
    assert private.dim == 5
    np.testing.assert_array_equal(few, many)
    np.testing.assert_allclose(private.decode(few + many, 2).update, update, atol=2e-6)


def test_without_dp_weight_and_loss_travel_inside_the_vector() -> None:
    encoding = FixedPoint(bits=24, value_range=0.5, max_clients=4)
    plan = VectorPlan(size=2, weighted=True, pairs_bound=40, encoding=encoding)
    updates = [LocalUpdate(np.array([0.1, -0.3]), 10, 0.7, 1), LocalUpdate(np.array([0.2, 0.4]), 40, 2 * LOSS_BOUND, 1)]
    total = sum(plan.encode(update, np.random.default_rng(k))[0] for k, update in enumerate(updates))
    mean = plan.decode(total, 2)
    np.testing.assert_allclose(mean.update, [(10 * 0.1 + 40 * 0.2) / 50, (-10 * 0.3 + 40 * 0.4) / 50], atol=1e-5)
    assert mean.loss == pytest.approx((10 * 0.7 + 40 * LOSS_BOUND) / 50, abs=1e-3)


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage is not Stage.AFTER_CONSENT])  # see test_masking
def test_a_client_may_vanish_at_any_stage_and_the_round_goes_on(tmp_path, stage) -> None:
    recorder = Recorder()
    drop = [{"round": 1, "client": 2, "stage": stage.value}]
    run(
        tmp_path,
        progress=recorder,
        federation={"clients": 5, "rounds": 1, "local_steps": 1, "drop": drop},
        secagg={"threshold": 3},
    )
    report = recorder.reports[0]
    assert [(drop.client, drop.stage) for drop in report.dropped] == [("client-02", stage.value)]
    assert report.survivors == (5 if stage is Stage.AFTER_MASKED else 4)
    assert report.recovered == (1 if stage in (Stage.AFTER_SHARES, Stage.AFTER_MASKED) else 0)


@pytest.mark.parametrize("enabled", [True, False], ids=["secure", "plain"])
def test_too_few_survivors_give_no_sum_and_stay_charged(tmp_path, enabled, monkeypatch) -> None:
    gone = {client: Stage.AFTER_SHARES for client in (0, 1)}
    monkeypatch.setattr(aggregate, "scheduled_drops", lambda config, round_index: gone)
    with pytest.raises(TooFewSurvivors):
        run(tmp_path, federation={"clients": 4, "rounds": 1}, secagg={"enabled": enabled})
    from privacy.ledger_view import verify_dir

    found = verify_dir(tmp_path)
    assert len(found) == 4 and all(ledger.ok and ledger.uncommitted == 1 for ledger in found)


def test_alternating_adapters_move_one_factor_a_round(tmp_path, recorded) -> None:
    sections = {"privacy": {"unit": "none"}, "lora": {"train": "alternating"}}
    config = small_config(**sections)
    run(tmp_path, **sections)
    assert config.federation.rounds == 2
    assert recorded[0].total.vector.size != recorded[1].total.vector.size


def test_a_round_is_bound_to_its_session_its_configuration_and_the_broadcast_adapter() -> None:
    config, lora = small_config(), np.linspace(0, 1, 7)

    def bound(config: Config, lora: np.ndarray) -> tuple[bytes, bytes, bytes]:
        chosen = aggregate.round_config(config, 1, 7, lora, None)
        return chosen.session, chosen.context, chosen.model

    session, context, model = bound(config, lora)
    assert bound(config, lora)[0] != session
    assert bound(config, lora)[1:] == (context, model)
    nudged = lora.copy()
    nudged[3] = np.nextafter(nudged[3], 2)
    assert bound(config, nudged)[1:] != (context, model)
    assert bound(config, nudged)[1] == context
    assert bound(small_config(dpo={"beta": 0.5}), lora)[1] != context


def test_a_plain_round_refuses_what_a_secure_one_refuses() -> None:
    plain = aggregate.PlainRound(4, 3, 3, 24, {0: Stage.BEFORE_KEYS})
    vector = np.ones(3, np.int64)
    plain.submit(1, vector)
    for client, wrong in ((0, vector), (1, vector), (77, vector), (2, vector[:1]), (2, vector.astype(np.int32))):
        with pytest.raises(ValueError, match=f"client {client}"):
            plain.submit(client, wrong)
    plain.submit(2, vector)
    plain.submit(3, vector)
    total = plain.finish()
    assert total.survivors == (1, 2, 3) and total.vector.tolist() == [3, 3, 3]


def test_weights_outside_their_bound_and_sums_without_weight_are_refused() -> None:
    plan = VectorPlan(
        size=1, weighted=True, pairs_bound=10, encoding=FixedPoint(bits=16, value_range=1.0, max_clients=3)
    )
    with pytest.raises(ValueError, match=r"1\.\.10"):
        plan.encode(LocalUpdate(np.zeros(1), 11, 0.1, 1), np.random.default_rng(0))
    with pytest.raises(ValueError, match="sum of weights is 0"):
        plan.decode(np.zeros(3, np.int64), 3)


def test_a_schedule_that_leaves_too_few_clients_is_refused_before_training() -> None:
    drop = [{"round": 1, "client": client, "stage": "after_masked"} for client in (0, 1)]
    with pytest.raises(ConfigError, match="round 1 loses 2 of 4"):
        small_config(federation={"drop": drop})
