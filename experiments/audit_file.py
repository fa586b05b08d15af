"""A JSON file of audit results, one for each attack: what a run's privacy statement reads."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from experiments.output import json_line


def add_result(path: Path, values: Mapping[str, Any]) -> None:
    """Put `values` into the list at `path`, in place of an earlier result of the same attack.

    Raises click.UsageError where the file holds something else.
    """
    results = [one for one in _read(path) if one.get("attack") != values.get("attack")]
    results.append(json.loads(json_line(values)))
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise click.UsageError(f"--save: {path} is not JSON: {error}") from error
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise click.UsageError(f"--save: {path} is not a list of audit results")
    return found
