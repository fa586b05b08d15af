"""`fedpdpo keys make|show|check`: the long-term identities that clients sign with in malicious-server mode."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from experiments.output import EXIT_VERIFICATION, CommandError, Output, output_options
from experiments.tables import count_of, print_table

if TYPE_CHECKING:
    from secagg.identity import Roster

MAX_CLIENTS = 10_000
_ROSTER = click.argument("roster", type=click.Path(path_type=Path))


@click.group()
def keys() -> None:
    """Make, show or check the identities of a federation.

    A roster says who belongs to a federation: ids and public keys. A client's signing key stays with that client.
    """


@keys.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--clients", type=click.IntRange(3, MAX_CLIENTS), required=True, help="How many clients.")
@output_options
def make(folder: Path, clients: int, output: Output) -> None:
    """Make a roster and one signing key per client in the new folder FOLDER.

    For trials, and where one hand sets up a federation. Elsewhere each client makes its own key, and only the public
    half travels.
    """
    from secagg.identity_files import ROSTER_NAME, key_name, write_roster, write_signing_key

    if os.path.lexists(folder):
        raise click.UsageError(f"FOLDER: {folder} exists already, and keys are never overwritten")
    roster, signing_keys = _new_federation(clients)
    names = [key_name(client, clients) for client in roster.clients]
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))  # mode 0700
    try:
        for name, key in zip(names, signing_keys, strict=True):
            write_signing_key(scratch / name, key)
        write_roster(scratch / ROSTER_NAME, roster)
        scratch.rename(folder)  # all of it or nothing; fails on a folder that has come to hold something
    except BaseException:
        shutil.rmtree(scratch)
        raise
    output.say(f"{folder / ROSTER_NAME}: {count_of(clients, 'client')}, digest {roster.digest().hex()}")
    output.say(f"{folder}: {names[0]} .. {names[-1]}: give each to its client alone, then delete it here")
    files = [str(folder / name) for name in names]
    output.finish({"roster": str(folder / ROSTER_NAME), "digest": roster.digest().hex(), "keys": files})


@keys.command()
@_ROSTER
@output_options
def show(roster: Path, output: Output) -> None:
    """Show the clients of ROSTER (a file, or a folder with roster.json) and their fingerprints.

    Compare fingerprints, or the one digest, over a channel that the server does not control.
    """
    from secagg.identity import fingerprint

    path = _roster_path(roster)
    try:
        found = _read(path)
    except ValueError as error:
        raise click.UsageError(f"ROSTER: {error}") from error
    members = list(zip(found.clients, found.identities, strict=True))
    if not output.quiet:
        print_table(["client", "fingerprint"], [[str(client), fingerprint(identity)] for client, identity in members])
    output.say(f"digest {found.digest().hex()}")
    shown = [
        {"id": client, "identity": identity.hex(), "fingerprint": fingerprint(identity)} for client, identity in members
    ]
    output.finish({"roster": str(path), "digest": found.digest().hex(), "clients": shown})


@keys.command()
@_ROSTER
@output_options
def check(roster: Path, output: Output) -> None:
    """Check ROSTER (a file, or a folder with roster.json) and every client-*.key beside it.

    Exit 6 if the roster is invalid, or if a key is not that of its client in the roster or can be read by others.
    """
    path = _roster_path(roster)
    try:
        found = _read(path)
    except ValueError as error:
        raise CommandError(str(error), EXIT_VERIFICATION, {"ok": False, "problems": [str(error)]}) from error
    files = sorted(path.parent.glob("client-*.key"))
    problems = [problem for file in files if (problem := _key_problem(file, found)) is not None]
    values: dict[str, Any] = {
        "ok": not problems,
        "roster": str(path),
        "digest": found.digest().hex(),
        "clients": len(found.clients),
        "keys": [str(file) for file in files],
    }
    if problems:
        for problem in problems:
            output.say(problem)
        raise CommandError(problems[0], EXIT_VERIFICATION, {**values, "problems": problems})
    output.say(f"{path}: {count_of(len(found.clients), 'client')}, digest {found.digest().hex()}")
    output.say(f"{count_of(len(files), 'signing key')} beside it, every one that of its client")
    output.finish(values)


def _new_federation(clients: int) -> tuple[Roster, list[Any]]:
    from secagg.identity import Roster, SigningKey

    signing_keys = [SigningKey.generate() for _ in range(clients)]
    return Roster(tuple(range(clients)), tuple(key.public for key in signing_keys)), signing_keys


def _roster_path(given: Path) -> Path:
    from secagg.identity_files import ROSTER_NAME

    path = given / ROSTER_NAME if given.is_dir() else given
    if not path.exists():
        raise click.UsageError(f"ROSTER: {path} does not exist")
    return path


def _read(path: Path) -> Roster:
    from secagg.identity_files import read_roster

    return read_roster(path)


def _key_problem(path: Path, roster: Roster) -> str | None:
    """What is wrong with a key file, in one line; None if it holds the key of the client that it is named for."""
    from secagg.identity_files import read_signing_key

    digits = path.stem.removeprefix("client-")
    client = int(digits) if digits.isascii() and digits.isdecimal() and len(digits) <= 10 else -1
    identity = roster.identity(client)
    if identity is None:
        return f"{path}: the roster has no client {digits}"
    try:
        key = read_signing_key(path)
    except (ValueError, OSError) as error:
        return str(error)
    return None if key.public == identity else f"{path}: is not the key of client {client} in the roster"
