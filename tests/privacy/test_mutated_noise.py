"""Mutated noise, shares and rounding, each seen by a test that passes the honest code (the table: test_mutations)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from privacy import step_noise
from privacy.accounting import epsilon
from privacy.audit.noise import NoiseReport, attest_noise
from privacy.distributed import SharePlan
from privacy.dpsgd import DPStepPlan, PairDPSGD
from privacy.entropy import Entropy
from privacy.events import Event, NonPrivate
from privacy.integer_sgd import IntegerStepPlan
from privacy.integer_step import IntegerSum, PairIntegerStep

from .builders import Perceptron, plan, trainable
from .mutated_mechanisms import no_share, restored_machine, rounds_the_sum

CONFIDENCE, ROUNDS, DIM, PAIRS = 0.9999, 3, 24, 12
SHARES = SharePlan(
    unit="pair", clip_norm=0.5, levels=4096, dim=DIM, nulls=2000, total_variance=10**7, clients=6, lost=1,
    colluding=0, sample_rate=0.5,
)  # fmt: skip
SURVIVORS = SHARES.clients - SHARES.lost  # the fewest that are admitted, so their noise is what is claimed


# ---- shares of noise


class Linear(nn.Module):
    """One trained layer; the gradient of a pair's loss is that pair's row."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layer = nn.Linear(dim, 1, bias=False)

    def forward(self, rows: Tensor) -> Tensor:
        return self.layer(rows).squeeze(1)


def integer_step(rows: Tensor, shares: SharePlan, entropy: Entropy) -> IntegerSum:
    model = Linear(rows.shape[1])
    with PairIntegerStep(model, [("layer.weight", model.layer.weight)], shares, entropy) as step:
        chosen = torch.from_numpy(step.sample(len(rows)))
        return step.sum([rows[chosen]] if len(chosen) else [], model)


def rows_of(client: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(client).normal(size=(PAIRS, DIM))).float()


def attested(residuals: np.ndarray) -> NoiseReport:
    """Against what the event of one round counts."""
    return attest_noise(residuals, deviation=math.sqrt(SHARES.event().variance), confidence=CONFIDENCE)


def test_one_clients_missing_share_is_seen_on_the_null_coordinates(monkeypatch: pytest.MonkeyPatch) -> None:
    def null_coordinates() -> np.ndarray:
        sums = np.zeros((ROUNDS, SHARES.nulls))
        for at in range(ROUNDS):
            for client in range(SURVIVORS):
                with monkeypatch.context() as patch:
                    if client == silent:
                        patch.setattr("privacy.integer_step.noise_share", no_share)
                    found = integer_step(rows_of(client), SHARES, Entropy.seeded(100 * at + client))
                sums[at] += found.vector[DIM:]
        return sums

    silent = -1
    assert attested(null_coordinates()).findings == ()
    silent = 2
    assert any("too little noise" in finding for finding in attested(null_coordinates()).findings)


@pytest.mark.parametrize("snapshots", [["a", "b"], ["a", "a"]], ids=["two machines", "one machine restored twice"])
def test_the_same_keys_at_two_clients_are_seen_on_the_null_coordinates(
    monkeypatch: pytest.MonkeyPatch, snapshots: list[str]
) -> None:
    """Nothing in the clients' own code can know: each event is private, and the sum alone shows it."""
    sums, events = np.zeros((ROUNDS, SHARES.nulls)), set()
    for at in range(ROUNDS):
        for client in range(SURVIVORS):
            machine = snapshots[client] if client < len(snapshots) else str(client)
            restored_machine(monkeypatch, f"{machine} in round {at}")
            found = integer_step(rows_of(client), SHARES, Entropy.os())
            sums[at] += found.vector[DIM:]
            events.add(found.event)
    assert events == {SHARES.event()}
    findings = attested(sums).findings
    assert (findings == ()) == (len(set(snapshots)) == len(snapshots))
    if findings:
        assert "too much noise" in findings[0]


def test_a_seed_shared_on_purpose_has_no_finite_epsilon() -> None:
    module = Perceptron()
    local = plan(noise=1.0, rate=0.5)
    for entropy, private in ((Entropy.os(), True), (Entropy.seeded(7), False)):
        with PairDPSGD(module, trainable(module), local, entropy) as step:
            events: list[Event] = [step.event(), integer_step(rows_of(0), SHARES, entropy).event]
        for event in events:
            assert isinstance(event, NonPrivate) != private
            assert math.isfinite(epsilon([event], 1e-5).epsilon) == private


