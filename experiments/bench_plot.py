"""The plot of `bench secagg`: CPU seconds of a client and of the server against what the sweep varied, log on log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
_AXES = {"dim": "words of a vector", "clients": "clients (neighbours of each)"}
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito: told apart by all eyes
_GREY = "#555555"
_OURS: dict[str, Any] = {"linestyle": "-", "marker": "o", "linewidth": 1.8, "markersize": 5}
_FLOOR: dict[str, Any] = {"linestyle": ":", "linewidth": 1.5}
_PEER: dict[str, Any] = {"linestyle": "--", "marker": "^", "markerfacecolor": "white", "linewidth": 1, "markersize": 6}
_ROLES = (("client_cpu_s", "a client (median)"), ("server_cpu_s", "the server"))


def plot_secagg(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Draw secagg.png and secagg.svg into `folder` and return their paths.

    One column for each of words and clients that took more than one value (words, if neither did), one row for a
    client and one for the server; a line for each value of the other. Where several fractions dropped out, the
    largest is drawn. Raises ValueError if there are no rows.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not rows:
        raise ValueError("rows: there is nothing to draw")
    drawn = [row for row in rows if row["dropped"] == max(row["dropped"] for row in rows)]
    columns = [name for name in _AXES if len({row[name] for row in drawn}) > 1] or ["dim"]
    figure = Figure(figsize=(1.6 + 5.2 * len(columns), 8.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, len(columns), squeeze=False, sharey="row", sharex="col")
    for line, (key, role) in enumerate(_ROLES):
        for place, axis in enumerate(columns):
            _draw(panels[line][place], drawn, axis=axis, key=key)
        panels[line][0].set_ylabel(f"CPU time of {role}", fontsize=11)
    for place, axis in enumerate(columns):
        panels[1][place].set_xlabel(_AXES[axis], fontsize=11)
        panels[0][place].legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize=10)
    figure.suptitle(_title(drawn[0]), fontsize=12.5)
    _explain_lines(figure, peers=any(row["flower"] for row in drawn))
    paths = [folder / "secagg.png", folder / "secagg.svg"]
    for path in paths:
        figure.savefig(path, dpi=150)
    return paths


def _title(row: Row) -> str:
    gone = f"{row['dropped']:.0%} drop out after sharing" if row["dropped"] else "nobody drops out"
    return f"One round of secure aggregation: {row['mode']}, {row['bits']} bits a word, {gone}"


def _draw(panel: Axes, rows: Sequence[Row], *, axis: str, key: str) -> None:
    """One panel: a line for each value of the other variable, flwr above it, what cannot be beaten below it."""
    from matplotlib.ticker import EngFormatter

    other = next(name for name in _AXES if name != axis)
    for place, value in enumerate(sorted({row[other] for row in rows})):
        series = sorted((row for row in rows if row[other] == value), key=lambda row: row[axis])
        color = _COLORS[place % len(_COLORS)]
        x = [row[axis] for row in series]
        label = f"{value:,} clients" if other == "clients" else f"{value:,} words"
        panel.plot(x, [row[key] for row in series], color=color, label=label, **_OURS)
        panel.plot(x, [_floor(row, key) for row in series], color=color, **_FLOOR)
        peers = [row["flower"][key] if row["flower"] else float("nan") for row in series]  # no line across a gap
        panel.plot(x, peers, color=color, **_PEER)
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.yaxis.set_major_formatter(EngFormatter(unit="s"))
    _ticks(panel, {row[axis]: _tick(row, axis) for row in sorted(rows, key=lambda row: row[axis])})
    panel.grid(True, which="major", color="#d0d0d0", linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)


def _floor(row: Row, key: str) -> float:
    """What `key` is held against: the mask bound of a client, the plain sum of the server."""
    return row["lower_bound_s"] if key == "client_cpu_s" else row["plain_sum_s"]


def _ticks(panel: Axes, labels: Mapping[int, str]) -> None:
    """A tick at every measured value, thinned to eight."""
    shown = list(labels)[:: -(-len(labels) // 8)]
    panel.set_xticks(shown, [labels[value] for value in shown])
    panel.set_xticks([], minor=True)
    panel.tick_params(labelbottom=True, labelleft=True, labelsize=10)
    if len(labels) == 1:  # a single value would stretch the axis over decades
        panel.set_xlim(shown[0] / 2, shown[0] * 2)


def _tick(row: Row, axis: str) -> str:
    """The value in plain numbers; the graph may change with the number of clients, so it is named there."""
    return f"{row['clients']}\n({row['neighbors']})" if axis == "clients" else _short(row[axis])


def _short(value: int) -> str:
    for scale, unit in ((10**6, "M"), (10**3, "k")):
        if value >= scale:
            return f"{value / scale:g}{unit}"
    return str(value)


def _explain_lines(figure: Figure, *, peers: bool) -> None:
    """Below the panels: what each kind of line is."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=_GREY, label="measured", **_OURS),
        Line2D([], [], color=_GREY, label="lower bound of masking (client), plain int64 sum (server)", **_FLOOR),
    ]
    if peers:
        handles.append(Line2D([], [], color=_GREY, label="flwr, same work, quantising left out", **_PEER))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=10)
