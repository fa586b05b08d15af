"""Parts of a study: cells that are ordinary `fedpdpo train` runs, and the tables made of what they measured."""

from __future__ import annotations

import io
import json
import os
import statistics
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from fedpdpo_secure.report import LOCAL, NOT_PRIVATE, read_reports

CONFIGS = Path(__file__).parent / "configs"
OWN, IMPLICIT, EXPLICIT = "accuracy_combined", "accuracy_implicit", "accuracy_explicit"


@dataclass(frozen=True, slots=True)
class Variant:
    """One row of a table: a name, a configuration and what is changed in it."""

    name: str
    config: str
    changes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a study."""

    variant: Variant
    group: str  # e.g. heterogeneity level; names a table
    seed: int
    changes: tuple[str, ...]

    def folder(self, out: Path) -> Path:
        """Where the run lies."""
        return out / f"{self.group}" / self.variant.name.replace(" ", "_") / f"seed{self.seed}"


def run_cells(cells: Sequence[Cell], out: Path, jobs: int) -> None:
    """Run every unfinished cell, `jobs` at a time, one thread each. Raises SystemExit naming a cell that failed."""
    # a worker loads torch once for all its cells; `spawn`, since a fork of a process that has loaded torch may hang
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        for done, (cell, failure) in enumerate(zip(cells, pool.map(_run, cells, repeat(out)), strict=True), 1):
            if failure:
                pool.shutdown(cancel_futures=True)
                raise SystemExit(f"{cell.folder(out)}: {failure}")
            print(f"{done}/{len(cells)} {cell.folder(out)}", file=sys.stderr, flush=True)


def _one_thread() -> None:
    """In a worker, before torch is loaded."""
    os.environ["OMP_NUM_THREADS"] = "1"


def _run(cell: Cell, out: Path) -> str | None:
    """Train one cell; returns what it said on standard error if it failed."""
    folder = cell.folder(out)
    if (folder / "metrics.json").exists():
        return None
    if (folder / "config.yaml").exists():
        command = ["train", "--resume", str(folder)]
    else:
        command = ["train", str(CONFIGS / cell.variant.config), "--output_dir", str(folder)]
        for change in (*cell.variant.changes, *cell.changes, f"seed={cell.seed}"):
            command += ["--set", change]
    from experiments.cli import main

    said = io.StringIO()
    with redirect_stderr(said), redirect_stdout(io.StringIO()):
        code = main([*command, "--quiet"])
    return None if code in (0, 4) else said.getvalue().strip()[-500:]


@dataclass(frozen=True, slots=True)
class Scores:
    """What one finished run says of its clients' held-out pairs."""

    final: dict[str, float]  # what clients serve at the end
    shared: dict[str, float]  # the shared adapter alone
    untrained: dict[str, float]  # before the first round
    by_round: tuple[dict[str, float], ...]  # after each round, test and validation
    public: dict[str, float]  # the server's evaluation of the shared adapter on public pairs


def read_scores(folder: Path) -> Scores:
    """Scores of a finished run folder."""
    values: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    metrics = values[LOCAL]
    lines = (folder / "rounds.jsonl").read_text().splitlines()
    rounds = tuple(json.loads(line)[LOCAL] for line in lines)
    return Scores(metrics["served"], metrics["shared adapter alone"], metrics["untrained"], rounds, values["released"])


def best_round(runs: Sequence[Scores]) -> int:
    """Index of the round with the best validation accuracy by the method's own score, averaged over seeds."""
    key = f"validation/{OWN}"
    rounds = [r for r, measured in enumerate(runs[0].by_round) if key in measured]
    return max(rounds, key=lambda r: statistics.mean(run.by_round[r][key] for run in runs))


def spread(values: Iterable[float | None]) -> str:
    """Mean and standard deviation over seeds, the mean alone for one seed, a dash where a score does not exist."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    if len(known) == 1:
        return f"{known[0]:.3f}"
    return f"{statistics.mean(known):.3f} ± {statistics.stdev(known):.3f}"


def rounds_table(folder: Path) -> str:
    """The rounds of one run as a Markdown table; what is right of `upload` is local to the simulation."""
    header = [
        "round",
        "clients",
        "epsilon spent",
        "left",
        "RDP",
        "public",
        "upload, kB",
        "implicit",
        "combined",
        "worst",
    ]
    rows = []
    for report in read_reports(folder):
        local = report.local
        rows.append(
            [
                str(report.round_index),
                f"{report.survivors}/{report.clients}",
                NOT_PRIVATE if report.epsilon is None else f"{report.epsilon:.3f}",
                *(decimals(value) for value in (report.epsilon_left, report.epsilon_rdp)),
                decimals(report.released.get(IMPLICIT)),
                f"{report.upload_bytes / 1000:.0f}",
                *(decimals(local.get(key)) for key in (IMPLICIT, OWN, "worst_accuracy")),
            ]
        )
    return table(header, rows)


def decimals(value: float | None) -> str:
    """Three decimals, or a dash where there is no number."""
    return "-" if value is None or value != value else f"{value:.3f}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
