"""One round, as data: plan, reserve, train, sum, apply, commit. Straight-line code; DESIGN's table in eleven lines.

Plain and secure aggregation differ in one object. Nothing per client reaches the server in the clear.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedpdpo_secure.aggregate import Aggregation, open_aggregation, scheduled_drops
from fedpdpo_secure.budget import ClientLedgers
from fedpdpo_secure.checkpoint import GlobalState
from fedpdpo_secure.config import Config
from fedpdpo_secure.config.units import step_rate
from fedpdpo_secure.evaluate import mean_over_clients
from fedpdpo_secure.local.plan import LocalPlan, LocalUpdate
from fedpdpo_secure.task import Client
from fedpdpo_secure.tasks import Task
from fedpdpo_secure.vector import MeanUpdate, ShareVectorPlan, VectorPlan
from privacy.distributed import SharePlan
from privacy.entropy import Entropy
from privacy.events import Event, NonPrivate
from privacy.ledger import Reservation
from secagg import FixedPoint, RoundSum, Stage

ClientDone = Callable[[int, int, str], None]


class EventMismatch(RuntimeError):
    """The noise that was added is not the noise that was charged: a fault in this program, the run stops."""


@dataclass(frozen=True)
class RoundOutcome:
    """What a round leaves behind."""

    state: GlobalState
    total: RoundSum | None  # None where nothing is summed (`local`, `centralized`)
    loss: float | None  # released with the sum, never in a private run
    local: dict[str, float]  # means over clients of what stays with them
    clipped: int  # coordinates beyond the encoding's range, over all clients
    seconds: float
    released: dict[str, float] = field(default_factory=dict)  # read off the sum itself


def run_round(
    task: Task,
    state: GlobalState,
    clients: Sequence[Client],
    plan: LocalPlan,
    ledgers: ClientLedgers | None,
    *,
    planned_event: Event | None,
    entropy: Entropy,
    done: ClientDone,
    transcripts: Path | None,
) -> RoundOutcome:
    """Round `plan.round_index` from `state`; with `transcripts`, a folder, secure aggregation leaves its record there.

    Raises privacy.ledger.BudgetExceeded before anything is trained, NonFiniteError naming client, round and step, and
    secagg.SecAggError when too few clients survive; in the last two cases what was reserved stays charged.
    """
    started = time.perf_counter()
    config, round_index = task.config, plan.round_index
    drops = scheduled_drops(config, round_index)
    online = [
        index
        for index in range(config.federation.clients)
        if task.method.pooled or drops.get(index) is not Stage.BEFORE_KEYS  # whoever pools pairs has them all
    ]
    reservations = ledgers.reserve(round_index, online) if ledgers is not None else {}
    if not task.method.aggregated:
        outcome, event = _alone(task, state, clients, plan, entropy, done, started, planned_event)
        _commit(ledgers, reservations, dict.fromkeys(reservations, event), planned_event)
        return outcome

    vectors = vector_plan(config, task, round_index, clients, plan.shares)
    aggregation = open_aggregation(config, round_index, vectors.dim, state.shared, transcripts)
    locals_, clipped = _train_and_submit(task, state, clients, plan, vectors, aggregation, entropy, done, planned_event)
    total = aggregation.finish()
    mean = vectors.decode(total.vector, len(total.survivors))
    velocity, lora = apply_mean(task, state, round_index, mean)
    _commit(ledgers, reservations, {index: local.event for index, local in locals_.items()}, planned_event)
    return RoundOutcome(
        GlobalState(round_index, lora, velocity),
        total,
        mean.loss,
        _local_means(list(locals_.values())),
        clipped,
        time.perf_counter() - started,
        _noise_present(mean, plan.shares),
    )


def _noise_present(mean: MeanUpdate, shares: SharePlan | None) -> dict[str, float]:
    """Noise on the null coordinates of the sum over the noise that is charged: information, at least about 1."""
    if shares is None or mean.nulls is None or not mean.nulls.size:
        return {}
    charged = shares.event().variance
    return {"noise_over_charge": float(np.sqrt(np.mean(mean.nulls.astype(np.float64) ** 2) / charged))}


def _commit(
    ledgers: ClientLedgers | None,
    reservations: Mapping[int, Reservation],
    events: Mapping[int, Event | None],
    planned_event: Event | None,
) -> None:
    """Record what each client did; one that dropped out before its vector stays reserved, which is charged the same."""
    if ledgers is None or planned_event is None:
        return
    for index, event in events.items():
        ledgers.commit(reservations[index], index, event or planned_event)


def vector_plan(
    config: Config, task: Task, round_index: int, clients: Sequence[Client], shares: SharePlan | None = None
) -> VectorPlan | ShareVectorPlan:
    """The vector of a round. Without DP an undeclared size makes the largest client's count a public value."""
    if shares is not None:
        return ShareVectorPlan(shares, config.privacy.expected_batch or 1.0, step_rate(config))
    encoding = FixedPoint(
        bits=config.secagg.bits, value_range=config.secagg.value_range, max_clients=config.federation.clients
    )
    return VectorPlan(
        task.layout(round_index).size, config.privacy.unit == "none", task.weight_bound(clients), encoding
    )


