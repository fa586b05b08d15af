"""An ordinary Opacus training loop, without any federation, under the protection of the package `privacy` alone.

Run it: python docs/examples/plain_opacus.py  (under a minute on one core; nothing is downloaded, nothing is kept)

The first half is what somebody has who uses Opacus: a model, data, `make_private`, a loop. Two things are asked of that
loop: that it takes the model, the data and the loss as arguments, and that it yields after each optimizer step. The
second half, `main`, calibrates, reserves the budget, trains, attests the sampler, accounts, commits and audits.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from opacus import PrivacyEngine
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from privacy.accounting import epsilon
from privacy.attestation import attest, attested_bound
from privacy.audit.dirac import dirac_rule
from privacy.audit.foreign import CanaryTask, audit_loop, plan_of
from privacy.calibration import noise_multiplier
from privacy.entropy import Entropy
from privacy.errors import BudgetExceeded
from privacy.events import gaussian_event
from privacy.ledger import Ledger, ledger_path, verify
from privacy.planned import plan_digest, require_planned
from privacy.sample_log import SampleLog

ROWS, FEATURES, BATCH, EPOCHS = 1000, 20, 100, 10
STEPS = EPOCHS * ROWS // BATCH
CLIP_NORM, LEARNING_RATE = 1.0, 0.5
EPSILON, DELTA = 4.0, 1e-5
CONFIDENCE, RUNS = 0.9999, 5  # of the audit, and how often it lets the loop train

Criterion = Callable[[Tensor, Tensor], Tensor]


# ---- what somebody has: data, a model, Opacus, a loop


class Indexed(Dataset[tuple[int, Tensor, Tensor]]):
    """The same rows with their numbers, so that the loop can say which rows were in a batch."""

    def __init__(self, data: TensorDataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[int, Tensor, Tensor]:
        x, y = self.data[index]
        return index, x, y


class Classifier(nn.Module):
    """A small network with one output."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(FEATURES, 16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, x: Tensor) -> Tensor:  # float32[b, features] -> float32[b]
        return self.layers(x).squeeze(-1)


@dataclass
class Parts:
    """What `make_private` made."""

    engine: PrivacyEngine
    module: nn.Module
    optimizer: DPOptimizer
    loader: DataLoader


def synthetic_rows() -> TensorDataset:
    source = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, FEATURES, generator=source)
    noise = torch.randn(ROWS, generator=source)
    return TensorDataset(x, (x[:, 0] - x[:, 1] + 0.5 * noise > 0).float())


def make_private(module: nn.Module, data: TensorDataset, noise: float) -> Parts:
    engine = PrivacyEngine()
    wrapped, optimizer, loader = engine.make_private(
        module=module,
        optimizer=torch.optim.SGD(module.parameters(), lr=LEARNING_RATE),
        data_loader=DataLoader(Indexed(data), batch_size=BATCH),
        noise_multiplier=noise,
        max_grad_norm=CLIP_NORM,
    )
    return Parts(engine, wrapped, optimizer, loader)


def train(parts: Parts, criterion: Criterion) -> Iterator[Tensor]:
    """Yields the numbers of the rows of each batch, int64[b], after the optimizer's step."""
    for _ in range(EPOCHS):
        for rows, x, y in parts.loader:
            parts.optimizer.zero_grad()
            criterion(parts.module(x), y).backward()
            parts.optimizer.step()
            yield rows


# ---- what `privacy` adds


def main(folder: Path) -> None:
    data, model = synthetic_rows(), Classifier()

    # 1. The noise for the budget. Opacus samples at 1 / (batches in an epoch), which is this where BATCH divides ROWS.
    noise = noise_multiplier(epsilon=EPSILON, delta=DELTA, sample_rate=BATCH / ROWS, steps=STEPS)
    print(f"noise multiplier: {noise:.4f} for epsilon {EPSILON:g} at delta {DELTA:g} in {STEPS} steps")

    # 2. What is about to happen, read from the objects that will do it, goes into the ledger before a row is touched.
    parts = make_private(model, data, noise)
    plan = plan_of(parts.optimizer, parts.loader)
    planned = gaussian_event(noise_multiplier=plan.noise_multiplier, sample_rate=plan.sample_rate, steps=STEPS)
    digest = plan_digest([planned])
    path = ledger_path(folder, "demo rows", "me")
    with Ledger.open(path, budget_epsilon=EPSILON, delta=DELTA, data_id="demo rows", client="me") as ledger:
        reserved = ledger.reserve(planned, run_id="first run", round_index=1)
        print(f"reserved: epsilon {reserved.bound.epsilon:.4f} of {EPSILON:g}")

        # 3. Train. The log of which rows were drawn is as private as the rows.
        log = SampleLog()
        for rows in train(parts, nn.BCEWithLogitsLoss()):
            log.add(rows.numpy(), ROWS)

        # 4. What was done: the plan read again, and the steps that were counted.
        after = plan_of(parts.optimizer, parts.loader)
        done = gaussian_event(noise_multiplier=after.noise_multiplier, sample_rate=after.sample_rate, steps=log.steps)
        require_planned([planned], [done], digest)
        ledger.commit(reserved, done)

        # 5. A second run like this one is over the budget, and is refused before anything is trained.
        try:
            ledger.reserve(planned, run_id="second run", round_index=1)
        except BudgetExceeded as refusal:
            print(f"second run refused: {refusal}")
        else:
            raise SystemExit("the ledger let the budget be overspent")

    # 6. The epsilon, by two accountants, each an upper bound; Opacus' own number beside them.
    bound = epsilon([done], DELTA)
    print(f"claim: epsilon {bound.epsilon:.4f} ({bound.accountant}); pld {bound.pld:.4f}, rdp {bound.rdp:.4f}")
    print(f"opacus' own accountant: {parts.engine.get_epsilon(DELTA):.4f}")
    checked = verify(path)
    print(f"ledger: ok {checked.ok}, epsilon {checked.epsilon.epsilon:.4f}, head {checked.head_hash[:16]}")

    # 7. Was it a Poisson sampler? If not, the number without amplification is the one to report.
    sampler = attest(log, ROWS, plan.sample_rate)
    print("\n".join(sampler.lines()))
    print(f"attested claim: epsilon {attested_bound([done], DELTA, sampler).epsilon:.4f}")

    # 8. Attack the same code: canaries through this `make_private` and this loop, on a model of their own.
    def loop(task: CanaryTask) -> Iterator[Tensor]:
        return train(make_private(task.module, task.data, noise), task.criterion)

    found = audit_loop(
        loop,
        plan,
        steps=STEPS,
        rule=dirac_rule(canaries=RUNS * ROWS, delta=DELTA, confidence=CONFIDENCE),
        entropy=Entropy.os(),
        rng=np.random.default_rng(),
        runs=RUNS,
    )
    for audit in (found.canaries, found.noise):
        print(f"{audit.name}: lower bound {audit.lower_bound:.4f}, claim {audit.claim:.4f}, {audit.verdict}")
    print(found.canaries.words())

    print(
        "Not checked: the random generator (Opacus draws noise and samples from torch's, whose seed has 32 bits; the\n"
        "numbers above hold for an ideal one), floating-point attacks, layers that mix rows or tensors trained beside\n"
        "the clipped ones, the choice of hyper-parameters on the same rows, and whatever else leaves this machine."
    )


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message="Secure RNG turned off")  # said above, in plainer words
    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    with (
        tempfile.TemporaryDirectory() as scratch
    ):  # a real ledger lives outside run folders: privacy.ledger.default_root
        main(Path(scratch))
