"""Help is fast because it imports nothing heavy; that, and not a number of milliseconds, is what is checked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "peft", "opacus", "datasets", "numpy", "scipy", "pydantic", "rich", "secagg")


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["ledger", "verify", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from experiments.cli import main\n"
        f"code = main({arguments!r})\n"
        f"heavy = sorted({{name.split('.')[0] for name in sys.modules}} & set({HEAVY!r}))\n"
        "sys.exit(code or (f'imported {heavy}' if heavy else 0))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage: fedpdpo" in done.stdout
