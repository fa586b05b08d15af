"""Which rows a run charges, as keyed tags (privacy.ledger_tags): the same pairs under another data.id are refused.

Made before training and for data not declared public alone. Tags stay in the owner's folder of ledgers; a run neither
exports nor reports them. Texts are compared as the model sees them: rows that a chat template rendered have other tags
under another template.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from privacy.ledger_tags import RowTags, Tags


class ChargedRows:
    """The training rows of a run's clients, against all rows ever charged under one root of ledgers."""

    def __init__(self, root: Path, data_id: str, rows: Iterable[tuple[str, bytes]]) -> None:
        """Raises privacy.errors.RowsChargedElsewhere, naming the data identity or client that these rows belong to."""
        self._data_id, self._tags = data_id, RowTags(root)
        self._rows = _tags_of(self._tags, rows)
        self._tags.check(data_id, self._rows)
        self._charged = False

    def charge(self) -> None:
        """Record the rows, once; on disk when this returns. Raises as the constructor does."""
        if not self._charged:
            self._tags.charge(self._data_id, self._rows)
            self._charged = True


def _tags_of(tags: RowTags, rows: Iterable[tuple[str, bytes]]) -> dict[str, Tags]:
    found: dict[str, set[bytes]] = {}
    for client, row in rows:
        found.setdefault(client, set()).add(tags.tag(row))
    return {client: frozenset(marks) for client, marks in found.items()}
