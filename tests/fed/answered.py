"""Hand-made holdings: a few two-option questions with chosen embeddings and answers, and one private step on them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fedpdpo_secure.model.layout import assign, flatten
from fedpdpo_secure.pluralllm.embeddings import point_embeddings
from fedpdpo_secure.pluralllm.holdings import Holdings
from fedpdpo_secure.pluralllm.lora import trainable
from fedpdpo_secure.pluralllm.predictor import Predictor
from fedpdpo_secure.pluralllm.private import QuestionStep, train_questions
from fedpdpo_secure.pluralllm.splits import SurveySplit
from fedpdpo_secure.pluralllm.survey import Answer, Question, build_survey
from privacy.dpsgd import DPStepPlan
from privacy.entropy import Entropy
from privacy.sample_log import SampleLog
from tests.fed.episodes import WIDTH

GROUP = "one"


def answered(shares: Mapping[int, float], *, questions: int, embeddings: NDArray[np.float64] | None = None) -> Holdings:
    """The group `one` answered the questions in `shares`: question -> share of the first of two options.

    A second group answered everything, so that an empty one is possible; `embeddings` is float[2 * questions, WIDTH].
    """
    asked = [Question(f"q{index}", f"Question {index}?", ("yes", "no")) for index in range(questions)]
    answers = [Answer(GROUP, index, np.array([share, 1 - share])) for index, share in sorted(shares.items())]
    answers += [Answer("other", index, np.array([0.5, 0.5])) for index in range(questions)]
    survey = build_survey(asked, answers)
    if embeddings is None:
        embeddings = np.random.default_rng(0).standard_normal((2 * questions, WIDTH))
    known = {GROUP: np.array(sorted(shares), dtype=np.int64), "other": np.arange(questions)}
    split = SurveySplit((GROUP,), ("other",), known, {name: np.zeros(0, dtype=np.int64) for name in known})
    return Holdings(survey, point_embeddings(embeddings, survey), split, (), "made here", ())


def step_on(predictor: Predictor, holdings: Holdings, *, episodes: int, loss: str = "cross_entropy") -> QuestionStep:
    return QuestionStep(predictor, holdings, GROUP, loss=loss, episodes=episodes, target_rate=0.5)


def released_sum(
    predictor: Predictor,
    holdings: Holdings,
    entropy: Entropy,
    *,
    clip_norm: float,
    episodes: int,
    sample_rate: float = 1.0,
    noise_multiplier: float = 0.0,
    loss: str = "cross_entropy",
) -> NDArray[np.float64]:
    """float64[D]: the sum that one step on the real code releases, read off the parameters it moves."""
    parameters = trainable(predictor)
    before = flatten(parameters)
    plan = DPStepPlan(
        clip_norm=clip_norm,
        noise_multiplier=noise_multiplier,
        sample_rate=sample_rate,
        expected_batch=float(episodes),
        learning_rate=1.0,
        moves=2,
        unit="question",
    )
    step = step_on(predictor, holdings, episodes=episodes, loss=loss)
    train_questions(predictor, parameters, step, plan, steps=1, entropy=entropy, log=SampleLog())
    moved = flatten(parameters) - before
    assign(parameters, before)
    return -moved * episodes * clip_norm
