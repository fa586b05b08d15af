"""How long one round of secure aggregation takes beside the plain sum. Times are reported, never asserted; sums are.

Whole sweeps, with bytes, memory and lower bounds, are `fedpdpo bench secagg`.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from secagg import LocalRound, Mode, RoundConfig, RoundSum, SigningKey, Stage, default_threshold

CLIENTS = 12
DIM = 10_000
ROUND = pytest.mark.benchmark(group="sum of 12 clients, 10,000 words")


def vectors() -> np.ndarray:
    return np.random.default_rng(0).integers(-(2**19), 2**19, size=(CLIENTS, DIM))


@ROUND
def test_plain_sum(benchmark: BenchmarkFixture) -> None:
    values = vectors()
    assert (benchmark(lambda: values.sum(axis=0)) == values.sum(axis=0)).all()


@ROUND
@pytest.mark.parametrize("drops", [{}, {4: Stage.AFTER_SHARES}], ids=["all stay", "one drops"])
@pytest.mark.parametrize("mode", Mode, ids=lambda mode: mode.value)
def test_secure_sum(benchmark: BenchmarkFixture, mode: Mode, drops: dict[int, Stage]) -> None:
    values = vectors()
    keys = {client: SigningKey.generate() for client in range(CLIENTS)} if mode is Mode.MALICIOUS_SERVER else {}

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
            mode=mode,
            identities=tuple(key.public for key in keys.values()),
        )
        aggregation = LocalRound(config, drops, identities=keys)
        for client in aggregation.open():
            aggregation.submit(client, values[client])
        return aggregation.finish()

    total = benchmark(secure_sum)
    benchmark.extra_info["upload_bytes"] = max(total.upload_bytes.values())
    assert (total.vector == values[list(total.survivors)].sum(axis=0)).all()
