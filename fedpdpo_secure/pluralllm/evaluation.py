"""How well groups' answers are predicted: on known or unseen groups, known or held-out questions, beside baselines.

Contexts depend on the evaluation seed, the group and its questions alone, so that every model meets the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedpdpo_secure.pluralllm.baselines import asked_of, global_mean, nearest_group, uniform
from fedpdpo_secure.pluralllm.episodes import Episode, collate, evaluation_episodes
from fedpdpo_secure.pluralllm.fairness import fairness
from fedpdpo_secure.pluralllm.holdings import Holdings
from fedpdpo_secure.pluralllm.metrics import ordinal_score, score_groups, summarise
from fedpdpo_secure.pluralllm.predictor import Predictor, by_question, predict
from fedpdpo_secure.pluralllm.splits import Cell, Pool, whole_pool

Answers = Mapping[str, Mapping[str, NDArray[np.float64]]]


@dataclass(frozen=True, slots=True)
class EvaluationPlan:
    """Public constants of every evaluation."""

    seed: int
    context_questions: int
    published: bool  # context and targets from all questions of a group, trained ones included


@dataclass(frozen=True, slots=True)
class CellScores:
    """One cell: scores are alignment, 1 - Jensen-Shannon distance, larger is better."""

    micro: float
    macro: float
    worst: float
    worst_group: str
    fairness: float  # 1 / (1 + CoV^2) over groups
    cov: float
    groups: int
    answers: int
    ordinal: float | None  # macro mean of 1 - W1 / max W1 over ordinal questions; None where there is none

    def named(self, prefix: str) -> dict[str, float]:
        """Metrics by name, as they stand in reports."""
        values = {
            "alignment": self.macro,
            "alignment_micro": self.micro,
            "alignment_worst": self.worst,
            "fairness": self.fairness,
            "cov": self.cov,
        }
        if self.ordinal is not None:
            values["alignment_ordinal"] = self.ordinal
        return {f"{prefix}{name}": value for name, value in values.items()}


def episodes_of(holdings: Holdings, cell: Cell, plan: EvaluationPlan) -> list[Episode]:
    """The fixed evaluation episodes of a cell; a group without context or target has none."""
    found: list[Episode] = []
    for group in holdings.split.groups(cell):
        pool: Pool = whole_pool(holdings.survey, group) if plan.published else holdings.split.pool(cell, group)
        found += evaluation_episodes(group, pool, seed=plan.seed, context_questions=plan.context_questions)
    return found


def predicted_answers(predictor: Predictor, holdings: Holdings, episodes: Iterable[Episode]) -> Answers:
    """group -> question id -> float64[options], for every target."""
    found: dict[str, dict[str, NDArray[np.float64]]] = {}
    device = next(predictor.parameters()).device
    predictor.eval()
    for episode in episodes:
        batch = collate(holdings.survey, holdings.embeddings, [episode]).to(device)
        with torch.no_grad():
            shares = by_question(predict(predictor(batch).mean, batch), batch)[0]
        asked = np.concatenate([episode.context, episode.target])
        for number, values in shares.items():
            found.setdefault(episode.group, {})[_qid(holdings, int(asked[number]))] = values
    return found


def true_answers(holdings: Holdings, episodes: Iterable[Episode], *, of: str = "target") -> Answers:
    """What the groups said to the targets (or to the context) of `episodes`."""
    found: dict[str, dict[str, NDArray[np.float64]]] = {}
    for episode in episodes:
        for index in getattr(episode, of).tolist():
            found.setdefault(episode.group, {})[_qid(holdings, index)] = holdings.survey.answers[episode.group][index]
    return found


def score_cell(predicted: Answers, holdings: Holdings, episodes: list[Episode]) -> CellScores:
    """The scores of predictions of all targets of `episodes`."""
    true = true_answers(holdings, episodes)
    scores = score_groups(predicted, true)
    summary, spread = summarise(scores), fairness(scores)
    return CellScores(
        micro=summary.micro,
        macro=summary.macro,
        worst=summary.worst,
        worst_group=summary.worst_group,
        fairness=spread.index,
        cov=spread.cov,
        groups=summary.groups,
        answers=summary.pairs,
        ordinal=_ordinal(predicted, true, holdings),
    )


def evaluate(predictor: Predictor, holdings: Holdings, cell: Cell, plan: EvaluationPlan) -> CellScores | None:
    """The predictor's scores in a cell; None where the cell has no target."""
    episodes = episodes_of(holdings, cell, plan)
    if not episodes:
        return None
    return score_cell(predicted_answers(predictor, holdings, episodes), holdings, episodes)


def evaluate_baselines(holdings: Holdings, cell: Cell, plan: EvaluationPlan) -> dict[str, CellScores]:
    """Uniform, the training groups' mean, and the nearest training group, on the same targets.

    Baselines know the training groups' answers to known questions alone, as the predictor does.
    """
    episodes = episodes_of(holdings, cell, plan)
    if not episodes:
        return {}
    asked = asked_of(true_answers(holdings, episodes))
    training = {
        group: {_qid(holdings, index): holdings.survey.answers[group][index] for index in holdings.questions(group)}
        for group in holdings.names
    }
    contexts = true_answers(holdings, episodes, of="context")
    predictions = {
        "uniform": uniform(asked),
        "global mean": global_mean(training, asked),
        "nearest group": nearest_group(training, contexts, asked),
    }
    return {name: score_cell(found.answers, holdings, episodes) for name, found in predictions.items()}


def _ordinal(predicted: Answers, true: Answers, holdings: Holdings) -> float | None:
    ordinal = {question.qid for question in holdings.survey.questions if question.ordinal}
    kept = {
        group: {qid: values for qid, values in given.items() if qid in ordinal and len(values) > 1}
        for group, given in predicted.items()
    }
    kept = {group: given for group, given in kept.items() if given}
    return summarise(score_groups(kept, true, ordinal_score)).macro if kept else None


def _qid(holdings: Holdings, index: int) -> str:
    return holdings.survey.questions[index].qid
