"""Fixed evaluations: the same contexts for every model, cells that keep what is new apart, scores against scipy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from fedpdpo_secure.pluralllm.artefact import seeded_generator
from fedpdpo_secure.pluralllm.episodes import Episode
from fedpdpo_secure.pluralllm.evaluation import (
    EvaluationPlan,
    episodes_of,
    evaluate,
    evaluate_baselines,
    predicted_answers,
    score_cell,
    true_answers,
)
from fedpdpo_secure.pluralllm.holdings import Holdings
from fedpdpo_secure.pluralllm.predictor import Predictor, PredictorShape, make_predictor
from fedpdpo_secure.pluralllm.splits import Cell
from tests.fed.plurals import FREE, holdings_of

PLAN = EvaluationPlan(17, 5, published=False)


@pytest.fixture(scope="module")
def holdings() -> Holdings:
    return holdings_of(FREE)


def predictor(seed: int = 0) -> Predictor:
    shape = PredictorShape(8, d_model=8, heads=2, layers=1, feedforward=8)
    return make_predictor(shape, seeded_generator(seed)).eval()


def as_lists(episodes: list[Episode]) -> list[tuple[str, list[int], list[int]]]:
    return [(one.group, one.context.tolist(), one.target.tolist()) for one in episodes]


@pytest.mark.parametrize("cell", list(Cell))
def test_contexts_are_known_questions_and_targets_are_the_cells_own(holdings: Holdings, cell: Cell) -> None:
    new = cell in (Cell.UNSEEN_QUESTIONS, Cell.UNSEEN_BOTH)
    episodes = episodes_of(holdings, cell, PLAN)
    groups = holdings.names if cell in (Cell.KNOWN, Cell.UNSEEN_QUESTIONS) else holdings.split.unseen_groups
    assert {one.group for one in episodes} == set(groups)
    for one in episodes:
        known, heldout = holdings.split.known[one.group], holdings.split.heldout[one.group]
        assert set(one.context) <= set(known) and not set(one.context) & set(one.target)
        assert set(one.target) == (set(heldout) if new else set(known) - set(one.context))
    assert as_lists(episodes) == as_lists(episodes_of(holdings, cell, PLAN))
    other = episodes_of(holdings, cell, replace(PLAN, seed=18))
    assert [one.context.tolist() for one in other] != [one.context.tolist() for one in episodes]


@pytest.mark.parametrize("cell", list(Cell))
def test_a_groups_score_does_not_change_when_other_groups_change(holdings: Holdings, cell: Cell) -> None:
    group = holdings.split.groups(cell)[0]
    answers = {
        name: given if name == group else {index: np.full(len(probs), 1 / len(probs)) for index, probs in given.items()}
        for name, given in holdings.survey.answers.items()
    }
    other = replace(holdings, survey=replace(holdings.survey, answers=answers))
    found = [predicted_answers(predictor(), one, episodes_of(one, cell, PLAN))[group] for one in (holdings, other)]
    assert found[0].keys() == found[1].keys()
    assert all(np.array_equal(values, found[1][qid]) for qid, values in found[0].items())


def test_scores_are_one_minus_scipys_jensen_shannon_distance(holdings: Holdings) -> None:
    episodes = episodes_of(holdings, Cell.UNSEEN_QUESTIONS, PLAN)
    found = evaluate(predictor(), holdings, Cell.UNSEEN_QUESTIONS, PLAN)
    predicted, true = predicted_answers(predictor(), holdings, episodes), true_answers(holdings, episodes)
    by_group = {
        group: [1 - jensenshannon(true[group][qid], values) for qid, values in given.items()]
        for group, given in predicted.items()
    }
    means = np.array([np.mean(scores) for scores in by_group.values()])
    assert found is not None and found.groups == len(by_group)
    assert found.macro == pytest.approx(means.mean(), abs=1e-9)
    assert found.micro == pytest.approx(np.mean(np.concatenate(list(by_group.values()))), abs=1e-9)
    assert found.worst == pytest.approx(means.min(), abs=1e-9)
    assert found.fairness == pytest.approx(1 / (1 + (means.std() / means.mean()) ** 2), abs=1e-9)
    assert found.answers == sum(map(len, by_group.values()))


def test_a_prediction_does_not_depend_on_which_other_targets_are_asked(holdings: Holdings) -> None:
    whole = episodes_of(holdings, Cell.KNOWN, PLAN)[0]
    part = Episode(whole.group, whole.context, whole.target[:3])
    together, apart = (predicted_answers(predictor(), holdings, [one])[whole.group] for one in (whole, part))
    assert set(apart) < set(together)
    for qid, values in apart.items():
        assert np.allclose(values, together[qid], atol=1e-6)


def test_perfect_answers_score_one_and_baselines_know_training_answers_alone(holdings: Holdings) -> None:
    episodes = episodes_of(holdings, Cell.UNSEEN_BOTH, PLAN)
    perfect = score_cell(true_answers(holdings, episodes), holdings, episodes)
    assert perfect.macro == pytest.approx(1.0) and perfect.fairness == pytest.approx(1.0)
    before = evaluate_baselines(holdings, Cell.UNSEEN_BOTH, PLAN)
    assert set(before) == {"uniform", "global mean", "nearest group"}
    assert before["global mean"].macro == pytest.approx(before["uniform"].macro)  # nobody trained on these questions
    known = evaluate_baselines(holdings, Cell.UNSEEN_GROUPS, PLAN)
    assert known["global mean"].macro > known["uniform"].macro


def test_the_published_evaluation_takes_all_questions_of_a_group(holdings: Holdings) -> None:
    published = replace(PLAN, published=True)
    for one in episodes_of(holdings, Cell.UNSEEN_GROUPS, published):
        assert {*one.context, *one.target} == set(holdings.survey.answered(one.group))


def test_a_cell_without_a_target_has_no_score() -> None:
    nothing_held_out = holdings_of(FREE, survey={"heldout_fraction": 0})
    assert evaluate(predictor(), nothing_held_out, Cell.UNSEEN_QUESTIONS, PLAN) is None
    assert evaluate_baselines(nothing_held_out, Cell.UNSEEN_BOTH, PLAN) == {}
