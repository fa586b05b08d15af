"""Transcripts for the tests: recorded rounds of every kind, forged ones that agree with themselves, and mutations."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from functools import lru_cache
from typing import Any

from secagg_harness import make_config, random_vectors, run_local

from secagg import Mode, RoundConfig, SecAggError, Stage
from secagg.config import PROTOCOL
from secagg.transcript import Recorder
from secagg.transcript_check import Checked, Verdict, check
from secagg.transcript_json import GENESIS, canonical, line_hash
from secagg.transcript_lines import from_lines, to_lines
from secagg.transcript_record import DIRECTIONS, Carried, Released, Traffic, Transcript
from secagg.transcript_view import View, expected_size, last_stage, view_of

MALICIOUS = Mode.MALICIOUS_SERVER
BIG = {
    "complete": make_config(16, threshold=9),
    "sparse": make_config(17, neighbors=12, threshold=5),
    "complete, malicious server": make_config(16, mode=MALICIOUS),
    "sparse, malicious server": make_config(17, neighbors=12, threshold=7, mode=MALICIOUS),
}
"""Rounds in which one client drops out at every stage there is."""
SMALL = {
    "complete": make_config(7, threshold=4),
    "sparse": make_config(9, neighbors=6, threshold=3),
    "complete, malicious server": make_config(7, mode=MALICIOUS),
    "sparse, malicious server": make_config(9, neighbors=6, threshold=4, mode=MALICIOUS),
}
"""Rounds small enough to be tampered with in every place; one client drops out before and one after its vector."""


def drops_everywhere(config: RoundConfig) -> dict[int, Stage]:
    stages = [stage for stage in Stage if config.malicious or stage is not Stage.AFTER_CONSENT]
    return dict(zip(config.clients[1:], stages, strict=False))


def two_drops(config: RoundConfig) -> dict[int, Stage]:
    return {config.clients[1]: Stage.AFTER_SHARES, config.clients[4]: Stage.AFTER_MASKED}


def record(config: RoundConfig, drops: Mapping[int, Stage]) -> list[str]:
    """The lines of a round that may end in an error of the protocol."""
    recorder = Recorder(config)
    try:
        total = run_local(config, random_vectors(config), drops, tap=recorder)
    except SecAggError as error:
        return recorder.abort(type(error).__name__)
    return recorder.finish(total)


@lru_cache(maxsize=16)
def small(name: str) -> tuple[str, ...]:
    return tuple(record(SMALL[name], two_drops(SMALL[name])))


def transcript_of(lines: tuple[str, ...] | list[str]) -> Transcript:
    transcript, problems = from_lines(lines)
    assert transcript is not None and not problems
    return transcript


def view(transcript: Transcript) -> View:
    return view_of(transcript.header.round_config(), transcript)


def forged(transcript: Transcript) -> list[str]:
    """The lines of a changed transcript whose hash of keys, sizes and drop-outs have been made to fit the change."""
    seen = view(transcript)
    carried = {traffic.message: frozenset(traffic.clients) for traffic in transcript.messages}
    carried |= {"Advertise": seen.advertised, "Shares": seen.sharers, "MaskedVector": seen.survivors}
    carried |= {"Consent": seen.consented, "Reveal": frozenset(seen.revealed)}
    carried["PeerKeys"] = seen.sharers
    carried["Delivery"] = seen.survivors
    carried["UnmaskRequest"] = seen.survivors
    carried["Consents"] = seen.consented if seen.config.malicious else frozenset()
    sizes = {n: {c: expected_size(seen, n, c) for c in clients} for n, clients in carried.items()}
    messages = tuple(
        Traffic(name, direction, tuple(sorted(sizes[name])), sum(sizes[name].values()))
        for name, direction in DIRECTIONS.items()
        if sizes.get(name)
    )
    ways = [{n: s for n, s in sizes.items() if DIRECTIONS[n] == way} for way in ("upload", "download")]
    clients = tuple(
        Carried(client, *(sum(by_client.get(client, 0) for by_client in way.values()) for way in ways))
        for client in seen.config.clients
    )
    outcome = transcript.outcome
    if isinstance(outcome, Released):
        stages = {client: last_stage(seen, client) for client in seen.config.clients}
        dropped = tuple((client, stage) for client, stage in stages.items() if stage is not None)
        outcome = replace(outcome, survivors=len(seen.survivors), dropped=dropped)
    return to_lines(
        replace(transcript, roster_hash=seen.roster_hash, messages=messages, clients=clients, outcome=outcome)
    )


def broken(checked: Checked) -> set[str]:
    return {one.name for one in checked.guarantees if one.verdict is Verdict.BROKEN}


def broken_in(lines: list[str], **options: Any) -> set[str]:
    return broken(check(lines, **options))


def rechained(objects: list[dict[str, Any]]) -> list[str]:
    """Lines with the hash chain made anew, whatever else is wrong with them."""
    lines: list[str] = []
    for values in objects:
        lines.append(canonical({**values, "previous": line_hash(lines[-1]) if lines else GENESIS}))
    return lines


Path = tuple[str | int, ...]


def mutations(lines: tuple[str, ...], kind: str) -> Iterator[tuple[Path, list[str]]]:
    """(where, lines) of every change of one field in the line of that kind, the chain made anew each time."""
    objects = [json.loads(line) for line in lines]
    place = next(i for i, values in enumerate(objects) if values["kind"] == kind)
    for path, values in _leaves(objects[place]):
        for value in (other for other in _others(path, values) if other != values):
            changed = deepcopy(objects)
            target: Any = changed[place]
            for step in path[:-1]:
                target = target[step]
            target[path[-1]] = value
            yield path, rechained(changed)


def _leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every field, and every list as a whole."""
    if path and not isinstance(value, dict):
        yield path, value
    for step in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        if step != "previous":
            yield from _leaves(value[step], (*path, step))


def _others(path: Path, value: Any) -> list[Any]:
    names: dict[str, list[str]] = {
        "mode": [mode.value for mode in Mode],
        "stage": [stage.value for stage in Stage],
        "message": list(DIRECTIONS),
        "direction": ["upload", "download"],
        "protocol": [PROTOCOL.decode() + "x"],
        "kind": ["sum", "aborted", "consents", "x"],
        "error": ["x y"],
    }
    last = str(path[-1])
    if last in names:
        return [other for other in names[last] if other != value]
    if value is None:
        return [6]
    if isinstance(value, int):
        return [value + 1, value + 3, None, *([value - 1] if value else [])]
    if isinstance(value, list):
        return [value[1:], value[:-1], [*value, *value[-1:]], value[::-1]] if len(value) > 1 else [[], [999], [10]]
    flipped = {digit: "0" if digit != "0" else "1" for digit in "0123456789abcdef"}
    return [flipped[value[0]] + value[1:], value[:-1] + flipped[value[-1]], value[:-2]] if value else ["ab" * 64]
