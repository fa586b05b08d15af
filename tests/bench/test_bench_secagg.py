"""How long one round of secure aggregation takes beside the plain sum. Times are reported, never asserted; sums are."""

from __future__ import annotations

import os

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from secagg import LocalRound, RoundConfig, RoundSum, Stage, default_threshold

CLIENTS = 12
DIM = 10_000


def vectors() -> np.ndarray:
    return np.random.default_rng(0).integers(-(2**19), 2**19, size=(CLIENTS, DIM))


@pytest.mark.benchmark(group="sum of 12 clients, 10,000 coordinates")
def test_plain_sum(benchmark: BenchmarkFixture) -> None:
    values = vectors()
    assert (benchmark(lambda: values.sum(axis=0)) == values.sum(axis=0)).all()


@pytest.mark.benchmark(group="sum of 12 clients, 10,000 coordinates")
@pytest.mark.parametrize("drops", [{}, {4: Stage.AFTER_SHARES}], ids=["all stay", "one drops"])
def test_secure_sum(benchmark: BenchmarkFixture, drops: dict[int, Stage]) -> None:
    values = vectors()

    def secure_sum() -> RoundSum:
        config = RoundConfig(
            session=os.urandom(16),
            round_index=1,
            clients=tuple(range(CLIENTS)),
            threshold=default_threshold(CLIENTS),
            min_survivors=3,
            bits=24,
            dim=DIM,
            context=bytes(32),
        )
        aggregation = LocalRound(config, drops)
        for client in aggregation.open():
            aggregation.submit(client, values[client])
        return aggregation.finish()

    total = benchmark(secure_sum)
    benchmark.extra_info["upload_bytes"] = max(total.upload_bytes.values())
    assert (total.vector == values[list(total.survivors)].sum(axis=0)).all()
