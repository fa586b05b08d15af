"""What integer arithmetic costs a local DP-SGD step: `python -m tests.bench.integer_step`, a few minutes on two cores.

The real task of the quickstart (its data, its model's shape with random weights) and a larger adapter, each step timed
with real and with integer noise in turn, in one process. Processor time, shown and never asserted; set
OMP_NUM_THREADS=1, or waiting threads are counted.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import torch

from fedpdpo_secure.budget import plan_budget
from fedpdpo_secure.config import Config, make_config
from fedpdpo_secure.local.plan import LocalPlan, local_plan
from fedpdpo_secure.prepare import prepare
from fedpdpo_secure.progress import SilentProgress
from privacy.entropy import Entropy
from privacy.integer_sgd import IntegerStepPlan
from privacy.step_noise import IntegerNoise, RealNoise, StepNoise

TURNS, STEPS = 15, 4
ARITHMETICS = ("float", "integer")


def shape(arithmetic: str, *, pairs: int, hidden_size: int, rank: int) -> Config:
    """A federation whose clients sample half of `pairs` pairs a step."""
    return make_config(
        {
            "synthetic": {"pairs": pairs, "validation_pairs": 4, "test_pairs": 4, "public_dialogues": 200},
            "tiny": {"warm_start_steps": 0, "hidden_size": hidden_size},
            "federation": {"clients": 3, "rounds": 10, "local_steps": STEPS},
            "lora": {"r": rank, "train": "B"},
            "privacy": {"epsilon": 8.0, "clip_norm": 0.1, "sample_rate": 0.5, "arithmetic": arithmetic},
            "device": "cpu",
        }
    )


def plan_of(config: Config, dim: int) -> LocalPlan:
    """The first round's plan under the configuration's own budget."""
    budget = plan_budget(config, dim)
    return local_plan(config, 1, budget.noise_multiplier, integer=budget.integer)


def compare(*, pairs: int, hidden_size: int, rank: int) -> None:
    """Print the best milliseconds a step and their ratio (a busy machine only adds), and the ratio of medians."""
    configs = {name: shape(name, pairs=pairs, hidden_size=hidden_size, rank=rank) for name in ARITHMETICS}
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(configs["float"], Path(folder), SilentProgress(), fresh=True)
        task, client, lora = prepared.task, prepared.clients[0], prepared.initial
        plans = {name: plan_of(config, task.noised_size()) for name, config in configs.items()}
        seconds: dict[str, list[float]] = {name: [] for name in ARITHMETICS}
        for turn in range(TURNS + 1):
            for name in ARITHMETICS if turn % 2 else reversed(ARITHMETICS):
                started = time.process_time()
                task.train_locally(lora, client, plans[name], Entropy.os())
                if turn:  # the first turn builds tables and caches
                    seconds[name].append((time.process_time() - started) / STEPS)
    best = {name: 1e3 * min(values) for name, values in seconds.items()}
    middle = {name: 1e3 * statistics.median(values) for name, values in seconds.items()}
    print(
        f"{task.noised_size():,} coordinates, {pairs // 2} pairs a step: "
        f"best float {best['float']:.1f} ms, integer {best['integer']:.1f} ms, "
        f"ratio {best['integer'] / best['float']:.3f}; of medians {middle['integer'] / middle['float']:.3f}"
    )


def alone(dim: int, rows: int = 16) -> None:
    """Print the median milliseconds of what differs alone: bounding `rows` rows and drawing the noise of one step."""
    plan = IntegerStepPlan(
        clip_norm=0.1, levels=65536, dim=dim, variance=10**10, sample_rate=0.5, expected_batch=50.0, learning_rate=0.3
    )
    real = RealNoise(clip_norm=0.1, stddev=0.15, entropy=Entropy.os())
    noises: dict[str, StepNoise] = {"float": real, "integer": IntegerNoise(plan, Entropy.os())}
    gradients = [torch.randn(rows, dim)]
    seconds: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in noises}
    for _ in range(TURNS):
        for name, noise in noises.items():
            started = time.process_time()
            noise.bounded(gradients)
            bounded = time.process_time()
            noise.drawn([dim])
            seconds[name][0].append(bounded - started)
            seconds[name][1].append(time.process_time() - bounded)
    for name, (rows_seconds, noise_seconds) in seconds.items():
        print(
            f"{dim:,} coordinates, {name}: {rows} rows {1e3 * statistics.median(rows_seconds):.2f} ms, "
            f"noise {1e3 * statistics.median(noise_seconds):.2f} ms"
        )


if __name__ == "__main__":
    for size in (5_280, 211_520):
        alone(size)
    compare(pairs=100, hidden_size=64, rank=4)
    compare(pairs=64, hidden_size=256, rank=40)
