"""What was done must be what was planned: bounds hold for mechanisms fixed before anything private was seen.

Noise, sample rate, steps or an end chosen on the way may depend on noisy outputs, and no PLD bound covers that. So a
plan (one event per round) is fixed and its digest published beforehand, and a history that departs from it is refused.
A run may stop early or a client sit rounds out; if the reason may depend on private outputs, the bound to report is the
whole plan's, which covers every way to stop.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

from .errors import AdaptiveParameters
from .events import Event, NonPrivate, event_to_dict


def plan_digest(planned: Sequence[Event]) -> str:
    """SHA-256, in hex, of the planned events in their order; publish it before the first round."""
    text = json.dumps([event_to_dict(event) for event in planned], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def require_planned(planned: Sequence[Event], done: Sequence[Event | None], digest: str | None = None) -> None:
    """Check that each round did its planned event, with the same steps or fewer; None is a round sat out.

    Raises AdaptiveParameters naming the first round (from 1) that departs, or a plan that is not the one of `digest`.
    """
    if digest is not None and plan_digest(planned) != digest:
        raise AdaptiveParameters("the plan is not the one whose digest was published")
    if len(done) > len(planned):
        raise AdaptiveParameters(f"round {len(planned) + 1}: was not planned; the plan has {len(planned)} rounds")
    for index, (wanted, found) in enumerate(zip(planned, done, strict=False)):
        if found is not None and not _within(wanted, found):
            raise AdaptiveParameters(f"round {index + 1}: planned {wanted}, but {found} was done")


def _within(wanted: Event, found: Event) -> bool:
    if isinstance(wanted, NonPrivate) or isinstance(found, NonPrivate):
        return wanted == found
    return found.steps <= wanted.steps and replace(found, steps=wanted.steps) == wanted
