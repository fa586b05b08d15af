"""PluralLLM, prepared: its groups as clients, how a run of it is measured, kept and finished."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedpdpo_secure.budget import ledger_root
from fedpdpo_secure.checkpoint import GlobalState
from fedpdpo_secure.config import Config, ConfigError
from fedpdpo_secure.methods import Method, choose_method
from fedpdpo_secure.pluralllm.artefact import FOLDER, adapter_rank, save_predictor
from fedpdpo_secure.pluralllm.evaluation import CellScores, evaluate_baselines
from fedpdpo_secure.pluralllm.holdings import Holdings, load_holdings
from fedpdpo_secure.pluralllm.splits import Cell
from fedpdpo_secure.pluralllm.task import PluralLLM
from fedpdpo_secure.progress import Progress
from fedpdpo_secure.report import LOCAL
from fedpdpo_secure.round import RoundOutcome
from fedpdpo_secure.task import POOLED, Client
from fedpdpo_secure.tasks import FinalMeasures
from privacy.ledger import ledger_path

TRAINED = (Cell.UNSEEN_QUESTIONS, Cell.KNOWN)  # groups that train: the first that has targets is the headline
UNSEEN = (Cell.UNSEEN_GROUPS, Cell.UNSEEN_BOTH)  # groups that do not
PREFIXES = {
    Cell.KNOWN: "known questions/",
    Cell.UNSEEN_QUESTIONS: "",
    Cell.UNSEEN_GROUPS: "unseen groups/",
    Cell.UNSEEN_BOTH: "unseen groups, unseen questions/",
}


def prepare_plural(config: Config, folder: Path, progress: Progress) -> PluralRun:
    """Read and check the survey, make the public initial predictor; raises ConfigError or DataError in one line."""
    _check_truly_public(config, folder)
    holdings = load_holdings(config)
    for note in holdings.notes:  # they count rows
        progress.note(note if config.data.public else f"{note} ({LOCAL})")
    task = PluralLLM(config, choose_method(config), holdings, folder / "personal")
    return PluralRun(task, task.shared_vector())


def _check_truly_public(config: Config, folder: Path) -> None:
    """A group that has a ledger was private once: training on it without noise would hide what it spent."""
    root = ledger_root(config, folder)
    for group in config.survey.pretrain:
        if not config.data.public and ledger_path(root, config.data.id, group).exists():
            raise ConfigError(
                f"survey.pretrain: {group!r} has a ledger of {config.data.id}; its answers are not public"
            )


@dataclass(frozen=True)
class PluralRun:
    """`fedpdpo_secure.tasks.PreparedTask` for groups and a preference predictor."""

    task: PluralLLM
    initial: NDArray[np.float64]

    @property
    def owners(self) -> GroupOwners:
        return GroupOwners(self.task.holdings)

    @property
    def clients(self) -> tuple[Client, ...]:
        holdings = self.task.holdings
        if self.task.method.pooled:
            return (Client(POOLED, 0, np.concatenate([holdings.questions(group) for group in holdings.names])),)
        return tuple(Client(group, index, holdings.questions(group)) for index, group in enumerate(holdings.names))

    @property
    def device(self) -> str:
        return str(next(self.task.predictor.parameters()).device)

    def keep_base(self, folder: Path) -> str:
        """Nothing: the predictor's folder holds all of it."""
        return ""

    def measure_round(self, outcome: RoundOutcome) -> tuple[Mapping[str, float], Mapping[str, float]]:
        """Scores of unseen groups are released where the data is public; all others are the groups' own, local."""
        config, round_index = self.task.config, outcome.state.round_index
        released = {} if outcome.loss is None else {"loss": outcome.loss}
        if round_index % config.evaluation.every and round_index != config.federation.rounds:
            return released, outcome.local
        if not self.task.method.aggregated and not self.task.method.pooled:
            return released, {**outcome.local, **self._own()}
        scores = self.task.scores(outcome.state.shared, (*TRAINED, *UNSEEN))
        named, unseen = named_scores(scores, TRAINED), named_scores(scores, UNSEEN)
        if config.data.public:
            return {**released, **unseen}, {**outcome.local, **named}
        return released, {**outcome.local, **named, **unseen}

    def save_shared(self, folder: Path, state: GlobalState, *, base: str, claim: str) -> Path:
        self.task.set_shared(state.shared)
        predictor = self.task.predictor
        return save_predictor(folder / FOLDER, predictor, lora_r=adapter_rank(predictor), claim=claim)

    def final(self, state: GlobalState, progress: Progress) -> FinalMeasures:
        """The predictor's scores in every cell, the untrained one's, and the baselines'."""
        cells = (*TRAINED, *UNSEEN)
        if not self.task.method.aggregated and not self.task.method.pooled:
            shared = self._own()
        else:
            shared = named_scores(self.task.scores(state.shared, cells), cells)
        baselines: dict[str, float] = {}
        for cell in cells:
            for name, found in evaluate_baselines(self.task.holdings, cell, self.task.evaluation()).items():
                baselines |= found.named(f"{PREFIXES[cell]}{name}: ")
        untrained = named_scores(self.task.scores(self.initial, cells), cells)
        return FinalMeasures(
            served=shared,
            shared={},
            untrained={**untrained, **baselines},
            released={},
            served_as=_served_as(self.task.method),
        )

    def _own(self) -> dict[str, float]:
        """Each group measured by the predictor it trained alone."""
        return self.task.own_scores(self.clients, TRAINED)


@dataclass(frozen=True)
class GroupOwners:
    """Every group holds its own answers: who owns a unit follows from the data alone."""

    holdings: Holdings

    @property
    def clients(self) -> tuple[str, ...]:
        return self.holdings.names

    def rows(self) -> Iterator[tuple[str, bytes]]:
        """(group, question with options and answer, six digits) of every question that trains. Private."""
        survey = self.holdings.survey
        for group in self.holdings.names:
            for index in self.holdings.questions(group).tolist():
                question = survey.questions[index]
                answer = [f"{value:.6f}" for value in survey.answers[group][index]]
                yield group, json.dumps([question.text, question.options, answer]).encode()


def _served_as(method: Method) -> str:
    if method.pooled:
        return "pooled predictor"
    return "shared predictor" if method.aggregated else "own predictors"


def named_scores(scores: Mapping[Cell, CellScores], cells: tuple[Cell, ...]) -> dict[str, float]:
    """Metrics by name of the given cells that were scored."""
    found: dict[str, float] = {}
    for cell in cells:
        if cell in scores:
            found |= scores[cell].named(PREFIXES[cell])
    return found
