"""Integer noise of a configured run, calibrated to the budget: shares and the ring they need, or each local step's."""

from __future__ import annotations

import math

from fedpdpo_secure.config import Config, ConfigError
from fedpdpo_secure.config.units import most_rows, moves, sampled, step_rate
from privacy.calibration import integer_variance
from privacy.discrete import distance_log2, fits_ring, least_total_variance, norm_bound_squared
from privacy.distributed import BETA, SharePlan
from privacy.integer_sgd import IntegerStepPlan


def distributed(config: Config) -> bool:
    """Whether the noise of this run is added in shares."""
    return config.privacy.unit != "none" and config.privacy.noise == "distributed"


def integer_locally(config: Config) -> bool:
    """Whether each client rounds and adds all its noise in integers, in every local step."""
    privacy = config.privacy
    return sampled(config) and privacy.noise == "local" and privacy.arithmetic == "integer"


def plan_integer_steps(config: Config, dim: int) -> IntegerStepPlan:
    """Every local step in integers, of at most `dim` trained coordinates, personal parts under noise included.

    Raises ConfigError where no variance reaches the budget.
    """
    privacy, federation = config.privacy, config.federation
    assert federation.local_steps is not None  # refused with the configuration
    assert privacy.expected_batch is not None and privacy.unit not in (None, "none")
    steps = federation.rounds * federation.local_steps
    try:
        norm_squared = moves(config) ** 2 * norm_bound_squared(float(privacy.levels), dim, BETA)
        return IntegerStepPlan(
            clip_norm=privacy.clip_norm,
            levels=privacy.levels,
            dim=dim,
            variance=_variance(config, privacy.sample_rate, steps, norm_squared=norm_squared, draws=steps * dim),
            sample_rate=privacy.sample_rate,
            expected_batch=privacy.expected_batch,
            learning_rate=step_rate(config),
            moves=moves(config),
            unit=privacy.unit,
        )
    except ValueError as error:
        raise ConfigError(f"privacy.epsilon: no integer noise for this budget: {error}") from error


def plan_shares(config: Config, dim: int) -> SharePlan:
    """The shares of every round for a vector of `dim` coordinates.

    Raises ConfigError where no variance reaches the budget, a share would be too narrow to add up exactly (standard
    deviation below 4), or the sum would wrap in the ring with a chance above 2^-40 a round.
    """
    privacy, federation = config.privacy, config.federation
    assert privacy.lost is not None and privacy.unit not in (None, "none")  # resolved with the configuration
    rate = privacy.sample_rate if sampled(config) else 1.0
    norm_squared = moves(config) ** 2 * norm_bound_squared(float(privacy.levels), dim, BETA)
    size = dim + privacy.null_coordinates
    try:
        draws = federation.rounds * federation.clients * size
        variance = _variance(config, rate, federation.rounds, norm_squared=norm_squared, draws=draws)
        plan = SharePlan(
            unit=privacy.unit,
            moves=moves(config),
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


def _variance(config: Config, sample_rate: float, steps: int, *, norm_squared: int, draws: int) -> int:
    """The variance that the given noise multiplier or the budget asks for, over all steps of the run."""
    privacy = config.privacy
    if privacy.noise_multiplier is not None:
        return least_total_variance(privacy.noise_multiplier, norm_squared)
    assert privacy.epsilon is not None  # one of the two is given
    return integer_variance(
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        sample_rate=sample_rate,
        steps=steps,
        norm_squared=norm_squared,
        distance_log2=distance_log2(draws=draws),
    )


def _check_ring(config: Config, plan: SharePlan) -> None:
    """A client's coordinate is at most its rows times the norm of one: declared pairs, episodes of a step, or one."""
    rows = most_rows(config)
    norm = rows * math.isqrt(plan.row_squared) + 1
    if not fits_ring(config.secagg.bits, clients=plan.clients, norm=norm, share=plan.share):
        raise ConfigError(
            f"secagg.bits: {config.secagg.bits} bits are too few for {plan.clients} clients of {rows} gradients at "
            f"privacy.levels = {plan.levels}; use 32 bits, or fewer levels"
        )
