"""Imports run one way: experiments -> fedpdpo_secure -> {privacy, secagg}, and neither of the two knows the other."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = {
    "secagg": {"secagg"},
    "privacy": {"privacy"},
    "fedpdpo_secure": {"fedpdpo_secure", "privacy", "secagg"},
    "experiments": {"experiments", "fedpdpo_secure", "privacy", "secagg"},
}
WITHOUT_TORCH = (
    "secagg",
    "privacy.accounting",
    "privacy.calibration",
    "privacy.entropy",
    "privacy.attestation",
    "privacy.discrete",
    "privacy.distributed",
    "privacy.events",
    "privacy.ledger",
)


def imported_names(source: str, package: str) -> set[str]:
    """Every module that `source`, a file of `package` (dotted), imports anywhere, also inside functions and strings."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = parents[: len(parents) - node.level + 1] if node.level else []
            names.add(".".join([*base, *([node.module] if node.module else [])]))
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
            names |= {argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant)}
    return names


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def forbidden_imports(source: str, package: str) -> set[str]:
    """The imports of `source` that break the layering."""
    top = package.split(".")[0]
    ours = {name for name in imported_names(source, package) if name.split(".")[0] in {*ALLOWED, "tests"}}
    return {name for name in ours if name.split(".")[0] not in ALLOWED[top]}


@pytest.mark.parametrize("layer", ALLOWED)
def test_no_import_runs_back_up(layer: str) -> None:
    files = sorted((ROOT / layer).rglob("*.py"))
    assert files, layer
    broken = {}
    for path in files:
        package = ".".join(path.relative_to(ROOT).parent.parts)
        if found := forbidden_imports(path.read_text(encoding="utf-8"), package):
            broken[str(path.relative_to(ROOT))] = sorted(found)
    assert broken == {}


@pytest.mark.parametrize(
    ("source", "package", "found"),
    [
        ("import privacy.ledger", "secagg", "privacy.ledger"),
        ("def f():\n    from fedpdpo_secure.run import run_training", "privacy", "fedpdpo_secure.run"),
        ("if True:\n    from experiments import cli", "fedpdpo_secure.data", "experiments"),
        ("from ...experiments import cli", "fedpdpo_secure.data", "experiments"),
        ("import importlib\nimportlib.import_module('secagg.client')", "privacy", "secagg.client"),
        ("from tests.helpers import federation", "fedpdpo_secure", "tests.helpers"),
    ],
)
def test_the_check_sees_each_kind_of_import(source: str, package: str, found: str) -> None:
    assert found in forbidden_imports(source, package)


def test_the_check_lets_allowed_imports_pass() -> None:
    source = "import numpy\nfrom secagg import LocalRound\nfrom .pairs import DataError\nimport privacy.ledger"
    assert forbidden_imports(source, "fedpdpo_secure.data") == set()


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_imports_where_torch_is_absent(module: str) -> None:
    code = (
        "import sys\n"
        "class NoTorch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'torch':\n"
        "            raise ModuleNotFoundError('torch is blocked')\n"
        "sys.meta_path.insert(0, NoTorch())\n"
        f"import {module}\n"
        "assert not any(name.split('.')[0] == 'torch' for name in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_architecture_page_names_every_state_and_message_of_the_protocol() -> None:
    from secagg.client import TRANSITIONS
    from secagg.server import DEADLINE, RECEIVE

    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    states = {state for state, _ in (*TRANSITIONS, *RECEIVE)} | set(DEADLINE)
    messages = {message for _, message in (*TRANSITIONS, *RECEIVE)}
    missing = {kind.__name__ for kind in states | messages if kind.__name__ not in page}
    assert missing == set()


def test_the_architecture_page_names_every_file_of_secagg() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    stems = {path.stem for path in (ROOT / "secagg").glob("*.py")} - {"__init__", "errors", "ring", "encoding"}
    starred = ("identity", "transcript")  # named with a star
    assert {s for s in stems if not s.startswith(starred) and f"`{s}.py`" not in page} == set()
