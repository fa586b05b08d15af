"""Attestation of noise in shares: real shares of every client, through the real aggregation, without any signal.

What is tested is the decoded sum, the only thing that leaves a round: that it carries as many shares as there were
survivors, each of the planned variance, each drawn afresh. No data and no model takes part.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedpdpo_secure.aggregate import open_aggregation
from fedpdpo_secure.budget import plan_budget
from fedpdpo_secure.config import Config, ConfigError
from fedpdpo_secure.shares import distributed
from privacy.audit.noise import NoiseReport, attest_noise, coordinates_needed, noise_result
from privacy.audit.result import AuditResult
from privacy.distributed import SharePlan, noise_share
from privacy.entropy import Entropy

Share = Callable[[SharePlan, Entropy, int, int], NDArray[np.int64]]  # plan, entropy, client, round -> int64[plan.size]
_FEWEST, _MOST = 2_000, 50_000
ROUNDS = 4  # rounds of an attestation at most: reuse needs two, the scale any number


@dataclass(frozen=True, slots=True, eq=False)
class NullSums:
    """Decoded sums of noise alone, in grid units, and how many clients each is said to hold the share of."""

    sums: NDArray[np.int64]  # [rounds, coordinates]
    survivors: tuple[int, ...]
    plan: SharePlan

    def residuals(self) -> NDArray[np.float64]:
        """The sums in standard deviations of what the survivors' shares add up to, float64[rounds, coordinates]."""
        present = np.sqrt(np.array(self.survivors, dtype=np.float64) * self.plan.share)
        return np.asarray(self.sums / present[:, None])


def honest_share(plan: SharePlan, entropy: Entropy, client: int, round_index: int) -> NDArray[np.int64]:
    """The share that a client of a run adds: a fresh one, whoever and whenever it is."""
    return noise_share(plan, entropy.child("client", client, round_index))


def attest_shares(
    config: Config,
    dim: int,
    *,
    coordinates: int,
    confidence: float,
    entropy: Entropy,
    share: Share = honest_share,
) -> tuple[AuditResult, NoiseReport]:
    """Sum the shares of some rounds of `config`, whose update has `dim` coordinates, and attest them.

    `coordinates` null coordinates a round are looked at. Scheduled drop-outs happen. `share` stands for the clients.
    Raises ConfigError where no noise is shared, SecAggError as a round does.
    """
    if not distributed(config):
        raise ConfigError(
            f"privacy.noise: the attestation is of noise in shares, not of {config.privacy.noise} noise with unit "
            f"{config.privacy.unit}; --attack dirac measures local noise"
        )
    budget = plan_budget(config, dim)
    assert budget.shares is not None  # distributed noise
    rounds = max(2, min(ROUNDS, config.federation.rounds))
    seen = sum_shares(config, replace(budget.shares, nulls=coordinates), rounds, entropy=entropy, share=share)
    report = attest_noise(seen.residuals(), deviation=1.0, confidence=confidence)
    result = noise_result(
        report,
        events=[budget.shares.event()] * config.federation.rounds,
        delta=budget.delta,
        least_share=(1.0 - 1.0 / min(seen.survivors)) ** 0.5,
    )
    return replace(result, details={**result.details, **_against_charge(seen, report)}), report


def sum_shares(config: Config, plan: SharePlan, rounds: int, *, entropy: Entropy, share: Share) -> NullSums:
    """Shares of every awaited client through the configured aggregation, secure or plain."""
    sums, survivors = [], []
    adapter = np.zeros(1)  # what a round is bound to; nothing is broadcast here
    for at in range(rounds):
        # Rounds beyond the configured ones repeat the drop-outs of the last.
        round_index = min(at + 1, config.federation.rounds)
        aggregation = open_aggregation(config, round_index, plan.size, adapter)
        for client in aggregation.open():
            aggregation.submit(client, share(plan, entropy, client, at + 1))
        total = aggregation.finish()
        sums.append(total.vector[plan.dim :])
        survivors.append(len(total.survivors))
    return NullSums(np.stack(sums), tuple(survivors), plan)


def coordinates_for(clients: int, confidence: float) -> int:
    """Null coordinates a round that find, with chance about 90 %, one of `clients` shares missing from two rounds, or
    the share of one client used in two rounds; at most 50,000."""
    missing = coordinates_needed((1.0 - 1.0 / clients) ** 0.5, 1.0 - (1.0 - confidence) / 10) // 2
    reused = math.ceil(((6.0 if confidence > 0.99 else 5.0) * clients) ** 2)  # a correlation of 1 / clients
    return min(_MOST, max(_FEWEST, missing, reused))


def _against_charge(seen: NullSums, report: NoiseReport) -> dict[str, float]:
    """The least sum's deviation as it was measured over what the claim charges, colluders' shares taken off."""
    plan, survivors = seen.plan, min(seen.survivors)
    known = plan.colluding / survivors  # of the shares present, those of clients that may help the adversary
    charged = plan.event().variance / (survivors * plan.share)
    return {
        "survivors": float(survivors),
        "measured_over_charged": max(0.0, report.measured**2 - known) ** 0.5 / charged**0.5,
    }
