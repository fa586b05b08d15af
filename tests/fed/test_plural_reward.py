"""A predictor as a group's reward model, and the pairs made with it: what they rest on and what reads them."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import numpy as np
import pytest
import torch

from fedpdpo_secure.config import make_config
from fedpdpo_secure.data import DataError, load_federation
from fedpdpo_secure.pluralllm.artefact import seeded_generator
from fedpdpo_secure.pluralllm.embeddings import point_embeddings
from fedpdpo_secure.pluralllm.episodes import Bounds, Episode
from fedpdpo_secure.pluralllm.evaluation import predicted_answers
from fedpdpo_secure.pluralllm.holdings import Holdings
from fedpdpo_secure.pluralllm.lora import trainable
from fedpdpo_secure.pluralllm.point_texts import point_texts
from fedpdpo_secure.pluralllm.predictor import Predictor, PredictorShape, make_predictor
from fedpdpo_secure.pluralllm.preferences import (
    best_against_worst,
    bradley_terry,
    preference_rows,
    prompt_of,
    write_rows,
)
from fedpdpo_secure.pluralllm.reward import Answered, GroupReward, embed_options
from fedpdpo_secure.pluralllm.splits import split_survey
from fedpdpo_secure.pluralllm.survey import Question
from fedpdpo_secure.pluralllm.synthetic_survey import SyntheticSettings, make_synthetic
from fedpdpo_secure.pluralllm.training import AdamPlan, train_adam
from tests.fed.episodes import WIDTH, small_predictor

TRAINED_GROUPS = 16
CONTEXT = 10


def answered(rng: np.random.Generator, options: int) -> Answered:
    return Answered(rng.normal(size=(options, WIDTH)).astype(np.float32), rng.dirichlet(np.ones(options)))


def small_reward(seed: int = 0) -> GroupReward:
    rng = np.random.default_rng(seed)
    return GroupReward(small_predictor(seed), tuple(answered(rng, options) for options in (2, 3, 5, 4)))


def candidates(count: int = 4) -> np.ndarray:
    return np.random.default_rng(9).normal(size=(count, WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def holdings() -> Holdings:
    made = make_synthetic(SyntheticSettings())
    unseen = made.survey.groups[TRAINED_GROUPS:]
    split = split_survey(made.survey, seed=0, unseen_groups=unseen, heldout_fraction=0.2)
    return Holdings(made.survey, point_embeddings(made.embeddings, made.survey), split, (), "builtin:groups", ())


def trained(holdings: Holdings, *, steps: int, learning_rate: float = 1e-3, seed: int = 0) -> Predictor:
    shape = PredictorShape(holdings.embeddings.width, d_model=32, heads=4, layers=1, feedforward=32)
    predictor = make_predictor(shape, seeded_generator(seed, 1))
    plan = AdamPlan(
        loss="cross_entropy",
        bounds=Bounds((8, 12), (10, 15)),
        learning_rate=learning_rate,
        decay="constant",
        first_step=0,
        steps=steps,
        all_steps=steps,
        one_size=False,
    )
    rng = np.random.default_rng(0)
    train_adam(predictor, trainable(predictor), holdings, holdings.names, plan, moments={}, rng=rng)
    return predictor


def vectors(holdings: Holdings, question: int) -> np.ndarray:
    return holdings.embeddings.values[holdings.embeddings.rows(question)]


def reward_of(predictor: Predictor, holdings: Holdings, group: str, questions: list[int]) -> GroupReward:
    given = holdings.survey.answers[group]
    return GroupReward(predictor, tuple(Answered(vectors(holdings, q), given[q]) for q in questions))


def advantage(predictor: Predictor, holdings: Holdings, *, context_of: int, against: str) -> tuple[float, float]:
    """Mean and standard error, over unseen groups, of (favourite picked - what `against` picks), other questions.

    context_of: 0 shows each group its own answers, 1 those of the next unseen group.
    """
    unseen, answers, gains = holdings.split.unseen_groups, holdings.survey.answers, []
    for place, group in enumerate(unseen):
        shown = unseen[(place + context_of) % len(unseen)]
        rng = np.random.default_rng(place)
        context = rng.permutation(holdings.split.known[shown])[:CONTEXT].tolist()
        reward, gain = reward_of(predictor, holdings, shown, context), []
        for question in (int(q) for q in holdings.split.known[group] if int(q) not in context):
            truth = answers[group][question]
            favourite = int(truth.argmax())
            others = [answers[name][question] for name in holdings.names if question in answers[name]]
            mean = float(np.mean(others, axis=0).argmax() == favourite)
            picked = reward.best_of(vectors(holdings, question)) == favourite
            gain.append(picked - (mean if against == "mean" else 1 / len(truth)))
        gains.append(np.mean(gain))
    return float(np.mean(gains)), float(np.std(gains, ddof=1) / np.sqrt(len(gains)))


# ---- the reward


def test_the_order_of_the_context_changes_no_score_and_its_answers_do() -> None:
    reward, asked = small_reward(), candidates()
    scores = reward.scores(asked)
    turned = GroupReward(reward.predictor, reward.context[2:] + reward.context[:2])
    np.testing.assert_allclose(turned.scores(asked), scores, atol=1e-7)
    first = Answered(reward.context[0].embeddings, reward.context[0].probs[::-1].copy())
    other = GroupReward(reward.predictor, (first, *reward.context[1:]))
    assert np.abs(other.scores(asked) - scores).max() > 1e-5


def test_scores_are_shares_that_move_with_their_candidates() -> None:
    reward, asked = small_reward(), candidates()
    scores = reward.scores(asked)
    assert scores.dtype == np.float64 and (scores > 0).all()
    assert scores.sum() == pytest.approx(1, abs=1e-12)
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(reward.scores(asked[order]), scores[order], atol=1e-6)
    assert reward.best_of(asked) == int(scores.argmax())


def test_a_reward_does_not_depend_on_the_other_candidates_and_its_differences_are_bradley_terry() -> None:
    reward, asked = small_reward(), candidates()
    alone = np.concatenate([reward.rewards(asked[place : place + 1]) for place in range(len(asked))])
    np.testing.assert_allclose(alone, reward.rewards(asked), atol=1e-5)
    first, second = reward.scores(asked)[:2]
    wins = 1 / (1 + np.exp(alone[1] - alone[0]))
    assert first / (first + second) == pytest.approx(wins, abs=1e-5)


def test_scores_are_the_predictors_own_prediction_of_a_survey_episode(holdings: Holdings) -> None:
    predictor = make_predictor(PredictorShape(32, d_model=16, heads=4, layers=2, feedforward=24), seeded_generator(3))
    group = holdings.split.unseen_groups[0]
    questions = holdings.split.known[group]
    episode = Episode(group, questions[:CONTEXT], questions[CONTEXT : CONTEXT + 15])
    predicted = predicted_answers(predictor, holdings, [episode])[group]
    reward = reward_of(predictor, holdings, group, episode.context.tolist())
    assert len(predicted) == 15
    for question in episode.target.tolist():
        shares = predicted[holdings.survey.questions[question].qid]
        np.testing.assert_allclose(reward.scores(vectors(holdings, question)), shares, atol=1e-6)


def test_answers_in_words_are_scored_in_the_words_of_a_surveys_points() -> None:
    seen: list[str] = []

    def embed(texts: list[str]) -> np.ndarray:
        seen.extend(texts)
        return candidates(len(texts))

    reward = small_reward()
    scores = reward.score_texts("Shall we?", ["By all means", "No"], embed)
    assert seen == point_texts([Question("any", "Shall we?", ("By all means", "No"))])
    np.testing.assert_array_equal(scores, reward.scores(candidates(2)))
    with pytest.raises(ValueError, match="a row for each of 2 options, got 3"):
        embed_options("Shall we?", ["By all means", "No"], lambda texts: candidates(3))
    with pytest.raises(ValueError, match="options must hold at least 1 text"):
        embed_options("Shall we?", [], embed)


@pytest.mark.parametrize(
    ("probs", "said"),
    [
        ([0.5, 0.5, 0.0], r"probs must be float64\[2\], got \[3\]"),
        ([1.5, -0.5], "probs must be finite and at least 0"),
        ([np.nan, 1.0], "probs must be finite"),
        ([0.4, 0.4], "probs must sum to 1 within 0.001, got 0.8"),
    ],
)
def test_answers_that_are_no_distribution_are_refused(probs: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Answered(candidates(2), np.array(probs))


def test_vectors_that_the_predictor_cannot_read_are_refused() -> None:
    reward = small_reward()
    with pytest.raises(ValueError, match=f"candidates must have the predictor's width {WIDTH}, got 5"):
        reward.scores(np.zeros((2, 5), dtype=np.float32))
    with pytest.raises(ValueError, match="candidates must be float32"):
        reward.scores(np.zeros((0, WIDTH), dtype=np.float32))
    with pytest.raises(ValueError, match="candidates must be finite"):
        reward.scores(np.full((2, WIDTH), np.nan, dtype=np.float32))
    with pytest.raises(ValueError, match="context must hold at least 1"):
        GroupReward(reward.predictor, ())
    with pytest.raises(ValueError, match=r"context\[0\].embeddings must have the predictor's width"):
        GroupReward(reward.predictor, (Answered(np.ones((1, 5), dtype=np.float32), np.ones(1)),))
    with torch.no_grad():
        next(reward.predictor.parameters()).fill_(torch.nan)
    with pytest.raises(ValueError, match="finite scores"):
        reward.best_of(candidates())


def test_best_of_n_picks_favourites_of_unseen_groups_far_above_chance(holdings: Holdings) -> None:
    predictor = trained(holdings, steps=60, learning_rate=5e-3)
    gain, error = advantage(predictor, holdings, context_of=0, against="chance")
    assert gain > 5 * error and gain > 0.3
    fresh = [trained(holdings, steps=0, seed=seed) for seed in range(5)]
    idle = [advantage(predictor, holdings, context_of=0, against="chance")[0] for predictor in fresh]
    assert abs(np.mean(idle)) < 0.15  # the same measure does not flatter predictors that learned nothing


# ---- pairs


def test_bradley_terry_pairs_follow_the_shares_and_not_the_majority() -> None:
    shares, count = np.array([0.6, 0.3, 0.1]), 30_000
    drawn = bradley_terry(shares, pairs=count, rng=np.random.default_rng(0))
    assert len(drawn) == count
    for first, second in ((0, 1), (0, 2), (1, 2)):
        wins, losses = drawn.count((first, second)), drawn.count((second, first))
        both = wins + losses
        assert abs(both - count / 3) < 5 * np.sqrt(count * 2 / 9)  # each pair of options as often as any other
        chance = shares[first] / (shares[first] + shares[second])
        error = np.sqrt(chance * (1 - chance) / both)
        assert abs(wins / both - chance) < 5 * error
        assert abs(wins / both - shares[first]) > 5 * error  # nor the share itself
    assert bradley_terry(np.ones(1), pairs=3, rng=np.random.default_rng(0)) == []
    with pytest.raises(ValueError, match="pairs must be at least 1, got 0"):
        bradley_terry(shares, pairs=0, rng=np.random.default_rng(0))


def test_best_against_worst_keeps_its_margin() -> None:
    assert best_against_worst(np.array([0.2, 0.5, 0.3]), least_margin=0.29) == [(1, 0)]
    assert best_against_worst(np.array([0.2, 0.5, 0.3]), least_margin=0.31) == []
    assert best_against_worst(np.ones(1), least_margin=0.1) == []
    for margin in (0.0, 1.0):
        with pytest.raises(ValueError, match=r"least_margin must be in \(0, 1\)"):
            best_against_worst(np.array([0.5, 0.5]), least_margin=margin)


def questions_of(holdings: Holdings, count: int = 40) -> list[tuple[Question, np.ndarray]]:
    return [(holdings.survey.questions[index], vectors(holdings, index)) for index in range(count)]


def rows_of(holdings: Holdings, group: str, *, list_options: bool = True) -> list[dict[str, str]]:
    predictor = make_predictor(PredictorShape(32, d_model=16, heads=4, layers=1, feedforward=24), seeded_generator(3))
    known = holdings.split.known[group]
    reward = reward_of(predictor, holdings, group, known[known >= 40][:5].tolist())
    rng = np.random.default_rng(len(group))
    return list(
        preference_rows(
            reward,
            questions_of(holdings),
            group=group,
            compare=lambda shares: bradley_terry(shares, pairs=2, rng=rng),
            list_options=list_options,
        )
    )


def test_the_loader_of_fedpdpo_reads_back_every_pair_with_its_group(holdings: Holdings, tmp_path: Path) -> None:
    groups = holdings.split.unseen_groups[:4]
    rows = [row for group in groups for row in rows_of(holdings, group)]
    path = tmp_path / "pairs.jsonl"
    assert write_rows(path, rows) == len(rows) == 4 * 40 * 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    config = make_config(
        {
            "dataset_name": str(path),
            "data": {"partition": "group", "public": True},
            "federation": {"clients": 4},
            "privacy": {"unit": "none"},
        }
    )
    federation = load_federation(config, None)
    assert federation.clients == groups
    pairs = list(federation.pairs())
    read = [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected, "group": p.client} for p in pairs]
    assert sorted(read, key=json.dumps) == sorted(rows, key=json.dumps)
    splits = {prompt: {p.split for p in pairs if p.prompt == prompt} for prompt in {p.prompt for p in pairs}}
    assert all(len(found) == 1 for found in splits.values())  # a question is on one side, for all groups
    assert set.union(*splits.values()) == {"train", "validation", "test"}


def test_a_file_of_pairs_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("mine\n")
    with pytest.raises(FileExistsError):
        write_rows(path, [])
    assert path.read_text() == "mine\n"


def test_a_prompt_is_a_users_turn_with_or_without_the_options(holdings: Holdings) -> None:
    question = Question("q", "Shall we?", ("Yes", "No"))
    assert prompt_of(question) == "User: Shall we?\n- Yes\n- No\n\nAssistant:"
    assert prompt_of(question, list_options=False) == "User: Shall we?\n\nAssistant:"
    for row in rows_of(holdings, holdings.names[0], list_options=False):
        assert "\n- " not in row["prompt"] and row["chosen"][0] == row["rejected"][0] == " "


@pytest.mark.parametrize("options", [("Yes", " Yes"), ("Yes", " ")])
def test_options_that_make_no_comparison_are_refused(options: tuple[str, ...]) -> None:
    pair = [(Question("q7", "Shall we?", options), candidates(2))]
    with pytest.raises(DataError, match="question q7: options must be different texts, none of them empty"):
        list(preference_rows(small_reward(), pair, group="a", compare=lambda shares: [(0, 1)]))


def test_one_context_answer_is_behind_the_shares_of_every_question(holdings: Holdings) -> None:
    """Why pairs are counted per group: no pair is free of any context answer."""
    predictor = make_predictor(PredictorShape(32, d_model=16, heads=4, layers=1, feedforward=24), seeded_generator(3))
    group = holdings.names[0]
    questions = holdings.split.known[group]
    reward = reward_of(predictor, holdings, group, questions[:5].tolist())
    without = GroupReward(predictor, reward.context[1:])
    for question in questions[5:].tolist():
        moved = reward.scores(vectors(holdings, question)) - without.scores(vectors(holdings, question))
        assert np.abs(moved).max() > 1e-7


@pytest.mark.slow
def test_a_predictor_that_trained_long_enough_reads_the_context(holdings: Holdings) -> None:
    """Above the training groups' mean with a group's own answers, and below it with those of another group."""
    predictor = trained(holdings, steps=1000, learning_rate=2e-3)
    own, own_error = advantage(predictor, holdings, context_of=0, against="mean")
    other, _ = advantage(predictor, holdings, context_of=1, against="mean")
    assert own > 3 * own_error and own > 0.05
    assert other < own - 0.1
