"""Unit `question` on the real code: one question moves the released sum by at most 2C, and the noise is s = m 2C."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from fedpdpo_secure.local.plan import local_plan
from fedpdpo_secure.pluralllm.episodes import Episode, collate
from fedpdpo_secure.pluralllm.lora import trainable
from fedpdpo_secure.pluralllm.predictor import Predictor, predict
from fedpdpo_secure.pluralllm.private import question_integers, train_questions
from fedpdpo_secure.pluralllm.roles import assign as draw_roles
from fedpdpo_secure.shares import plan_integer_steps, plan_shares
from privacy.distributed import SharePlan
from privacy.dpsgd import DPStepPlan
from privacy.entropy import Entropy, poisson_sample
from privacy.events import IntegerGaussian, PoissonGaussian
from privacy.integer_sgd import IntegerStepPlan
from privacy.sample_log import SampleLog
from tests.fed.answered import answered, released_sum, step_on
from tests.fed.episodes import WIDTH, small_predictor
from tests.fed.plurals import QUESTION, SHARED, plural_config

SLACK = 1 + 1e-4  # float32 parameters
REFUSED = 1e-6  # p value below which a scale is refused


def shares_of(rng: np.random.Generator, questions: int) -> dict[int, float]:
    return {index: float(rng.choice([0.0, 0.02, 0.5, 0.98, 1.0])) for index in range(questions)}


@pytest.mark.parametrize("clip_norm", [1e-3, 0.3])
@pytest.mark.parametrize("loss", ["cross_entropy", "kl"])
def test_one_question_moves_the_released_sum_by_at_most_twice_the_clip_norm(clip_norm: float, loss: str) -> None:
    """Neighbours: any one question taken out of a full batch; every other question keeps its coins."""
    rng, moved = np.random.default_rng(1), []
    for case in range(8):
        predictor, shares = small_predictor(case, layers=1), shares_of(rng, 9)
        whole = released_sum(
            predictor, answered(shares, questions=9), Entropy.seeded(case), clip_norm=clip_norm, episodes=3, loss=loss
        )
        for gone in rng.choice(9, 3, replace=False).tolist():
            fewer = {index: share for index, share in shares.items() if index != gone}
            part = released_sum(
                predictor,
                answered(fewer, questions=9),
                Entropy.seeded(case),
                clip_norm=clip_norm,
                episodes=3,
                loss=loss,
            )
            moved.append(float(np.linalg.norm(whole - part)) / clip_norm)
    assert max(moved) <= 2 * SLACK
    assert max(moved) > 0.5  # the bound was tried


def test_under_a_poisson_sample_the_last_question_moves_the_sum_by_at_most_twice_the_clip_norm() -> None:
    """Places below the last keep their words in the sample, so that the coins of all others are the same."""
    moved, sampled = [], 0
    for case in range(20):
        predictor, shares = small_predictor(case, layers=1), shares_of(np.random.default_rng(case), 10)
        sums = [
            released_sum(
                predictor, answered(given, questions=10), Entropy.seeded(case), clip_norm=0.01, episodes=2,
                sample_rate=0.6,
            )
            for given in (shares, {index: share for index, share in shares.items() if index != 9})
        ]  # fmt: skip
        distance = float(np.linalg.norm(sums[0] - sums[1])) / 0.01
        chosen = 9 in poisson_sample(10, 0.6, Entropy.seeded(case).child("sample"))
        sampled += chosen
        if not chosen:
            assert distance < 1e-3  # who is not sampled moves nothing
        moved.append(distance)
    assert 5 <= sampled <= 18 and 0.5 < max(moved) <= 2 * SLACK


def seed_with_roles(questions: int, wanted: tuple[bool, ...]) -> int:
    """A test seed under which the first step gives these roles (True: target) in one episode."""
    for seed in range(1000):
        entropy = Entropy.seeded(seed).child("roles").child("step", 0)
        drawn = draw_roles(np.arange(questions), episodes=1, target_rate=0.5, entropy=entropy)
        if tuple(drawn.is_target.tolist()) == wanted:
            return seed
    raise AssertionError("no such seed")


def first_share(predictor: Predictor, context: float, embeddings: np.ndarray) -> float:
    """The share that the predictor gives the first option of question 1 after question 0 was answered."""
    holdings = answered({0: context, 1: 0.5}, questions=3, embeddings=embeddings)
    batch = collate(holdings.survey, holdings.embeddings, [Episode("one", np.array([0]), np.array([1]))])
    with torch.no_grad():
        return float(predict(predictor(batch).mean, batch)[0, 2])


def test_the_bound_is_reached_so_that_noise_for_one_clip_norm_would_not_do() -> None:
    """Question 2 looks like question 1 and is answered the other way, more strongly: g' = -g, both clipped."""
    rng = np.random.default_rng(3)
    embeddings = rng.standard_normal((6, WIDTH))
    embeddings[4:] = embeddings[2:4]
    predictor = small_predictor(3, layers=1)
    at = first_share(predictor, 1.0, embeddings)
    step = 0.1 if at < 0.5 else -0.1
    without = {0: 1.0, 1: at + step}
    extra = {**without, 2: 0.0 if step > 0 else 1.0}
    seed, clip_norm = seed_with_roles(3, (False, True, True)), 1e-4
    sums = [
        released_sum(
            predictor, answered(given, questions=3, embeddings=embeddings), Entropy.seeded(seed),
            clip_norm=clip_norm, episodes=1,
        )
        for given in (without, extra)
    ]  # fmt: skip
    assert np.linalg.norm(sums[0]) == pytest.approx(clip_norm, rel=1e-2)
    assert float(np.linalg.norm(sums[0] - sums[1])) / clip_norm > 1.9


