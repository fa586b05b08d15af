"""`fedpdpo ledger show|verify|export|head|countersign|key`: what was charged, and whether it still adds up."""

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
    from privacy.ledger_heads import Head

SHOWN_HASH = 12  # characters of a head hash in a table; JSON has all of it
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_FOLDER = click.argument("folder", type=click.Path(path_type=Path))


@click.group()
def ledger() -> None:
    """Read, check, copy or sign privacy ledgers.

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
@click.option("--head", type=_FILE, help="A file of heads kept elsewhere, which the ledgers must still contain.")
@output_options
def verify(folder: Path, head: Path | None, output: Output) -> None:
    """Check every chain and signature, and recompute every epsilon from the events with every accountant.

    The heads that a run kept are compared too, and with --head those of a server or a peer: an older ledger, or one
    that was written anew, is refused. Of a run folder also checks that its ledgers cover what its rounds report.
    Exit 6 if anything is broken.
    """
    found = _verified(folder, head)
    values = {"ok": True, "ledgers": [_values(one) for one in found], **_federation(found)}
    problems = _problems(found)
    problems += _report_problems(folder, values["epsilon"]) if not problems else []
    if not output.quiet:
        _print_summary(found, spread=True)
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
            f"({values['accountant']}; accountants give {values['least']:.6f} to {values['largest']:.6f}), "
            f"{values['relation']}"
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


@ledger.command()
@_FOLDER
@click.option("--out", type=click.Path(path_type=Path), help="Write the heads to this file, for a server or peer.")
@output_options
def head(folder: Path, out: Path | None, output: Output) -> None:
    """Show the heads of the ledgers under FOLDER: who keeps them can tell later whether a ledger was put back.

    Heads hold hashes and numbers of records, nothing of the data. They are signed where the owner's key lies beside
    the ledgers. Exit 6 if a ledger does not verify.
    """
    from privacy.ledger_heads import read_head, write_heads

    found, place = _verified(folder), _place(folder)
    problems = _problems(found)
    if problems:
        raise CommandError(problems[0], EXIT_VERIFICATION, {"problems": problems})
    key = _key_beside(place)
    heads = [read_head(one.path, key) for one in found]
    if not output.quiet:
        columns = ["client", "data", "records", "head", "signed"]
        print_table(columns, [_head_row(one) for one in heads])
    if out is not None:
        write_heads(out, heads)
        output.say(str(out))
    output.finish({"heads": [asdict(one) for one in heads], **({"file": str(out)} if out else {})})


@ledger.command()
@click.argument("heads", type=_FILE)
@click.option("--key", type=_FILE, required=True, help="The key of the peer that signs (fedpdpo ledger key).")
@click.option("--known", type=click.Path(path_type=Path), help="The file in which the peer keeps what it has seen.")
@output_options
def countersign(heads: Path, key: Path, known: Path | None, output: Output) -> None:
    """Sign the heads in the file HEADS as a peer that has seen them, and keep them in --known.

    Exit 6 if a signature does not hold or a head is older than, or differs from, one known before.
    """
    from privacy.errors import LedgerError
    from privacy.ledger_heads import accept, countersign, read_heads, write_heads
    from privacy.ledger_signing import read_key

    try:
        signing = read_key(key)
    except LedgerError as error:
        raise click.UsageError(f"--key: {error}") from error
    kept = read_heads(known) if known is not None and known.exists() else ()
    signed = [countersign(one, signing) for one in read_heads(heads)]
    for one in signed:
        kept = accept(kept, one)
    if known is not None:
        write_heads(known, kept)
    write_heads(heads, signed)
    output.say(f"{heads}: {count_of(len(signed), 'head')} countersigned")
    output.finish({"heads": [asdict(one) for one in signed], "known": len(kept)})


@ledger.command()
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@output_options
def key(folder: Path | None, output: Output) -> None:
    """Make an owner's key in FOLDER, by default the state folder of ledgers: ledgers under it are signed from now on.

    A signed ledger can only be continued with its key: keep a copy of it in a safe place.
    """
    from privacy.errors import LedgerError
    from privacy.ledger import default_root
    from privacy.ledger_signing import OWNER_KEY, make_key, public_hex
    from privacy.ledger_store import make_private_folder

    place = default_root() if folder is None else folder
    try:
        make_private_folder(place)
        public = public_hex(make_key(place / OWNER_KEY))
    except (LedgerError, OSError) as error:
        raise click.UsageError(f"FOLDER: {error}") from error
    output.say(f"{place / OWNER_KEY}: public key {public}")
    output.finish({"file": str(place / OWNER_KEY), "public_key": public})


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


def _verified(folder: Path, given: Path | None = None) -> list[Verified]:
    """Every ledger that `folder` stands for, against the heads that its run kept and those in the file `given`."""
    from privacy.ledger_view import ledger_files, verify_dir

    place = _place(folder)
    if not place.exists() or not ledger_files(place):
        raise click.UsageError(f"FOLDER: no ledger under {place}")
    return verify_dir(place, _known_heads(folder, place, given))


def _known_heads(folder: Path, place: Path, given: Path | None) -> list[Head]:
    from privacy.ledger_heads import HEADS_FILE, read_head, read_heads

    kept = folder / "ledger" if (folder / "config.yaml").is_file() else place  # of a run, beside its exported copies
    places = {one / "ledger" if (one / "ledger").is_dir() else one for one in (place, kept) if one.is_dir()}
    files = sorted({path for one in places or {place.parent} for path in one.rglob(HEADS_FILE)})
    kept_heads = [head for path in files for head in read_heads(path)]
    given_heads = list(read_heads(given)) if given is not None else []
    if given is not None and place.is_file() and read_head(place).ledger not in {head.ledger for head in given_heads}:
        raise click.UsageError(f"--head {given}: holds no head of {place}")
    return list(dict.fromkeys(kept_heads + given_heads))


def _key_beside(place: Path) -> Any:
    """The owner's key in `place` or in one of the two folders above it, where a root of ledgers may be."""
    from privacy.errors import LedgerError
    from privacy.ledger_signing import owner_key

    try:
        for candidate in (place, *list(place.resolve().parents)[:2]):
            if candidate.is_dir() and (found := owner_key(candidate)) is not None:
                return found
    except LedgerError as error:
        raise click.UsageError(f"FOLDER: {error}") from error
    return None


