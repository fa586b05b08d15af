"""`fedpdpo bench`: what protection costs, measured here and now, beside plain sums, lower bounds and peers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from experiments.output import EXIT_IMPOSSIBLE, EXIT_UNEXPECTED, CommandError, Output, output_options

if TYPE_CHECKING:
    from experiments.bench_points import Point

FLOWER_LIMIT_S = 25.0
"""Without --flower, points where flwr would take longer than this are measured without it."""


class WrongSum(CommandError):
    """A secure sum that is not the plain one."""


class _Numbers(click.ParamType):
    """Numbers separated by commas, each within bounds."""

    def __init__(self, number: click.ParamType) -> None:
        self._number, self.name = number, "list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        if isinstance(value, tuple):
            return value
        return tuple(dict.fromkeys(self._number.convert(part.strip(), param, ctx) for part in value.split(",")))


@click.group()
def bench() -> None:
    """Measure what protection costs on this machine."""


@bench.command()
@click.option(
    "--clients",
    type=_Numbers(click.IntRange(3)),
    default="10,50,100",
    show_default=True,
    metavar="N,..",
    help="Numbers of clients.",
)
@click.option(
    "--dim",
    "dims",
    type=_Numbers(click.IntRange(1, 2**31 - 1)),
    default="100000,1000000",
    show_default=True,
    metavar="D,..",
    help="Words of a vector.",
)
@click.option(
    "--dropped",
    type=_Numbers(click.FloatRange(0, 1, max_open=True)),
    default="0.1",
    show_default=True,
    metavar="F,..",
    help="Fractions of clients that vanish after sharing, when their masked vector is due.",
)
@click.option(
    "--neighbors",
    type=click.IntRange(2),
    metavar="K",
    help="Others with whom a client exchanges keys: even, or clients - 1 and more for all. "
    "[default: all below 100 clients, else what the solver chooses]",
)
@click.option("--bits", type=click.Choice(["16", "24", "32"]), default="24", show_default=True, help="Bits of a word.")
@click.option(
    "--mode",
    type=click.Choice(["semi-honest", "malicious-server"]),
    default="semi-honest",
    show_default=True,
    metavar="[semi-honest|malicious-server]",
    help="Whom the round protects against.",
)
@click.option(
    "--flower/--no-flower",
    default=None,
    help="Do the same work through flwr. [default: where it is installed and takes less than some 25 s]",
)
@click.option(
    "--repeats", type=click.IntRange(1), default=3, show_default=True, help="Rounds per point; medians count."
)
@click.option(
    "--output", "folder", type=click.Path(file_okay=False, path_type=Path), help="Folder for CSV, JSON, plot."
)
@output_options
def secagg(
    clients: tuple[int, ...],
    dims: tuple[int, ...],
    dropped: tuple[float, ...],
    neighbors: int | None,
    bits: str,
    mode: str,
    flower: bool | None,
    repeats: int,
    folder: Path | None,
    output: Output,
) -> None:
    """Measure rounds of secure aggregation: every combination of clients, words and dropped.

    CPU seconds and bytes per client (median) and of the server, peak memory, and whether the sum is exact; beside
    them the plain sum of the same vectors, the lower bound from keystream and addition rates probed in the same run,
    and the same work through flwr where that is installed. Exit 1 if a sum is wrong.
    """
    from experiments.bench_record import surroundings, write_results

    _require_flower(flower)
    config = {
        "clients": clients,
        "dims": dims,
        "dropped": dropped,
        "neighbors": neighbors,
        "bits": int(bits),
        "mode": mode,
        "repeats": repeats,
    }
    points = _points(config)
    around = surroundings({**config, "flower": flower})
    rows = []
    for place, point in enumerate(points, start=1):
        if not output.quiet:
            click.echo(f"[{place}/{len(points)}] {point}", err=True)
        rows.append(_measured(point, flower=flower, folder=folder, around=around))
        if not rows[-1]["exact"]:
            raise WrongSum(f"sum: not the plain sum of the survivors at {point}", EXIT_UNEXPECTED, {"rows": rows})
    values: dict[str, Any] = {**around, "rows": rows}
    if folder is not None:
        from experiments.bench_plot import plot_secagg

        files = [*write_results(folder, values, name="secagg"), *plot_secagg(rows, folder)]
        values["files"] = [str(path) for path in [*files, folder / "points.jsonl"]]
    if not output.quiet:
        from experiments.bench_view import show

        show(output, values)
    output.finish(values)


def _points(config: dict[str, Any]) -> list[Point]:
    """The sweep's points, all checked before an hour of them is measured."""
    from experiments.bench_points import plan_points
    from experiments.bench_secagg import check

    try:
        points = plan_points(**config)
    except ValueError as error:
        raise CommandError(str(error), EXIT_IMPOSSIBLE) from error
    try:
        for point in points:
            check(point)
    except ValueError as error:
        raise click.UsageError(f"at {point}: {error}") from error
    return points


def _measured(point: Point, *, flower: bool | None, folder: Path | None, around: dict[str, Any]) -> dict[str, Any]:
    """One row, appended to the raw points as soon as it is there."""
    from experiments.bench_record import append_point
    from experiments.bench_secagg import isolated, measure

    row = isolated(measure, point)
    reason = _no_flower(point, flower)
    peer = None
    if reason is None:
        from experiments.bench_flower import measure as measure_flower
        from experiments.bench_points import flower_note

        peer, reason = isolated(measure_flower, point), flower_note(point)
    row |= {
        "flower": peer,
        "flower_reason": reason,
        "client_vs_flower": peer and peer["client_cpu_s"] / row["client_cpu_s"],
        "server_vs_flower": peer and peer["server_cpu_s"] / row["server_cpu_s"],
        "upload_vs_flower": peer and peer["upload_bytes"] / row["upload_bytes"],
    }
    if folder is not None:
        append_point(folder, row, around)
    return row


def _unusable() -> str | None:
    """Why flwr cannot be driven here, or None."""
    from importlib.util import find_spec

    if find_spec("flwr") is None:
        return "flwr is not installed; pip install 'fedpdpo[flower]'"
    try:
        import experiments.bench_flower  # noqa: F401
    except ImportError as error:
        return f"this flwr is not the version in constraints.txt, and differs inside: {error}"
    return None


def _require_flower(flower: bool | None) -> None:
    if flower and (reason := _unusable()):
        raise click.UsageError(f"--flower: {reason}")


def _no_flower(point: Point, flower: bool | None) -> str | None:
    """Why flwr is not measured at `point`, or None."""
    from experiments.bench_points import flower_limit, flower_seconds

    if flower is False:
        return "not asked for"
    if limit := flower_limit(point):
        return limit
    if reason := _unusable():
        return reason
    seconds = flower_seconds(point)
    if flower is None and seconds > FLOWER_LIMIT_S:
        return f"flwr would take some {seconds:.0f} CPU seconds; --flower measures it"
    return None
