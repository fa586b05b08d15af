"""One line about a finished PluralLLM run, for `make demo`: `python -m experiments.demo_line RUN`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedpdpo_secure.config import load_config
from fedpdpo_secure.report import LOCAL, NOT_PRIVATE


def line(folder: Path) -> str:
    """What the run in `folder` reached, beside what needs no training."""
    config = load_config(folder / "config.yaml")
    values: Mapping[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    served, before = values[LOCAL]["served"], values[LOCAL]["untrained"]
    claim = NOT_PRIVATE
    if values["epsilon"] is not None:
        unit = "group's answers to a question" if values["unit"] == "question" else values["unit"]
        claim = f"epsilon {values['epsilon']:.3f} at delta {values['delta']:g} for one {unit}"
    return (
        f"PluralLLM: {config.federation.clients} groups, {values['rounds']} rounds, {claim}; alignment on held-out "
        f"questions {served['alignment']:.3f} (before {before['alignment']:.3f}, uniform "
        f"{before['uniform: alignment']:.3f}), worst group {served['alignment_worst']:.3f}, fairness "
        f"{served['fairness']:.3f}: {folder}"
    )


def main(arguments: Sequence[str]) -> None:
    """Command line."""
    print(line(Path(arguments[0])))


if __name__ == "__main__":
    main(sys.argv[1:])
