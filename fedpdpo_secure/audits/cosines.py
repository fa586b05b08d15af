"""An estimate of epsilon from canary clients: random directions in the rounded, noised sums of a shadow federation.

Andrew et al., "One-shot empirical privacy estimation for federated learning", ICLR 2024. Canary clients, each with a
random unit vector times the clip norm as its update in every round, join the configured clients, who really train. The
released difference of all rounds points a little towards each canary; how much, against the law of a direction that was
not there, is turned into an epsilon. An estimate has no guarantee and refutes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedpdpo_secure.audits.shadow import shadow
from fedpdpo_secure.budget import plan_budget
from fedpdpo_secure.checkpoint import GlobalState
from fedpdpo_secure.config import Config, ConfigError
from fedpdpo_secure.local.plan import local_plan
from fedpdpo_secure.prepare import Prepared
from fedpdpo_secure.round import apply_mean
from fedpdpo_secure.shares import distributed
from fedpdpo_secure.vector import MeanUpdate
from privacy.accounting import epsilon
from privacy.audit.cosines import cosine_estimate, cosine_result
from privacy.audit.result import AuditResult
from privacy.distributed import SharePlan, noised_unit
from privacy.entropy import Entropy
from privacy.events import Event

Note = Callable[[str], None]
RESAMPLES = 200  # of the bootstrap interval
_LARGEST = 2**27  # numbers in one array of directions: 1 GiB


@dataclass(frozen=True, slots=True, eq=False)
class Released:
    """What a shadow federation released, and what each canary's client was charged."""

    sums: NDArray[np.float64]  # [rounds, dim], decoded, in clip norms
    events: tuple[Event, ...]  # of one canary, one a round


def audit_cosines(
    config: Config,
    *,
    canaries: int,
    confidence: float,
    entropy: Entropy,
    rng: np.random.Generator,
    note: Note,
) -> AuditResult:
    """Run a shadow federation of the configured clients and `canaries` more, and estimate epsilon of one of them.

    `rng` makes the directions and the bootstrap; it is public. Raises ConfigError unless the unit is a client.
    """
    if config.privacy.unit != "client" or not distributed(config):
        raise ConfigError(
            f"privacy.unit: cosines are of canary clients; the unit must be client, not {config.privacy.unit}"
        )
    with shadow(config) as copy:
        dim = copy.prepared.task.layout(1).size
        if canaries * dim > _LARGEST:
            raise ConfigError(
                f"--canaries: {canaries} directions of {dim} coordinates do not fit; at most {_LARGEST // dim}"
            )
        shares = plan_budget(config, dim).shares
        assert shares is not None  # distributed noise
        plan = with_canaries(shares, canaries)
        directions = unit_vectors(canaries, dim, rng)
        note(f"{canaries} canary clients join {config.federation.clients} for {config.federation.rounds} rounds")
        released = run_federation(copy.prepared, plan, directions, entropy=entropy)
    return judge_cosines(released, directions, delta=config.privacy.delta, confidence=confidence, rng=rng)


def with_canaries(plan: SharePlan, canaries: int) -> SharePlan:
    """The same total noise in shares of more clients. Raises ConfigError where a share would be too narrow."""
    try:
        return replace(plan, clients=plan.clients + canaries, nulls=0)
    except ValueError as error:
        raise ConfigError(f"--canaries: {canaries} more clients make shares too narrow: {error}") from error


def unit_vectors(count: int, dim: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """float64[count, dim], uniform on the sphere."""
    drawn = rng.standard_normal((count, dim))
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


def run_federation(
    prepared: Prepared, plan: SharePlan, directions: NDArray[np.float64], *, entropy: Entropy
) -> Released:
    """All rounds of the configuration with nobody dropping out, summed in plain integers: masks change no sum."""
    task, config = prepared.task, prepared.task.config
    state = GlobalState(0, prepared.initial)
    sums, events = [], []
    for round_index in range(1, config.federation.rounds + 1):
        total, event = canary_sum(plan, directions, entropy.child("canaries", round_index))
        local = local_plan(config, round_index, 0.0, plan)
        for client in prepared.clients:
            update = task.train_locally(state.shared, client, local, entropy.child("client", client.index, round_index))
            assert update.integers is not None  # distributed noise
            total += update.integers
        sums.append(total * (plan.grid / plan.clip_norm))
        events.append(event)
        mean = MeanUpdate(total * plan.grid / plan.clients, None)
        velocity, lora = apply_mean(task, state, round_index, mean)
        state = GlobalState(round_index, lora, velocity)
    return Released(np.stack(sums), tuple(events))


def canary_sum(plan: SharePlan, directions: NDArray[np.float64], entropy: Entropy) -> tuple[NDArray[np.int64], Event]:
    """(int64[dim], the event of one): every canary's clipped, rounded direction with its share of noise."""
    total = np.zeros(plan.size, np.int64)
    event: Event | None = None
    for at, direction in enumerate(directions):
        # A little beyond the bound, so that it is clipped to the bound itself.
        vector, event = noised_unit(direction * (1.01 * plan.clip_norm), plan, entropy.child(at))
        total += vector
    assert event is not None  # there is a canary
    return total, event


def judge_cosines(
    released: Released,
    directions: NDArray[np.float64],
    *,
    delta: float,
    confidence: float,
    rng: np.random.Generator,
) -> AuditResult:
    """Cosines with the difference that all rounds made together, and both estimates with bootstrap intervals."""
    difference = released.sums.sum(axis=0)
    canaries, dim = directions.shape
    estimate = cosine_estimate(
        directions @ difference / np.linalg.norm(difference),
        dimension=dim,
        delta=delta,
        confidence=confidence,
        resamples=RESAMPLES,
        rng=rng,
    )
    result = cosine_result(estimate, delta=delta, confidence=confidence, claim=epsilon(released.events, delta).epsilon)
    details = {**result.details, "canaries": canaries, "dimension": dim, "rounds": len(released.sums)}
    return replace(result, details=details)
