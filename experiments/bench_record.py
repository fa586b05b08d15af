"""Where a benchmark's figures go: raw points as JSON lines, the whole as JSON and CSV, with machine and versions."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from experiments.output import json_line

PACKAGES = ("fedpdpo", "numpy", "cryptography", "flwr")


def surroundings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a figure depends on beside the code: machine, versions, and the sweep with its digest (SHA-256)."""
    from cryptography.hazmat.backends.openssl import backend

    versions = {name: _version(name) for name in PACKAGES}
    return {
        "machine": {"cpu": cpu_model(), "cores": os.cpu_count(), "platform": platform.platform()},
        "versions": {"python": platform.python_version(), "openssl": backend.openssl_version_text(), **versions},
        "config": dict(config),
        "config_digest": hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest(),
    }


def cpu_model() -> str:
    """The processor's name where the system tells it, else its architecture."""
    listed = Path("/proc/cpuinfo")
    if listed.exists():
        names = (
            line.partition(":")[2].strip() for line in listed.read_text().splitlines() if line.startswith("model name")
        )
        if name := next(names, ""):
            return name
    return platform.processor() or platform.machine()


def append_point(folder: Path, row: Mapping[str, Any], around: Mapping[str, Any]) -> None:
    """Add one measured point to `points.jsonl`, at once: what was measured survives an interruption."""
    folder.mkdir(parents=True, exist_ok=True)
    line = json_line({"at": datetime.now(UTC).isoformat(timespec="seconds"), **around, **row})
    with (folder / "points.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def write_results(folder: Path, values: Mapping[str, Any], *, name: str) -> list[Path]:
    """Write `values` as NAME.json and its rows as NAME.csv; the files."""
    folder.mkdir(parents=True, exist_ok=True)
    whole, table = folder / f"{name}.json", folder / f"{name}.csv"
    whole.write_text(json.dumps(json.loads(json_line(values)), indent=1) + "\n", encoding="utf-8")
    rows = [flat(row) for row in values["rows"]]
    with table.open("w", newline="", encoding="utf-8") as file:
        # What a row lacks stays empty, and a mapping that is null in it has no column of its own.
        writer = csv.DictWriter(file, _columns(rows), restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return [whole, table]


def flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as `outer.inner` keys; lists are left out."""
    cells: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            cells |= flat(value, f"{prefix}{key}.")
        elif not isinstance(value, Sequence) or isinstance(value, str):
            cells[prefix + key] = "" if value is None else value
    return cells


def _columns(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Every column once, in order of first appearance; a mapping that is null in some rows has no column of its own."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [name for name in names if not any(other.startswith(f"{name}.") for other in names)]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
