"""How every command speaks: text for people, one JSON object as the last line, errors in one line.

Importing this module costs nothing but click, so that help stays fast.
"""

from __future__ import annotations

import functools
import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import click

EXIT_UNEXPECTED = 1
EXIT_USAGE = 2
EXIT_IMPOSSIBLE = 3
EXIT_BUDGET = 4
EXIT_SECAGG = 5
EXIT_VERIFICATION = 6
EXIT_INTERRUPTED = 130

# An error can only be of one of these classes if its module is loaded already, so nothing is imported to ask.
_CODES = (
    ("fedpdpo_secure.config.errors", "ConfigError", EXIT_USAGE),
    ("fedpdpo_secure.data.pairs", "DataError", EXIT_USAGE),
    ("fedpdpo_secure.artefacts", "RunFolderError", EXIT_USAGE),
    ("fedpdpo_secure.checkpoint", "CheckpointError", EXIT_USAGE),
    ("privacy.errors", "LedgerMismatch", EXIT_USAGE),
    ("privacy.errors", "BudgetExceeded", EXIT_BUDGET),
    ("privacy.errors", "LedgerBroken", EXIT_VERIFICATION),
    ("secagg.errors", "SecAggError", EXIT_SECAGG),
)


class CommandError(click.ClickException):
    """An error with an exit code of its own and, for scripts, more JSON values than the message."""

    def __init__(self, message: str, exit_code: int, values: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = exit_code
        self.values = dict(values or {})


@dataclass(frozen=True, slots=True)
class Output:
    """Where a command prints; made by `output_options`."""

    json: bool
    quiet: bool

    def say(self, text: str = "") -> None:
        """Print text for people, unless --quiet."""
        if not self.quiet:
            click.echo(text)

    def warn(self, text: str) -> None:
        """Print text in red on a terminal that has not asked for NO_COLOR, unless --quiet."""
        self.say(text if os.environ.get("NO_COLOR") else click.style(text, fg="red", bold=True))

    def finish(self, values: Mapping[str, Any]) -> None:
        """Print the JSON object, if it was asked for; call this once, as the last thing."""
        if self.json:
            sys.stdout.flush()
            click.echo(json_line(values))


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give `command` the options --json and --quiet; it receives them as the keyword `output`."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line of stdout.")
    @click.option("--quiet", "-q", is_flag=True, help="Print no text for people.")
    @functools.wraps(command)
    def wrapped(*arguments: Any, as_json: bool, quiet: bool, **options: Any) -> Any:
        return command(*arguments, output=Output(json=as_json, quiet=quiet), **options)

    return wrapped


def json_line(values: Mapping[str, Any]) -> str:
    """`values` as one line of strict JSON: what is not finite becomes null."""
    return json.dumps(_plain(values), allow_nan=False, default=str)


def exit_code(error: BaseException) -> int:
    """The exit code that belongs to `error`."""
    if isinstance(error, (click.Abort, KeyboardInterrupt)):
        return EXIT_INTERRUPTED
    if isinstance(error, CommandError):
        return error.code
    if isinstance(error, click.ClickException):
        return error.exit_code
    for module, name, code in _CODES:
        kind = getattr(sys.modules.get(module), name, None)
        if isinstance(kind, type) and isinstance(error, kind):
            return code
    return EXIT_UNEXPECTED


def report_error(error: BaseException, *, as_json: bool) -> int:
    """Say what went wrong in one line on stderr (and as JSON on stdout); returns the exit code."""
    code = exit_code(error)
    text = message(error)
    click.echo(f"fedpdpo: error: {text}", err=True)
    if as_json:
        extra = error.values if isinstance(error, CommandError) else {}
        click.echo(json_line({**extra, "error": text, "exit_code": code}))
    return code


def message(error: BaseException) -> str:
    """`error` in one line; an unexpected one is named by its class."""
    if isinstance(error, (click.Abort, KeyboardInterrupt)):
        return "interrupted"
    text = error.format_message() if isinstance(error, click.ClickException) else str(error)
    text = " ".join(text.split())
    if exit_code(error) == EXIT_UNEXPECTED:
        name = type(error).__name__
        return f"{name}: {text}" if text else name
    return text or type(error).__name__


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
