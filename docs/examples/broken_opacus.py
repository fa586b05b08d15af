"""The loop of `plain_opacus.py`, broken in ways that are easy to miss, and what notices each.

Run it: python docs/examples/broken_opacus.py  (about a minute on one core)

Training runs through in every case, and a loss curve would show nothing. The last line says how many were caught; the
exit status is 1 if one was not.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import torch
from opacus import PrivacyEngine
from opacus.data_loader import DPDataLoader
from opacus.optimizers import DPOptimizer
from plain_opacus import (
    BATCH,
    CLIP_NORM,
    CONFIDENCE,
    DELTA,
    EPSILON,
    LEARNING_RATE,
    ROWS,
    STEPS,
    Indexed,
    Parts,
    make_private,
    synthetic_rows,
    train,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from privacy.attestation import attest, attested_bound
from privacy.audit.dirac import dirac_rule
from privacy.audit.foreign import CanaryTask, LoopAudit, audit_loop, plan_of
from privacy.calibration import noise_multiplier
from privacy.dpsgd import DPStepPlan
from privacy.entropy import Entropy
from privacy.errors import AdaptiveParameters
from privacy.events import gaussian_event
from privacy.planned import require_planned
from privacy.sample_log import SampleLog

Loop = Callable[[CanaryTask], Iterator[Tensor]]


class ClipsTheMean(DPOptimizer):
    """Clips the mean gradient of the batch instead of each row's."""

    def clip_and_accumulate(self) -> None:
        means = [rows.mean(dim=0) for rows in self.grad_samples]
        norm = torch.cat([mean.flatten() for mean in means]).norm()
        factor = min(1.0, self.max_grad_norm / float(norm + 1e-6))
        for parameter, mean in zip(self.params, means, strict=True):
            parameter.summed_grad = factor * mean * self.expected_batch_size
            parameter.grad_sample = parameter.grad_sample[:0]


def honest(task: CanaryTask, noise: float) -> Iterator[Tensor]:
    return train(make_private(task.module, task.data, noise), task.criterion)


def half_of_the_noise(task: CanaryTask, noise: float) -> Iterator[Tensor]:
    parts = make_private(task.module, task.data, noise)
    parts.optimizer.noise_multiplier /= 2
    return train(parts, task.criterion)


def noise_for_the_mean(task: CanaryTask, noise: float) -> Iterator[Tensor]:
    """Noise of standard deviation noise multiplier x clip norm / batch on the sum: the division came too early."""
    parts = make_private(task.module, task.data, noise)
    parts.optimizer.noise_multiplier /= parts.optimizer.expected_batch_size
    return train(parts, task.criterion)


def one_step_without_noise(task: CanaryTask, noise: float) -> Iterator[Tensor]:
    parts = make_private(task.module, task.data, noise)
    for step, rows in enumerate(train(parts, task.criterion)):
        parts.optimizer.noise_multiplier = 0.0 if step == 30 else noise  # of the step that comes next
        yield rows


def clip_of_the_batch_mean(task: CanaryTask, noise: float) -> Iterator[Tensor]:
    parts = make_private(task.module, task.data, noise)
    parts.optimizer.__class__ = ClipsTheMean
    return train(parts, task.criterion)


def the_same_seed_again(task: CanaryTask, noise: float) -> Iterator[Tensor]:
    """Every job starts with the same seed, so every job adds the same noise."""
    torch.manual_seed(0)
    return honest(task, noise)


AUDITED = (half_of_the_noise, noise_for_the_mean, one_step_without_noise, clip_of_the_batch_mean, the_same_seed_again)


def audited(broken: Callable[[CanaryTask, float], Iterator[Tensor]], plan: DPStepPlan) -> LoopAudit:
    runs = 2  # one job shows no noise that two jobs share
    return audit_loop(
        lambda task: broken(task, plan.noise_multiplier),
        plan,
        steps=STEPS,
        rule=dirac_rule(canaries=runs * ROWS, delta=DELTA, confidence=CONFIDENCE),
        entropy=Entropy.os(),
        rng=np.random.default_rng(),
        runs=runs,
        repeats=9,
    )


def evidence(found: LoopAudit) -> str:
    """What caught it, empty if nothing did."""
    by = []
    if found.canaries.verdict == "violation":
        by.append(f"canaries: epsilon at least {found.canaries.lower_bound:.2f}, claimed {found.canaries.claim:.2f}")
    if found.noise.verdict == "violation":
        first, *more = str(found.noise.details["findings"]).split("; ")
        by.append(f"noise: {first}" + (f" (and {len(more)} more)" if more else ""))
    return "; ".join(by)


def shuffled_batches(data: TensorDataset, noise: float) -> str:
    """Shuffled epochs under a Poisson claim. The claim cannot be read off such a loader, and the log refutes it."""
    engine, module = PrivacyEngine(), nn.Linear(data.tensors[0].shape[1], 1)
    wrapped, optimizer, loader = engine.make_private(
        module=nn.Sequential(module, nn.Flatten(0)),
        optimizer=torch.optim.SGD(module.parameters(), lr=LEARNING_RATE),
        data_loader=DataLoader(Indexed(data), batch_size=BATCH, shuffle=True),
        noise_multiplier=noise,
        max_grad_norm=CLIP_NORM,
        poisson_sampling=False,
    )
    log = SampleLog()
    for rows in train(Parts(engine, wrapped, optimizer, loader), nn.BCEWithLogitsLoss()):
        log.add(rows.numpy(), ROWS)
    sampler = attest(log, ROWS, BATCH / ROWS)
    if sampler.verdict != "rejected" or isinstance(loader, DPDataLoader):
        return ""
    claim = gaussian_event(noise_multiplier=noise, sample_rate=BATCH / ROWS, steps=STEPS)
    return (
        f"attestation: rejected, so epsilon is {attested_bound([claim], DELTA, sampler).epsilon:.2f}, not {EPSILON:g}"
    )


def steps_counted_as_epochs(plan: DPStepPlan) -> str:
    """The ledger was told of epochs; the loop took steps."""
    planned, done = (
        gaussian_event(noise_multiplier=plan.noise_multiplier, sample_rate=plan.sample_rate, steps=steps)
        for steps in (STEPS * BATCH // ROWS, STEPS)
    )
    try:
        require_planned([planned], [done])
    except AdaptiveParameters as refusal:
        return f"plan: {refusal}"
    return ""


def main() -> int:
    data = synthetic_rows()
    noise = noise_multiplier(epsilon=EPSILON, delta=DELTA, sample_rate=BATCH / ROWS, steps=STEPS)
    parts = make_private(nn.Linear(data.tensors[0].shape[1], 1), data, noise)
    plan = plan_of(parts.optimizer, parts.loader)
    untouched = evidence(audited(honest, plan))
    print(f"honest: {untouched or 'nothing found'}")
    caught = {broken.__name__: evidence(audited(broken, plan)) for broken in AUDITED}
    caught |= {
        shuffled_batches.__name__: shuffled_batches(data, noise),
        steps_counted_as_epochs.__name__: steps_counted_as_epochs(plan),
    }
    for name, by in caught.items():
        print(f"{name.replace('_', ' ')}: {by or 'NOT CAUGHT'}")
    print(f"caught {sum(map(bool, caught.values()))} of {len(caught)}")
    return 0 if all(caught.values()) and not untouched else 1


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message="Secure RNG turned off")
    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    sys.exit(main())
