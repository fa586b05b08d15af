"""A shadow copy of a configured run: the same data, model and code in a temporary folder, gone when the audit ends."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedpdpo_secure.config import Config, ConfigError
from fedpdpo_secure.model.backbone import Backbone
from fedpdpo_secure.model.policy import reference_logps
from fedpdpo_secure.pairs.packing import TokenPair, collate
from fedpdpo_secure.pairs.store import PairStore, physical_batches, write_stores
from fedpdpo_secure.prepare import Prepared, prepare
from fedpdpo_secure.progress import SilentProgress
from fedpdpo_secure.task import Client

_REFERENCE_ROWS = 16


@dataclass(frozen=True, slots=True)
class Shadow:
    """A run prepared in `folder`, which nothing else uses and no ledger knows."""

    prepared: Prepared
    folder: Path

    def client(self, name: str | None) -> Client:
        """The client of this name, or the first. Raises ConfigError naming the clients there are."""
        clients = self.prepared.clients
        found = clients[:1] if name is None else [client for client in clients if client.name == name]
        if not found:
            names = ", ".join(client.name for client in clients[:8])
            raise ConfigError(f"--client: {name!r} is not a client of this federation; the first are {names}")
        return found[0]

    def store(self, label: str, pairs: Sequence[TokenPair]) -> PairStore:
        """`pairs`, at least one, as a client's train split under `label`, with their reference log-probabilities."""
        root = self.folder / "stores"
        write_stores(root, ((label, "train", pair) for pair in pairs))
        store = PairStore(root, label, "train")
        store.write_reference(_references(store, pairs, self.prepared.task.backbone))
        return store


@contextmanager
def shadow(config: Config) -> Iterator[Shadow]:
    """Prepare `config` in a new folder that only the owner can read, and remove it at the end.

    The run folder and the ledgers of `config` are not touched. Raises ConfigError or DataError as a run would.
    """
    with tempfile.TemporaryDirectory(prefix="fedpdpo-audit-") as name:
        folder = Path(name)
        yield Shadow(prepare(config, folder, SilentProgress(), fresh=True), folder)


def _references(store: PairStore, pairs: Sequence[TokenPair], backbone: Backbone) -> NDArray[np.float32]:
    """float32[n, 2]; computed where a pair does not bring its own."""
    values = np.full((len(pairs), 2), np.nan, np.float32)
    for row, pair in enumerate(pairs):
        if pair.reference is not None:
            values[row] = pair.reference
    missing = np.flatnonzero(np.isnan(values[:, 0]))
    for rows in physical_batches(store, missing, _REFERENCE_ROWS):
        batch = collate([store[index] for index in rows], backbone.device)
        values[rows] = reference_logps(backbone, batch).float().cpu().numpy()
    return values
