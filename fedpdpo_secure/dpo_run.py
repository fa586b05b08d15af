"""FedPDPO, prepared: how a run of it is measured, kept and finished."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedpdpo_secure.artefacts import keep_base, save_adapter
from fedpdpo_secure.checkpoint import GlobalState
from fedpdpo_secure.data.pairs import Federation
from fedpdpo_secure.local.plan import local_plan
from fedpdpo_secure.measurement import client_metrics, keeps_own_parts, measure_round, public_metrics, with_worst
from fedpdpo_secure.prepare import BUILTIN_MODEL, Prepared
from fedpdpo_secure.progress import Progress
from fedpdpo_secure.round import RoundOutcome
from fedpdpo_secure.serving import evaluate_serving, fit_serving, wants_serving
from fedpdpo_secure.task import Client, FedPDPO
from fedpdpo_secure.tasks import FinalMeasures

HELDOUT = "heldout"


@dataclass(frozen=True)
class DpoRun:
    """`fedpdpo_secure.tasks.PreparedTask` for preference pairs and a language model."""

    prepared: Prepared

    @property
    def task(self) -> FedPDPO:
        return self.prepared.task

    @property
    def owners(self) -> Federation:
        return self.prepared.federation

    @property
    def clients(self) -> tuple[Client, ...]:
        return self.prepared.clients

    @property
    def initial(self) -> NDArray[np.float64]:
        return self.prepared.initial

    @property
    def device(self) -> str:
        return str(self.task.backbone.device)

    def keep_base(self, folder: Path) -> str:
        base = self.prepared.base_path
        return keep_base(folder, base) if self.task.config.model_name_or_path == BUILTIN_MODEL else base

    def measure_round(self, outcome: RoundOutcome) -> tuple[Mapping[str, float], Mapping[str, float]]:
        return measure_round(self.prepared, outcome)

    def save_shared(self, folder: Path, state: GlobalState, *, base: str, claim: str) -> Path:
        return save_adapter(folder, self.task, state, base=base, claim=claim)

    def final(self, state: GlobalState, progress: Progress) -> FinalMeasures:
        """Fit serving copies where asked; measure what clients serve and the shared adapter alone."""
        prepared, method, config = self.prepared, self.task.method, self.task.config
        split = config.evaluation.final_split
        if wants_serving(config) and not method.pooled:
            served = _serve(prepared, state, split, progress)
        else:
            personal = keeps_own_parts(prepared)
            served = {name: client_metrics(prepared, state, name, personal=personal) for name in _splits(split)}
        others = {f"{name}/{key}": value for name in served if name != split for key, value in served[name].items()}
        return FinalMeasures(
            served={**served[split], **others},
            shared=client_metrics(prepared, state, split, personal=False) if method.aggregated else {},
            untrained=client_metrics(prepared, GlobalState(0, prepared.initial), split, personal=False),
            released=public_metrics(prepared, state),
            served_as="pooled adapter" if method.pooled else "serving copy",
        )


def _splits(final: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((final, "validation", HELDOUT)))


def _serve(prepared: Prepared, state: GlobalState, split: str, progress: Progress) -> dict[str, dict[str, float]]:
    """Fit and measure every client's serving copy: metrics by split."""
    plan = local_plan(prepared.task.config, max(state.round_index, 1), 0.0)
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in _splits(split)}
    for done, client in enumerate(prepared.clients, start=1):
        fit_serving(prepared.task, state.shared, client, plan)
        for name, found in rows.items():
            found.append(evaluate_serving(prepared.task, client.name, prepared.store(client.name, name)).named())
        progress.serving(done, len(prepared.clients))
    return {name: with_worst(found) for name, found in rows.items()}
