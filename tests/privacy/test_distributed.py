"""Noise in shares: what one unit can move, what the sum carries, and what a client alone is left with."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from privacy.accounting import epsilon
from privacy.distributed import SharePlan, noise_share, noised_unit
from privacy.entropy import Entropy
from privacy.errors import PrivacyError, StructureError
from privacy.events import NonPrivate
from privacy.integer_step import PairIntegerStep
from privacy.views import views

DIM, PAIRS = 24, 40


def make_plan(**change: object) -> SharePlan:
    plan = SharePlan(
        unit="pair", clip_norm=0.5, levels=4096, dim=DIM, nulls=2000, total_variance=10**7, clients=6, lost=1,
        colluding=1, sample_rate=0.5,
    )  # fmt: skip
    return replace(plan, **change)  # type: ignore[arg-type]


class Linear(nn.Module):
    """One trained layer; the gradient of a pair's loss is a fixed vector of that pair."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(DIM, 1, bias=False)

    def forward(self, rows: Tensor) -> Tensor:
        return self.layer(rows).squeeze(1)


def gradients(seed: int = 0, scale: float = 2.0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(PAIRS, DIM)) * scale).float()


def step_on(rows: Tensor, plan: SharePlan, entropy: Entropy, physical: int = 7):
    model = Linear()
    with PairIntegerStep(model, [("layer.weight", model.layer.weight)], plan, entropy) as step:
        chosen = torch.from_numpy(step.sample(len(rows)))
        return step.sum(rows[chosen].split(physical) if len(chosen) else [], model)


def test_a_share_is_what_the_least_number_of_honest_survivors_needs() -> None:
    plan = make_plan()
    assert 4 * plan.share >= plan.total_variance > 4 * (plan.share - 1)
    event = plan.event()
    assert (event.variance, event.own_variance, event.colluding_variance) == (4 * plan.share, plan.share, plan.share)
    assert event.norm_squared >= plan.levels**2
    assert event.distance_log2 < -90


def test_the_sum_of_survivors_carries_at_least_the_charged_noise_and_one_missing_share_too_many_does_not() -> None:
    plan = make_plan(colluding=0)
    shares = [noise_share(plan, Entropy.seeded(client)) for client in range(plan.clients)]
    charged = plan.event().variance
    for left, enough in ((5, True), (6, True), (3, False)):
        total = np.sum(shares[:left], axis=0)
        # The variance of `left` shares by chi-square; the test must also see that 3 of 6 are too few.
        statistic = float((total.astype(float) ** 2).sum()) / charged
        assert (stats.chi2.cdf(statistic, plan.size) > 1e-4) == enough


def test_one_pair_more_moves_the_integer_sum_by_at_most_the_charged_norm() -> None:
    """Neighbours under the same coins: samples, rounding and shares are those of the same secret streams."""
    plan = make_plan(sample_rate=1.0)
    for seed in range(20):
        rows = gradients(seed, scale=10.0 ** (seed % 4 - 2))
        with_pair = step_on(rows, plan, Entropy.seeded(seed)).vector
        without = step_on(rows[:-1], plan, Entropy.seeded(seed)).vector  # the last pair, so that coins stay aligned
        moved = with_pair - without
        assert int(moved @ moved) <= plan.norm_squared
        assert moved[: plan.dim].any() and not moved[plan.dim :].any()


def test_the_step_is_the_sum_of_clipped_gradients_up_to_rounding_and_noise() -> None:
    plan = make_plan(sample_rate=1.0, total_variance=16 * 4, levels=2**20, nulls=0)
    rows = gradients()
    clipped = rows.double() * (plan.clip_norm / rows.double().norm(dim=1)).clamp(max=1.0)[:, None]
    found = step_on(rows, plan, Entropy.os()).vector * plan.grid
    assert np.allclose(found, clipped.sum(dim=0).numpy(), atol=100 * plan.grid)


def test_the_physical_batches_do_not_change_what_is_summed() -> None:
    plan = make_plan(sample_rate=1.0, total_variance=64, levels=2**20, nulls=0)
    one, many = (step_on(gradients(), plan, Entropy.os(), physical=size).vector for size in (PAIRS, 3))
    assert np.abs(one - many).max() < 100


def test_an_empty_sample_is_noise_and_is_charged() -> None:
    plan = make_plan(sample_rate=1e-12)
    found = step_on(gradients(), plan, Entropy.os())
    assert found.report.pairs == 0
    assert found.event == plan.event()
    assert 0.5 < np.std(found.vector) / math.sqrt(plan.share) < 1.5


def test_a_pair_that_is_not_finite_counts_as_zero() -> None:
    plan = make_plan(sample_rate=1.0, total_variance=64, levels=2**20, nulls=0)
    rows = gradients()
    rows[5] = float("nan")
    found = step_on(rows, plan, Entropy.os())
    assert found.report.non_finite == 1
    others = torch.cat([rows[:5], rows[6:]])
    assert np.abs(found.vector - step_on(others, plan, Entropy.os()).vector).max() < 100


def test_a_seeded_source_makes_no_private_event() -> None:
    plan = make_plan()
    assert isinstance(step_on(gradients(), plan, Entropy.seeded(1)).event, NonPrivate)
    assert isinstance(noised_unit(np.zeros(DIM), plan, Entropy.seeded(1))[1], NonPrivate)
    assert noised_unit(np.zeros(DIM), plan, Entropy.os())[1] == plan.event()


def test_a_whole_client_is_clipped_to_the_charged_norm() -> None:
    plan = make_plan(unit="client", sample_rate=1.0)
    for scale in (1e-6, 1.0, 1e6):
        update = gradients(1, scale)[0].double().numpy()
        some, zero = (noised_unit(values, plan, Entropy.seeded(5))[0] for values in (update, np.zeros(DIM)))
        moved = (some - zero)[: plan.dim]
        assert int(moved @ moved) <= plan.norm_squared
    assert noised_unit(update, plan, Entropy.os())[1].unit == "client"  # type: ignore[union-attr]


def test_the_claim_is_better_than_a_clients_own_share_and_worse_than_the_whole_sum() -> None:
    plan = make_plan(levels=64, total_variance=40_000)
    seen = views([plan.event()] * 5, 1e-5)
    assert seen.total.epsilon < seen.with_colluders.epsilon < seen.own.epsilon
    assert epsilon([plan.event()] * 5, 1e-5).epsilon == seen.with_colluders.epsilon


def test_one_step_has_one_sample_and_one_sum_of_exactly_its_pairs() -> None:
    plan, model, rows = make_plan(), Linear(), gradients()
    params = [("layer.weight", model.layer.weight)]
    with PairIntegerStep(model, params, plan, Entropy.os()) as step:
        with pytest.raises(PrivacyError, match="after sample"):
            step.sum([rows], model)
        chosen = torch.from_numpy(step.sample(PAIRS))
        with pytest.raises(PrivacyError, match="one sample"):
            step.sample(PAIRS)
        with pytest.raises(PrivacyError, match="but the step was given"):
            step.sum([rows], model)
        with pytest.raises(PrivacyError, match="once"):
            step.sum([rows[chosen]], model)
    with pytest.raises(StructureError, match="the plan is for 25 coordinates, the parameters have 24"):
        PairIntegerStep(model, params, replace(plan, dim=25), Entropy.os()).__enter__()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"levels": 8}, "levels"),
        ({"total_variance": 20}, "share variance"),
        ({"lost": 5}, "clients - lost - colluding"),
        ({"dim": 0}, "dim"),
    ],
)
def test_an_impossible_plan_is_refused_by_name(change: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make_plan(**change)
