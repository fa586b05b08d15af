"""Distributed noise of a configured run: the plan of its shares, calibrated to the budget, and the ring it needs."""

from __future__ import annotations

import math

from fedpdpo_secure.config import Config, ConfigError
from privacy.calibration import integer_variance
from privacy.discrete import distance_log2, fits_ring, least_total_variance, norm_bound_squared
from privacy.distributed import BETA, SharePlan


def distributed(config: Config) -> bool:
    """Whether the noise of this run is added in shares."""
    return config.privacy.unit != "none" and config.privacy.noise == "distributed"


def plan_shares(config: Config, dim: int) -> SharePlan:
    """The shares of every round for a vector of `dim` coordinates.

    Raises ConfigError where no variance reaches the budget, a share would be too narrow to add up exactly (standard
    deviation below 4), or the sum would wrap in the ring with a chance above 2^-40 a round.
    """
    privacy, federation = config.privacy, config.federation
    assert privacy.lost is not None  # resolved with the configuration
    rate = privacy.sample_rate if privacy.unit == "pair" else 1.0
    norm_squared = norm_bound_squared(float(privacy.levels), dim, BETA)
    size = dim + privacy.null_coordinates
    try:
        if privacy.noise_multiplier is not None:
            variance = least_total_variance(privacy.noise_multiplier, norm_squared)
        else:
            assert privacy.epsilon is not None
            variance = integer_variance(
                epsilon=privacy.epsilon,
                delta=privacy.delta,
                sample_rate=rate,
                steps=federation.rounds,
                norm_squared=norm_squared,
                distance_log2=distance_log2(draws=federation.rounds * federation.clients * size),
            )
        plan = SharePlan(
            unit="pair" if privacy.unit == "pair" else "client",
            clip_norm=privacy.clip_norm,
            levels=privacy.levels,
            dim=dim,
            nulls=privacy.null_coordinates,
            total_variance=variance,
            clients=federation.clients,
            lost=privacy.lost,
            colluding=privacy.colluding,
            sample_rate=rate,
        )
    except ValueError as error:
        raise ConfigError(f"privacy: no distributed noise for this budget: {error}") from error
    _check_ring(config, plan)
    return plan


def _check_ring(config: Config, plan: SharePlan) -> None:
    """A client's coordinate is at most its units times the norm of one: the declared number of pairs, or one."""
    units = (config.data.pairs_per_client or 1) if plan.unit == "pair" else 1
    norm = units * math.isqrt(plan.norm_squared) + 1
    if not fits_ring(config.secagg.bits, clients=plan.clients, norm=norm, share=plan.share):
        raise ConfigError(
            f"secagg.bits: {config.secagg.bits} bits are too few for {plan.clients} clients of {units} units at "
            f"privacy.levels = {plan.levels}; use 32 bits, or fewer levels"
        )
