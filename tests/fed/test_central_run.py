"""Central DP-SGD, a comparator: owners are charged what was done, nothing un-noised is released, a fault stops it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedpdpo_secure import task as task_module
from fedpdpo_secure.config import load_config
from fedpdpo_secure.histories import charged, read_ledgers
from fedpdpo_secure.round import EventMismatch
from tests.fed.runs import Recorder, run

CENTRAL = {"method": {"name": "centralized"}, "privacy": {"epsilon": 4.0, "delta": 1e-4}}


def test_pooled_pairs_are_charged_in_every_round_whoever_was_scheduled_to_drop_out(tmp_path) -> None:
    drop = [{"round": 1, "client": 1, "stage": "before_keys"}, {"round": 2, "client": 2, "stage": "before_keys"}]
    result = run(tmp_path / "run", **CENTRAL, federation={"clients": 4, "rounds": 2, "local_steps": 1, "drop": drop})
    config = load_config(tmp_path / "run" / "config.yaml")
    names = tuple(f"client-{index:02d}" for index in range(4))
    histories = charged(read_ledgers(config, tmp_path / "run", names))
    assert {len(events) for events in histories.values()} == {2}
    assert 3.9 < result.epsilon <= 4.0


def test_a_private_central_run_releases_no_loss_and_says_whose_noise_it_is(tmp_path) -> None:
    recorder = Recorder()
    result = run(tmp_path, **CENTRAL, progress=recorder)
    assert all("loss" not in report.released for report in recorder.reports)
    assert result.noise == "central" and result.private
    assert all(report.noise == "central" and report.private for report in recorder.reports)
    free = Recorder()
    run(tmp_path / "free", method={"name": "centralized"}, privacy={"unit": "none"}, progress=free)
    assert all("loss" in report.released for report in free.reports)


def test_noise_that_is_not_what_was_charged_stops_a_central_run(tmp_path, monkeypatch) -> None:
    original = task_module.train_private

    def weaker(*args, **kwargs):
        event, loss, local = original(*args, **kwargs)
        return replace(event, variance=event.variance // 4, own_variance=event.own_variance // 4), loss, local

    monkeypatch.setattr(task_module, "train_private", weaker)
    with pytest.raises(EventMismatch):
        run(tmp_path, **CENTRAL)