def moved_by_the_last_pair(shares: SharePlan, rows: Tensor, seed: int) -> int:
    """Squared distance of the sums with and without it; the coins of the other pairs and the noise are the same."""
    whole, without = (integer_step(part, shares, Entropy.seeded(seed)).vector for part in (rows, rows[:-1]))
    moved = whole - without
    return int(moved @ moved)


def worst_rows(dim: int, levels: int) -> Tensor:
    """float32[3, dim] for a clip norm of 1; the last row lies half-way between integers, where rounding adds most."""
    rows = np.random.default_rng(0).normal(size=(3, dim))
    rows[2] = 0.5 / levels
    rows[2, : (levels**2 - dim // 4) // 2] = 1.5 / levels  # as many as the clip norm allows
    return torch.from_numpy(rows).float()


def test_a_rounded_sum_moves_by_more_than_one_pairs_integer_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    dim, levels = 1 << 15, 181  # one row a pass, so a row's coins do not depend on the rows after it; levels^2 near dim
    shares = SharePlan(
        unit="pair", clip_norm=1.0, levels=levels, dim=dim, nulls=0, total_variance=10**4, clients=4, lost=0,
        colluding=0, sample_rate=1.0,
    )  # fmt: skip
    rows = worst_rows(dim, levels)
    assert 0 < max(moved_by_the_last_pair(shares, rows, seed) for seed in range(40)) <= shares.norm_squared
    monkeypatch.setattr("privacy.integer_step.sum_of_rounded_units", rounds_the_sum)
    assert max(moved_by_the_last_pair(shares, rows, seed) for seed in range(40)) > shares.norm_squared


# ---- noise that a client adds by itself, real and integer

COORDINATES = 2000
REAL = DPStepPlan(clip_norm=0.5, noise_multiplier=2.0, sample_rate=0.5, expected_batch=50.0, learning_rate=0.3)
INTEGER = IntegerStepPlan(
    clip_norm=0.5, levels=64, dim=COORDINATES, variance=10**4, sample_rate=0.5, expected_batch=50.0, learning_rate=0.3
)
DEVIATION = {"real": REAL.noise_multiplier * REAL.clip_norm, "integer": INTEGER.grid * math.sqrt(INTEGER.variance)}


def noise_of_steps(local: DPStepPlan | IntegerStepPlan, steps: int = 4) -> np.ndarray:
    """float64[steps, COORDINATES], what the released sums hold where no pair has a signal, in gradients."""
    module = nn.Linear(COORDINATES, 1, bias=False, dtype=torch.float64)
    pairs = torch.zeros(8, COORDINATES, dtype=torch.float64)
    seen = []
    with PairDPSGD(module, [("weight", module.weight)], local, Entropy.seeded(5)) as private:
        for _ in range(steps):
            before = module.weight.detach().clone()
            chosen = torch.from_numpy(private.sample(len(pairs)))
            private.step([pairs[chosen]] if len(chosen) else [], lambda rows: module(rows).squeeze(1))
            seen.append((before - module.weight.detach()).numpy().ravel())
    return np.stack(seen) * local.expected_batch * local.clip_norm / local.learning_rate


@pytest.mark.parametrize("kind", ["real", "integer"])
@pytest.mark.parametrize("fault", [None, "noise halved", "noise omitted in one step", "sigma applied to the mean"])
def test_wrong_noise_is_seen_where_no_pair_has_a_signal(
    monkeypatch: pytest.MonkeyPatch, kind: str, fault: str | None
) -> None:
    local, mechanism = (REAL, step_noise.RealNoise) if kind == "real" else (INTEGER, step_noise.IntegerNoise)
    honest, calls = mechanism.drawn, iter(range(1 << 30))

    def drawn(self: step_noise.StepNoise, sizes: Sequence[int]) -> list[Tensor]:
        call = next(calls)
        scale = {
            "noise halved": 2.0,
            "noise omitted in one step": math.inf if call == 2 else 1.0,
            "sigma applied to the mean": local.expected_batch,
        }.get(str(fault), 1.0)
        return [(part / scale).round() if kind == "integer" else part / scale for part in honest(self, sizes)]

    monkeypatch.setattr(mechanism, "drawn", drawn)
    found = attest_noise(noise_of_steps(local), deviation=DEVIATION[kind], confidence=CONFIDENCE)
    wanted = "round 2 alone" if fault == "noise omitted in one step" else "too little noise"
    assert any(wanted in finding for finding in found.findings) == (fault is not None)
    assert fault is not None or found.findings == ()
