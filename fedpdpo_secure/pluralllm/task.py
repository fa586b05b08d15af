"""PluralLLM as a task of the round: one group's local training of the shared predictor, and what is measured of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedpdpo_secure.config import Config
from fedpdpo_secure.local.plan import LocalPlan, LocalUpdate, NonFiniteError
from fedpdpo_secure.local.state import ClientState, StateFolder
from fedpdpo_secure.methods import Method
from fedpdpo_secure.model.layout import Named, ParamLayout, assign, flatten
from fedpdpo_secure.pluralllm.episodes import PUBLISHED_BOUNDS, Bounds
from fedpdpo_secure.pluralllm.evaluation import (
    CellScores,
    EvaluationPlan,
    episodes_of,
    evaluate,
    predicted_answers,
    score_cell,
)
from fedpdpo_secure.pluralllm.holdings import Holdings
from fedpdpo_secure.pluralllm.initial import make_shared_predictor
from fedpdpo_secure.pluralllm.lora import trainable
from fedpdpo_secure.pluralllm.private import QuestionStep, question_integers, train_questions
from fedpdpo_secure.pluralllm.splits import Cell
from fedpdpo_secure.pluralllm.training import AdamPlan, train_adam
from fedpdpo_secure.task import POOLED, Client
from privacy.distributed import SharePlan, noised_unit
from privacy.entropy import Entropy
from privacy.sample_log import SampleLog


class PluralLLM:
    """The task: one predictor in memory; the vector in force is written into it before it is used."""

    def __init__(self, config: Config, method: Method, holdings: Holdings, root: Path) -> None:
        self.config, self.method, self.holdings = config, method, holdings
        self.states = StateFolder(root)
        self.sample_logs: dict[str, SampleLog] = {}
        self.predictor = make_shared_predictor(config, holdings)
        self._parameters: Named = trainable(self.predictor)

    # ---- the shared vector ---------------------------------------------------------------------------------------

    def shared_vector(self) -> NDArray[np.float64]:
        """float64[D]: what is trained and summed, as it stands in the predictor."""
        return flatten(self._parameters)

    def set_shared(self, vector: NDArray[np.float64]) -> None:
        """Write a shared vector into the predictor."""
        assign(self._parameters, vector)

    def layout(self, round_index: int) -> ParamLayout:
        """Names and shapes of the update vector, the same in every round."""
        return ParamLayout.of(self._parameters)

    def noised_size(self) -> int:
        """Coordinates that a private step noises."""
        return self.layout(1).size

    def with_update(
        self, shared: NDArray[np.float64], round_index: int, update: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """float64[D]: `shared` plus `update`."""
        return shared + update

    def weight_bound(self, clients: Sequence[Client]) -> int:
        """Public bound on a client's weight without DP: 1, or with the published weights the points of an episode."""
        if self.config.schedule.weights == "uniform":
            return 1
        options = max(len(question.options) for question in self.holdings.survey.questions)
        return options * (self.bounds().context[1] + self.bounds().target[1])

    # ---- one client ----------------------------------------------------------------------------------------------

    def train_locally(
        self, shared: NDArray[np.float64], client: Client, plan: LocalPlan, entropy: Entropy
    ) -> LocalUpdate:
        """Train `client`, a group, from `shared`. Raises NonFiniteError naming group and step."""
        state = self.states.load(client.name, plan.round_index - 1)
        start = state.lora["vector"].numpy() if state.lora else shared
        self.set_shared(start)
        private = self.config.privacy.unit == "question"
        if private and plan.shares is not None:
            return self._shared_step(client, plan.shares, entropy)
        if private and plan.dp is not None:
            return self._private(client, plan, entropy, start)
        if plan.shares is not None:
            return self._whole_update(client, plan, plan.shares, state, entropy, start)
        return self._plain(client, plan, state, start)

    def bounds(self) -> Bounds:
        """Sizes of a training episode."""
        chosen = self.config.episodes
        both = (chosen.least, chosen.most)
        return PUBLISHED_BOUNDS if both == PUBLISHED_BOUNDS.context else Bounds(both, both)

    def _plain(self, client: Client, plan: LocalPlan, state: ClientState, start: NDArray[np.float64]) -> LocalUpdate:
        schedule, steps = self.config.schedule, plan.steps or 1
        groups = self.holdings.names if client.name == POOLED else (client.name,)
        adam = AdamPlan(
            loss=self.config.predictor.loss,
            bounds=self.bounds(),
            learning_rate=schedule.learning_rate,
            decay=schedule.decay,
            first_step=(plan.round_index - 1) * steps,
            steps=steps,
            all_steps=self.config.federation.rounds * steps,
            one_size=self.config.survey.split == "survey_order",
        )
        rng = np.random.default_rng([plan.seed, 0xE9, client.index, plan.round_index])
        moments = state.moments if schedule.moments == "keep" else {}
        trained = train_adam(self.predictor, self._parameters, self.holdings, groups, adam, moments=moments, rng=rng)
        after = self.shared_vector()
        if not np.isfinite(after).all():
            raise NonFiniteError(f"client {client.name}, round {plan.round_index}: non-finite parameters")
        self._keep(client, plan.round_index, trained.moments, after)
        weight = 1 if schedule.weights == "uniform" else trained.points
        return LocalUpdate(after - start, weight, trained.loss, steps)

    def _keep(
        self, client: Client, round_index: int, moments: dict[str, torch.Tensor], after: NDArray[np.float64]
    ) -> None:
        alone = not self.method.aggregated and not self.method.pooled
        kept = moments if self.config.schedule.moments == "keep" else {}
        own = {"vector": torch.from_numpy(after)} if alone else {}
        if kept or own:
            self.states.save(client.name, round_index, ClientState({}, kept, own))

    def _step(self, client: Client) -> QuestionStep:
        chosen = self.config.episodes
        return QuestionStep(
            self.predictor,
            self.holdings,
            client.name,
            loss=self.config.predictor.loss,
            episodes=chosen.private,
            target_rate=chosen.target_rate,
        )

    def _private(self, client: Client, plan: LocalPlan, entropy: Entropy, start: NDArray[np.float64]) -> LocalUpdate:
        assert plan.dp is not None and plan.steps is not None
        event, loss, local = train_questions(
            self.predictor,
            self._parameters,
            self._step(client),
            plan.dp,
            steps=plan.steps,
            entropy=entropy,
            log=self.sample_logs.setdefault(client.name, SampleLog()),
        )
        after = self.shared_vector()
        if not np.isfinite(after).all():
            raise NonFiniteError(f"client {client.name}, round {plan.round_index}: non-finite parameters")
        return LocalUpdate(after - start, 1, loss, plan.steps, event, local)

    def _shared_step(self, client: Client, shares: SharePlan, entropy: Entropy) -> LocalUpdate:
        summed, loss, local = question_integers(
            self.predictor,
            self._parameters,
            self._step(client),
            shares,
            entropy=entropy,
            log=self.sample_logs.setdefault(client.name, SampleLog()),
        )
        return LocalUpdate(np.zeros(0), 1, loss, 1, summed.event, local, summed.vector)

    def _whole_update(
        self,
        client: Client,
        plan: LocalPlan,
        shares: SharePlan,
        state: ClientState,
        entropy: Entropy,
        start: NDArray[np.float64],
    ) -> LocalUpdate:
        """The whole update as one unit. A group with too few questions for an episode, and training that diverged,
        count as zero: a refusal would tell of them un-noised."""
        update = LocalUpdate(np.zeros(shares.dim), 1, float("nan"), plan.steps or 1)
        if len(self.holdings.questions(client.name)) >= 2:
            with suppress(NonFiniteError):
                update = self._plain(client, plan, state, start)
        integers, event = noised_unit(update.update, shares, entropy)
        return replace(
            update, event=event, local={"update_norm": float(np.linalg.norm(update.update))}, integers=integers
        )

    # ---- measurement ---------------------------------------------------------------------------------------------

    def scores(self, shared: NDArray[np.float64], cells: tuple[Cell, ...]) -> Mapping[Cell, CellScores]:
        """Scores of the predictor with `shared` in every cell that has a target."""
        self.set_shared(shared)
        found = {cell: evaluate(self.predictor, self.holdings, cell, self.evaluation()) for cell in cells}
        return {cell: scores for cell, scores in found.items() if scores is not None}

    def own_scores(self, clients: Sequence[Client], cells: tuple[Cell, ...]) -> dict[str, float]:
        """Where every group keeps a predictor of its own: each scored on its own answers, then joined by cell."""
        joined: dict[str, float] = {}
        for cell, prefix in zip(cells, ("", "known questions/"), strict=True):
            predicted: dict[str, Mapping[str, NDArray[np.float64]]] = {}
            episodes = episodes_of(self.holdings, cell, self.evaluation())
            for client in clients:
                state = self.states.load(client.name, self.config.federation.rounds)
                self.set_shared(state.lora["vector"].numpy())
                own = [episode for episode in episodes if episode.group == client.name]
                predicted |= predicted_answers(self.predictor, self.holdings, own)
            if episodes:
                joined |= score_cell(predicted, self.holdings, episodes).named(prefix)
        return joined

    def evaluation(self) -> EvaluationPlan:
        """The fixed evaluation of this configuration."""
        chosen = self.config.episodes
        return EvaluationPlan(
            chosen.evaluation_seed, chosen.evaluation_context, self.config.survey.split == "survey_order"
        )
