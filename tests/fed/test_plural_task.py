"""PluralLLM as a task of the round: what is averaged, who trains on what, and how a client's whole update is a unit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedpdpo_secure.budget import plan_budget
from fedpdpo_secure.checkpoint import GlobalState
from fedpdpo_secure.config import ConfigError
from fedpdpo_secure.local.plan import LocalPlan, local_plan
from fedpdpo_secure.methods import choose_method
from fedpdpo_secure.pluralllm.artefact import adapter_rank, save_predictor
from fedpdpo_secure.pluralllm.evaluation import episodes_of
from fedpdpo_secure.pluralllm.holdings import Holdings
from fedpdpo_secure.pluralllm.lora import trainable
from fedpdpo_secure.pluralllm.prepare import PluralRun
from fedpdpo_secure.pluralllm.splits import Cell
from fedpdpo_secure.pluralllm.survey import Survey
from fedpdpo_secure.pluralllm.task import PluralLLM
from fedpdpo_secure.pluralllm.training import AdamPlan, train_adam
from fedpdpo_secure.round import run_round
from privacy.entropy import Entropy
from tests.fed.plurals import CLIENT, FREE, QUESTION, plural_task

EPISODE = {**FREE, "schedule": {"weights": "episode"}}
PRETRAINED: dict[str, Any] = {
    "survey": {"pretrain": ["group-00"]},
    "predictor": {"pretrain_steps": 5, "lora_r": 2},
}


def prepared(task: PluralLLM) -> PluralRun:
    return PluralRun(task, task.shared_vector())


def plan_of(task: PluralLLM, round_index: int = 1) -> LocalPlan:
    budget = plan_budget(task.config, task.noised_size())
    return local_plan(task.config, round_index, budget.noise_multiplier, budget.shares, integer=budget.integer)


def one_round(run: PluralRun) -> np.ndarray:
    """The shared vector after the first round, without a ledger."""
    outcome = run_round(
        run.task, GlobalState(0, run.initial), run.clients, plan_of(run.task), None,
        planned_event=None, entropy=Entropy.seeded(0), done=lambda *_: None, transcripts=None,
    )  # fmt: skip
    return outcome.state.shared


def separately(run: PluralRun) -> list[tuple[np.ndarray, int]]:
    """(parameters, weight) of every group, trained alone from the initial vector."""
    found = []
    for client in run.clients:
        update = run.task.train_locally(run.initial, client, plan_of(run.task), Entropy.seeded(0))
        found.append((run.initial + update.update, update.pairs))
    return found


@pytest.mark.parametrize("secagg", [True, False])
def test_a_round_with_uniform_weights_is_the_plain_mean(tmp_path: Path, secagg: bool) -> None:
    run = prepared(plural_task(tmp_path, FREE, secagg={"enabled": secagg, "bits": 32}))
    alone = separately(run)
    assert {weight for _, weight in alone} == {1}
    mean = np.mean([vector for vector, _ in alone], axis=0)
    assert np.abs(mean - run.initial).max() > 1e-5
    assert np.allclose(one_round(run), mean, rtol=0, atol=1e-7)


def test_a_round_with_episode_weights_is_the_mean_weighted_by_points(tmp_path: Path) -> None:
    run = prepared(plural_task(tmp_path, EPISODE, secagg={"bits": 32}))
    alone = separately(run)
    weights = np.array([weight for _, weight in alone], dtype=float)
    assert len(set(weights)) > 1 and weights.max() <= run.task.weight_bound(run.clients)
    vectors = np.array([vector for vector, _ in alone])
    wanted = weights @ vectors / weights.sum()
    assert np.abs(wanted - vectors.mean(axis=0)).max() > 1e-6
    assert np.allclose(one_round(run), wanted, rtol=0, atol=1e-7)


@pytest.mark.parametrize("moments", ["keep", "reset"])
def test_a_group_goes_on_from_its_own_moments_and_step_or_starts_anew(tmp_path: Path, moments: str) -> None:
    """Two rounds of a group that trains alone, against Adam called by hand with what the switch says."""
    alone = {"method": {"name": "local"}, "schedule": {"moments": moments, "decay": "whole_run"}}
    task, oracle = (plural_task(tmp_path / name, FREE, alone) for name in ("run", "oracle"))
    run, client = prepared(task), prepared(task).clients[1]
    plan = AdamPlan("cross_entropy", task.bounds(), 3e-4, "whole_run", 0, 2, 4, one_size=False)
    kept: dict[str, torch.Tensor] = {}
    for round_index in (1, 2):
        update = task.train_locally(run.initial, client, plan_of(task, round_index), Entropy.seeded(0))
        found = train_adam(
            oracle.predictor, trainable(oracle.predictor), oracle.holdings, (client.name,),
            replace(plan, first_step=2 * (round_index - 1)), moments=kept,
            rng=np.random.default_rng([0, 0xE9, client.index, round_index]),
        )  # fmt: skip
        kept = found.moments if moments == "keep" else {}
        assert np.array_equal(task.shared_vector(), oracle.shared_vector()) and update.loss == found.loss
    saved = task.states.load(client.name, 2)
    assert bool(saved.moments) == (moments == "keep")


def with_survey(task: PluralLLM, folder: Path, survey: Survey) -> PluralLLM:
    """The same task on other answers, its public predictor made anew from them."""
    holdings = replace(task.holdings, survey=survey)
    return PluralLLM(task.config, choose_method(task.config), holdings, folder / "personal")


def other_answers(survey: Survey, change: set[tuple[str, int]]) -> Survey:
    answers = {
        group: {
            index: np.full(len(probs), 1 / len(probs)) if (group, index) in change else probs
            for index, probs in given.items()
        }
        for group, given in survey.answers.items()
    }
    return replace(survey, answers=answers)


def cells(holdings: Holdings, groups: tuple[str, ...], *, heldout: bool) -> set[tuple[str, int]]:
    side = holdings.split.heldout if heldout else holdings.split.known
    return {(group, index) for group in groups for index in side[group].tolist()}


@pytest.mark.parametrize("mode", [FREE, QUESTION, CLIENT], ids=["none", "question", "client"])
def test_unseen_groups_and_held_out_questions_never_enter_training(tmp_path: Path, mode: dict[str, Any]) -> None:
    task = plural_task(tmp_path, mode, PRETRAINED)
    holdings = task.holdings
    unseen = holdings.split.unseen_groups
    assert unseen and holdings.pretrain == ("group-00",) and "group-00" not in (*unseen, *holdings.names)
    aside = cells(holdings, holdings.names, heldout=True)
    aside |= cells(holdings, unseen, heldout=True) | cells(holdings, unseen, heldout=False)
    aside |= cells(holdings, holdings.pretrain, heldout=True)
    assert len(aside) > 20
    known = cells(holdings, holdings.names[:1], heldout=False)
    base = prepared(task)
    same, moved = (
        prepared(with_survey(task, tmp_path, other_answers(holdings.survey, change))) for change in (aside, known)
    )
    assert np.array_equal(base.initial, same.initial) and np.array_equal(base.initial, moved.initial)
    before = one_round(base)
    assert np.array_equal(before, one_round(same)) and not np.array_equal(before, one_round(moved))


def test_groups_of_the_pretraining_shape_the_public_predictor_and_nothing_else(tmp_path: Path) -> None:
    task = plural_task(tmp_path, FREE, PRETRAINED)
    holdings = task.holdings
    for cell in Cell:
        assert all(episode.group != "group-00" for episode in episodes_of(holdings, cell, task.evaluation()))
    known = cells(holdings, holdings.pretrain, heldout=False)
    other = with_survey(task, tmp_path, other_answers(holdings.survey, known))
    frozen = [dict(one.predictor.named_parameters()) for one in (task, other)]
    moved = [name for name, value in frozen[0].items() if not np.array_equal(value.detach(), frozen[1][name].detach())]
    assert moved and all("lora_" not in name for name in moved)  # the adapter starts the same


def test_only_the_adapters_second_factor_is_shared_on_a_frozen_predictor(tmp_path: Path) -> None:
    task = plural_task(tmp_path, QUESTION, PRETRAINED)
    names = task.layout(1).names
    assert names and all("lora_B" in name for name in names) and task.noised_size() == len(task.shared_vector())
    before = {name: value.detach().clone() for name, value in task.predictor.named_parameters()}
    one_round(prepared(task))
    for name, value in task.predictor.named_parameters():
        assert name in names or np.array_equal(value.detach(), before[name])


def test_the_initial_predictor_follows_from_the_seed_or_from_a_file(tmp_path: Path) -> None:
    first, again = (plural_task(tmp_path, FREE).shared_vector() for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, plural_task(tmp_path, FREE, seed=1).shared_vector())
    task = plural_task(tmp_path, FREE, PRETRAINED)
    save_predictor(tmp_path / "kept", task.predictor, lora_r=adapter_rank(task.predictor), claim="public")
    goes_on = plural_task(tmp_path, FREE, predictor={"path": str(tmp_path / "kept")})
    assert goes_on.layout(1).names == task.layout(1).names and adapter_rank(goes_on.predictor) == 2
    with pytest.raises(ConfigError, match=r"predictor\.lora_r: predictor has a LoRA adapter already"):
        plural_task(tmp_path, FREE, predictor={"path": str(tmp_path / "kept"), "lora_r": 2})
    with pytest.raises(ConfigError, match=r"predictor\.path: reads embeddings of width 8, the survey's have 12"):
        plural_task(tmp_path, FREE, predictor={"path": str(tmp_path / "kept")}, synthetic_survey={"width": 12})


def test_a_whole_update_that_diverged_or_could_not_be_made_counts_as_zero(tmp_path: Path) -> None:
    """Its share of the noise leaves all the same: a refusal would be a release without noise."""
    task = plural_task(tmp_path, CLIENT, schedule={"learning_rate": 1e30}, predictor={"loss": "gaussian"})
    run, plan = prepared(task), plan_of(task)
    update = task.train_locally(run.initial, run.clients[0], plan, Entropy.os())
    assert plan.shares is not None and update.event == plan.shares.event()
    assert update.local["update_norm"] == 0.0 and update.integers is not None and update.integers.any()
    calm = plural_task(tmp_path, CLIENT)
    known = {group: calm.holdings.questions(group)[: 1 if group == calm.holdings.names[0] else None]
             for group in calm.holdings.names}  # fmt: skip
    few = replace(calm.holdings, split=replace(calm.holdings.split, known={**calm.holdings.split.known, **known}))
    small = PluralLLM(calm.config, choose_method(calm.config), few, tmp_path / "personal")
    found = [
        small.train_locally(run.initial, client, plan_of(small), Entropy.os()).local["update_norm"]
        for client in prepared(small).clients[:2]
    ]
    assert found[0] == 0.0 and found[1] > 0.0


def test_the_rows_of_a_group_are_its_training_questions_with_their_answers(tmp_path: Path) -> None:
    task = plural_task(tmp_path, QUESTION)
    rows = list(prepared(task).owners.rows())
    assert len(rows) == sum(len(task.holdings.questions(group)) for group in task.holdings.names)
    assert len(set(rows)) == len(rows) and {group for group, _ in rows} == set(task.holdings.names)
    group, index = task.holdings.names[0], int(task.holdings.questions(task.holdings.names[0])[0])
    changed = with_survey(task, tmp_path, other_answers(task.holdings.survey, {(group, index)}))
    assert len(set(rows) ^ set(prepared(changed).owners.rows())) == 2
