"""Which code made a result: package versions, and the commit where the package lies in a git checkout."""

from __future__ import annotations

import platform
import shutil
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "fedpdpo",
    "torch",
    "opacus",
    "dp-accounting",
    "numpy",
    "scipy",
    "cryptography",
    "transformers",
    "peft",
)
_PACKAGE = Path(__file__).resolve().parent


@cache
def versions() -> dict[str, str | None]:
    """Version by package, python's too; None for one that is not installed as a package."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


@cache
def git_commit() -> str | None:
    """The commit of the checkout that tracks this package, with ` (changed)` if it was edited since; else None."""
    git = shutil.which("git")
    if git is None or _git(git, "ls-files", "--error-unmatch", "--", "__init__.py") is None:
        return None  # a checkout that merely surrounds an installed package says nothing of it
    commit = _git(git, "rev-parse", "HEAD")
    changed = _git(git, "status", "--porcelain", "--untracked-files=no", "--", str(_PACKAGE.parent))
    return None if commit is None else commit + (" (changed)" if changed else "")


def _git(git: str, *arguments: str) -> str | None:
    done = subprocess.run(
        [git, "-C", str(_PACKAGE), *arguments], capture_output=True, text=True, check=False, timeout=30
    )
    return done.stdout.strip() if done.returncode == 0 else None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