def apply_mean(
    task: Task, state: GlobalState, round_index: int, mean: MeanUpdate
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64]]:
    """(velocity, the next shared adapter): post-processing of the sum, with heavy-ball momentum where configured."""
    federation = task.config.federation
    if not federation.server_momentum:
        step = federation.server_learning_rate * mean.update
        return None, task.with_update(state.shared, round_index, step)
    velocity = mean.update if state.velocity is None else federation.server_momentum * state.velocity + mean.update
    return velocity, task.with_update(state.shared, round_index, federation.server_learning_rate * velocity)


def _train_and_submit(
    task: Task,
    state: GlobalState,
    clients: Sequence[Client],
    plan: LocalPlan,
    vectors: VectorPlan | ShareVectorPlan,
    aggregation: Aggregation,
    entropy: Entropy,
    done: ClientDone,
    planned_event: Event | None,
) -> tuple[dict[int, LocalUpdate], int]:
    """Every awaited client trains, encodes and submits; its update is dropped before the next one starts.

    Raises EventMismatch before a vector leaves whose noise is not what was charged.
    """
    kept: dict[int, LocalUpdate] = {}
    clipped = 0
    awaited = aggregation.open()
    for count, index in enumerate(awaited, start=1):
        client = clients[index]
        local = task.train_locally(state.shared, client, plan, entropy.child("client", index, plan.round_index))
        _check_event(local, planned_event, f"client {client.name}, round {plan.round_index}")
        rounding = np.random.default_rng([plan.seed, 0x50, index, plan.round_index])
        vector, beyond = vectors.encode(local, rounding)
        aggregation.submit(index, vector)
        clipped += beyond
        kept[index] = replace(local, update=np.zeros(0), integers=None)
        done(count, len(awaited), client.name)
    return kept, clipped


def _alone(
    task: Task,
    state: GlobalState,
    clients: Sequence[Client],
    plan: LocalPlan,
    entropy: Entropy,
    done: ClientDone,
    started: float,
    planned_event: Event | None,
) -> tuple[RoundOutcome, Event | None]:
    """A round without a sum: `local` clients keep their adapters, the pooled one is the shared adapter itself.

    Raises EventMismatch before anything is kept whose noise is not what was charged. The pooled loss is released with
    the adapter, never in a private run.
    """
    locals_, lora = [], state.shared
    for count, client in enumerate(clients, start=1):
        local = task.train_locally(lora, client, plan, entropy.child("client", client.index, plan.round_index))
        _check_event(local, planned_event, f"{client.name}, round {plan.round_index}")
        if task.method.pooled:
            lora = task.with_update(lora, plan.round_index, local.update)
        locals_.append(local)
        done(count, len(clients), client.name)
    released = task.method.pooled and task.config.privacy.unit == "none"
    loss = float(np.mean([local.loss for local in locals_])) if released else None
    seconds = time.perf_counter() - started
    outcome = RoundOutcome(GlobalState(plan.round_index, lora), None, loss, _local_means(locals_), 0, seconds)
    return outcome, locals_[0].event if task.method.pooled else None


def _check_event(local: LocalUpdate, planned: Event | None, where: str) -> None:
    if planned is not None and not isinstance(planned, NonPrivate) and local.event != planned:
        raise EventMismatch(f"{where}: charged {planned}, trained {local.event}; nothing was sent")


def _local_means(locals_: Sequence[LocalUpdate]) -> dict[str, float]:
    return mean_over_clients([{"train_loss": local.loss, **local.local} for local in locals_])
