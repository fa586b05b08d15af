"""The console script `fedpdpo`: the tree of commands and the one place where an error becomes an exit code.

Only click is imported here and at the head of the command files; everything heavier is imported by the command that
needs it, so that help is instant.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import click

from experiments.account_commands import account, calibrate
from experiments.audit_command import audit
from experiments.bench_commands import bench
from experiments.data_commands import data
from experiments.env_command import env
from experiments.keys_commands import keys
from experiments.ledger_commands import ledger
from experiments.output import EXIT_USAGE, report_error
from experiments.plan_command import plan
from experiments.sweep_command import sweep
from experiments.train_command import train
from experiments.transcript_commands import transcript


def _underscores(name: str) -> str:
    return name.replace("-", "_")


def _print_version(context: click.Context) -> None:
    from importlib import metadata

    try:
        version = metadata.version("fedpdpo")
    except metadata.PackageNotFoundError:
        version = "unknown (not installed as a package)"
    click.echo(f"fedpdpo, version {version}")
    context.exit()


@click.group(
    context_settings={
        "token_normalize_func": _underscores,  # --output-dir is --output_dir
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
    },
    epilog="Exit codes: 0 ok, 1 unexpected, 2 usage or config, 3 plan impossible, 4 budget exhausted, "
    "5 secure aggregation aborted, 6 verification failed, 130 interrupted. "
    "FEDPDPO_TRACEBACK=1 shows where an unexpected error came from.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda context, _, asked: _print_version(context) if asked else None,
    help="Show the version and exit.",
)
def cli() -> None:
    """Federated preference alignment of language models whose privacy is proved, enforced and recorded."""


for _command in (train, plan, account, calibrate, ledger, transcript, keys, data, bench, env, audit, sweep):
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command (default: that of the process) and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = cli.main(given, prog_name="fedpdpo", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return EXIT_USAGE
    except (Exception, KeyboardInterrupt) as error:
        if os.environ.get("FEDPDPO_TRACEBACK"):
            traceback.print_exception(error)
        return report_error(error, as_json="--json" in given)
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main())
