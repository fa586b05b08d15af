"""The plan of a run, published before its first round, and the check that nothing else was done.

Bounds hold for noise, sampling and steps that were fixed before anything private was seen (`privacy.planned`). So
`plan.json` names every round's event and the digest of all of them; a round that would do something else is refused
before it trains, and what the ledgers recorded is compared after every round and at a resume. Stopping early or taking
fewer steps is no departure. Where nothing is promised (a plan that is not private) nothing is checked.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedpdpo_secure.artefacts import RunFolderError
from fedpdpo_secure.budget import BudgetPlan
from fedpdpo_secure.histories import Records
from fedpdpo_secure.local.plan import LocalPlan
from privacy.errors import AdaptiveParameters
from privacy.events import Event, NonPrivate, event_from_dict, event_to_dict
from privacy.ledger_record import Commit, Overrun, Record, Reserve
from privacy.planned import plan_digest, require_planned

FILE = "plan.json"


@dataclass(frozen=True, slots=True)
class PublishedPlan:
    """One event per round, their digest, and how long each client's ledger was before the first round."""

    events: tuple[Event, ...]
    digest: str
    ledger_records: Mapping[str, int]

    @property
    def private(self) -> bool:
        """Whether the plan promises anything."""
        return not any(isinstance(event, NonPrivate) for event in self.events)


NO_PLAN = PublishedPlan((), "", {})  # allows no round


def publish(folder: Path, budget: BudgetPlan, rounds: int, records: Records) -> PublishedPlan:
    """Write `plan.json` for `rounds` rounds of the budget's event; it is on disk when this returns."""
    events = (budget.event,) * rounds
    plan = PublishedPlan(events, plan_digest(events), {client: len(found) for client, found in records.items()})
    document = {
        "digest": plan.digest,
        "events": {str(place): event_to_dict(event) for place, event in enumerate(events, start=1)},
        "ledger_records": dict(plan.ledger_records),
    }
    partial = folder / f"{FILE}.partial"
    with partial.open("w", encoding="ascii") as file:
        json.dump(document, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, folder / FILE)
    return plan


def published(folder: Path, budget: BudgetPlan, rounds: int) -> PublishedPlan | None:
    """The plan in `folder`, None if none was published there.

    Raises RunFolderError if the file was edited, or is not what the configuration now plans.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_bytes())
        named = values["events"]
        events = tuple(event_from_dict(named[str(place)]) for place in range(1, len(named) + 1))
        plan = PublishedPlan(events, str(values["digest"]), {k: int(v) for k, v in values["ledger_records"].items()})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunFolderError(f"--resume {folder}: {FILE} is not a published plan ({error})") from error
    if plan_digest(plan.events) != plan.digest:
        raise RunFolderError(f"--resume {folder}: {FILE} was edited: its events do not have the digest it names")
    now = plan_digest((budget.event,) * rounds)
    if now != plan.digest:
        raise RunFolderError(
            f"--resume {folder}: the plan published before the first round has the digest {plan.digest[:12]}, the one "
            f"made now {now[:12]}: noise, sampling, steps or rounds would change on the way"
        )
    return plan


def planned_event(plan: LocalPlan, budget: BudgetPlan) -> Event:
    """What a round with these instructions would be charged."""
    if isinstance(budget.event, NonPrivate):
        return budget.event
    if plan.shares is not None:
        return plan.shares.event()
    assert plan.dp is not None and plan.steps is not None  # noise is shared or in every step
    return plan.dp.event(plan.steps)


def check_next(plan: PublishedPlan, round_index: int, event: Event) -> None:
    """Refuse a round before it is charged or trained. Raises AdaptiveParameters unless `event` is the planned one."""
    if plan.private:
        require_planned(plan.events, [*[None] * (round_index - 1), event], plan.digest)


def check_committed(plan: PublishedPlan, records: Records, *, run_name: str, config_digest: str) -> None:
    """Compare what every client's ledger says this run reserved and did with the plan.

    Of records after the plan was made, those are this run's whose run and configuration are named alike. Raises
    AdaptiveParameters naming client and round.
    """
    if not plan.private:
        return
    sound: set[tuple[Event | None, ...]] = set()
    for client, rows in records.items():
        mine = _done(rows[plan.ledger_records.get(client, 0) :], run_name, config_digest)
        for done in _histories(mine):
            if done in sound:
                continue
            try:
                require_planned(plan.events, done, plan.digest)
            except AdaptiveParameters as error:
                raise AdaptiveParameters(f"client {client}: {error}") from error
            sound.add(done)


def _done(rows: Sequence[Record], run_name: str, config_digest: str) -> dict[int, list[Event]]:
    """Round to everything that was reserved, done or overrun in it, also in attempts that were cut."""
    done: dict[int, list[Event]] = defaultdict(list)
    rounds: dict[int, int] = {}  # line of a reservation -> its round
    for record in rows:
        body = record.body
        if isinstance(body, Reserve):
            if body.run_id.rpartition("-")[0] != run_name or body.context.get("config") != config_digest:
                continue
            rounds[record.seq] = body.round_index
            done[body.round_index].append(body.event)
        elif isinstance(body, Commit | Overrun) and body.reserve_seq in rounds:
            done[rounds[body.reserve_seq]].append(body.event)
    return done


def _histories(done: Mapping[int, Sequence[Event]]) -> Iterator[tuple[Event | None, ...]]:
    """One history for each attempt: the first event of every round, the second of every round, and so on."""
    last = max(done, default=0)
    for attempt in range(max((len(events) for events in done.values()), default=0)):
        rows = (done.get(index, ()) for index in range(1, last + 1))
        yield tuple(events[attempt] if attempt < len(events) else None for events in rows)
