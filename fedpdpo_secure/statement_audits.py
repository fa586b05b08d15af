"""What a privacy statement says of the attacks that were run on its run.

An audit looks at private data without noise, so of data not declared public a statement repeats the verdict alone; the
numbers stay in `audit.json`, which is the owners' own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

AUDIT_FILE = "audit.json"
PUBLIC_KEYS = ("name", "attack", "verdict", "confidence", "claim", "delta", "config_sha256")


def audits(folder: Path, *, public: bool, config_digest: str) -> dict[str, Any]:
    """The attacks of `audit.json` in `folder`: one result, or a list of them; a violation comes first."""
    path = folder / AUDIT_FILE
    if not path.exists():
        return {"ran": False, "violated": False, "words": "none was run", "results": []}
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        return {"ran": False, "violated": False, "words": f"{AUDIT_FILE} cannot be read", "results": []}
    found = found.get("audits", found) if isinstance(found, dict) else found
    results = [one for one in (found if isinstance(found, list) else [found]) if isinstance(one, dict)]
    results.sort(key=lambda one: not violated(one))
    shown = results if public else [{key: one[key] for key in PUBLIC_KEYS if key in one} for one in results]
    return {
        "ran": bool(results),
        "violated": any(violated(one) for one in results),
        "words": "; ".join(_words(one, config_digest) for one in shown) or "none was run",
        "results": shown,
    }


def violated(result: Mapping[str, Any]) -> bool:
    """Whether a result refutes the claim, or found the noise not as planned."""
    return result.get("verdict") == "violation" or bool((result.get("details") or {}).get("findings"))


def _words(one: Mapping[str, Any], config_digest: str) -> str:
    bound, estimate = one.get("lower_bound"), one.get("estimate")
    shown = ""
    if isinstance(bound, int | float):
        shown = f", lower bound {bound:.4g}"
    elif isinstance(estimate, int | float):
        shown = f", estimate {estimate:.4g} (no bound)"
    verdict = "violation" if violated(one) else one.get("verdict", "no verdict")
    findings = (one.get("details") or {}).get("findings")
    other = one.get("config_sha256") not in (None, config_digest)
    return (
        f"{one.get('name', 'audit')}: {verdict}{shown}, confidence {one.get('confidence')}"
        + (f"; {findings}" if findings else "")
        + ("; of another configuration" if other else "")
    )
