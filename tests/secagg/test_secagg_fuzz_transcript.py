"""Hostile transcripts: a verdict or a BadMessage of one line, also when the hash chain is made to fit the lie."""

from __future__ import annotations

import copy
import json
import random
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from secagg_harness import fixed_entropy, identities, make_config, random_vectors
from secagg_mutations import allocated, mutated

from secagg import Mode, RoundConfig, Stage
from secagg.errors import BadMessage
from secagg.local import LocalRound
from secagg.transcript import Recorder, read_transcript
from secagg.transcript_check import Checked, check
from secagg.transcript_json import chained
from secagg.transcript_lines import from_lines, to_lines

CONFIGS = {
    "semi-honest, complete": make_config(5, dim=9),
    "malicious-server, complete": make_config(5, dim=9, mode=Mode.MALICIOUS_SERVER),
    "malicious-server, sparse": make_config(9, dim=9, neighbors=6, mode=Mode.MALICIOUS_SERVER),
}
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


@lru_cache(maxsize=8)
def transcript(config: RoundConfig) -> tuple[str, ...]:
    """The lines of a round in which one client drops after its shares and one after its vector."""
    recorder = Recorder(config)
    drops = {config.clients[-1]: Stage.AFTER_SHARES}
    local = LocalRound(config, drops, identities=identities(config), entropy=fixed_entropy(), tap=recorder)
    vectors = random_vectors(config)
    for client in local.open():
        local.submit(client, vectors[client])
    return tuple(recorder.finish(local.finish()))


def verdict(lines: list[str], config: RoundConfig) -> Checked | None:
    """What `check` says; None for a BadMessage, and anything else comes through."""
    roster = dict(zip(config.clients, config.identities, strict=False)) or None
    try:
        checked = check(lines, roster=roster, client=config.clients[0])
    except BadMessage as error:
        assert len(str(error).splitlines()) == 1
        assert len(str(error)) < 400
        return None
    assert all(len(finding.splitlines()) == 1 for finding in checked.findings)
    assert all(finding.isprintable() for finding in checked.findings)
    return checked


AWKWARD = (
    *(None, True, False, 0, 1, -1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 10**30),
    *("", "0", "00" * 16, "00" * 32, "ff" * 32, "01" * 64, "Ff" * 32),
    *("x\ny", "\x1b[2J", "\ud800", "\u0661"),
    *([], {}, [[]], [0], [1, 0], [0, 0], [2**32], [{}], {"client": 0}, {"entries": []}),
)


def nodes(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to all nodes of a JSON value."""
    found = [path]
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        found += nodes(inner, (*path, key))
    return found


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def lie(rng: random.Random, value: dict[str, Any], other: Any) -> dict[str, Any]:
    """`value` with one node replaced, removed, repeated or moved."""
    value = copy.deepcopy(value)
    path = rng.choice(nodes(value)[1:] or [("new",)])
    parent = at(value, path[:-1])
    choice = rng.randrange(6)
    if choice == 0 and path != ("new",):
        del parent[path[-1]]
    elif choice == 1 and isinstance(parent, list):
        parent.insert(rng.randrange(len(parent) + 1), copy.deepcopy(rng.choice(parent)))
    elif choice == 2 and isinstance(parent, list):
        rng.shuffle(parent)
    elif choice == 3:
        parent[path[-1]] = copy.deepcopy(at(other, rng.choice(nodes(other))))
    elif choice == 4 and isinstance(at(value, path) if path != ("new",) else None, int):
        parent[path[-1]] += rng.choice([-1, 1, 2, 256, 2**31, 2**62])
    else:
        parent[path[-1]] = copy.deepcopy(rng.choice(AWKWARD))
    return value


@each_config
def test_an_honest_transcript_is_whole_and_has_no_finding(config: RoundConfig) -> None:
    checked = verdict(list(transcript(config)), config)
    assert checked is not None and checked.ok, checked and checked.findings


@each_config
def test_mutated_bytes_of_a_transcript_are_noticed_or_the_same(config: RoundConfig, tmp_path: Path) -> None:
    honest = transcript(config)
    text = "".join(f"{line}\n" for line in honest).encode()
    path = tmp_path / "round.jsonl"
    others = [line.encode() + b"\n" for line in honest]
    for case in mutated(text, others, seed=4, count=400, keep=0):
        path.write_bytes(case)
        try:
            lines = read_transcript(path)
        except BadMessage as error:
            assert len(str(error).splitlines()) == 1
            continue
        checked = verdict(lines, config)
        assert checked is None or not checked.ok or case == text  # the last line counts the others


@each_config
def test_lies_with_a_chain_that_fits_them_get_a_verdict(config: RoundConfig) -> None:
    honest = [json.loads(line) for line in transcript(config)]
    for line in honest:
        del line["index"], line["previous"]
    rng, judged = random.Random(6), 0
    for _ in range(1000):
        told = list(honest)
        for _ in range(rng.choice([1, 1, 1, 2, 4])):
            place = rng.randrange(len(told))
            told[place] = lie(rng, told[place], rng.choice(honest))
        if any(not isinstance(line.get("kind"), str) for line in told):
            continue
        judged += verdict(chained((line["kind"], line) for line in told), config) is not None
    assert judged > 100


@each_config
def test_what_is_read_without_a_problem_is_written_the_same(config: RoundConfig) -> None:
    honest = [json.loads(line) for line in transcript(config)]
    rng, same = random.Random(8), 0
    for _ in range(500):
        place = rng.randrange(len(honest))
        told = [lie(rng, line, rng.choice(honest)) if i == place else line for i, line in enumerate(honest)]
        if any(not isinstance(line.get("kind"), str) for line in told):
            continue
        lines = chained((line["kind"], line) for line in told)
        try:
            read, problems = from_lines(lines)
        except BadMessage:
            continue
        if read is not None and not problems:
            assert to_lines(read) == lines
            same += 1
    assert same > 100


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        '{"a":' * 20_000,
        "9" * 5_000,
        '{"index":' + "9" * 5_000 + "}",
        '{"index":1e3}',
        '{"index":NaN}',
        '{"index":0,"index":0}',
        '{"a":"\\ud800"}',
        '{"a":"\ud800"}',
        "\ufeff{}",
        "",
        "null",
        "{}",
        "{} ",
    ],
    ids=lambda line: repr(line[:20]),
)
def test_an_awkward_line_is_a_bad_message(line: str) -> None:
    honest = transcript(CONFIGS["semi-honest, complete"])
    for lines in ([line], [line, *honest], [*honest, line], [*honest[:3], line, *honest[4:]]):
        with pytest.raises(BadMessage):
            from_lines(lines)


def test_lists_of_huge_numbers_allocate_in_proportion_to_the_text() -> None:
    config = CONFIGS["semi-honest, complete"]
    honest = [json.loads(line) for line in transcript(config)]
    for number in (2**31 - 1, 2**32 - 1, 2**63 - 1):
        for place, line in enumerate(honest):
            for path in nodes(line):
                if isinstance(at(line, path), int) and path not in [("index",)]:
                    told = copy.deepcopy(honest)
                    at(told[place], path[:-1])[path[-1]] = number
                    lines = chained((text["kind"], text) for text in told)
                    assert allocated(lambda lines=lines: verdict(lines, config)) < 64 * sum(map(len, lines)) + 200_000
