"""`fedpdpo ledger show|verify|export`: the durable record of what was charged, and whether it still adds up."""

from __future__ import annotations

from pathlib import Path

import click

from experiments.output import Output, output_options


@click.group()
def ledger() -> None:
    """Read, check or copy privacy ledgers."""


@ledger.command()
@click.argument("folder", type=click.Path(path_type=Path))
@output_options
def show(folder: Path, output: Output) -> None:
    """Show every client's records and spent epsilon under FOLDER."""


@ledger.command()
@click.argument("folder", type=click.Path(path_type=Path))
@output_options
def verify(folder: Path, output: Output) -> None:
    """Check the hash chains under FOLDER and recompute epsilon from the events (exit 6 if anything is broken)."""


@ledger.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("destination", type=click.Path(path_type=Path))
@output_options
def export(folder: Path, destination: Path, output: Output) -> None:
    """Copy the verified ledgers under FOLDER to DESTINATION."""
