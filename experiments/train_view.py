"""What `fedpdpo train` shows: a header with the claim, one privacy line per round, a footer with the results.

On a terminal a progress bar runs below the lines; elsewhere there are only the lines. Numbers that no client
releases stand right of a bar under the words `local, not released`.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import click

from experiments.round_table import (
    column_lines,
    footer_lines,
    header_lines,
    narrow_line,
    result_lines,
    round_line,
    table_width,
)
from fedpdpo_secure.progress import RunInfo
from fedpdpo_secure.report import RoundReport, RunResult, read_reports

_LOADING = "loading data and model"
_SERVING = "serving copies (local)"


class TrainView:
    """A `Progress` listener that prints; use as a context so that the bar is taken down."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._info: RunInfo | None = None
        self._reports: list[RoundReport] = []
        self._narrow = False
        self._bar = None if quiet or not (sys.stdout.isatty() or sys.stderr.isatty()) else _Bar()

    def __enter__(self) -> TrainView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_bar()

    @property
    def begun(self) -> bool:
        """Whether the run got as far as its header."""
        return self._info is not None

    @property
    def rounds_done(self) -> int:
        """The last finished round, those before a resume included."""
        if self._reports:
            return self._reports[-1].round_index
        return self._info.first_round - 1 if self._info else 0

    def reached(self) -> dict[str, Any]:
        """Rounds, privacy and drops so far, under the JSON names of `fedpdpo train`."""
        last = self._reports[-1] if self._reports else None
        private = last is not None and last.private
        return {
            "rounds": self.rounds_done,
            "epsilon": last.epsilon if last is not None and private else None,
            "private": private,
            "delta": self._info.delta if self._info else None,
            "dropped": sum(len(report.dropped) for report in self._reports),
            "recovered": sum(report.recovered for report in self._reports),
            "upload_bytes": sum(report.upload_bytes for report in self._reports),
        }

    def warm_start(self, step: int, total: int, loss: float) -> None:
        self._advance("warm start on public text", step, total, f"loss {loss:.3f}")
        if step == total and self._bar is None:
            self._say(f"warm start on public text: {total} steps, loss {loss:.3f}")
        if step == total:
            self._advance(_LOADING, 0, None, "")

    def started(self, info: RunInfo) -> None:
        self._info = info
        self._narrow = sys.stdout.isatty() and shutil.get_terminal_size().columns < table_width(info)
        self._next_phase(info.first_round)
        for line, style in header_lines(info):
            self._say(line, style)
        self._say()
        if self._narrow:
            self._say(narrow_line(info))
        for line in column_lines(info, narrow=self._narrow):
            self._say(line, "bold")
        for report in read_reports(Path(info.output_dir))[: info.first_round - 1]:  # of a resumed run
            self.round(report)

    def client(self, round_index: int, done: int, total: int, name: str) -> None:
        self._advance(self._round_label(round_index), done, total, name)

    def round(self, report: RoundReport) -> None:
        self._reports.append(report)
        self._say(round_line(report, narrow=self._narrow), None if report.private else "red")
        self._next_phase(report.round_index + 1)

    def serving(self, done: int, total: int) -> None:
        self._advance(_SERVING, done, total, "")

    def note(self, text: str) -> None:
        self._say(f"note: {text}", "yellow")

    def finish(self, result: RunResult) -> None:
        """Print the footer: drops, what the columns mean, the metrics by part and the files."""
        self._stop_bar()
        if self._info is not None:
            for line, style in footer_lines(self._info, self._reports, result):
                self._say(line, style)
        for line, style in result_lines(result):
            self._say(line, style)

    def _say(self, line: str = "", style: str | None = None) -> None:
        if self._quiet:
            return
        if self._bar is not None and self._bar.on_stdout:
            self._bar.print(line, style)
        else:
            click.echo(line)

    def _round_label(self, round_index: int) -> str:
        return f"round {round_index}/{self._info.rounds}" if self._info else f"round {round_index}"

    def _next_phase(self, round_index: int) -> None:
        """Show the phase that begins now, before its first client is done."""
        if self._info is not None:
            training = round_index <= self._info.rounds
            self._advance(self._round_label(round_index) if training else _SERVING, 0, self._info.clients, "")

    def _advance(self, label: str, done: int, total: int | None, detail: str) -> None:
        if self._bar is not None:
            self._bar.advance(label, done, total, detail)

    def _stop_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()


class _Bar:
    """One progress bar, on stdout if that is a terminal, else on stderr."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self.on_stdout = sys.stdout.isatty()
        self._console = Console(stderr=not self.on_stdout, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._label = _LOADING
        self._task = self._progress.add_task(self._label, total=None, detail="")
        self._progress.start()

    def print(self, line: str, style: str | None) -> None:
        from rich.text import Text

        self._console.print(Text(line, style=style or ""), soft_wrap=True)

    def advance(self, label: str, done: int, total: int | None, detail: str) -> None:
        if label != self._label:  # a new task: nothing of the phase before stays
            self._label = label
            self._progress.remove_task(self._task)
            self._task = self._progress.add_task(label, total=total, detail=detail)
        self._progress.update(self._task, completed=done, total=total, detail=detail)

    def stop(self) -> None:
        self._progress.stop()
