"""`fedpdpo ledger show|verify|export`: the durable record of what was charged, and whether it still adds up."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import click

from experiments.output import EXIT_VERIFICATION, CommandError, Output, output_options
from experiments.tables import count_of, number, print_table

if TYPE_CHECKING:
    from privacy.ledger import Verified

SHOWN_HASH = 12  # characters of a head hash in a table; JSON has all of it
_FOLDER = click.argument("folder", type=click.Path(path_type=Path))


@click.group()
def ledger() -> None:
    """Read, check or copy privacy ledgers.

    FOLDER is a run folder, a folder of ledgers or one ledger file. Ledgers of data not declared public are kept in
    the owner's state folder: a run folder leads to them there, and elsewhere to the copies it holds.
    """


@ledger.command()
@_FOLDER
@click.option("--client", help="Show every record of this client.")
@output_options
def show(folder: Path, client: str | None, output: Output) -> None:
    """Show what every client has spent, or one client's records.

    Exit 6 if a shown ledger is broken: what it records cannot be trusted.
    """
    found = _verified(folder)
    if client is not None:
        found = [one for one in found if _name(one) == client]
        if not found:
            raise click.UsageError(f"--client {client}: has no ledger under {folder}")
    if not output.quiet:
        _print_summary(found)
    values = {"ledgers": [_values(one) for one in found], **_federation(found)}
    problems = _problems(found)
    if problems:
        raise CommandError(problems[0], EXIT_VERIFICATION, {**values, "problems": problems})
    if client is not None:
        _print_records(found[0].path, quiet=output.quiet)
    output.finish(values)


@ledger.command()
@_FOLDER
@output_options
def verify(folder: Path, output: Output) -> None:
    """Check every chain and recompute epsilon from the events.

    Of a run folder also checks that its ledgers cover what its rounds report. Exit 6 if anything is broken.
    """
    found = _verified(folder)
    values = {"ok": True, "ledgers": [_values(one) for one in found], **_federation(found)}
    problems = _problems(found)
    problems += _report_problems(folder, values["epsilon"]) if not problems else []
    if not output.quiet:
        _print_summary(found)
    if problems:
        raise CommandError(problems[0], EXIT_VERIFICATION, {**values, "ok": False, "problems": problems})
    records, uncommitted = sum(one.records for one in found), sum(one.uncommitted for one in found)
    output.say(f"{_place(folder)}: {count_of(len(found), 'ledger')}, {count_of(records, 'record')}, every chain holds")
    if uncommitted:
        output.say(f"never committed (a run was cut): {count_of(uncommitted, 'reservation')}, charged all the same")
    if values["epsilon"] is None:
        output.warn("recomputed from the events: epsilon is infinite, NOT PRIVATE")
    else:
        output.say(
            f"recomputed from the events: worst client epsilon {values['epsilon']:.6f} at delta {values['delta']:g} "
            f"({values['accountant']}), one pair added or removed"
        )
    output.finish(values)


@ledger.command()
@_FOLDER
@click.argument("destination", type=click.Path(path_type=Path))
@output_options
def export(folder: Path, destination: Path, output: Output) -> None:
    """Copy the ledgers under FOLDER to the folder DESTINATION.

    Only sound ledgers are copied: exit 6 at the first that does not verify.
    """
    from privacy.ledger import export as export_ledger

    place = _place(folder)
    copies = []
    for one in _verified(folder):
        if not one.ok:
            raise CommandError(f"{one.path}: not exported: {_fault(one)}", EXIT_VERIFICATION)
        name = one.path.relative_to(place) if place.is_dir() else Path(one.path.name)
        copies.append(export_ledger(one.path, destination / name))
        output.say(str(copies[-1]))
    output.finish({"files": [str(path) for path in copies]})


def _place(folder: Path) -> Path:
    """Where the ledgers that `folder` stands for are; of a run's, the ones that were written, if they are here."""
    if not folder.exists():
        raise click.UsageError(f"FOLDER: {folder} does not exist")
    kept = folder / "config.yaml"
    if not kept.is_file():
        return folder
    from fedpdpo_secure.budget import ledger_root
    from fedpdpo_secure.config import load_config
    from privacy.ledger import ledger_path

    config = load_config(kept)
    if config.privacy.unit == "none":
        raise click.UsageError(f"FOLDER: the run in {folder} has no ledger, it is NOT PRIVATE (privacy.unit: none)")
    written = ledger_path(ledger_root(config, folder), config.data.id, "any client").parent
    return written if written.is_dir() else folder / "ledger"


