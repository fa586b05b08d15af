"""The last head of every client's ledger, kept by the federation: a ledger that was cut or put back is noticed.

Kept twice: beside the ledgers, and in the run folder, which a restored backup of the ledgers leaves as it was. A head
is written after the record it stands for is on disk, so a crash can only leave an older head, never a false alarm.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from privacy.ledger_heads import HEADS_FILE, Head, advance, read_heads, write_heads


class KnownHeads:
    """The heads in some folders, each of which may not exist yet; nothing is written before `keep`."""

    def __init__(self, *folders: Path) -> None:
        """Raises privacy.errors.LedgerBroken for a file that holds no heads."""
        self._paths = tuple(dict.fromkeys(folder / HEADS_FILE for folder in folders))
        self._known = {head: None for path in self._paths if path.exists() for head in read_heads(path)}

    def of(self, data_id: str, client: str) -> tuple[Head, ...]:
        """What the ledger of this client and data must still contain."""
        return tuple(head for head in self._known if head.ledger == (data_id, client))

    def keep(self, heads: Sequence[Head]) -> None:
        """Remember these instead of earlier ones, on disk when this returns.

        Raises privacy.errors.LedgerRolledBack if another process kept a head that says otherwise.
        """
        for path in self._paths:
            write_heads(path, advance(read_heads(path) if path.exists() else (), heads))
        new = {head.ledger for head in heads}
        self._known = {head: None for head in self._known if head.ledger not in new} | dict.fromkeys(heads)