def test_the_rounded_sum_of_shares_moves_by_at_most_what_is_charged() -> None:
    """In integers, in grid units; where a question leaves the number of episodes, others keep their rounding coins."""
    plan, moved = share_plan(small_predictor(0, layers=1)), []
    for case in range(12):
        predictor, shares = small_predictor(case, layers=1), shares_of(np.random.default_rng(case), 8)
        found = []
        for gone in (None, case % 8):
            given = {index: share for index, share in shares.items() if index != gone}
            step = step_on(predictor, answered(given, questions=8), episodes=2)
            entropy = Entropy.seeded(case)
            summed, _, _ = question_integers(
                predictor, trainable(predictor), step, plan, entropy=entropy, log=SampleLog()
            )
            found.append((summed.vector, summed.report.pairs))
        if found[0][1] == found[1][1]:  # then no rounding coin of another episode is shifted
            moved.append(float(np.linalg.norm(found[0][0] - found[1][0])))
    assert len(moved) >= 4 and 0.5 * plan.levels < max(moved) <= math.sqrt(plan.norm_squared)


def test_every_episode_is_a_batch_of_its_own_without_padding() -> None:
    """Beside a longer one it would be padded, and float32 would round it otherwise."""
    predictor, holdings = small_predictor(0, layers=1), answered(dict.fromkeys(range(9), 0.3), questions=9)
    step = step_on(predictor, holdings, episodes=3)
    drawn = (step.episodes(np.arange(9), Entropy.seeded(seed)) for seed in range(100))
    built = next(found for found in drawn if len({len(one.context) + len(one.target) for one in found}) > 1)
    batches = list(step.batches(built))
    assert len(batches) == len(built)
    for batch in batches:
        assert len(batch) == 1 and bool((batch.context | batch.target).all())


def scale_p(values: np.ndarray, stddev: float) -> float:
    """Two-sided p value that `values` are centred normal with this standard deviation."""
    below = float(stats.chi2.cdf(float((values / stddev) ** 2 @ np.ones(len(values))), len(values)))
    return 2 * min(below, 1 - below)


