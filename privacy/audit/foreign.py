"""The audit of somebody else's DP-SGD: white-box Dirac canaries through a training loop that is not of this package.

The loop is given a module, data and a loss made of canaries in place of its own, and is otherwise the one that trains:
its sampler, its clip, its noise, its optimizer. Because the loss is linear, the gradient of a row is the row, as in
`privacy.audit.dirac`, and the steps are read off the parameters that the loop leaves behind. What is audited is the
code; what it would do with a real model's gradients (layers that mix rows, a second tensor trained beside the clipped
ones) is not seen here, and neither is how good its random generator is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.data_loader import DPDataLoader
from opacus.optimizers import AdaClipDPOptimizer, DPOptimizer, DPPerLayerOptimizer
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from privacy.dpsgd import DPStepPlan
from privacy.entropy import Entropy
from privacy.errors import AdaptiveParameters, PrivacyError
from privacy.events import gaussian_event

from .coins import seal
from .dirac import NULL_COORDINATES, DiracRun, audit_dirac, dirac_noise
from .judge import REPEATS
from .noise import noise_result
from .result import AuditResult, Verdict
from .rule import AuditRule

Reduction: TypeAlias = Literal["mean", "sum"]

_LOUDNESS = 8.0  # length of a canary's gradient in clip norms
_LEAST_SHARE = 0.95  # noise of this share of the claim must be detectable for the attestation to say "consistent"


class CanaryLoss(nn.Module):
    """The output itself, averaged or summed over rows; the target is ignored. Stands where the loop's loss stood."""

    def __init__(self, reduction: Reduction) -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, output: Tensor, target: Tensor) -> Tensor:  # float32[b], anything -> float32[]
        return output.mean() if self.reduction == "mean" else output.sum()


class CanaryModule(nn.Module):
    """theta . x with theta = 0, so that the gradient of row i of the loss is x_i."""

    def __init__(self, coordinates: int) -> None:
        super().__init__()
        self.linear = nn.Linear(coordinates, 1, bias=False)
        nn.init.zeros_(self.linear.weight)

    def forward(self, x: Tensor) -> Tensor:  # float32[b, coordinates] -> float32[b]
        return torch.squeeze(self.linear(x), dim=-1)


@dataclass(frozen=True, slots=True, eq=False)
class CanaryTask:
    """What the loop trains in the audit instead of its own model. `criterion(module(x), y)` is the loss of a batch."""

    module: CanaryModule
    data: TensorDataset  # items (x float32[coordinates], y float32[]), one row a canary
    criterion: CanaryLoss


Loop: TypeAlias = Callable[[CanaryTask], Iterable[object]]
"""Trains the task as it trains its own model, and yields (anything) after each optimizer step, empty batches too."""


@dataclass(frozen=True, slots=True)
class LoopAudit:
    """Two audits of the same runs: the attack, and the attestation of each step's noise on null coordinates."""

    canaries: AuditResult
    noise: AuditResult

    @property
    def verdict(self) -> Verdict:
        """A violation if either found one, else what the attack says."""
        return "violation" if self.noise.verdict == "violation" else self.canaries.verdict


def plan_of(optimizer: DPOptimizer, loader: DPDataLoader) -> DPStepPlan:
    """The constants of a stock Opacus loop, read from the objects that clip, noise and sample, not from a config file.

    Opacus infers the sample rate from the length of the loader, so it may differ from batch size / rows. Its optimizer
    must clip flat and step by plain SGD: an audit reads the noised sum off the movement of the parameters (what
    another optimizer makes of that sum is post-processing). Raises ValueError, naming what is not so, or if the loader
    draws no Poisson sample.
    """
    if not isinstance(loader, DPDataLoader):
        raise ValueError(f"loader must draw Poisson samples (DPDataLoader), got {type(loader).__name__}")
    if isinstance(optimizer, AdaClipDPOptimizer | DPPerLayerOptimizer):
        raise ValueError(f"optimizer must clip each row's whole gradient at one norm, not {type(optimizer).__name__}")
    inner, groups = optimizer.original_optimizer, optimizer.param_groups
    plain = isinstance(inner, torch.optim.SGD) and not any(g["momentum"] or g["weight_decay"] for g in groups)
    rates = {float(group["lr"]) for group in groups}
    if not plain or len(rates) != 1:
        raise ValueError("optimizer must be SGD with one learning rate, without momentum and weight decay")
    clip_norm = float(optimizer.max_grad_norm)
    return DPStepPlan(
        clip_norm=clip_norm,
        noise_multiplier=float(optimizer.noise_multiplier),
        sample_rate=float(loader.sample_rate),
        expected_batch=float(optimizer.expected_batch_size) if optimizer.loss_reduction == "mean" else 1.0,
        learning_rate=rates.pop() * clip_norm,  # the plan's is for gradients in units of the clip norm
    )


