"""`fedpdpo transcript verify|show`: what the rounds of secure aggregation left behind for others to check."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from experiments.output import EXIT_VERIFICATION, CommandError, Output, output_options
from experiments.tables import count_of, print_table, size

if TYPE_CHECKING:
    from secagg.transcript_check import Checked

SHOWN_HASH = 12  # characters of a hash in a table; JSON has all of it
FILES = "round-*.jsonl"
_PATH = click.argument("path", type=click.Path(path_type=Path))


@dataclass(frozen=True, slots=True)
class One:
    """One file, and what checking it gave: `checked` is None if it is no transcript at all."""

    path: Path
    checked: Checked | None
    problems: tuple[str, ...]


@click.group()
def transcript() -> None:
    """Check or show the public records of secure aggregation.

    PATH is one transcript, a folder of them or a run folder.
    """


@transcript.command()
@_PATH
@click.option(
    "--roster",
    type=click.Path(path_type=Path),
    help="The federation's roster from elsewhere (keys show); a round without all of it is a finding.",
)
@click.option("--client", type=click.IntRange(min=0), help="Also say what the records claim about this client.")
@output_options
def verify(path: Path, roster: Path | None, client: int | None, output: Output) -> None:
    """Check every transcript, and those of one run against each other and against its reports.

    Says which guarantees were kept and what no transcript can show. Exit 6 if anything is wrong.
    """
    from secagg.transcript_series import series_findings, series_warnings

    found = [_check(file, _identities(roster), client) for file in _files(path)]
    checked = [one.checked for one in found if one.checked is not None]
    between = [*series_findings(checked), *_report_problems(path, found)] if path.is_dir() else []
    problems = [f"{one.path}: {problem}" for one in found for problem in one.problems] + between
    warnings = list(series_warnings(checked))
    limits = _common_limits(checked)
    for one in found if len(found) == 1 or client is not None else ():
        _say_guarantees(one, output)
    for problem in problems:
        output.warn(problem)
    for warning in warnings:
        output.say(f"warning: {warning}")
    for limit in limits:
        output.say(f"cannot show {limit}")
    values = {
        "ok": not problems,
        "transcripts": [_values(one) for one in found],
        "problems": problems,
        "warnings": warnings,
        "cannot_show": limits,
    }
    if problems:
        raise CommandError(problems[0], EXIT_VERIFICATION, values)
    aborted = sum(one.aborted is not None for one in checked)
    cut = f", {aborted} of them aborted without a sum" if aborted else ""
    output.say(f"{path}: {count_of(len(found), 'transcript')}{cut}: {_kept(checked)}")
    output.finish(values)


@transcript.command()
@_PATH
@output_options
def show(path: Path, output: Output) -> None:
    """Show who took part in each round, who dropped out where, and what was carried.

    Exit 6 if a transcript is broken: what it says cannot be trusted.
    """
    found = [_check(file, None, None) for file in _files(path)]
    if not output.quiet:
        columns = [
            "round",
            "mode",
            "clients",
            "keys",
            "shares",
            "sum of",
            "answers",
            "up",
            "down",
            "sum",
            "head",
            "state",
        ]
        print_table(columns, [_row(one) for one in found])
        if len(found) == 1:
            _say_round(found[0], output)
    values = {"transcripts": [_values(one) for one in found]}
    problems = [f"{one.path}: {problem}" for one in found for problem in one.problems]
    if problems:
        raise CommandError(problems[0], EXIT_VERIFICATION, {**values, "problems": problems})
    output.finish(values)


def _files(path: Path) -> list[Path]:
    """The transcripts that `path` stands for, by name."""
    if not path.exists():
        raise click.UsageError(f"PATH: {path} does not exist")
    if path.is_file():
        return [path]
    inner = path / "transcript"
    files = sorted((inner if inner.is_dir() else path).glob(FILES))
    if not files:
        raise click.UsageError(f"PATH: no transcript ({FILES}) under {path}")
    return files


def _identities(roster: Path | None) -> Mapping[int, bytes] | None:
    from secagg.identity_files import read_roster

    if roster is None:
        return None
    file = roster / "roster.json" if roster.is_dir() else roster
    if not file.exists():
        raise click.UsageError(f"--roster: {file} does not exist")
    try:
        known = read_roster(file)
    except ValueError as error:
        raise click.UsageError(f"--roster: {error}") from error
    return dict(zip(known.clients, known.identities, strict=True))


def _check(path: Path, roster: Mapping[int, bytes] | None, client: int | None) -> One:
    from secagg.errors import BadMessage
    from secagg.transcript import read_transcript
    from secagg.transcript_check import check

    try:
        checked = check(read_transcript(path), roster=roster, client=client)
    except BadMessage as error:
        return One(path, None, (str(error).removeprefix(f"{path}: "),))
    problems = checked.findings
    named = re.fullmatch(r"round-(\d{1,18})", path.stem, re.ASCII)
    if named and checked.config is not None and int(named[1]) != checked.config.round_index:
        problems += (f"is of round {checked.config.round_index}, and named for another",)
    return One(path, checked, problems)


def _report_problems(folder: Path, found: Sequence[One]) -> list[str]:
    """What a run reports of its rounds against their transcripts; a reported round without one was withheld."""
    if not (folder / "rounds.jsonl").is_file():
        return []
    from fedpdpo_secure.report import read_reports

    rounds = {one.checked.config.round_index: one for one in found if one.checked is not None and one.checked.config}
    problems = []
    for report in read_reports(folder):
        one = rounds.get(report.round_index)
        if one is None or one.checked is None or one.checked.transcript is None:
            problems.append(f"{folder}: round {report.round_index} is reported and has no transcript")
            continue
        recorded = len(one.checked.transcript.survivors), sum(c.upload for c in one.checked.transcript.clients)
        if one.checked.aborted is not None or recorded != (report.survivors, report.upload_bytes):
            problems.append(f"{one.path}: the run reports another round {report.round_index}: other survivors or bytes")
        elif report.transcript_head not in (None, one.checked.head):
            problems.append(f"{one.path}: is not the transcript that the run reports of round {report.round_index}")
    return problems


def _kept(checked: Sequence[Checked]) -> str:
    """The guarantees that held in every round that could give them."""
    from secagg.transcript_check import Verdict

    held = {g.name for one in checked for g in one.guarantees if g.verdict is Verdict.HELD}
    missed = {g.name for one in checked for g in one.guarantees if g.verdict in (Verdict.BROKEN, Verdict.OTHER_MODE)}
    names = [g.name for g in checked[0].guarantees if g.name in held - missed and not g.name.startswith("client ")]
    return f"held: {', '.join(names)}"


def _common_limits(checked: Sequence[Checked]) -> list[str]:
    return list(dict.fromkeys(limit for one in checked for limit in one.cannot_show))


def _say_guarantees(one: One, output: Output) -> None:
    if one.checked is not None and not output.quiet:
        rows = [[g.name, g.verdict.value, g.text] for g in one.checked.guarantees]
        print_table(["guarantee", "verdict", "what it says"], rows, title=str(one.path))


def _values(one: One) -> dict[str, Any]:
    values: dict[str, Any] = {"path": str(one.path), "ok": not one.problems, "findings": list(one.problems)}
    if one.checked is None:
        return values
    guarantees = [{"name": g.name, "verdict": g.verdict.value, "text": g.text} for g in one.checked.guarantees]
    values |= {"head": one.checked.head, "aborted": one.checked.aborted, "sum_sha256": one.checked.sum_sha256}
    values["guarantees"] = guarantees
    if one.checked.transcript is not None:
        header = one.checked.transcript.header
        values |= {"session": header.session.hex(), "round_index": header.round_index, "mode": header.mode.value}
        values |= {"clients": list(header.clients), "survivors": list(one.checked.transcript.survivors)}
    return values


def _row(one: One) -> list[str]:
    state = one.problems[0] if one.problems else "ok"
    if one.checked is None or one.checked.transcript is None:
        return [one.path.stem, *["-"] * 10, state]
    checked, told = one.checked, one.checked.transcript
    if not one.problems and checked.aborted is not None:
        state = f"aborted: {checked.aborted}"
    return [
        str(told.header.round_index),
        told.header.mode.value,
        str(len(told.header.clients)),
        str(len(told.keys)),
        str(len(told.shares)),
        str(len(told.survivors)) if checked.aborted is None else "-",
        str(len(told.reveals)),
        size(sum(carried.upload for carried in told.clients)),
        size(sum(carried.download for carried in told.clients)),
        (checked.sum_sha256 or "-")[:SHOWN_HASH],
        checked.head[:SHOWN_HASH],
        state,
    ]


def _say_round(one: One, output: Output) -> None:
    """Terms, drop-outs and traffic of a single round."""
    if one.checked is None or one.checked.transcript is None:
        return
    told = one.checked.transcript
    header = told.header
    graph = "everyone with everyone" if header.neighbors is None else f"{header.neighbors} random neighbours each"
    output.say(f"session {header.session.hex()}, {graph}")
    output.say(f"threshold {header.threshold}, at least {header.min_survivors} in a sum")
    output.say(f"{header.dim} words of {header.bits} bits; model {header.model.hex()}")
    dropped = getattr(told.outcome, "dropped", ())
    gone = ", ".join(f"{client} {stage.value.replace('_', ' ')}" for client, stage in dropped)
    output.say(f"dropped out: {gone or 'nobody'}")
    rows = [[m.message, m.direction, str(len(m.clients)), size(m.size)] for m in told.messages]
    print_table(["message", "direction", "clients", "bytes"], rows)
