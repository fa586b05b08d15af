"""What the clients' ledgers hold over their whole history, read without a lock: epsilon by adversary, what was done.

A ledger may serve several runs (data not declared public), so its history is more than the run that reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from fedpdpo_secure.budget import ledger_root
from fedpdpo_secure.config import Config
from privacy.events import Event, with_known_sample
from privacy.ledger import ledger_path
from privacy.ledger_record import Record, Reserve
from privacy.ledger_store import read
from privacy.ledger_view import charged_events
from privacy.views import Views, federation_views

Records: TypeAlias = Mapping[str, tuple[Record, ...]]  # of every client's ledger
Histories: TypeAlias = Mapping[str, tuple[Event, ...]]  # what every client was charged, oldest first


def read_ledgers(config: Config, folder: Path, clients: Sequence[str]) -> dict[str, tuple[Record, ...]]:
    """Every client's records, from where the run in `folder` keeps its ledgers; chains are checked.

    Raises privacy.errors.LedgerBroken naming file and line; OSError for a ledger that is not there.
    """
    root = ledger_root(config, folder)
    return {client: read(ledger_path(root, config.data.id, client)).records for client in clients}


def charged(records: Records) -> dict[str, tuple[Event, ...]]:
    """Every event that each client was charged, committed or not."""
    return {client: tuple(charged_events(found)) for client, found in records.items()}


def known_samples(histories: Histories) -> dict[str, tuple[Event, ...]]:
    """The same histories as if the adversary knew every sample: what is left of a rejected sampler."""
    return {client: tuple(with_known_sample(event) for event in events) for client, events in histories.items()}


def columns(histories: Histories, delta: float) -> Views:
    """The largest client's bound under each adversary. Cached by history: a further round costs milliseconds."""
    distinct = dict.fromkeys(histories.values())  # most clients did the same
    return federation_views({str(place): events for place, events in enumerate(distinct)}, delta)


def distinct(histories: Histories) -> tuple[tuple[Event, ...], ...]:
    """The clients' histories without repeats; one empty one where there is no ledger."""
    return tuple(dict.fromkeys(histories.values())) or ((),)


def declared(records: Records) -> tuple[str, ...]:
    """What any run on these ledgers declared as chosen on private data without a charge, in order of first mention."""
    found: dict[str, None] = {}
    for rows in records.values():
        for record in rows:
            if isinstance(record.body, Reserve):
                text = str(record.body.context.get("unaccounted_releases", ""))
                found |= dict.fromkeys(part for part in text.split("; ") if part)
    return tuple(found)


def runs_recorded(records: Records) -> int:
    """Starts of runs, a resume counted as one, that charged any of these ledgers."""
    return len({row.body.run_id for rows in records.values() for row in rows if isinstance(row.body, Reserve)})