def real_plan(multiplier: float, clip_norm: float) -> DPStepPlan:
    return DPStepPlan(
        clip_norm=clip_norm, noise_multiplier=multiplier, sample_rate=0.5, expected_batch=2.0, learning_rate=1.0,
        moves=2, unit="question",
    )  # fmt: skip


def test_real_noise_on_the_sum_is_the_multiplier_times_twice_the_clip_norm() -> None:
    predictor, nobody = small_predictor(0, layers=1), answered({}, questions=4)
    noise = np.concatenate(
        [
            released_sum(
                predictor, nobody, Entropy.os(), clip_norm=0.5, episodes=2, sample_rate=0.5, noise_multiplier=1.3
            )
            for _ in range(5)
        ]
    )
    assert scale_p(noise, 1.3 * 2 * 0.5) > REFUSED
    assert scale_p(noise, 1.3 * 0.5) < REFUSED and scale_p(noise, 1.3 * 4 * 0.5) < REFUSED
    step = step_on(predictor, nobody, episodes=2)
    event, loss, local = train_questions(
        predictor, trainable(predictor), step, real_plan(1.3, 0.5), steps=3, entropy=Entropy.os(), log=SampleLog()
    )
    assert event == PoissonGaussian(noise_multiplier=1.3, sample_rate=0.5, steps=3, unit="question")
    assert math.isnan(loss) and local["empty_batches"] == 3.0


def local_integer_plan(size: int) -> IntegerStepPlan:
    config = plural_config(QUESTION, privacy={**QUESTION["privacy"], "noise_multiplier": 1.3, "clip_norm": 0.5})
    return plan_integer_steps(config, size)


def test_integer_noise_on_the_sum_is_the_multiplier_times_twice_the_clip_norm() -> None:
    predictor = small_predictor(0, layers=1)
    parameters = trainable(predictor)
    size = sum(value.numel() for _, value in parameters)
    plan, found = local_integer_plan(size), []
    for _ in range(5):
        before = np.concatenate([value.detach().numpy().ravel() for _, value in parameters]).astype(float)
        step = step_on(predictor, answered({}, questions=4), episodes=3)
        event, _, _ = train_questions(predictor, parameters, step, plan, steps=1, entropy=Entropy.os(), log=SampleLog())
        after = np.concatenate([value.detach().numpy().ravel() for _, value in parameters]).astype(float)
        found.append((before - after) * plan.expected_batch * plan.clip_norm / plan.learning_rate)
        assert isinstance(event, IntegerGaussian) and event.unit == "question"
        assert event.noise_multiplier == pytest.approx(1.3, rel=1e-6)
    noise = np.concatenate(found)
    norm = math.sqrt(plan.row_squared) * plan.grid  # of one rounded row: the clip norm and a little
    assert 0.5 <= norm < 0.51
    assert scale_p(noise, 1.3 * 2 * norm) > REFUSED
    assert scale_p(noise, 1.3 * norm) < REFUSED and scale_p(noise, 1.3 * 4 * norm) < REFUSED


def share_plan(predictor: Predictor) -> SharePlan:
    config = plural_config(SHARED, privacy={**SHARED["privacy"], "noise_multiplier": 1.3, "sample_rate": 0.9})
    return plan_shares(config, sum(value.numel() for _, value in trainable(predictor)))


def test_shares_of_the_least_honest_survivors_add_up_to_the_charged_noise() -> None:
    predictor = small_predictor(0, layers=1)
    plan = share_plan(predictor)
    honest = plan.clients - plan.lost - plan.colluding
    step = step_on(predictor, answered({}, questions=4), episodes=2)
    total = np.zeros(plan.size)
    for _ in range(honest):
        summed, _, _ = question_integers(
            predictor, trainable(predictor), step, plan, entropy=Entropy.os(), log=SampleLog()
        )
        total += summed.vector
    assert summed.event == plan.event() and plan.event().unit == "question"
    charged = 1.3 * 2 * math.sqrt(plan.row_squared)
    assert scale_p(total, charged) > REFUSED
    assert scale_p(total, charged / 2) < REFUSED and scale_p(total, charged * 2) < REFUSED


