"""Who owns which pair must not change under one data identity, or a pair could spend its budget twice.

A ledger belongs to a client's name; names and owners follow from the partition. So the first run over data that is not
declared public writes down what decides the partition, and a later run that would deal the rows otherwise is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from fedpdpo_secure.config import Config, ConfigError
from fedpdpo_secure.data.partition import VERSION
from privacy.ledger import default_root, ledger_path

FILE = "partition.json"


def check_partition(config: Config, root: Path, clients: Sequence[str]) -> None:
    """Compare with the partition recorded under `root`, if there is one. Raises ConfigError naming what differs."""
    if config.data.public:
        _check_truly_public(config)
        return
    path, wanted = _file(config, root), _identity(config, clients)
    if path.exists():
        known = json.loads(path.read_text(encoding="utf-8"))
        for name, value in wanted.items():
            if known.get(name) != value:
                raise ConfigError(
                    f"data.id: {config.data.id} was dealt with {name} = {known.get(name)!r}, now {value!r}; a pair "
                    "could be charged to two ledgers. Use another data.id only for other data"
                )


def record_partition(config: Config, root: Path, clients: Sequence[str]) -> None:
    """Write down the partition of data not declared public, if this is its first run. Call `check_partition` before."""
    path = _file(config, root)
    if config.data.public or path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(_identity(config, clients), file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _file(config: Config, root: Path) -> Path:
    return ledger_path(root, config.data.id, "any").parent / FILE


def _identity(config: Config, clients: Sequence[str]) -> dict[str, object]:
    """Everything public that decides which client a row belongs to and whether it trains."""
    data = config.data
    if config.task == "pluralllm":  # a group holds its own answers, whatever is configured
        return {"version": VERSION, "dataset_name": config.dataset_name}
    return {
        "version": VERSION,
        "dataset_name": config.dataset_name,
        "seed": config.seed,
        "clients": list(clients),
        "partition": data.partition,
        "label_column": data.label_column,
        "dirichlet_alpha": data.dirichlet_alpha,
        "group_column": data.group_column,
        "where": {name: sorted(values) for name, values in sorted(data.where.items())},
        "fractions": [
            data.validation_fraction,
            data.test_fraction if data.test is None else None,
            data.public_fraction,
        ],
    }


def _check_truly_public(config: Config) -> None:
    """Data that has a ledger of its own was private once; calling it public would hide what it spent."""
    roots = {default_root(), *([Path(config.privacy.ledger_root)] if config.privacy.ledger_root else [])}
    for root in roots:
        if (ledger_path(root, config.data.id, "any").parent / FILE).exists():
            raise ConfigError(
                f"data.public: true, but {config.data.id} has ledgers under {root}; it is not public data"
            )
