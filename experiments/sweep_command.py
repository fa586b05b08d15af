"""`fedpdpo sweep`: utility at chosen epsilons over seeds; every cell is an ordinary run folder."""

from __future__ import annotations

import csv
import json
import math
import os
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from experiments.output import Output, output_options
from experiments.tables import number, print_table

if TYPE_CHECKING:
    from experiments.study import Cell

_COLUMNS = ("epsilon", "seed", "shared", "served", "worst", "untrained", "folder")


def _numbers(context: click.Context, parameter: click.Parameter, value: str) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in value.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not a list of numbers such as 1,2,4,8,inf") from error
    if not found or any(math.isnan(one) or one <= 0 for one in found) or len(set(found)) != len(found):
        raise click.BadParameter("epsilons must be distinct and above 0")
    return tuple(sorted(found))


@click.command()
@click.argument("config", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--epsilons", default="1,2,4,8,inf", show_default=True, callback=_numbers, help="inf: clip only.")
@click.option("--seeds", type=click.IntRange(1, 100), default=3, show_default=True, help="Runs at each epsilon.")
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Change every cell; repeatable.")
@click.option("--output", "folder", type=click.Path(path_type=Path), required=True, help="Folder of all runs.")
@click.option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Runs at a time.")
@output_options
def sweep(
    config: Path,
    epsilons: tuple[float, ...],
    seeds: int,
    overrides: tuple[str, ...],
    folder: Path,
    jobs: int,
    output: Output,
) -> None:
    """Train CONFIG at every epsilon and seed; finished cells are kept, so the command can be repeated after a stop.

    Writes sweep.csv (one row a run) and sweep.png. Data not declared public are charged for every cell.
    """
    from experiments.study import Cell, Variant, read_scores, run_cells

    variants = [Variant(f"eps{epsilon:g}", str(config.resolve()), overrides) for epsilon in epsilons]
    cells = [
        Cell(variant, "cells", seed, (f"privacy.epsilon={epsilon:g}", "privacy.noise_multiplier=null"))
        for variant, epsilon in zip(variants, epsilons, strict=True)
        for seed in range(seeds)
    ]
    _claim(folder, config, overrides)
    run_cells(cells, folder, jobs)
    rows = [_row(cell, read_scores(cell.folder(folder)), folder) for cell in cells]
    _write(folder / "sweep.csv", rows)
    table = [_summary(epsilon, rows) for epsilon in epsilons]
    _plot(folder / "sweep.png", table)
    output.say("accuracy on clients' held-out pairs, mean over clients, mean and standard deviation over seeds")
    if not output.quiet:
        parts = ("shared", "served", "worst")
        shown = [[str(line["epsilon"]), *(_spread(line, part) for part in parts)] for line in table]
        print_table(["epsilon", "shared adapter alone", "served", "worst client"], shown)
    output.say(f"{folder / 'sweep.csv'}, {folder / 'sweep.png'}")
    output.finish({"rows": rows, "summary": table, "output": str(folder)})


def _claim(folder: Path, config: Path, overrides: tuple[str, ...]) -> None:
    """Make the folder for this configuration, or refuse one whose kept cells are of another."""
    chosen = json.dumps({"config": config.read_text(encoding="utf-8"), "set": list(overrides)}, indent=1) + "\n"
    kept = folder / "sweep.json"
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        kept.write_text(chosen, encoding="utf-8")
    elif kept.read_text(encoding="utf-8") != chosen:
        raise click.UsageError(f"--output: {folder} holds a sweep of another configuration or other --set values")


def _row(cell: Cell, scores: Any, folder: Path) -> dict[str, Any]:
    return {
        "epsilon": cell.variant.name.removeprefix("eps"),
        "seed": cell.seed,
        "shared": scores.shared.get("accuracy_implicit"),
        "served": scores.final.get("accuracy_combined"),
        "worst": scores.final.get("worst_accuracy"),
        "untrained": scores.untrained.get("accuracy_implicit"),
        "folder": os.path.relpath(cell.folder(folder), folder),
    }


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    os.replace(partial, path)


def _summary(epsilon: float, rows: list[dict[str, Any]]) -> dict[str, Any]:
    mine = [row for row in rows if row["epsilon"] == f"{epsilon:g}"]
    line: dict[str, Any] = {"epsilon": f"{epsilon:g}", "seeds": len(mine)}
    for part in ("shared", "served", "worst"):
        values = [row[part] for row in mine if row[part] is not None]
        line[part] = statistics.mean(values) if values else None
        line[f"{part}_sd"] = statistics.stdev(values) if len(values) > 1 else 0.0
    return line


def _spread(line: dict[str, Any], part: str) -> str:
    return "-" if line[part] is None else f"{number(line[part])} ± {number(line[f'{part}_sd'])}"


def _plot(path: Path, table: list[dict[str, Any]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    places = range(len(table))
    for part, label in (("shared", "shared adapter alone"), ("served", "served by clients")):
        values = [math.nan if line[part] is None else line[part] for line in table]
        axes.errorbar(places, values, yerr=[line[f"{part}_sd"] for line in table], marker="o", capsize=3, label=label)
    axes.axhline(0.5, linestyle=":", color="grey", label="chance")
    axes.set_xticks(places, [line["epsilon"] for line in table])
    axes.set_xlabel("epsilon (inf: clipped, no noise, NOT PRIVATE)")
    axes.set_ylabel("accuracy, held-out pairs")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=130)