@pytest.mark.parametrize("count", [0, 1])
def test_a_group_with_too_few_questions_takes_its_steps_with_noise_alone(count: int) -> None:
    predictor, shares = small_predictor(0, layers=1), {index: 0.3 for index in range(count)}
    empty = released_sum(
        predictor, answered(shares, questions=4), Entropy.seeded(1), clip_norm=0.5, episodes=2, noise_multiplier=1.0
    )
    nobody = released_sum(
        predictor, answered({}, questions=4), Entropy.seeded(1), clip_norm=0.5, episodes=2, noise_multiplier=1.0
    )
    assert np.array_equal(empty, nobody) and np.linalg.norm(empty) > 0


def test_a_question_that_makes_gradients_overflow_counts_as_zero_and_stops_nothing() -> None:
    """An abort would tell, without noise, that the question is there."""
    embeddings = np.random.default_rng(0).standard_normal((12, WIDTH))
    embeddings[6:8] = 3e38
    predictor, shares = small_predictor(0, layers=1), dict.fromkeys(range(6), 0.2)
    holdings = answered(shares, questions=6, embeddings=embeddings)
    hurt = released_sum(predictor, holdings, Entropy.seeded(2), clip_norm=0.5, episodes=1)
    assert np.array_equal(hurt, np.zeros_like(hurt))
    both = released_sum(predictor, holdings, Entropy.seeded(2), clip_norm=0.5, episodes=3)
    assert np.isfinite(both).all() and np.linalg.norm(both) > 0
    plan, step = share_plan(predictor), step_on(predictor, holdings, episodes=1)
    summed, loss, _ = question_integers(
        predictor, trainable(predictor), step, plan, entropy=Entropy.seeded(2), log=SampleLog()
    )
    assert summed.report.non_finite <= 1 and math.isfinite(loss)


def test_a_plan_for_one_clip_norm_is_refused() -> None:
    predictor, holdings = small_predictor(0, layers=1), answered({0: 0.1, 1: 0.2}, questions=3)
    wrong = DPStepPlan(
        clip_norm=1.0, noise_multiplier=1.0, sample_rate=0.5, expected_batch=1.0, learning_rate=1.0, unit="question"
    )
    with pytest.raises(ValueError, match=r"plan\.moves must be 2"):
        train_questions(
            predictor, trainable(predictor), step_on(predictor, holdings, episodes=1), wrong, steps=1,
            entropy=Entropy.os(), log=SampleLog(),
        )  # fmt: skip


@pytest.mark.parametrize("arithmetic", ["float", "integer"])
def test_a_configured_step_carries_the_unit_and_twice_the_norm(arithmetic: str) -> None:
    config = plural_config(QUESTION, privacy={**QUESTION["privacy"], "arithmetic": arithmetic})
    integer = plan_integer_steps(config, 100) if arithmetic == "integer" else None
    plan = local_plan(config, 1, 1.5, integer=integer).dp
    assert plan is not None and plan.moves == 2 and plan.unit == "question" and plan.expected_batch == 3.0


def test_steps_draw_their_roles_anew() -> None:
    """Two steps of one round under one source of entropy have different episodes."""
    step = step_on(small_predictor(0, layers=1), answered(dict.fromkeys(range(9), 0.3), questions=9), episodes=3)
    for entropy in (Entropy.seeded(0).child("roles"), Entropy.os()):
        drawn = [step.episodes(np.arange(9), entropy.child("step", number)) for number in range(4)]
        as_sets = [[(one.context.tolist(), one.target.tolist()) for one in built] for built in drawn]
        assert all(first != second for first, second in itertools.pairwise(as_sets))
