"""The plot of `experiments.naive`: what was claimed as a line, what an attack showed as bars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.naive import Row

_NAIVE, _SOUND, _CLAIM = "#d55e00", "#0072b2", "#000000"  # Okabe and Ito: told apart by all eyes
_HEADROOM = 1.18


def plot_rows(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Draw naive.png and naive.svg into `folder`: one panel a setting. Raises ValueError if there are no rows.

    Full bars assume nothing of the mechanism. Outlined bars go through a Gaussian curve; one that leaves the panel is
    cut and its value written on it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    if not rows:
        raise ValueError("rows: there is nothing to draw")
    settings = list(dict.fromkeys(row.setting for row in rows))
    settings.sort(key=lambda name: not name.startswith("toy"))
    top = _HEADROOM * max(max(row.direct for row in rows), 1.5 * max(row.claim for row in rows))
    most = max(sum(row.setting == setting for row in rows) for setting in settings)
    figure = Figure(figsize=(1.0 + 3.1 * len(settings), 4.9), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(settings), squeeze=False, sharey=True)[0]
    for panel, setting in zip(panels, settings, strict=True):
        _draw(panel, [row for row in rows if row.setting == setting], top, most)
    panels[0].set_ylabel("epsilon for one pair", fontsize=11)
    confidence = rows[0].confidence
    figure.suptitle("The same claim, attacked: personal parts trained without noise break it", fontsize=12.5)
    handles = [
        Line2D([], [], color=_CLAIM, linestyle="--", label="claimed"),
        Patch(facecolor=_SOUND, label=f"lower bound at {100 * confidence:g} %, assuming nothing"),
        Patch(facecolor="none", edgecolor=_SOUND, label=f"at {100 * confidence:g} %, through a Gaussian curve"),
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=3 if len(settings) > 2 else 1, frameon=False, fontsize=10
    )
    paths = [folder / "naive.png", folder / "naive.svg"]
    for path in paths:
        figure.savefig(path, dpi=150)
    return paths


def _draw(panel: Axes, rows: Sequence[Row], top: float, most: int) -> None:
    for place, row in enumerate(rows):
        color = _NAIVE if row.scheme == "naive" else _SOUND
        if row.gaussian is not None:
            cut = row.gaussian > top
            panel.bar(place, min(row.gaussian, top), 0.72, facecolor="none", edgecolor=color, linewidth=1.2)
            if cut:
                panel.text(
                    place, top * 0.965, f"{row.gaussian:.0f} \u2191", ha="center", va="top", fontsize=9, color=color
                )
        panel.bar(place, row.direct, 0.46, color=color)
        _label(panel, place, row, top)
    panel.axhline(rows[0].claim, color=_CLAIM, linestyle="--", linewidth=1.3)
    panel.set_xticks(range(len(rows)), [row.scheme for row in rows], fontsize=10)
    panel.set_title(f"{rows[0].setting}\n{rows[0].runs:,} runs each", fontsize=10.5)
    panel.set_ylim(0, top)
    panel.set_xlim(-0.6, most - 0.4)  # bars of one width in all panels
    panel.spines[["top", "right"]].set_visible(False)


def _label(panel: Axes, place: int, row: Row, top: float) -> None:
    """The bound that assumes nothing, in the middle of its bar or above one too low for it."""
    value, outline = row.direct, row.gaussian or 0.0
    inside = value > 0.12 * top
    above = outline if value < outline < value + 0.08 * top else value  # clear of the outlined bar's edge
    height, color = (value / 2, "white") if inside else (above + 0.01 * top, _CLAIM)
    vertical = "center" if inside else "bottom"
    panel.text(place, height, f"{value:.2f}", ha="center", va=vertical, fontsize=9, color=color)
