"""Where ledgers are: outside run folders, one folder per data identity, one file per client."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote


def default_root() -> Path:
    """The user's state folder for ledgers: $XDG_STATE_HOME/fedpdpo/ledgers, by default under ~/.local/state."""
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    return base / "fedpdpo" / "ledgers"


def ledger_path(root: Path, data_id: str, client: str) -> Path:
    """<root>/<data_id>/<client>.jsonl, with names escaped so that no name can reach another folder or file."""
    return root / _file_name(data_id, "data_id") / f"{_file_name(client, 'client')}.jsonl"


def _file_name(name: str, field: str) -> str:
    escaped = quote(name, safe="")
    if escaped.startswith("."):
        escaped = "%2E" + escaped[1:]
    if not 0 < len(escaped) <= 200:
        raise ValueError(f"{field} must have 1 to 200 characters once escaped for a file name, got {name!r}")
    return escaped
