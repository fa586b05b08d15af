"""The built-in groups: a few answers tell a group's taste, which tells its other answers; sizes move nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from fedpdpo_secure.pluralllm.synthetic_survey import SyntheticSettings, SyntheticSurvey, make_synthetic

SETTINGS = SyntheticSettings()


@pytest.fixture(scope="module")
def made() -> SyntheticSurvey:
    return make_synthetic(SETTINGS)


def alignment(made: SyntheticSurvey, predict) -> float:
    """Mean of 1 - Jensen-Shannon distance over all answered (group, question); `predict(group, question)`."""
    scores = [
        1.0 - jensenshannon(dist, predict(group, question))
        for group, own in made.survey.answers.items()
        for question, dist in own.items()
    ]
    return float(np.mean(scores))


def uniform(made: SyntheticSurvey, question: int) -> np.ndarray:
    size = len(made.survey.questions[question].options)
    return np.full(size, 1 / size)


def fitted_from_context(made: SyntheticSurvey, group: str, context: int) -> dict[int, np.ndarray]:
    """Ridge regression of centred log answers on centred embeddings of `context` questions; the rest predicted."""
    offsets, answers = made.survey.offsets, made.survey.answers[group]
    asked = np.random.default_rng(1).permutation(list(answers))
    features, wanted = [], []
    for question in asked[:context]:
        rows = made.embeddings[offsets[question] : offsets[question + 1]].astype(float)
        logs = np.log(answers[question])
        features.append(rows - rows.mean(axis=0))
        wanted.append(logs - logs.mean())
    x, y = np.concatenate(features), np.concatenate(wanted)
    weight = np.linalg.solve(x.T @ x + 0.1 * np.eye(x.shape[1]), x.T @ y)
    predicted = {}
    for question in asked[context:]:
        logits = made.embeddings[offsets[question] : offsets[question + 1]] @ weight
        predicted[question] = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    return predicted


def test_the_truth_bounds_what_is_reachable_far_above_guessing(made) -> None:
    oracle = alignment(made, lambda group, question: made.truth[group][question])
    guess = alignment(made, lambda group, question: uniform(made, question))
    mean = [np.mean([made.truth[g][q] for g in made.truth], axis=0) for q in range(len(made.survey.questions))]
    average = alignment(made, lambda group, question: mean[question])
    assert oracle > 0.95
    assert guess < 0.75
    assert guess + 0.03 < average < oracle - 0.08  # groups differ, but not in everything


def test_twenty_answered_questions_predict_the_others_from_their_embeddings(made) -> None:
    """20 questions have about 50 centred rows for 32 coordinates: enough for ridge, far too few to learn by heart."""
    scores, guesses = [], []
    for group in made.survey.groups[:8]:
        for question, predicted in fitted_from_context(made, group, 20).items():
            dist = made.survey.answers[group][question]
            scores.append(1.0 - jensenshannon(dist, predicted))
            guesses.append(1.0 - jensenshannon(dist, uniform(made, question)))
    assert np.mean(scores) > np.mean(guesses) + 0.1


def test_groups_of_one_cluster_are_nearer_than_groups_of_two(made) -> None:
    names = made.survey.groups
    distance = {
        (a, b): np.mean([jensenshannon(p, q) for p, q in zip(made.truth[a], made.truth[b], strict=True)])
        for a in names[:8]
        for b in names[:8]
        if a < b
    }
    same = [value for (a, b), value in distance.items() if made.cluster[a] == made.cluster[b]]
    other = [value for (a, b), value in distance.items() if made.cluster[a] != made.cluster[b]]
    assert np.mean(same) < 0.7 * np.mean(other)


def test_the_truth_is_the_stated_law_of_loadings_and_tastes(made) -> None:
    offsets = made.survey.offsets
    for group in made.survey.groups[:3]:
        for question, truth in enumerate(made.truth[group]):
            u = made.loadings[offsets[question] : offsets[question + 1]]
            logits = SETTINGS.scale * u @ made.tastes[group] / np.sqrt(SETTINGS.factors)
            np.testing.assert_allclose(np.log(truth) - np.log(truth[0]), logits - logits[0], atol=1e-9)


def test_without_noise_the_answers_are_the_truth() -> None:
    exact = make_synthetic(replace(SETTINGS, answer_noise=0.0, groups=3))
    for group, own in exact.survey.answers.items():
        for question, dist in own.items():
            np.testing.assert_allclose(dist, exact.truth[group][question], atol=1e-12)


def test_the_same_settings_give_the_same_bytes_and_another_seed_others() -> None:
    small = replace(SETTINGS, groups=4, questions=10)
    one, two, other = make_synthetic(small), make_synthetic(small), make_synthetic(replace(small, seed=1))
    assert one.embeddings.tobytes() == two.embeddings.tobytes()
    for group in one.survey.groups:
        assert {q: d.tobytes() for q, d in one.survey.answers[group].items()} == {
            q: d.tobytes() for q, d in two.survey.answers[group].items()
        }
    assert one.embeddings.tobytes() != other.embeddings.tobytes()


def test_more_groups_and_questions_change_none_of_the_others() -> None:
    small = make_synthetic(replace(SETTINGS, groups=4, questions=10))
    large = make_synthetic(replace(SETTINGS, groups=9, questions=25))
    assert large.survey.questions[:10] == small.survey.questions
    assert large.embeddings[: len(small.embeddings)].tobytes() == small.embeddings.tobytes()
    for group in small.survey.groups:
        kept = {q: d.tobytes() for q, d in large.survey.answers[group].items() if q < 10}
        assert kept == {q: d.tobytes() for q, d in small.survey.answers[group].items()}


def test_question_texts_are_all_different_and_about_the_stated_share_was_asked(made) -> None:
    large = make_synthetic(replace(SETTINGS, groups=2, questions=200))
    assert len({question.text for question in large.survey.questions}) == 200
    asked = sum(len(own) for own in made.survey.answers.values())
    cells = 24 * 120
    assert abs(asked - 0.8 * cells) < 5 * np.sqrt(cells * 0.16)  # 5 standard errors


def test_unfit_settings_are_refused() -> None:
    for change, says in (
        ({"groups": 0}, "groups must be at least 1"),
        ({"width": 2}, "width must be at least factors = 4"),
        ({"answered": 0.0}, "answered must be in"),
    ):
        with pytest.raises(ValueError, match=says):
            replace(SETTINGS, **change)
