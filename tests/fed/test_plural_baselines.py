"""Baselines by hand on a small table of answers, and that no group is told its own answer."""

from __future__ import annotations

import numpy as np
import pytest

from fedpdpo_secure.pluralllm.baselines import asked_of, global_mean, nearest, nearest_group, uniform


def table(**groups: dict[str, list[float]]) -> dict[str, dict[str, np.ndarray]]:
    return {group: {question: np.array(dist) for question, dist in held.items()} for group, held in groups.items()}


TRAINING = table(
    north={"c1": [0.9, 0.1], "c2": [0.8, 0.2], "t1": [0.7, 0.3]},
    south={"c1": [0.1, 0.9], "c2": [0.3, 0.7], "t1": [0.1, 0.9], "t2": [0.2, 0.3, 0.5]},
    east={"c1": [0.5, 0.5], "t1": [0.4, 0.6]},
)
ASKED = {"new": {"t1": 2, "t2": 3, "t3": 4}}
NORTHERN = table(new={"c1": [0.85, 0.15], "c2": [0.9, 0.1]})


def test_uniform_gives_every_option_the_same_and_rests_on_nothing() -> None:
    found = uniform(ASKED)
    assert found.answers["new"]["t3"].tolist() == [0.25] * 4
    assert (found.from_nearest, found.from_mean, found.from_uniform, found.coverage) == (0, 0, 3, 0.0)


def test_the_global_mean_is_over_the_training_groups_that_answered_and_says_what_it_covers() -> None:
    found = global_mean(TRAINING, ASKED)
    assert found.answers["new"]["t1"] == pytest.approx([0.4, 0.6])
    assert found.answers["new"]["t2"] == pytest.approx([0.2, 0.3, 0.5])
    assert found.answers["new"]["t3"] == pytest.approx([0.25] * 4)
    assert (found.from_mean, found.from_uniform) == (2, 1)
    assert found.coverage == pytest.approx(2 / 3)


def test_answers_that_do_not_sum_to_one_weigh_no_more_than_others() -> None:
    training = table(a={"t1": [3.0, 1.0]}, b={"t1": [0.25, 0.75]})
    assert global_mean(training, {"new": {"t1": 2}}).answers["new"]["t1"] == pytest.approx([0.5, 0.5])


def test_the_nearest_group_answers_and_the_mean_where_it_has_no_answer() -> None:
    found = nearest_group(TRAINING, NORTHERN, ASKED)
    assert found.answers["new"]["t1"] == pytest.approx([0.7, 0.3])  # north
    assert found.answers["new"]["t2"] == pytest.approx([0.2, 0.3, 0.5])  # the mean: north has no answer
    assert found.answers["new"]["t3"] == pytest.approx([0.25] * 4)
    assert (found.from_nearest, found.from_mean, found.from_uniform) == (1, 1, 1)
    southern = table(new={"c1": [0.2, 0.8], "c2": [0.3, 0.7]})
    assert nearest_group(TRAINING, southern, ASKED).answers["new"]["t1"] == pytest.approx([0.1, 0.9])


def test_several_neighbors_are_asked_in_turn_before_the_mean() -> None:
    training = table(far={"c1": [0.0, 1.0], "t1": [0.0, 1.0]}, mid={"c1": [0.5, 0.5], "t1": [0.5, 0.5]})
    training |= table(near={"c1": [1.0, 0.0]})
    contexts, asked = table(new={"c1": [1.0, 0.0]}), {"new": {"t1": 2}}
    first, second = (nearest_group(training, contexts, asked, neighbors=count) for count in (1, 2))
    assert first.answers["new"]["t1"] == pytest.approx([0.25, 0.75]) and first.from_mean == 1
    assert second.answers["new"]["t1"] == pytest.approx([0.5, 0.5]) and second.from_nearest == 1


def test_nearness_counts_shared_context_questions_only_and_enough_of_them() -> None:
    context = NORTHERN["new"] | table(x={"c9": [1.0, 0.0]})["x"]
    assert nearest(TRAINING, context, leave_out="new") == ["north", "east", "south"]
    assert nearest(TRAINING, context, leave_out="new", min_shared=2) == ["north", "south"]
    assert nearest(TRAINING, {}, leave_out="new") == []


def test_equally_near_groups_come_by_name() -> None:
    training = table(b={"c1": [0.5, 0.5]}, a={"c1": [0.5, 0.5]})
    assert nearest(training, {"c1": np.array([0.2, 0.8])}, leave_out="new") == ["a", "b"]


def test_a_training_group_is_never_told_its_own_answers() -> None:
    asked = {"south": {"t1": 2, "t2": 3}}
    changed = TRAINING | table(south={"c1": [0.1, 0.9], "t1": [0.99, 0.01], "t2": [1.0, 0.0, 0.0]})
    for predict in (global_mean, lambda training, asked: nearest_group(training, TRAINING, asked)):
        one, other = predict(TRAINING, asked), predict(changed, asked)
        for question in asked["south"]:
            assert np.array_equal(one.answers["south"][question], other.answers["south"][question])
        assert one.from_uniform == 1  # t2: south alone answered it


def test_a_question_with_another_number_of_options_is_named() -> None:
    with pytest.raises(ValueError, match=r"question 't2': has 2 options, 3 in group 'south'"):
        global_mean(TRAINING, {"new": {"t2": 2}})
    with pytest.raises(ValueError, match="neighbors"):
        nearest_group(TRAINING, NORTHERN, ASKED, neighbors=0)


def test_asked_lists_the_numbers_of_options() -> None:
    assert asked_of(TRAINING)["south"] == {"c1": 2, "c2": 2, "t1": 2, "t2": 3}
