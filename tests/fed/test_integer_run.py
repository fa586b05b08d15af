"""Local noise in integers, from the configuration to the ledger: what is planned is what is added and charged."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpdpo_secure.budget import check_delta, needs_dim, plan_budget
from fedpdpo_secure.config import ConfigError
from fedpdpo_secure.local.plan import local_plan
from fedpdpo_secure.prepare import Prepared, prepare
from fedpdpo_secure.progress import SilentProgress
from privacy.accounting import epsilon
from privacy.dpsgd import DPStepPlan
from privacy.entropy import Entropy
from privacy.events import IntegerGaussian, NonPrivate
from privacy.ledger import verify_dir
from tests.fed.builders import small_config
from tests.fed.runs import Recorder, run


def integer(**change: object) -> dict[str, Any]:
    return {"epsilon": 6.0, "arithmetic": "integer", **change}


def prepared_run(folder: Path, **sections: Any) -> Prepared:
    config = small_config(**{"privacy": integer(), **sections}, output_dir=str(folder))
    return prepare(config, folder, SilentProgress(), fresh=True)


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"method": {"personal": "joint"}},
        {"lora": {"train": "alternating"}},
        {"privacy": integer(sample_rate=1.0)},
        {"method": {"name": "centralized"}},
    ],
    ids=["frozen", "joint", "alternating", "full batch", "pooled"],
)
def test_every_round_adds_exactly_the_noise_that_was_planned(tmp_path: Path, sections: dict[str, Any]) -> None:
    prepared = prepared_run(tmp_path, **sections)
    task, config = prepared.task, prepared.task.config
    budget = plan_budget(config, task.noised_size())
    for round_index in (1, 2):
        plan = local_plan(config, round_index, budget.noise_multiplier, integer=budget.integer)
        update = task.train_locally(prepared.initial, prepared.clients[0], plan, Entropy.os())
        assert update.event == budget.event
        assert update.update.any()
    assert isinstance(budget.event, IntegerGaussian)
    assert (budget.event.steps, budget.event.unit) == (2, "pair")
    spent = epsilon([budget.event] * config.federation.rounds, budget.delta).epsilon
    assert 0.98 * 6.0 < spent <= 6.0


def test_personal_parts_trained_jointly_are_counted_among_the_noised_coordinates(tmp_path: Path) -> None:
    frozen = prepared_run(tmp_path / "frozen").task
    joint = prepared_run(tmp_path / "joint", method={"personal": "joint"}).task
    own = sum(value.numel() for value in joint.personal.parameters())
    assert frozen.noised_size() == frozen.layout(1).size
    assert joint.noised_size() == joint.layout(1).size + own
    alternating = prepared_run(tmp_path / "alternating", lora={"train": "alternating"}).task
    assert alternating.noised_size() == max(alternating.layout(1).size, alternating.layout(2).size)


def test_the_update_is_whole_grid_units_up_to_the_rounding_of_the_parameters(tmp_path: Path) -> None:
    prepared = prepared_run(tmp_path, federation={"local_steps": 1}, dpo={"learning_rate": 1e4})
    task, config = prepared.task, prepared.task.config
    budget = plan_budget(config, task.noised_size())
    plan = local_plan(config, 1, budget.noise_multiplier, integer=budget.integer)
    update = task.train_locally(prepared.initial, prepared.clients[0], plan, Entropy.os()).update
    assert budget.integer is not None
    unit = 1e4 / (config.privacy.expected_batch * budget.integer.clip_norm) * budget.integer.grid
    whole = update / unit
    # B starts at zero, so the float32 parameter holds the step itself: half a unit in its 24th bit and some.
    assert np.abs(whole - np.rint(whole)).max() <= 3e-7 * np.abs(whole).max()
    assert np.abs(whole).max() > 1e3


def test_a_run_in_integers_spends_its_budget_and_its_ledger_agrees(tmp_path: Path) -> None:
    listener = Recorder()
    result = run(tmp_path, progress=listener, privacy=integer())
    assert result.private and (result.unit, result.noise) == ("pair", "local")
    assert 0.98 * 6.0 < result.epsilon <= 6.0
    lines = [line for path in (tmp_path / "ledger").rglob("*.jsonl") for line in path.read_text().splitlines()]
    charged = [row["body"]["event"] for row in map(json.loads, lines) if row["kind"] == "reserve"]
    assert len(charged) == 4 * 2
    assert {event["type"] for event in charged} == {"IntegerGaussian"}
    assert {(event["unit"], event["colluding_variance"]) for event in charged} == {("pair", 0)}
    assert all(event["own_variance"] == event["variance"] for event in charged)
    assert max(one.epsilon.epsilon for one in verify_dir(tmp_path / "ledger")) == pytest.approx(result.epsilon)


def test_a_given_multiplier_is_what_is_charged() -> None:
    config = small_config(privacy={"noise_multiplier": 1.5, "arithmetic": "integer"})
    budget = plan_budget(config, 500)
    assert budget.noise_multiplier == pytest.approx(1.5, rel=1e-9)
    assert budget.event == budget.integer.event(2)


def test_a_seeded_run_in_integers_is_not_private(tmp_path: Path) -> None:
    config = small_config(privacy=integer(insecure_seed=1))
    assert isinstance(plan_budget(config, 500).event, NonPrivate)
    assert not run(tmp_path, privacy=integer(insecure_seed=1)).private


def test_integer_noise_is_planned_only_when_its_dimension_is_known() -> None:
    config = small_config(privacy=integer())
    assert needs_dim(config)
    with pytest.raises(ConfigError, match="number of noised coordinates"):
        plan_budget(config)
    assert not needs_dim(small_config(privacy=integer(arithmetic="float")))
    assert needs_dim(small_config(federation={"clients": 6, "local_steps": 1}, privacy={"noise": "distributed"}))
    assert not needs_dim(small_config(privacy={"unit": "none"}))


def test_a_round_in_integers_is_not_planned_with_real_noise() -> None:
    config = small_config(privacy=integer())
    with pytest.raises(ValueError, match="the budget's integer plan"):
        local_plan(config, 1, 1.5)
    assert isinstance(local_plan(config, 1, 0.0).dp, DPStepPlan)  # serving copies: nothing is noised


def test_the_tail_of_the_real_generator_concerns_real_noise_alone() -> None:
    tiny = {"delta": 1e-13}
    with pytest.raises(ConfigError, match=r"privacy\.delta"):
        check_delta(small_config(privacy={**integer(arithmetic="float"), **tiny}), 5000)
    check_delta(small_config(privacy={**integer(), **tiny}), 5000)


@pytest.mark.parametrize(
    ("privacy", "federation", "words"),
    [
        (integer(noise="distributed", arithmetic="float"), {"clients": 6, "local_steps": 1}, "whose shares are"),
        (integer(epsilon=math.inf), {}, "clip only"),
        ({"arithmetic": "integer", "noise_multiplier": 0.0}, {}, "clip only"),
    ],
)
def test_an_arithmetic_that_cannot_be_is_refused(privacy: Any, federation: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"privacy\.arithmetic: .*{words}"):
        small_config(privacy=privacy, federation=federation)


def test_an_arithmetic_that_was_not_chosen_is_filled_in() -> None:
    assert small_config().privacy.arithmetic == "integer"
    assert small_config(privacy={"epsilon": math.inf}).privacy.arithmetic == "float"
    assert small_config(privacy={"unit": "none"}).privacy.arithmetic is None
    shares = small_config(federation={"clients": 6, "local_steps": 1}, privacy={"noise": "distributed"})
    assert shares.privacy.arithmetic == "integer"
