"""A run does what was published before its first round, or it stops before the round that would not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fedpdpo_secure import run as run_module
from fedpdpo_secure.artefacts import RunFolderError
from fedpdpo_secure.budget import BudgetPlan
from fedpdpo_secure.published_plan import FILE, NO_PLAN, check_committed, check_next, publish, published
from fedpdpo_secure.report import read_reports
from privacy.errors import AdaptiveParameters
from privacy.events import Event, NonPrivate, event_to_dict, gaussian_event
from privacy.ledger import Ledger, verify_dir
from privacy.ledger_record import Record
from privacy.planned import plan_digest
from tests.fed.runs import Recorder, run

SMALL = {
    "federation": {"clients": 3, "rounds": 3, "local_steps": 2},
    "synthetic": {"pairs": 16, "public_dialogues": 200},
    "tiny": {"warm_start_steps": 5, "hidden_size": 32, "layers": 1},
    "serving": {"epochs": 0},
    "privacy": {"noise_multiplier": 2.0, "arithmetic": "float"},
}


def event(noise_multiplier: float = 2.0, steps: int = 2) -> Event:
    return gaussian_event(noise_multiplier=noise_multiplier, sample_rate=0.5, steps=steps)


def budget(planned: Event | None = None) -> BudgetPlan:
    return BudgetPlan(8.0, 1e-5, 2.0, planned or event())


def test_the_plan_is_on_disk_before_the_first_round_and_its_digest_is_shown(tmp_path: Path) -> None:
    class Looking(Recorder):
        def client(self, round_index: int, done: int, total: int, name: str) -> None:
            if (round_index, done) == (1, 1):
                self.seen = json.loads((tmp_path / FILE).read_text())

    listener = Looking()
    result = run(tmp_path, **SMALL, progress=listener)
    assert listener.seen["events"] == {str(index): event_to_dict(event()) for index in (1, 2, 3)}
    assert listener.seen["digest"] == plan_digest([event()] * 3) == result.plan_digest == listener.info.plan_digest
    statement = json.loads((tmp_path / "privacy_statement.json").read_text())
    assert statement["provenance"]["plan_digest"] == result.plan_digest


def test_noise_that_changes_on_the_way_is_refused_before_that_round_is_charged(tmp_path: Path, monkeypatch) -> None:
    original = run_module.local_plan

    def adaptive(config, round_index, noise_multiplier, shares=None, **more):
        scale = 0.9 if round_index == 2 else 1.0
        return original(config, round_index, scale * noise_multiplier, shares, **more)

    monkeypatch.setattr(run_module, "local_plan", adaptive)
    with pytest.raises(AdaptiveParameters, match="round 2"):
        run(tmp_path, **SMALL)
    assert [report.round_index for report in read_reports(tmp_path)] == [1]
    assert {(one.reserved, one.committed) for one in verify_dir(tmp_path)} == {(1, 1)}


def test_what_a_ledger_says_was_done_otherwise_ends_the_run(tmp_path: Path, monkeypatch) -> None:
    original = Ledger.reserve

    def other(self, planned, run_id, round_index, context=None):
        changed = replace(planned, noise_multiplier=9.0) if round_index == 2 else planned
        return replace(original(self, changed, run_id, round_index, context), event=planned)

    monkeypatch.setattr(Ledger, "reserve", other)
    monkeypatch.setattr(Ledger, "commit", lambda self, reservation, done: None)
    with pytest.raises(AdaptiveParameters, match=r"client client-00: round 2"):
        run(tmp_path, **SMALL)
    assert [report.round_index for report in read_reports(tmp_path)] == [1]


def test_a_resumed_run_needs_the_plan_that_was_published(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, **SMALL, progress=Recorder(stop_at=(2, 1)))
    plan = (tmp_path / FILE).read_text()
    (tmp_path / FILE).write_text(plan.replace("2.0", "2.5", 1))
    with pytest.raises(RunFolderError, match="was edited"):
        run(tmp_path, **SMALL, resume=True)
    (tmp_path / FILE).unlink()
    with pytest.raises(ValueError, match="no plan was published"):
        run(tmp_path, **SMALL, resume=True)
    (tmp_path / FILE).write_text(plan)
    assert run(tmp_path, **SMALL, resume=True).rounds == 3
    assert (tmp_path / FILE).read_text() == plan


def test_a_plan_made_otherwise_now_is_not_the_published_one(tmp_path: Path) -> None:
    made = publish(tmp_path, budget(), 3, {})
    assert published(tmp_path, budget(), 3) == made
    for other, rounds in ((budget(event(1.9)), 3), (budget(), 4), (budget(event(steps=1)), 3)):
        with pytest.raises(RunFolderError, match="digest"):
            published(tmp_path, other, rounds)
    (tmp_path / FILE).write_text("[]")
    with pytest.raises(RunFolderError, match="not a published plan"):
        published(tmp_path, budget(), 3)
    assert published(tmp_path / "elsewhere", budget(), 3) is None


def test_fewer_steps_are_no_departure_and_more_of_anything_is(tmp_path: Path) -> None:
    plan = publish(tmp_path, budget(), 2, {})
    check_next(plan, 2, event(steps=1))
    for departs in (event(2.1), event(1.9), event(steps=3), NonPrivate("seeded noise")):
        with pytest.raises(AdaptiveParameters, match="round 2"):
            check_next(plan, 2, departs)
    with pytest.raises(AdaptiveParameters, match="not planned"):
        check_next(plan, 3, event())
    with pytest.raises(AdaptiveParameters):
        check_next(NO_PLAN, 1, event())
    check_next(publish(tmp_path, budget(NonPrivate("seeded noise")), 2, {}), 1, event())  # nothing was promised


def recorded(path: Path, done: list[tuple[str, str, int, Event, Event | None]]) -> tuple[Record, ...]:
    """A ledger's records: (run, configuration, round, reserved, committed or nothing)."""
    with Ledger.open(path, budget_epsilon=1e6, delta=1e-5, data_id="d", client="c") as ledger:
        for run_id, config, round_index, reserved, committed in done:
            receipt = ledger.reserve(reserved, run_id, round_index, {"config": config})
            if committed is not None:
                ledger.commit(receipt, committed)
        return ledger.records


def test_only_this_runs_records_are_held_against_its_plan(tmp_path: Path) -> None:
    before = recorded(tmp_path / "c", [("run-1", "k", 1, event(7.0), None)])
    plan = publish(tmp_path, budget(), 2, {"c": before})

    def check(*done: tuple[str, str, int, Event, Event | None]) -> None:
        nonlocal_rows = recorded(tmp_path / "c", list(done))
        check_committed(plan, {"c": nonlocal_rows}, run_name="run", config_digest="k")

    check(("run-2", "k", 1, event(), event()), ("other-3", "k", 1, event(7.0), event(7.0)))
    check(("run-2", "other", 2, event(7.0), None), ("run-b-2", "k", 2, event(7.0), None))
    check(("run-3", "k", 2, event(), event(steps=1)))  # a second attempt, with fewer steps
    with pytest.raises(AdaptiveParameters, match="client c: round 2"):
        check(("run-4", "k", 2, event(7.0), None))  # reserved and cut
