"""Who holds which units of privacy: what ledgers and row tags need to know of any task's data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class Owners(Protocol):
    """The clients of a federation and their units."""

    @property
    def clients(self) -> tuple[str, ...]:
        """Sorted; a client's place is its id in secure aggregation."""

    def rows(self) -> Iterator[tuple[str, bytes]]:
        """(client, canonical bytes) of every unit that trains. Private: for keyed tags on the owner's machine."""
