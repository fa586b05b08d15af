"""Surveys: the unit of privacy is one group's answers to one question, and no question moves another across a split."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedpdpo_secure.data import DataError
from fedpdpo_secure.pluralllm.splits import Cell, published_split, split_survey, whole_pool
from fedpdpo_secure.pluralllm.survey import Answer, Question, Survey, build_survey, checked_probs, select_groups


def made(asked: dict[str, list[int]], questions: int = 300, prefix: str = "Text") -> Survey:
    found = [Question(f"q{i}", f"{prefix} {i}?", ("yes", "no")) for i in range(questions)]
    answers = [Answer(group, i, np.array([0.25, 0.75])) for group, own in asked.items() for i in own]
    return build_survey(found, answers)


def test_repeated_surveys_of_one_question_in_one_group_are_one_unit_with_their_mean() -> None:
    questions = [Question("a", "A?", ("x", "y")), Question("b", "B?", ("x", "y", "z"))]
    answers = [
        Answer("G", 0, np.array([2.0, 2.0])),  # not normalised: a survey counts once, whatever its sum
        Answer("G", 0, np.array([0.1, 0.9])),
        Answer("H", 0, np.array([1.0, 0.0])),
        Answer("G", 1, np.array([0.2, 0.3, 0.5])),
    ]
    survey = build_survey(questions, answers)
    assert survey.groups == ("G", "H")
    assert survey.answered("G").tolist() == [0, 1]
    np.testing.assert_allclose(survey.answers["G"][0], [0.3, 0.7], atol=1e-15)
    assert survey.offsets.tolist() == [0, 2, 5]
    assert survey.notes == ("1 questions surveyed more than once in one group: their mean is one unit",)
    with pytest.raises(ValueError):
        survey.answers["G"][0][0] = 1.0


def test_raw_shares_stay_as_they_are_only_when_asked() -> None:
    questions = [Question("a", "A?", ("x", "y"))]
    answers = [Answer("G", 0, np.array([0.5, 0.4]))]
    assert build_survey(questions, answers, normalise=False).answers["G"][0].tolist() == [0.5, 0.4]
    assert build_survey(questions, answers).answers["G"][0].sum() == pytest.approx(1.0, abs=1e-15)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([0.5, 0.5, 0.0], "has 3 numbers for 2 options"),
        ([0.5, -0.5], "field dist[1]: must be a finite number of at least 0, got -0.5"),
        ([math.nan, 1.0], "field dist[0]: must be a finite number"),
        ([math.inf, 1.0], "field dist[0]: must be a finite number"),
        ([10**400, 1], "field dist[0]: must be a finite number"),
        ([True, 0.0], "field dist[0]: must be a finite number"),
        (["1", 0.0], "field dist[0]: must be a finite number"),
        ([0.5, 0.502], "must sum to 1 within 0.001, got 1.002"),
        ([0.0, 0.0], "must have a positive finite sum"),
        ("yes", "must be a list of numbers, not str"),
        (None, "must be a list of numbers, not NoneType"),
    ],
)
def test_an_unfit_distribution_is_refused_with_row_and_field(values: object, says: str) -> None:
    with pytest.raises(DataError) as caught:
        checked_probs(values, 2, "a.jsonl row 7", "dist")
    assert str(caught.value).startswith("a.jsonl row 7: field dist")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sums_within_a_thousandth_of_one_are_accepted() -> None:
    assert checked_probs([0.5, 0.5009], 2, "row", "dist").tolist() == [0.5, 0.5009]


def test_groups_are_selected_by_name_or_by_number_of_questions_and_points_keep_their_numbers() -> None:
    survey = made({"A": list(range(5)), "B": list(range(20)), "C": list(range(10))})
    assert select_groups(survey, names=["C", "A"]).groups == ("A", "C")
    assert select_groups(survey, min_questions=10).groups == ("B", "C")
    assert select_groups(survey, min_questions=10).offsets.tolist() == survey.offsets.tolist()
    for options, says in (
        ({"names": ["D"]}, "no answers of 'D'; known: A, B, C"),
        ({"names": ["A", "A"]}, "'A' is named twice"),
        ({"names": ["A"], "min_questions": 6}, "'A' has 5 questions; at least 6"),
        ({"min_questions": 21}, "none has at least 21 questions"),
    ):
        with pytest.raises(DataError, match=says):
            select_groups(survey, **options)


def test_one_question_more_in_a_group_moves_no_other_question_and_no_group() -> None:
    asked = {"A": list(range(0, 300, 2)), "B": list(range(100)), "C": list(range(50, 150))}
    before = split_survey(made(asked), seed=3)
    asked["A"].append(7)
    after = split_survey(made(asked), seed=3)
    assert (after.train_groups, after.unseen_groups) == (before.train_groups, before.unseen_groups)
    for group in asked:
        added = {7} if group == "A" else set()
        for side in ("known", "heldout"):
            assert set(getattr(before, side)[group]) <= set(getattr(after, side)[group])
        assert {*after.known[group], *after.heldout[group]} == {*before.known[group], *before.heldout[group]} | added


def test_a_question_is_on_one_side_for_all_groups_and_ids_do_not_decide_which() -> None:
    asked = {"A": list(range(300)), "B": list(range(300))}
    split = split_survey(made(asked), seed=1, unseen_groups=["B"])
    assert split.heldout["A"].tolist() == split.heldout["B"].tolist()
    survey = made(asked)
    renamed = tuple(Question(f"other{i}", q.text, ("yes", "no", "?")) for i, q in enumerate(survey.questions))
    again = split_survey(Survey(renamed, survey.groups, survey.answers), seed=1, unseen_groups=["B"])
    assert again.heldout["A"].tolist() == split.heldout["A"].tolist()


def test_the_split_follows_its_seed_and_its_fraction() -> None:
    survey = made({"A": list(range(2000))}, questions=2000)
    one, two = (split_survey(survey, seed=seed, unseen_groups=[], heldout_fraction=0.3) for seed in (1, 2))
    held = [set(split.heldout["A"].tolist()) for split in (one, two)]
    for side in held:
        assert abs(len(side) - 600) < 5 * math.sqrt(2000 * 0.3 * 0.7)
    # independent seeds: the overlap is that of two random sets
    assert abs(len(held[0] & held[1]) - 180) < 5 * math.sqrt(2000 * 0.09 * 0.91)
    assert len(split_survey(survey, seed=1, unseen_groups=[], heldout_fraction=0.0).heldout["A"]) == 0


def test_a_wider_fraction_holds_out_more_and_gives_none_back() -> None:
    survey = made({"A": list(range(300))})
    held = [set(split_survey(survey, seed=0, unseen_groups=[], heldout_fraction=f).heldout["A"]) for f in (0.1, 0.4)]
    assert held[0] < held[1]


def test_the_cells_tell_unseen_groups_from_unseen_questions() -> None:
    split = split_survey(made({"A": list(range(300)), "B": list(range(200))}), seed=0, unseen_groups=["B"])
    assert [split.groups(cell) for cell in Cell] == [("A",), ("A",), ("B",), ("B",)]
    for cell in Cell:
        for group in split.groups(cell):
            pool = split.pool(cell, group)
            assert pool.context.tolist() == split.known[group].tolist()
            wanted = split.heldout if cell in (Cell.UNSEEN_QUESTIONS, Cell.UNSEEN_BOTH) else split.known
            assert pool.target.tolist() == wanted[group].tolist()


def test_unfit_splits_are_refused() -> None:
    survey = made({"A": [0, 1], "B": [0, 1]})
    with pytest.raises(DataError, match="no answers of 'Z'"):
        split_survey(survey, seed=0, unseen_groups=["Z"])
    with pytest.raises(DataError, match="no group is left"):
        split_survey(survey, seed=0, unseen_groups=["A", "B"])
    with pytest.raises(ValueError, match=r"heldout_fraction must be in \[0, 1\)"):
        split_survey(survey, seed=0, heldout_fraction=1.0)


def test_the_published_split_cuts_training_groups_after_nine_tenths_in_survey_order() -> None:
    asked = {"India": list(range(5, 75)), "Germany": list(range(0, 40, 2)), "China": list(range(30)), "Peru": [1, 2]}
    survey = made(asked)
    split, absent = published_split(survey)
    assert split.train_groups == ("Germany", "India")  # "India (Current national sample)" where samples are merged
    assert split.unseen_groups == ("China",)
    assert "Nigeria" in absent and "New Zealand" in absent and "China" not in absent
    assert split.known["India"].tolist() == list(range(5, 68))
    assert split.heldout["India"].tolist() == list(range(68, 75))
    assert split.known["China"].tolist() == list(range(30))
    assert whole_pool(survey, "India").target.tolist() == list(range(5, 75))
    with pytest.raises(DataError, match="none of the published training groups"):
        published_split(made({"Peru": [1, 2]}))
