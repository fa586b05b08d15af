"""Scores against scipy, refusals where scipy says NaN, aggregates by hand, fairness as Jain's index, convergence."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance

from fedpdpo_secure.pluralllm.convergence import convergence
from fedpdpo_secure.pluralllm.fairness import coefficient_of_variation, fairness, fairness_index, question_fairness
from fedpdpo_secure.pluralllm.metrics import (
    GroupScores,
    alignment_score,
    js_distance,
    ordinal_score,
    score_groups,
    summarise,
)

UNUSABLE = ([0.0, 0.0], [math.nan, 1.0], [-0.1, 1.1], [math.inf, 1.0], [], [[0.5, 0.5]])
WEIGHTS = st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1e3)), min_size=2, max_size=8)


@st.composite
def two_distributions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    first = draw(WEIGHTS.filter(any))
    second = draw(st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1e3)), min_size=len(first), max_size=len(first)))
    return np.array(first), np.array(second if any(second) else first[::-1])


@given(two_distributions())
def test_js_distance_is_scipys_and_a_bounded_symmetric_distance(pair) -> None:
    first, second = pair
    found = js_distance(first, second)
    assert found == js_distance(second, first)
    assert 0 <= found <= math.sqrt(math.log(2))
    assert 0.1674 <= alignment_score(first, second) <= 1
    expected = float(jensenshannon(first, second))
    if not math.isnan(expected):  # of equal ones scipy can take the root of a rounding error below zero
        assert found == pytest.approx(expected, abs=3e-8)  # the root of float64 rounding


def test_equal_and_disjoint_distributions_are_the_two_ends() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):  # among them those of which scipy says NaN
        same = rng.dirichlet(np.ones(5))
        assert js_distance(same, same) < 3e-8
    assert alignment_score([1, 0, 0], [0, 0.5, 0.5]) == pytest.approx(1 - math.sqrt(math.log(2)), abs=1e-12)


@pytest.mark.parametrize("score", [js_distance, alignment_score, ordinal_score])
@pytest.mark.parametrize("bad", UNUSABLE)
def test_what_is_no_distribution_is_refused_and_not_scored_as_perfect(score, bad) -> None:
    good = [0.5] * max(len(bad), 2)
    for pair in ((bad, good), (good, bad)):
        with pytest.raises(ValueError, match="distribution"):
            score(*pair)


def test_distributions_over_other_options_are_refused() -> None:
    with pytest.raises(ValueError, match="same options, got 2 and 3"):
        js_distance([0.5, 0.5], [0.2, 0.3, 0.5])


@given(two_distributions(), st.booleans(), st.randoms(use_true_random=False))
def test_the_ordinal_score_is_one_minus_scipys_wasserstein_distance_over_its_maximum(pair, spaced, random) -> None:
    first, second = pair
    places = np.cumsum([random.uniform(0.1, 3) for _ in first]) if spaced else np.arange(len(first), dtype=float)
    expected = 1 - wasserstein_distance(places, places, first, second) / (places[-1] - places[0])
    assert ordinal_score(first, second, places if spaced else None) == pytest.approx(expected, abs=1e-9)


def test_the_ordinal_score_knows_the_order_and_its_ends() -> None:
    assert ordinal_score([1, 0, 0], [0, 0, 1]) == 0
    assert ordinal_score([1, 0, 0], [0, 1, 0]) == 0.5
    assert ordinal_score([0.2, 0.3, 0.5], [0.2, 0.3, 0.5]) == 1
    for positions in ([0, 0, 1], [2, 1, 0], [0, 1], [0, 1, math.nan]):
        with pytest.raises(ValueError, match="positions"):
            ordinal_score([1, 0, 0], [0, 0, 1], positions)
    with pytest.raises(ValueError, match="2 options"):
        ordinal_score([1], [1])


def test_groups_are_summed_up_by_pairs_by_groups_and_by_the_worst() -> None:
    groups = (GroupScores("a", ("q1", "q2", "q3"), (0.9, 0.8, 0.7)), GroupScores("b", ("q1",), (0.4,)))
    found = summarise(groups)
    assert (found.micro, found.macro, found.worst) == pytest.approx((0.7, 0.6, 0.4))
    assert (found.worst_group, found.groups, found.pairs) == ("b", 2, 4)
    with pytest.raises(ValueError, match="at least one"):
        summarise([*groups, GroupScores("c", (), ())])
    with pytest.raises(ValueError, match="at least one"):
        summarise([])


def test_every_prediction_is_scored_once_and_one_that_cannot_be_names_its_group_and_question() -> None:
    true = {"a": {"q1": np.array([0.5, 0.5]), "q2": np.array([1.0, 0.0])}, "b": {"q1": np.array([0.0, 0.0])}}
    predicted = {"a": {"q2": np.array([0.3, 0.7]), "q1": np.array([0.5, 0.5])}}
    (scores,) = score_groups(predicted, true)
    assert scores.group == "a" and scores.questions == ("q1", "q2")
    assert scores.scores == (1.0, alignment_score([0.3, 0.7], [1.0, 0.0]))
    with pytest.raises(ValueError, match="group 'b', question 'q1': a distribution must not be zero"):
        score_groups({"b": predicted["a"] | {"q1": np.array([0.5, 0.5])}}, true)
    with pytest.raises(ValueError, match="group 'c', question 'q1': has a prediction and no answer"):
        score_groups({"c": {"q1": np.array([0.5, 0.5])}}, true)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20).filter(any))
def test_the_fairness_index_is_jains_index(scores: list[float]) -> None:
    values = np.array(scores) / max(scores)
    jain = values.sum() ** 2 / (len(values) * (values**2).sum())
    assert fairness_index(scores) == pytest.approx(jain, rel=1e-9)
    assert 1 / len(scores) - 1e-9 <= fairness_index(scores) <= 1


def test_fairness_shows_spread_and_worst_and_is_one_for_groups_that_are_equally_bad() -> None:
    def group(name: str, *scores: float) -> GroupScores:
        return GroupScores(name, tuple(f"q{k}" for k in range(len(scores))), scores)

    found = fairness([group("a", 0.6, 1.0), group("b", 0.4)])  # means 0.8 and 0.4: std 0.2, mean 0.6
    assert (found.cov, found.index) == pytest.approx((1 / 3, 0.9))
    assert (found.worst, found.worst_group, found.groups) == (0.4, "b", 2)
    equal = fairness([group("a", 0.2), group("b", 0.2)])
    assert (equal.index, equal.cov, equal.worst) == (1.0, 0.0, 0.2)


def test_fairness_per_question_is_the_mean_index_over_questions_of_several_groups() -> None:
    groups = [
        GroupScores("a", ("q1", "q2", "q3"), (0.8, 0.5, 0.1)),
        GroupScores("b", ("q1", "q2"), (0.4, 0.5)),
    ]
    found = question_fairness(groups)
    assert found.index == pytest.approx((0.9 + 1.0) / 2)
    assert (found.questions, found.left_out) == (2, 1)
    with pytest.raises(ValueError, match="at least 3 groups"):
        question_fairness(groups, 3)
    with pytest.raises(ValueError, match="min_groups"):
        question_fairness(groups, 1)


@pytest.mark.parametrize("bad", [[], [0.0, 0.0], [-0.1, 0.5], [math.nan], [[0.5]]])
def test_scores_without_a_relative_spread_are_refused(bad) -> None:
    with pytest.raises(ValueError, match="scores"):
        coefficient_of_variation(bad)


def test_convergence_is_the_first_measurement_with_95_percent_of_the_gain_in_rounds_and_in_steps() -> None:
    scores = [0.2, 0.6, 0.959, 0.961, 0.9, 1.0]  # gain 0.8, level 0.96
    found = convergence(scores, rounds=[0, 10, 20, 30, 40, 50], steps=[0, 60, 120, 180, 240, 300])
    assert found is not None and found.level == pytest.approx(0.96)
    assert (found.index, found.rounds, found.steps, found.initial, found.final) == (3, 30, 180, 0.2, 1.0)


def test_smoothing_looks_back_and_keeps_a_single_peak_from_counting() -> None:
    scores = [0.0, 0.0, 1.0, 0.0, 0.5, 1.0, 1.0, 1.0]
    count = list(range(len(scores)))
    assert convergence(scores, rounds=count, steps=count).index == 2
    assert convergence(scores, rounds=count, steps=count, window=3).index == 7


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30), st.floats(0.01, 1.0), st.integers(1, 5))
def test_a_gain_is_always_reached_and_no_gain_is_none(scores: list[float], fraction: float, window: int) -> None:
    count = list(range(len(scores)))
    found = convergence(scores, rounds=count, steps=count, fraction=fraction, window=window)
    if found is None:
        smooth = [np.mean(scores[max(0, k - window + 1) : k + 1]) for k in (0, len(scores) - 1)]
        assert smooth[1] <= smooth[0] + 1e-9
    else:
        assert found.final > found.initial and found.level <= found.final
        assert np.mean(scores[max(0, found.index - window + 1) : found.index + 1]) >= found.level - 1e-9


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"scores": [0.1]}, "length"),
        ({"scores": [0.1, math.nan, 1.0]}, "finite"),
        ({"rounds": [0, 2, 2]}, "increase"),
        ({"steps": [0, 2, 1]}, "increase"),
        ({"fraction": 0.0}, "fraction"),
        ({"window": 0}, "window"),
    ],
)
def test_curves_that_cannot_be_read_are_refused(change: dict, named: str) -> None:
    arguments = {"scores": [0.1, 0.5, 1.0], "rounds": [0, 1, 2], "steps": [0, 1, 2]} | change
    with pytest.raises(ValueError, match=named):
        convergence(arguments.pop("scores"), **arguments)