def _head_row(one: Head) -> list[str]:
    signed = "no" if one.signature is None else "yes"
    return [one.client, one.data_id, str(one.records), one.head_hash[:SHOWN_HASH], signed]


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
    from privacy.ledger_view import bounds_of

    units = {one.unit: one.relation for one in found if one.ok}
    bound = worst([one.epsilon for one in found])
    finite = bound.epsilon != float("inf")
    return {
        "epsilon": bound.epsilon if finite else None,
        "private": finite,
        "delta": bound.delta,
        "accountant": bound.accountant,
        "pld": bound.pld,
        "rdp": bound.rdp,
        "least": min(bounds_of(bound)) if finite else None,
        "largest": max(bounds_of(bound)) if finite else None,
        "unit": ", ".join(units),
        "relation": "; ".join(units.values()),
    }


def _values(one: Verified) -> dict[str, Any]:
    values = asdict(one)
    values |= {"path": str(one.path), "ok": one.ok, "epsilon": one.epsilon.epsilon}
    values |= {"least": one.least, "largest": one.largest}
    return values


def _name(one: Verified) -> str:
    return one.client or unquote(one.path.stem)  # a broken ledger's file is still named for its client


def _fault(one: Verified) -> str:
    """Why a ledger is broken, without its path; empty for a sound one."""
    return (one.problem or "").removeprefix(f"{one.path}: ")


def _problems(found: list[Verified]) -> list[str]:
    return [f"{one.path}: {_fault(one)}" for one in found if not one.ok]


def _print_summary(found: list[Verified], *, spread: bool = False) -> None:
    """One line for each ledger; `spread` adds the least and the largest epsilon of all accountants."""
    columns = ["client", "epsilon", *(["least", "largest"] if spread else []), "budget", "delta", "rounds", "cut"]
    print_table([*columns, "head", "state"], [_summary_row(one, spread=spread) for one in found])


def _summary_row(one: Verified, *, spread: bool) -> list[str]:
    if not one.ok:  # its numbers cannot be trusted
        return [_name(one), "unknown", *(["-", "-"] if spread else []), "-", "-", "-", "-", "-", _fault(one)]
    return [
        _name(one),
        _shown(one.epsilon.epsilon),
        *([_shown(one.least), _shown(one.largest)] if spread else []),
        "none" if one.budget_epsilon == float("inf") else number(one.budget_epsilon, 2),
        f"{one.delta:g}",
        str(one.reserved),
        str(one.uncommitted),
        one.head_hash[:SHOWN_HASH],
        "ok, signed" if one.public_key else "ok",
    ]


def _shown(epsilon: float) -> str:
    return "NOT PRIVATE" if epsilon == float("inf") else number(epsilon, 4)


def _print_records(path: Path, *, quiet: bool) -> None:
    from privacy.ledger import show as show_records

    rows = [
        [str(row.seq), row.time, row.kind, "" if row.round_index is None else str(row.round_index),
         number(row.epsilon, 4), row.detail]
        for row in show_records(path)
    ]  # fmt: skip
    if not quiet:
        print_table(["seq", "time", "kind", "round", "epsilon", "what"], rows)