def _verified(folder: Path) -> list[Verified]:
    from privacy.ledger import verify_dir

    place = _place(folder)
    found = verify_dir(place) if place.exists() else []
    if not found:
        raise click.UsageError(f"FOLDER: no ledger under {place}")
    return found


def _report_problems(folder: Path, epsilon: float | None) -> list[str]:
    """Rounds that report more than the ledgers hold: an older ledger was put back, or lines were cut off."""
    if not (folder / "rounds.jsonl").is_file():
        return []
    from fedpdpo_secure.report import read_reports

    reported = max((report.epsilon for report in read_reports(folder) if report.epsilon is not None), default=0.0)
    if epsilon is None or reported <= epsilon * (1 + 1e-6):
        return []
    return [f"{folder}: its rounds report epsilon {reported:.6g}, its ledgers hold only {epsilon:.6g}"]


def _federation(found: list[Verified]) -> dict[str, Any]:
    """The worst client's bound: clients hold disjoint pairs."""
    from privacy.accounting import worst

    bound = worst([one.epsilon for one in found])
    finite = bound.epsilon != float("inf")
    return {
        "epsilon": bound.epsilon if finite else None,
        "private": finite,
        "delta": bound.delta,
        "accountant": bound.accountant,
        "pld": bound.pld,
        "rdp": bound.rdp,
        "unit": "pair",
        "relation": "add or remove one pair",
    }


def _values(one: Verified) -> dict[str, Any]:
    values = asdict(one)
    values |= {"path": str(one.path), "ok": one.ok, "epsilon": one.epsilon.epsilon}
    return values


def _name(one: Verified) -> str:
    return one.client or unquote(one.path.stem)  # a broken ledger's file is still named for its client


def _fault(one: Verified) -> str:
    """Why a ledger is broken, without its path; empty for a sound one."""
    return (one.problem or "").removeprefix(f"{one.path}: ")


def _problems(found: list[Verified]) -> list[str]:
    return [f"{one.path}: {_fault(one)}" for one in found if not one.ok]


def _print_summary(found: list[Verified]) -> None:
    columns = ["client", "epsilon", "budget", "delta", "rounds", "cut", "head", "state"]
    print_table(columns, [_summary_row(one) for one in found])


def _summary_row(one: Verified) -> list[str]:
    if not one.ok:  # its numbers cannot be trusted
        return [_name(one), "unknown", "-", "-", "-", "-", "-", _fault(one)]
    return [
        _name(one),
        "NOT PRIVATE" if one.epsilon.epsilon == float("inf") else number(one.epsilon.epsilon, 4),
        "none" if one.budget_epsilon == float("inf") else number(one.budget_epsilon, 2),
        f"{one.delta:g}",
        str(one.reserved),
        str(one.uncommitted),
        one.head_hash[:SHOWN_HASH],
        "ok",
    ]


def _print_records(path: Path, *, quiet: bool) -> None:
    from privacy.ledger import show as show_records

    rows = [
        [str(row.seq), row.time, row.kind, "" if row.round_index is None else str(row.round_index),
         number(row.epsilon, 4), row.detail]
        for row in show_records(path)
    ]  # fmt: skip
    if not quiet:
        print_table(["seq", "time", "kind", "round", "epsilon", "what"], rows)
