"""Loops that are not of this package: honest ones pass, broken ones are caught, and misuse is refused by name."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from opacus import PrivacyEngine
from opacus.data_loader import DPDataLoader
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from privacy.audit.dirac import dirac_rule
from privacy.audit.foreign import CanaryTask, Loop, LoopAudit, Reduction, audit_loop, canary_task, plan_of, run_loop
from privacy.dpsgd import DPStepPlan
from privacy.entropy import Entropy
from privacy.errors import AdaptiveParameters, PrivacyError
from privacy.events import FullBatchGaussian

DELTA, CONFIDENCE, ROWS, STEPS = 1e-5, 0.9999, 1000, 16
RULE = dirac_rule(canaries=ROWS, delta=DELTA, confidence=CONFIDENCE)
# Full batch: its trade-off curve is closed, so these audits take no time.
PLAN = DPStepPlan(clip_norm=0.5, noise_multiplier=4.0, sample_rate=1.0, expected_batch=ROWS, learning_rate=0.1)


def written_by_hand(
    task: CanaryTask, *, noise: float = PLAN.noise_multiplier, clip_norm: float = PLAN.clip_norm, steps: int = STEPS
) -> Iterator[None]:
    """DP-SGD without Opacus. Its randomness is torch's, as with most people."""
    parameters = dict(task.module.named_parameters())
    ((name, theta),) = parameters.items()

    def loss(value: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return task.criterion(torch.func.functional_call(task.module, {name: value}, x[None]), y[None])

    for _ in range(steps):
        gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(theta.detach(), *task.data.tensors)
        factors = (clip_norm / (gradients.flatten(1).norm(dim=1) + 1e-12)).clamp(max=1.0)
        total = torch.einsum("i,i...->...", factors, gradients)
        with torch.no_grad():
            noised = total + noise * PLAN.clip_norm * torch.randn_like(total)
            theta -= PLAN.learning_rate / (PLAN.expected_batch * PLAN.clip_norm) * noised
        yield


def audited(loop: Loop, plan: DPStepPlan = PLAN) -> LoopAudit:
    rng = np.random.default_rng(1)
    return audit_loop(loop, plan, steps=STEPS, rule=RULE, entropy=Entropy.os(), rng=rng, repeats=9)


def test_an_honest_loop_is_consistent_and_shows_most_of_what_it_leaks() -> None:
    found = audited(written_by_hand)
    assert found.verdict == "consistent", found.canaries.words()
    assert found.noise.verdict == "consistent"
    assert found.canaries.lower_bound is not None
    assert 0.2 * found.canaries.claim < found.canaries.lower_bound <= found.canaries.claim


@pytest.mark.parametrize("share", [0.5, 0.01])
def test_too_little_noise_is_caught_twice_however_little(share: float) -> None:
    found = audited(lambda task: written_by_hand(task, noise=share * PLAN.noise_multiplier))
    assert found.verdict == found.canaries.verdict == found.noise.verdict == "violation"
    assert found.canaries.lower_bound is not None
    assert found.canaries.lower_bound > found.canaries.claim


def test_a_clip_at_four_times_the_norm_is_caught_by_the_canaries_alone() -> None:
    found = audited(lambda task: written_by_hand(task, clip_norm=4 * PLAN.clip_norm))
    assert (found.verdict, found.canaries.verdict, found.noise.verdict) == ("violation", "violation", "consistent")


def with_opacus(
    task: CanaryTask, *, rate: float, noise: float, reduction: Reduction, seen: list[DPStepPlan]
) -> Iterator[None]:
    module, optimizer, loader = PrivacyEngine().make_private(
        module=task.module,
        optimizer=torch.optim.SGD(task.module.parameters(), lr=0.3),
        data_loader=DataLoader(task.data, batch_size=round(rate * len(task.data))),
        noise_multiplier=noise,
        max_grad_norm=0.5,
        loss_reduction=reduction,
    )
    seen.append(plan_of(optimizer, loader))
    for x, y in loader:
        optimizer.zero_grad()
        task.criterion(module(x), y).backward()
        optimizer.step()
        yield


@pytest.mark.filterwarnings("ignore:Secure RNG turned off")
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_what_a_stock_loop_shows_is_the_clipped_canary_and_its_noise(reduction: Reduction) -> None:
    seen: list[DPStepPlan] = []
    plan = DPStepPlan(clip_norm=0.5, noise_multiplier=0.01, sample_rate=0.2, expected_batch=200.0, learning_rate=0.15)
    plan = plan if reduction == "mean" else replace(plan, expected_batch=1.0)
    run = run_loop(
        lambda task: with_opacus(task, rate=0.2, noise=0.01, reduction=reduction, seen=seen),
        plan,
        steps=5,
        rule=RULE,
        entropy=Entropy.os(),
        runs=1,
        reduction=reduction,
    )
    assert seen == [plan]
    there = run.observed[:, run.sealed.coins]
    assert (np.minimum(np.abs(there), np.abs(there - 1.0)) < 0.06).all()  # 0 or the clip norm, in clip norms
    assert float((there > 0.5).mean()) == pytest.approx(0.2, abs=0.06)
    assert float(run.observed[:, ~run.sealed.coins].std()) == pytest.approx(0.01, rel=0.1)
    assert float(run.residuals.std()) == pytest.approx(0.01, rel=0.1)


def test_coins_are_shared_out_over_runs() -> None:
    run = run_loop(written_by_hand, PLAN, steps=STEPS, rule=RULE, entropy=Entropy.os(), runs=4)
    assert run.observed.shape == (STEPS, ROWS)
    assert run.residuals.shape[:2] == (STEPS, 4)
    assert run.event == FullBatchGaussian(noise_multiplier=4.0, steps=STEPS)


@pytest.mark.parametrize("steps", [STEPS - 1, STEPS + 1])
def test_a_loop_that_takes_other_steps_than_claimed_is_refused(steps: int) -> None:
    with pytest.raises(AdaptiveParameters, match=f"planned {STEPS} steps, but the loop took {steps}"):
        audited(lambda task: written_by_hand(task, steps=steps))


def test_a_loop_that_trains_a_copy_is_refused() -> None:
    with pytest.raises(PrivacyError, match="trains a copy"):
        audited(lambda task: written_by_hand(replace(task, module=copy.deepcopy(task.module))))


def test_a_canary_that_is_out_has_a_gradient_of_zero() -> None:
    coins = np.array([True, False, True])
    task = canary_task(coins, clip_norm=0.5)
    for index, (x, y) in enumerate(task.data):
        (gradient,) = torch.autograd.grad(task.criterion(task.module(x[None]), y[None]), list(task.module.parameters()))
        assert torch.equal(gradient[0], x)
        assert (float(x.norm()) > 0.5) == bool(coins[index]) == bool(x[index])


def stock(
    *, momentum: float = 0.0, kind: str = "sgd", poisson: bool = True, clipping: str = "flat"
) -> tuple[DPOptimizer, DPDataLoader]:
    module = nn.Linear(3, 1)
    made: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "sgd": lambda: torch.optim.SGD(module.parameters(), lr=0.1, momentum=momentum),
        "adam": lambda: torch.optim.Adam(module.parameters(), lr=0.1),
    }
    _, optimizer, loader = PrivacyEngine().make_private(
        module=module,
        optimizer=made[kind](),
        data_loader=DataLoader(TensorDataset(torch.zeros(100, 3)), batch_size=30),
        noise_multiplier=1.0,
        max_grad_norm=2.0 if clipping == "flat" else [1.0, 1.0],
        poisson_sampling=poisson,
        clipping=clipping,
    )
    return optimizer, loader


@pytest.mark.filterwarnings("ignore:Secure RNG turned off")
def test_the_plan_is_what_opacus_will_do_and_not_what_was_meant() -> None:
    plan = plan_of(*stock())
    assert plan.sample_rate == 1 / 4  # 30 of 100 rows were asked for: four batches an epoch, so each row in a quarter
    assert plan == DPStepPlan(
        clip_norm=2.0, noise_multiplier=1.0, sample_rate=0.25, expected_batch=25.0, learning_rate=0.2
    )


@pytest.mark.filterwarnings("ignore:Secure RNG turned off")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"momentum": 0.9}, "without momentum"),
        ({"kind": "adam"}, "must be SGD"),
        ({"poisson": False}, "Poisson samples"),
        ({"clipping": "per_layer"}, "at one norm, not DPPerLayerOptimizer"),
    ],
)
def test_a_loop_whose_steps_cannot_be_read_off_is_refused(change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        plan_of(*stock(**change))


def test_numbers_out_of_range_are_refused() -> None:
    for steps, runs in ((0, 1), (1, 0), (1, 3)):
        with pytest.raises(ValueError, match="runs must divide"):
            run_loop(written_by_hand, PLAN, steps=steps, rule=RULE, entropy=Entropy.os(), runs=runs)
