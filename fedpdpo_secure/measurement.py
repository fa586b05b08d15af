"""What is measured of a federation: the adapter on public pairs (released), and clients' own held-out pairs (local)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from fedpdpo_secure.checkpoint import GlobalState
from fedpdpo_secure.evaluate import mean_over_clients
from fedpdpo_secure.prepare import PUBLIC, Prepared
from fedpdpo_secure.round import RoundOutcome

RELEASED = ("accuracy_implicit", "rewards/margins")


def measure_round(prepared: Prepared, outcome: RoundOutcome) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """(released, local) metrics after a round; the costly part every `evaluation.every` rounds and after the last."""
    config, round_index = prepared.task.config, outcome.state.round_index
    released = {} if outcome.loss is None else {"loss": outcome.loss}
    if round_index % config.evaluation.every and round_index != config.federation.rounds:
        return released, outcome.local
    personal, both = keeps_own_parts(prepared), config.evaluation.split == "both"
    local = client_metrics(prepared, outcome.state, "test" if both else config.evaluation.split, personal=personal)
    if both:
        validation = client_metrics(prepared, outcome.state, "validation", personal=personal)
        local |= {f"validation/{name}": value for name, value in validation.items()}
    return {**public_metrics(prepared, outcome.state), **released}, {**outcome.local, **local}


def keeps_own_parts(prepared: Prepared) -> bool:
    """Whether the model a client uses during the federation is more than the shared adapter."""
    method = prepared.task.method
    return not method.pooled and (prepared.task.in_loop() or not method.aggregated)


def public_metrics(prepared: Prepared, state: GlobalState) -> dict[str, float]:
    """The server's evaluation of the shared adapter on the public split; empty where there is neither."""
    store, method = prepared.store(PUBLIC, "public"), prepared.task.method
    if len(store) == 0 or not (method.aggregated or method.pooled):
        return {}
    values = prepared.task.evaluate(state.shared, None, state.round_index, store).named()
    return {name: values[name] for name in RELEASED}


def client_metrics(prepared: Prepared, state: GlobalState, split: str, *, personal: bool) -> dict[str, float]:
    """Means over clients of their own split, with or without their personal state. A simulation's view."""
    rows = []
    for client in prepared.federation.clients:
        store = prepared.store(client, split)
        owner = client if personal else None
        rows.append(prepared.task.evaluate(state.shared, owner, state.round_index, store).named())
    return with_worst(rows)


def with_worst(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over clients, and the worst client's accuracy by the method's own score."""
    worst = [row["accuracy_combined"] for row in rows if not math.isnan(row["accuracy_combined"])]
    return {**mean_over_clients(rows), "worst_accuracy": min(worst) if worst else math.nan}
