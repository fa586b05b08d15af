"""Local training under the privacy unit `question`: all answers of one group to one question, added or removed.

Questions are Poisson-sampled; each sampled one draws its episode and its role (`roles`, where the sensitivity argument
stands: one question turns one clipped gradient into another, so the sum moves by at most twice the clip norm, and the
plan says `moves=2`). The row of a gradient is the episode; their number is at most the public `episodes`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedpdpo_secure.model.layout import Named
from fedpdpo_secure.pluralllm.batch import EpisodeBatch
from fedpdpo_secure.pluralllm.episodes import Episode, collate
from fedpdpo_secure.pluralllm.holdings import Holdings
from fedpdpo_secure.pluralllm.predictor import Predictor
from fedpdpo_secure.pluralllm.roles import assign
from fedpdpo_secure.pluralllm.training import LOSSES
from privacy.distributed import SharePlan
from privacy.dpsgd import PairDPSGD, StepPlan
from privacy.entropy import Entropy
from privacy.events import Event
from privacy.integer_step import IntegerSum, PairIntegerStep
from privacy.sample_log import SampleLog


class QuestionStep:
    """Episodes of one step from a secret sample of a group's questions, and their losses."""

    def __init__(
        self, predictor: Predictor, holdings: Holdings, group: str, *, loss: str, episodes: int, target_rate: float
    ) -> None:
        self._predictor, self._holdings, self._group = predictor, holdings, group
        self._objective, self._episodes, self._rate = LOSSES[loss], episodes, target_rate
        self._questions = holdings.questions(group)
        self.total = 0.0  # of the losses, LOCAL

    @property
    def size(self) -> int:
        """How many questions the group has; private."""
        return len(self._questions)

    def episodes(self, chosen: NDArray[np.int64], entropy: Entropy) -> tuple[Episode, ...]:
        """The episodes that count, of the questions at places `chosen` of the group's list; fresh draws."""
        roles = assign(self._questions[chosen], episodes=self._episodes, target_rate=self._rate, entropy=entropy)
        return roles.build(self._group)

    def batches(self, episodes: Sequence[Episode]) -> Iterator[EpisodeBatch]:
        """Every episode as a physical batch of its own, without padding.

        Beside others it would be padded to the longest, and float32 sums over more columns round otherwise: one
        question would then move, in their last bits, the gradients of episodes that it is not in.
        """
        device = next(self._predictor.parameters()).device
        for episode in episodes:
            yield collate(self._holdings.survey, self._holdings.embeddings, [episode]).to(device)

    def losses(self, batch: EpisodeBatch) -> Tensor:
        """float[episodes]."""
        found = self._objective(self._predictor(batch), batch)
        self.total += float(found.detach().nan_to_num(posinf=0.0).sum())
        return found


def train_questions(
    predictor: Predictor,
    parameters: Named,
    step: QuestionStep,
    plan: StepPlan,
    *,
    steps: int,
    entropy: Entropy,
    log: SampleLog,
) -> tuple[Event, float, dict[str, float]]:
    """`steps` noised steps on `parameters`: (event, mean loss of an episode, local measurements)."""
    _check(plan.moves)
    seen, clipped, empty, signal, noise = 0, 0.0, 0, 0.0, 0.0
    draws = entropy.child("roles")
    with _training(predictor), PairDPSGD(predictor, parameters, plan, entropy, log) as private:
        for number in range(steps):
            episodes = step.episodes(private.sample(step.size), draws.child("step", number))
            report = private.step(step.batches(episodes), step.losses, rows=len(episodes))
            seen += report.pairs
            clipped += report.clip_fraction * report.pairs
            empty += report.pairs == 0
            signal, noise = signal + report.signal_norm, noise + report.noise_norm
        event = private.event()
    local = {
        "clip_fraction": clipped / seen if seen else math.nan,
        "empty_batches": float(empty),
        "snr": signal / noise if noise else math.inf,
    }
    return event, step.total / seen if seen else math.nan, local


def question_integers(
    predictor: Predictor, parameters: Named, step: QuestionStep, plan: SharePlan, *, entropy: Entropy, log: SampleLog
) -> tuple[IntegerSum, float, dict[str, float]]:
    """One step with shared noise: (what leaves and what it costs, mean loss, local measurements); nothing moves."""
    _check(plan.moves)
    with _training(predictor), PairIntegerStep(predictor, parameters, plan, entropy, log) as private:
        episodes = step.episodes(private.sample(step.size), entropy.child("roles"))
        summed = private.sum(step.batches(episodes), step.losses, rows=len(episodes))
    report = summed.report
    local = {
        "clip_fraction": report.clip_fraction if report.pairs else math.nan,
        "empty_batches": float(report.pairs == 0),
        "snr": report.snr,
    }
    return summed, step.total / report.pairs if report.pairs else math.nan, local


def _check(moves: int) -> None:
    if moves != 2:
        raise ValueError(f"plan.moves must be 2, one question changes a gradient into another; got {moves}")


class _training:
    """Opacus' hooks see modules in training mode alone; the predictor has no dropout, so it stays the same function."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def __enter__(self) -> None:
        self._was = self._predictor.training
        self._predictor.train()

    def __exit__(self, *_: object) -> None:
        self._predictor.train(self._was)
