"""Tables: rich ones on a terminal, plain aligned lines elsewhere; nothing is ever cut short."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "") -> None:
    """Print `rows` under `columns` on stdout; a column whose cells are all numbers is set to the right."""
    if sys.stdout.isatty():
        _print_rich(columns, rows, title=title)
    else:
        for line in plain_lines(columns, rows, title=title):
            click.echo(line)


def plain_lines(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "") -> list[str]:
    """The table as aligned lines without trailing spaces."""
    right = [all(_is_number(row[place]) for row in rows) for place in range(len(columns))]
    widths = [max(len(row[place]) for row in (columns, *rows)) for place in range(len(columns))]

    def line(row: Sequence[str]) -> str:
        cells = (
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        )
        return "  ".join(cells).rstrip()

    return [*([title] if title else []), line(columns), *(line(row) for row in rows)]


def number(value: float | None, digits: int = 3) -> str:
    """`value` with `digits` decimals, or a dash where there is none; what is above 0 never reads as 0."""
    if value is None or value != value:
        return "-"
    least = 10.0**-digits
    return f"<{least:.{digits}f}" if 0 < value < least / 2 else f"{value:.{digits}f}"


def count_of(count: int, noun: str) -> str:
    """`1 round`, `2 rounds`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def size(count: float) -> str:
    """A number of bytes in the unit that suits it, decimal as on disks."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count:.0f} B"


def _is_number(cell: str) -> bool:
    text = cell.strip().lstrip("<").rstrip("%")
    try:
        float(text)
    except ValueError:
        return text in ("", "-", "inf")
    return True


def _print_rich(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left")
    for place, column in enumerate(columns):
        right = all(_is_number(row[place]) for row in rows)
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)  # rich honours NO_COLOR