def run_loop(
    loop: Loop,
    plan: DPStepPlan,
    *,
    steps: int,
    rule: AuditRule,
    entropy: Entropy,
    runs: int = 1,
    reduction: Reduction = "mean",
) -> DiracRun:
    """Seal the coins, let `loop` train `runs` times on the rule's canaries, shared out evenly, and keep what it showed.

    `plan` and `steps` are the claim; `reduction` is the loss's. Each run has rule.canaries / runs rows, which should be
    as many as the real data has, so that batch sizes and sample rate are the real ones. `entropy` serves the coins
    alone. Raises AdaptiveParameters where the loop takes another number of steps than claimed, PrivacyError where it
    moves nothing, ValueError unless `runs` divides the canaries and steps >= 1.
    """
    if steps < 1 or runs < 1 or rule.canaries % runs:
        raise ValueError("steps and runs must be at least 1, and runs must divide the rule's canaries")
    sealed = seal(rule, entropy.child("coins"))
    size = rule.canaries // runs
    shown = [_watch(loop, plan, steps, coins, reduction) for coins in np.split(sealed.coins, runs)]
    return DiracRun(
        observed=np.concatenate([seen[:, :size] for seen in shown], axis=1),
        residuals=np.stack([seen[:, size:] for seen in shown], axis=1),
        sealed=sealed,
        rule=rule,
        event=gaussian_event(noise_multiplier=plan.noise_multiplier, sample_rate=plan.sample_rate, steps=steps),
    )


def audit_loop(
    loop: Loop,
    plan: DPStepPlan,
    *,
    steps: int,
    rule: AuditRule,
    entropy: Entropy,
    rng: np.random.Generator,
    runs: int = 1,
    reduction: Reduction = "mean",
    repeats: int = REPEATS,
) -> LoopAudit:
    """`run_loop`, judged twice against the epsilon of `plan` and `steps` at the rule's delta and confidence.

    `rng` serves planning and null checks alone. Raises as `run_loop`, and ValueError where the plan has no noise.
    """
    run = run_loop(loop, plan, steps=steps, rule=rule, entropy=entropy, runs=runs, reduction=reduction)
    return LoopAudit(
        canaries=audit_dirac(run, plan, rng=rng, repeats=repeats),
        noise=noise_result(
            dirac_noise(run, plan, confidence=rule.confidence),
            events=[run.event],
            delta=rule.delta,
            least_share=_LEAST_SHARE,
        ),
    )


def canary_task(coins: NDArray[np.bool_], clip_norm: float, reduction: Reduction = "mean") -> CanaryTask:
    """Row j lies on coordinate j alone, 8 clip norms long where its coin is heads and zero where not; the last
    `NULL_COORDINATES` coordinates belong to no row."""
    rows = torch.zeros(len(coins), len(coins) + NULL_COORDINATES)
    rows.diagonal().copy_(torch.from_numpy(coins * (_LOUDNESS * clip_norm)))
    data = TensorDataset(rows, torch.zeros(len(coins)))
    return CanaryTask(CanaryModule(rows.shape[1]), data, CanaryLoss(reduction))


def _watch(
    loop: Loop, plan: DPStepPlan, steps: int, coins: NDArray[np.bool_], reduction: Reduction
) -> NDArray[np.float64]:
    """The noised sums in clip norms, float64[steps, canaries + null coordinates]."""
    task = canary_task(coins, plan.clip_norm, reduction)
    theta = task.module.linear.weight
    # The step moves theta by learning_rate / (expected_batch * clip_norm) times the noised sum.
    unit = plan.expected_batch / plan.learning_rate
    before, seen = _values(theta), []
    for _ in loop(task):
        now = _values(theta)
        seen.append((before - now) * unit)
        before = now
    if len(seen) != steps:
        raise AdaptiveParameters(f"planned {steps} steps, but the loop took {len(seen)}; it must yield after each one")
    if not any(moved.any() for moved in seen):
        raise PrivacyError("the loop never moved the canary module's parameter: it trains a copy, or nothing")
    return np.stack(seen)


def _values(theta: Tensor) -> NDArray[np.float64]:
    return theta.detach().to("cpu", torch.float64, copy=True).numpy().ravel()
