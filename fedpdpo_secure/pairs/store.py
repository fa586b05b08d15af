"""A client's tokenised pairs and cached reference log-probabilities, on the client's own disk.

Rows are read one batch at a time through memory maps, so memory grows with neither clients nor pairs. Files are 0600:
they are the client's data and never leave its folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedpdpo_secure.pairs.packing import TokenPair

SPLITS = ("train", "validation", "test", "heldout", "public")
_BUFFERED_PAIRS = 2048


def private_file(path: Path, flags: int = os.O_WRONLY | os.O_CREAT | os.O_TRUNC) -> int:
    """File descriptor of `path`, created readable by its owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return os.open(path, flags, 0o600)


def write_stores(root: Path, pairs: Iterable[tuple[str, str, TokenPair]]) -> None:
    """Write (client, split, pair) rows to `root/<client>/pairs/`, in the given order, in bounded memory."""
    buffer: dict[tuple[str, str], list[TokenPair]] = {}
    started = set[Path]()

    def flush() -> None:
        for (client, split), rows in buffer.items():
            folder = root / client / "pairs"
            _append(folder, split, rows, fresh=folder / split not in started)
            started.add(folder / split)
        buffer.clear()

    for count, (client, split, pair) in enumerate(pairs, start=1):
        buffer.setdefault((client, split), []).append(pair)
        if count % _BUFFERED_PAIRS == 0:
            flush()
    flush()


def _append(folder: Path, split: str, rows: Sequence[TokenPair], *, fresh: bool) -> None:
    flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if fresh else os.O_APPEND)
    flat = np.concatenate([part for row in rows for part in (row.prompt, row.chosen, row.rejected)])
    sizes = np.array([(len(row.prompt), len(row.chosen), len(row.rejected)) for row in rows], np.int64)
    for suffix, array in (("tokens", flat.astype("<i4")), ("sizes", sizes.astype("<i8"))):
        with os.fdopen(private_file(folder / f"{split}.{suffix}", flags), "ab") as file:
            file.write(array.tobytes())


class PairStore:
    """One split of one client: `len(store)`, `store[i] -> TokenPair`, lengths, and the reference cache."""

    def __init__(self, root: Path, client: str, split: str) -> None:
        folder = root / client / "pairs"
        self.client, self.split = client, split
        self._tokens_path, self._reference_path = folder / f"{split}.tokens", folder / f"{split}.reference"
        sizes_path = folder / f"{split}.sizes"
        exists = sizes_path.exists() and sizes_path.stat().st_size > 0
        flat = np.fromfile(sizes_path, "<i8") if exists else np.zeros(0, np.int64)
        self._sizes: NDArray[np.int64] = flat.reshape(-1, 3)
        self._starts = np.concatenate([[0], np.cumsum(self._sizes.sum(1))])

    def __len__(self) -> int:
        return len(self._sizes)

    def lengths(self) -> NDArray[np.int64]:
        """int64[n]: packed slots of each pair."""
        return self._sizes.sum(1)

    def __getitem__(self, index: int) -> TokenPair:
        p, c, r = (int(size) for size in self._sizes[index])
        start = int(self._starts[index])
        tokens = np.fromfile(self._tokens_path, "<i4", count=p + c + r, offset=4 * start)
        reference = None
        if self._reference_path.exists():
            reference = np.fromfile(self._reference_path, "<f4", count=2, offset=8 * index)
        return TokenPair(tokens[:p], tokens[p : p + c], tokens[p + c :], reference)

    def has_reference(self) -> bool:
        """Whether every pair's reference log-probabilities are cached."""
        return self._reference_path.exists() and self._reference_path.stat().st_size == 8 * len(self)

    def write_reference(self, values: NDArray[np.float32]) -> None:
        """Cache float32[n, 2] reference log-probabilities (chosen, rejected)."""
        partial = self._reference_path.with_suffix(".partial")
        with os.fdopen(private_file(partial), "wb") as file:
            file.write(values.astype("<f4").tobytes())
        os.replace(partial, self._reference_path)


def physical_batches(store: PairStore, chosen: NDArray[np.int64], size: int) -> list[list[int]]:
    """`chosen` pairs of one logical batch, sorted by length and cut into rows of at most `size`.

    Sorting inside a logical batch changes padding alone, never which pairs are in it.
    """
    order = chosen[np.argsort(store.lengths()[chosen], kind="stable")]
    return [[int(index) for index in order[start : start + size]] for start in range(0, len(order), size)]
