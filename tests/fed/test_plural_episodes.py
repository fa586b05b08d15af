"""Episodes: each question in one role, sizes within bounds, evaluation on fixed contexts, batches that say no more."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedpdpo_secure.data import DataError
from fedpdpo_secure.pluralllm.embeddings import PointEmbeddings, point_embeddings
from fedpdpo_secure.pluralllm.episodes import (
    PUBLISHED_BOUNDS,
    Bounds,
    Episode,
    collate,
    draw_episode,
    draw_published_episodes,
    evaluation_episodes,
)
from fedpdpo_secure.pluralllm.splits import Pool
from fedpdpo_secure.pluralllm.survey import Survey
from fedpdpo_secure.pluralllm.synthetic_survey import SyntheticSettings, make_synthetic


@pytest.fixture(scope="module")
def world() -> tuple[Survey, PointEmbeddings]:
    made = make_synthetic(SyntheticSettings(groups=3, questions=30, width=8))
    return made.survey, point_embeddings(made.embeddings, made.survey)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


@pytest.mark.parametrize("count", [2, 3, 7, 11, 50, 400])
def test_drawn_sizes_keep_their_bounds_and_both_roles_always_have_a_question(count: int) -> None:
    bounds, rng, own = Bounds((5, 40), (4, 30)), np.random.default_rng(0), np.arange(100, 100 + count)
    sizes = set()
    for _ in range(400):
        episode = draw_episode("G", own, bounds, rng)
        context, target = episode.context, episode.target
        assert 1 <= len(context) <= 40 and 1 <= len(target) <= 30
        assert len({*context, *target}) == len(context) + len(target)
        assert {*context, *target} <= set(own)
        if count >= 9:
            assert len(context) >= 5 and len(target) >= 4
        sizes.add((len(context), len(target)))
    assert (len(sizes) > 1) == (count > 9)  # below, the lower bounds leave no choice
    if count == 400:  # room for all: the whole range is used
        assert {min(c for c, _ in sizes), max(c for c, _ in sizes)} == {5, 40}
        assert {min(t for _, t in sizes), max(t for _, t in sizes)} == {4, 30}


def test_every_question_is_drawn_equally_often_in_each_role() -> None:
    rng, own, draws = np.random.default_rng(1), np.arange(20), 4000
    seen = np.zeros((2, 20))
    for _ in range(draws):
        episode = draw_episode("G", own, Bounds((5, 5), (5, 5)), rng)
        seen[0, episode.context] += 1
        seen[1, episode.target] += 1
    expected = draws * 5 / 20
    assert (np.abs(seen - expected) < 5 * np.sqrt(draws * 0.25 * 0.75)).all()  # 5 standard errors of 40 cells


def test_the_published_draw_has_one_size_for_all_groups_and_cuts_what_a_group_lacks() -> None:
    own = {"big": np.arange(300), "small": np.arange(60)}
    rng = np.random.default_rng(2)
    for _ in range(200):
        big, small = draw_published_episodes(own, PUBLISHED_BOUNDS, rng)
        assert 9 <= len(big.context) <= 90 and 9 <= len(big.target) <= 90
        assert len(small.context) == min(len(big.context), 59)
        assert len(small.target) == min(len(big.target), 60 - len(small.context))
        assert not {*small.context} & {*small.target}


def test_a_group_with_one_question_makes_no_episode() -> None:
    with pytest.raises(DataError, match="group G: has 1 questions"):
        draw_episode("G", ints(4), Bounds(), np.random.default_rng(0))
    with pytest.raises(DataError, match="group G: has 1 questions"):
        draw_published_episodes({"G": ints(4)}, PUBLISHED_BOUNDS, np.random.default_rng(0))
    with pytest.raises(ValueError, match="target must be"):
        Bounds((1, 2), (3, 2))


def test_evaluation_predicts_every_other_question_once_from_one_context_in_any_chunks() -> None:
    pool = Pool(np.arange(100), np.arange(100))
    whole = list(evaluation_episodes("G", pool, seed=5, chunk=1000))
    assert len(whole) == 1 and len(whole[0].context) == 20
    assert sorted([*whole[0].context, *whole[0].target]) == list(range(100))
    parts = list(evaluation_episodes("G", pool, seed=5, chunk=7))
    assert all(part.context.tolist() == whole[0].context.tolist() for part in parts)
    assert np.concatenate([part.target for part in parts]).tolist() == whole[0].target.tolist()
    assert max(len(part.target) for part in parts) == 7


def test_a_context_is_fixed_by_seed_and_group_alone() -> None:
    pool = Pool(np.arange(100), np.arange(100))

    def context(group: str, seed: int) -> list[int]:
        return next(iter(evaluation_episodes(group, pool, seed=seed))).context.tolist()

    assert context("A", 0) == context("A", 0)
    assert len({tuple(context(group, seed)) for group in "AB" for seed in (0, 1)}) == 4


def test_unseen_questions_are_all_targets_behind_a_context_of_known_ones() -> None:
    pool = Pool(np.arange(15), np.arange(15, 40))
    (episode,) = evaluation_episodes("G", pool, seed=0)
    assert episode.context.tolist() == list(range(15))  # fewer than 20: all of them
    assert episode.target.tolist() == list(range(15, 40))


def test_a_small_group_keeps_half_of_its_questions_as_targets_and_an_empty_pool_yields_nothing() -> None:
    (episode,) = evaluation_episodes("G", Pool(np.arange(11), np.arange(11)), seed=0)
    assert (len(episode.context), len(episode.target)) == (5, 6)
    for pool in (Pool(ints(), ints(1)), Pool(ints(1), ints()), Pool(ints(3), ints(3))):
        assert list(evaluation_episodes("G", pool, seed=0)) == []
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        list(evaluation_episodes("G", Pool(ints(1), ints(2)), seed=0, chunk=0))


def test_a_batch_holds_each_option_of_each_question_and_nothing_else(world) -> None:
    survey, embeddings = world
    own = {group: survey.answered(group) for group in survey.groups}
    a, b = survey.groups[:2]
    episodes = [Episode(a, own[a][[4, 1]], own[a][[7]]), Episode(b, own[b][[0]], own[b][[9, 2, 5]])]
    batch = collate(survey, embeddings, episodes)
    for row, episode in enumerate(episodes):
        asked = [*episode.context, *episode.target]
        for number, question in enumerate(asked):
            at = (batch.question[row] == number).nonzero()[:, 0]
            assert torch.equal(at, torch.arange(int(at[0]), int(at[-1]) + 1))  # neighbours in N
            np.testing.assert_array_equal(batch.embeddings[row, at], embeddings.values[embeddings.rows(question)])
            np.testing.assert_allclose(batch.answers[row, at], survey.answers[episode.group][question], atol=1e-7)
            in_context = number < len(episode.context)
            assert batch.context[row, at].all() == in_context and batch.target[row, at].all() != in_context
        padding = batch.question[row] == -1
        assert int(padding.sum()) == batch.question.shape[1] - sum(
            len(survey.questions[question].options) for question in asked
        )
        assert not batch.embeddings[row, padding].any() and not batch.answers[row, padding].any()
        assert not (batch.context | batch.target)[row, padding].any()
    assert not (batch.context & batch.target).any()
    assert batch.embeddings.dtype == batch.answers.dtype == torch.float32
    assert batch.question.dtype == torch.int64 and batch.context.dtype == torch.bool
    assert not batch.shown[batch.target].any()


def test_no_episode_gives_an_empty_batch(world) -> None:
    batch = collate(*world, [])
    assert len(batch) == 0
    assert batch.embeddings.shape == (0, 0, 8)


def test_an_episode_with_a_question_unanswered_or_in_two_roles_is_refused(world) -> None:
    survey, embeddings = world
    group = survey.groups[0]
    own = survey.answered(group)
    absent = next(q for q in range(30) if q not in survey.answers[group])
    with pytest.raises(DataError, match=f"has no answer to question {absent}"):
        collate(survey, embeddings, [Episode(group, own[:1], ints(absent))])
    with pytest.raises(DataError, match="one question twice"):
        collate(survey, embeddings, [Episode(group, own[:2], own[1:3])])
