"""Ledgers for the tests."""

from __future__ import annotations

from pathlib import Path

from privacy.accounting import epsilon
from privacy.events import gaussian_event
from privacy.ledger import Ledger

DELTA = 1e-5
ROUND = gaussian_event(noise_multiplier=4.0, sample_rate=1.0, steps=2)  # full batch: exact and quick


def opened(
    path: Path, *, budget: float = 3.0, delta: float = DELTA, client: str = "anna", reason: str | None = None
) -> Ledger:
    return Ledger.open(path, budget_epsilon=budget, delta=delta, data_id="demo", client=client, reason=reason)


def rounds_within(budget: float) -> int:
    """How many rounds a budget allows, from the accountant alone."""
    count = 0
    while epsilon([ROUND] * (count + 1), DELTA).epsilon <= budget:
        count += 1
    return count
