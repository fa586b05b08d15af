"""Whole small runs for tests: a listener that records, and a run in a folder with a cache of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedpdpo_secure.progress import RunInfo, SilentProgress
from fedpdpo_secure.report import RoundReport, RunResult
from fedpdpo_secure.run import run_training
from tests.fed.builders import small_config

FREE: dict[str, Any] = {"privacy": {"unit": "none"}, "lora": {"train": "AB"}}


class Recorder(SilentProgress):
    """Keeps what a run says; `stop_at` raises KeyboardInterrupt when that client of that round is done."""

    def __init__(self, stop_at: tuple[int, int] | None = None) -> None:
        self.info: RunInfo | None = None
        self.reports: list[RoundReport] = []
        self.notes: list[str] = []
        self._stop_at = stop_at

    def started(self, info: RunInfo) -> None:
        self.info = info

    def client(self, round_index: int, done: int, total: int, name: str) -> None:
        if (round_index, done) == self._stop_at:
            raise KeyboardInterrupt

    def round(self, report: RoundReport) -> None:
        self.reports.append(report)

    def note(self, text: str) -> None:
        self.notes.append(text)


def run(folder: Path, *, resume: bool = False, progress: Recorder | None = None, **sections: Any) -> RunResult:
    """Run a small configuration in `folder`."""
    config = small_config(**sections, output_dir=str(folder))
    return run_training(config, resume=resume, progress=progress or Recorder())
