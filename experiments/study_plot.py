"""Plots of studies: accuracy against epsilon or the number of clients, a line each, mean and spread over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_COLORS = ("#0072b2", "#000000", "#d55e00", "#009e73", "#56b4e9", "#cc79a7")  # Okabe and Ito: told apart by all eyes
_MARKERS = ("o", "s", "^", "v", "D", "x")
_APART = 0.015  # lines stand this share of a decade apart, so that their spreads can be read


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a plot."""

    label: str
    places: Sequence[float]
    values: Sequence[Sequence[float]]  # at each place, one value a seed


def plot_lines(
    lines: Sequence[Line],
    path: Path,
    *,
    title: str,
    x_label: str,
    levels: Mapping[str, float],
) -> Path:
    """Draw `lines` over a logarithmic axis and `levels` across it into the PNG `path`; returns it.

    Raises ValueError where there is no line or a line has another number of places than of values.
    """
    from matplotlib.figure import Figure

    if not lines:
        raise ValueError("lines: there is nothing to draw")
    for line in lines:
        if len(line.places) != len(line.values):
            raise ValueError(f"lines: {line.label!r} has {len(line.places)} places and {len(line.values)} values")
    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    middle = (len(lines) - 1) / 2
    for number, line in enumerate(lines):
        shift = 10 ** (_APART * (number - middle))
        means = [statistics.mean(values) for values in line.values]
        spreads = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in line.values]
        axes.errorbar(
            [place * shift for place in line.places],
            means,
            yerr=spreads,
            label=line.label,
            color=_COLORS[number % len(_COLORS)],
            marker=_MARKERS[number % len(_MARKERS)],
            capsize=3,
            linewidth=1.6,
            markersize=5,
        )
    for (label, height), style in zip(levels.items(), (":", "--", "-."), strict=False):
        axes.axhline(height, linestyle=style, color="#777777", label=label)
    ticks = sorted({place for line in lines for place in line.places})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(x_label)
    axes.set_ylabel("accuracy (implicit reward), mean ± s.d. over seeds")
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=9, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.savefig(path, dpi=130)
    return path
