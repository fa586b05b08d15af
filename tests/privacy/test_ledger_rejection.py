"""A rejected sample is remembered: the ledger counts that run's events without amplification from then on."""

from __future__ import annotations

import pytest

from privacy.accounting import epsilon, unamplified
from privacy.errors import BudgetExceeded
from privacy.events import PoissonGaussian
from privacy.ledger_view import charged_events, show, verify
from tests.privacy.ledger_builders import DELTA, opened

SAMPLED = PoissonGaussian(noise_multiplier=4.0, sample_rate=0.1, steps=5)


def test_events_of_a_rejected_run_count_without_sampling_and_others_with_it(tmp_path) -> None:
    path = tmp_path / "anna.jsonl"
    with opened(path, budget=30.0) as ledger:
        for run_id in ("first", "second"):
            ledger.commit(ledger.reserve(SAMPLED, run_id, 1), SAMPLED)
        before = ledger.epsilon().epsilon
        ledger.reject_samples("first")
        ledger.reject_samples("first")  # once is enough
        after = ledger.epsilon().epsilon
        assert len(ledger.records) == 6
        assert charged_events(ledger.records)[1] == SAMPLED
    assert after > 2 * before
    assert after == pytest.approx(epsilon([*charged_events_of_first(), SAMPLED], DELTA).epsilon)
    found = verify(path)
    assert found.ok and found.epsilon.epsilon == pytest.approx(after)
    assert any("without amplification" in row.detail for row in show(path))


def test_what_a_rejection_overspends_stops_later_rounds(tmp_path) -> None:
    budget = 1.05 * epsilon([SAMPLED, SAMPLED], DELTA).epsilon
    assert unamplified([SAMPLED], DELTA).epsilon > budget
    with opened(tmp_path / "anna.jsonl", budget=budget) as ledger:
        ledger.reserve(SAMPLED, "first", 1)
        ledger.reject_samples("first")
        with pytest.raises(BudgetExceeded):
            ledger.reserve(SAMPLED, "second", 1)


def charged_events_of_first():
    from privacy.events import with_known_sample

    return [with_known_sample(SAMPLED)]
