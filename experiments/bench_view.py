"""The tables of `bench secagg`: what it costs, and against what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.output import Output
from experiments.tables import number, print_table, size


def show(output: Output, values: Mapping[str, Any]) -> None:
    """Print the rows as two tables, why flwr is missing where it is, and the machine."""
    rows = values["rows"]
    machine, versions = values["machine"], values["versions"]
    mode = rows[0]["mode"]
    print_table(
        ["clients", "neighb.", "words", "dropped", "client ms", "mask ms", "server ms", "up", "down", "peak", "exact"],
        [_cells(row, _COST) for row in rows],
        title=f"secure aggregation, {mode}, {rows[0]['bits']} bits: CPU time, client figures per client (median)",
    )
    output.say()
    print_table(
        [
            "clients",
            "neighb.",
            "words",
            "dropped",
            "mask/bound",
            "client pred. ms",
            "server pred. ms",
            "client/plain",
            "server/plain",
            "flwr client",
            "flwr server",
            "flwr up",
        ],
        [_cells(row, _RATIOS) for row in rows],
        title="against the lower bound, the predictor, a plain int64 sum, and flwr (its cost over ours)",
    )
    output.say()
    for reason in dict.fromkeys(row["flower_reason"] for row in rows if row["flower_reason"]):
        output.say(f"peer        {reason}")
    flwr = f", flwr {versions['flwr']}" if versions["flwr"] else ""
    output.say(f"machine     {machine['cpu']}, {machine['cores']} cores; numpy {versions['numpy']}{flwr}")
    for path in values.get("files", ()):
        output.say(f"written     {path}")


def _milliseconds(seconds: float) -> str:
    return number(1000 * seconds, 2)


def _times(ratio: float | None) -> str:
    """Three figures."""
    if ratio is None:
        return "-"
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.1f}" if ratio < 100 else f"{ratio:.0f}"


_Column = tuple[str, Callable[[Any], str]]
_POINT: tuple[_Column, ...] = (
    ("clients", str),
    ("neighbors", str),
    ("dim", "{:,}".format),
    ("dropped", lambda fraction: f"{100 * fraction:g}%"),
)
_COST: tuple[_Column, ...] = (
    *_POINT,
    ("client_cpu_s", _milliseconds),
    ("mask_cpu_s", _milliseconds),
    ("server_cpu_s", _milliseconds),
    ("upload_bytes", size),
    ("download_bytes", size),
    ("peak_memory_bytes", size),
    ("exact", lambda exact: "yes" if exact else "NO"),
)
_RATIOS: tuple[_Column, ...] = (
    *_POINT,
    ("mask_ratio", _times),
    ("predicted_client_s", _milliseconds),
    ("predicted_server_s", _milliseconds),
    ("client_over_plain", _times),
    ("server_over_plain", _times),
    ("client_vs_flower", _times),
    ("server_vs_flower", _times),
    ("upload_vs_flower", _times),
)


def _cells(row: Mapping[str, Any], columns: Sequence[_Column]) -> list[str]:
    return [shown(row[name]) for name, shown in columns]
