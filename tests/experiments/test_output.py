"""Scripts can rely on the last line of stdout and on the exit code, whatever happened."""

from __future__ import annotations

import json
import math
from importlib import metadata

import click
import pytest

from experiments.cli import cli, main
from experiments.output import CommandError, exit_code, json_line, message
from fedpdpo_secure.config import ConfigError
from privacy.errors import BudgetExceeded, LedgerBroken
from secagg import TooFewSurvivors


def last_json(text: str) -> dict[str, object]:
    values = json.loads(text.splitlines()[-1])
    assert isinstance(values, dict)
    return values


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("federation.rounds: 0"), 2),
        (click.UsageError("no such option"), 2),
        (BudgetExceeded("round 7"), 4),
        (TooFewSurvivors("2 survivors"), 5),
        (LedgerBroken("line 3"), 6),
        (CommandError("impossible", 3), 3),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
        (ValueError("of a caller"), 1),
        (RuntimeError("unexpected"), 1),
    ],
)
def test_each_kind_of_error_has_its_exit_code(error: BaseException, code: int) -> None:
    assert exit_code(error) == code


def test_an_error_is_one_line_whatever_it_says() -> None:
    assert message(RuntimeError("first\n  second\tthird")) == "RuntimeError: first second third"
    assert message(ConfigError("dpo.beta:\nmust be above 0")) == "dpo.beta: must be above 0"


def test_json_holds_no_number_that_is_not_finite() -> None:
    line = json_line({"epsilon": math.inf, "metrics": {"snr": math.nan, "loss": 0.5}, "rounds": [1, -math.inf]})
    assert json.loads(line) == {"epsilon": None, "metrics": {"snr": None, "loss": 0.5}, "rounds": [1, None]}


def test_with_json_an_error_is_the_last_line_and_keeps_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["account", "--noise_multiplier", "1", "--steps", "0", "--delta", "1e-5", "--json"])
    captured = capsys.readouterr()
    assert code == 2
    values = last_json(captured.out)
    assert set(values) == {"error", "exit_code"}
    assert values["exit_code"] == 2
    assert captured.err.startswith("fedpdpo: error: ")
    assert captured.err.count("\n") == 1


def test_without_json_an_error_leaves_stdout_empty(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "--epsilon", "8"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1


def test_quiet_with_json_prints_the_object_alone(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["account", "--noise_multiplier", "2", "--sample_rate", "0.1", "--steps", "3", "--delta", "1e-5"]
    assert main([*arguments, "--json", "--quiet"]) == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) == 1
    assert last_json(text)["private"] is True
    assert main([*arguments, "--quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_the_version_can_be_asked_of_a_copy_that_is_not_installed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("fedpdpo, version unknown")


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    found = []
    for name, command in group.commands.items():
        found.append(((*path, name), command))
        if isinstance(command, click.Group):
            found += commands(command, (*path, name))
    return found


@pytest.mark.parametrize(("path", "command"), [pytest.param(*found, id=" ".join(found[0])) for found in commands(cli)])
def test_every_command_and_option_has_help_and_every_leaf_speaks_json(
    path: tuple[str, ...], command: click.Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.help
    assert main([*path, "--help"]) == 0
    assert "Usage: fedpdpo" in capsys.readouterr().out
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    assert all(option.help or option.metavar for option in options)
    if not isinstance(command, click.Group):
        assert {"--json", "--quiet"} <= {name for option in options for name in option.opts}


def test_the_commands_of_the_design_are_there() -> None:
    names = {" ".join(path) for path, _ in commands(cli)}
    assert names >= {"train", "plan", "account", "calibrate", "env", "data check", "data make"}
    assert names >= {"ledger show", "ledger verify", "ledger export"}


@pytest.mark.parametrize("name", ["--noise_multiplier", "--noise-multiplier"])
def test_underscore_and_hyphen_are_the_same_in_an_option(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["account", name, "1.5", "--steps", "2", "--delta", "1e-5", "--sampling", "full_batch", "--json"]) == 0
    assert last_json(capsys.readouterr().out)["sampling"] == "full_batch"
