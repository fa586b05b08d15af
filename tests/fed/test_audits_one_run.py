"""One-run canaries in real DPO training: silent on the honest mechanism, loud on a broken one, in a shadow copy."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpdpo_secure.audits import one_run
from fedpdpo_secure.audits.observe import Observation, known_gradients, single_steps
from fedpdpo_secure.audits.one_run import audit_one_run, check_attackable, plan_rule, whole
from fedpdpo_secure.audits.shadow import shadow
from fedpdpo_secure.budget import plan_budget
from fedpdpo_secure.config import Config, ConfigError
from fedpdpo_secure.local.plan import local_plan
from fedpdpo_secure.task import FedPDPO
from privacy.audit.game import Game
from privacy.audit.result import AuditResult
from privacy.audit.rule import all_right, score_test
from privacy.audit.tradeoff import NoiseFamily
from privacy.discrete import DiscreteGaussian
from privacy.entropy import Entropy, Keystream
from privacy.events import FullBatchGaussian, NonPrivate, PoissonGaussian
from tests.fed.builders import small_config

CANARIES = 160


def tiny(**privacy: Any) -> Config:
    """A claim near epsilon 3 over six steps of one client."""
    return small_config(
        synthetic={"pairs": 10, "validation_pairs": 0, "test_pairs": 2},
        federation={"clients": 3, "rounds": 3, "local_steps": 2},
        privacy={"noise_multiplier": 2.0, "sample_rate": 0.5, **privacy},
    )


def attack(config: Config, said: list[str] | None = None, client: str | None = None) -> AuditResult:
    return audit_one_run(
        config,
        canaries=CANARIES,
        confidence=0.99,
        client=client,
        entropy=Entropy.os(),
        rng=np.random.default_rng(0),
        note=([] if said is None else said).append,
    )


@pytest.fixture(autouse=True)
def short_games(monkeypatch: pytest.MonkeyPatch) -> None:
    """The power at the claim from few simulated games: it is not what these tests are about."""
    honest = one_run.judge

    def judge(*arguments: Any, game: Game, **named: Any) -> AuditResult:
        return honest(*arguments, game=game, repeats=5, **named)

    monkeypatch.setattr(one_run, "judge", judge)


def test_the_honest_mechanism_stays_below_its_claim_and_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path)
    config = tiny(arithmetic="float").model_copy(update={"output_dir": str(tmp_path / "run")})
    result = attack(config)
    assert result.verdict != "violation"
    assert result.lower_bound is not None and result.lower_bound <= result.claim < result.ceiling
    assert result.details["assuming_nothing"] <= result.claim
    assert result.claim == pytest.approx(plan_budget(config).projected(3).epsilon, rel=1e-9)
    assert result.details["noise_measured"] == pytest.approx(2.0, rel=0.05)
    assert result.null_check is not None and result.null_check.passed
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["temporary"]


@pytest.mark.parametrize("arithmetic", ["float", "integer"])
def test_a_tenth_of_the_noise_is_a_violation(arithmetic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real, whole_numbers = Keystream.normal, DiscreteGaussian.sample

    def less(self: Keystream, n: int) -> np.ndarray:
        return real(self, n) / 10

    def fewer(self: DiscreteGaussian, n: int, keystream: Keystream) -> np.ndarray:
        return whole_numbers(self, n, keystream) // 10

    monkeypatch.setattr(Keystream, "normal", less)
    monkeypatch.setattr(DiscreteGaussian, "sample", fewer)
    result = attack(tiny(arithmetic=arithmetic))
    assert result.verdict == "violation"
    assert result.lower_bound is not None and result.lower_bound > 1.2 * result.claim
    assert result.details["noise_measured"] == pytest.approx(0.2, rel=0.1)


def test_coins_and_rule_are_sealed_and_told_before_any_training(monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []
    seal, train = one_run.seal, FedPDPO.train_locally

    def sealing(*arguments: Any) -> Any:
        happened.append("seal")
        return seal(*arguments)

    def training(self: FedPDPO, *arguments: Any) -> Any:
        happened.append("train")
        return train(self, *arguments)

    monkeypatch.setattr(one_run, "seal", sealing)
    monkeypatch.setattr(FedPDPO, "train_locally", training)
    result = attack(tiny(), happened)
    assert happened[0] == "seal" and happened[2:] == ["train"] * 6
    assert result.coins_commitment is not None and result.coins_commitment in happened[1]


def test_coins_swapped_after_training_are_refused() -> None:
    event = PoissonGaussian(noise_multiplier=2.0, sample_rate=0.5, steps=1)
    rule = plan_rule(event, canaries=60, delta=1e-5, confidence=0.95, rng=np.random.default_rng(0))
    sealed = one_run.seal(rule, Entropy.os())
    flipped = replace(sealed, coins=~sealed.coins)
    seen = Observation(np.zeros((1, 60)), np.ones((1, 60)), np.ones(1), (event,))
    with pytest.raises(Exception, match="committed"):
        one_run.judge_one_run(seen, flipped, rule, sample_rate=0.5, rng=np.random.default_rng(0))


@pytest.mark.parametrize("personal", ["frozen", "joint"])
def test_gradients_of_the_attacker_add_up_to_the_step_of_real_training(personal: str) -> None:
    config = tiny(noise_multiplier=0, sample_rate=1.0)
    config = config.model_copy(update={"method": config.method.model_copy(update={"personal": personal})})
    with shadow(config) as copy:
        task, victim = copy.prepared.task, copy.client(None)
        lora = copy.prepared.initial
        for index in (1, 2):  # the second step starts from a personal state of the client's own
            plan = replace(local_plan(config, index, 0.0), steps=1)
            assert plan.dp is not None
            rows = known_gradients(task, victim, victim.train, lora, plan)
            update = task.train_locally(lora, victim, plan, Entropy.os()).update
            lora = task.with_update(lora, index, update)
            step = -update * plan.dp.expected_batch / plan.dp.learning_rate
            assert step == pytest.approx(rows.sum(axis=0), rel=1e-3, abs=1e-4)
            assert np.linalg.norm(rows, axis=1).max() <= 1 + 1e-9


def test_steps_taken_one_by_one_are_the_same_training() -> None:
    config = tiny(noise_multiplier=0, sample_rate=1.0)
    with shadow(config) as copy:
        task, victim = copy.prepared.task, copy.client(None)
        plan = local_plan(config, 1, 0.0)
        whole_round = task.train_locally(copy.prepared.initial, victim, plan, Entropy.os()).update
        lora, single = copy.prepared.initial, replace(plan, steps=1)
        for _ in range(2):
            lora = task.with_update(lora, 1, task.train_locally(lora, victim, single, Entropy.os()).update)
        done = task.with_update(copy.prepared.initial, 1, whole_round)
        assert lora == pytest.approx(done, rel=1e-4, abs=1e-6)


def test_each_step_has_an_index_of_its_own_and_the_parity_of_its_round() -> None:
    steps = list(single_steps(tiny()))
    assert [round_index for round_index, _ in steps] == [1, 1, 2, 2, 3, 3]
    assert all(index % 2 == round_index % 2 for round_index, index in steps)
    assert np.all(np.diff([index for _, index in steps]) > 0)


def test_the_rule_can_refute_the_claim_it_was_planned_for() -> None:
    event = PoissonGaussian(noise_multiplier=1.55, sample_rate=0.5, steps=20)
    rule = plan_rule(event, canaries=500, delta=1e-5, confidence=0.95, rng=np.random.default_rng(0))
    family = NoiseFamily.of([event])
    test = score_test(rule.test, rule.assumes, delta=1e-5, confidence=0.95, family=family)
    assert test.epsilon(test.strength(all_right(rule))) > family.epsilon(1.0, 1e-5)


def test_equal_events_are_one_with_all_steps_and_others_are_refused() -> None:
    event = PoissonGaussian(noise_multiplier=2.0, sample_rate=0.5, steps=2)
    assert whole([event, event]) == replace(event, steps=4)
    assert whole([FullBatchGaussian(1.0, 1)]) == FullBatchGaussian(1.0, 1)
    for bad in ([event, replace(event, steps=1)], [NonPrivate("seeded")]):
        with pytest.raises(ValueError, match="events"):
            whole(bad)


@pytest.mark.parametrize(
    ("sections", "field"),
    [
        ({"privacy": {"unit": "none"}}, "privacy.unit"),
        ({"privacy": {"noise_multiplier": 0}}, "privacy"),
        ({"privacy": {"insecure_seed": 1}}, "privacy"),
        ({"method": {"personal": "free"}, "privacy": {"allow_unsound": True}}, "method.personal"),
        ({"method": {"name": "centralized"}}, "method.name"),
    ],
)
def test_a_run_that_claims_nothing_is_refused_by_field(sections: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        check_attackable(small_config(**sections))


def test_an_unknown_client_is_refused() -> None:
    with pytest.raises(ConfigError, match="--client"):
        attack(tiny(), client="nobody")
