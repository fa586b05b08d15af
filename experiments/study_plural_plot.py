"""The plot of PluralLLM's privacy study: alignment against epsilon, a panel for each kind of question."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.study_plot import Line

_COLORS = ("#0072b2", "#d55e00", "#009e73")  # Okabe and Ito
_STYLES = (":", "--", "-.", (0, (1, 4)))


def draw_epsilon(panels: Mapping[str, tuple[Sequence[Line], Mapping[str, float]]], path: Path) -> Path:
    """Draw one panel per entry, title -> (curves, levels), into the PNG `path`; returns it.

    Raises ValueError where there is no panel.
    """
    from matplotlib.figure import Figure

    if not panels:
        raise ValueError("panels: there is nothing to draw")
    figure = Figure(figsize=(5.2 * len(panels), 4.9), layout="constrained")
    for axes, (title, (lines, levels)) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for number, line in enumerate(lines):
            axes.errorbar(
                line.places,
                [statistics.mean(values) for values in line.values],
                yerr=[statistics.stdev(values) if len(values) > 1 else 0.0 for values in line.values],
                label=line.label,
                color=_COLORS[number % len(_COLORS)],
                marker="os^"[number % 3],
                capsize=3,
            )
        for (label, height), style in zip(levels.items(), _STYLES, strict=False):
            axes.axhline(height, linestyle=style, color="#777777", label=label)
        axes.set_xscale("log")
        ticks = sorted({place for line in lines for place in line.places})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("epsilon")
        axes.set_ylabel("alignment, mean over groups")
        axes.set_title(title, fontsize=11)
        axes.grid(alpha=0.25)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    figure.savefig(path, dpi=130)
    return path
