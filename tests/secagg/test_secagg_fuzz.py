"""Hostile bytes at every decoder: the value they stand for or the one error that is documented, and little memory."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import secagg_mutations
from secagg_harness import Federation, identities, identity_of, make_config, random_vectors
from secagg_mutations import (
    HEADER_BYTES,
    MUTATIONS,
    Example,
    allocated,
    edit_number,
    examples,
    hostile_numbers,
    mutated,
    understood,
    with_number,
)

import secagg
from secagg import SecAggError
from secagg.client import TRANSITIONS
from secagg.client_steps import Self
from secagg.errors import BadMessage, WrongPhase
from secagg.folded import Folded, decode_folded, encode_folded, next_round
from secagg.identity import Roster
from secagg.identity_files import format_roster, parse_roster, read_signing_key, write_signing_key
from secagg.journal import FileJournal, JournalError
from secagg.messages import Message
from secagg.wire import decode, encode

FUZZER = Path(__file__).resolve().parents[1] / "fuzz" / "fuzz_wire.py"
each_example = pytest.mark.parametrize("example", examples(), ids=lambda example: example.name)


# The wire


def test_the_examples_hold_every_type_of_message() -> None:
    assert {type(message) for example in examples() for message in example.messages} == set(Message.__args__)


@each_example
def test_mutated_messages_decode_to_what_has_these_bytes_or_are_bad_messages(example: Example) -> None:
    encodings = example.encodings()
    for seed, data in enumerate(encodings):
        cases = mutated(data, encodings, seed=seed, count=1500, keep=HEADER_BYTES)
        accepted = [case for case in cases if understood(case, example.config)]
        assert 20 < len(accepted) < 1400  # neither refused at the door nor all harmless
        assert len(set(accepted)) > 1


@each_example
def test_messages_of_another_kind_of_round_are_refused(example: Example) -> None:
    for other in examples():
        for data in other.encodings():
            assert understood(data, example.config) == (other is example)


@each_example
def test_any_four_bytes_taken_for_a_count_or_an_id_can_be_anything(example: Example) -> None:
    for data in example.encodings():
        for start in range(HEADER_BYTES, len(data) - 3):
            for number in hostile_numbers(int.from_bytes(data[start : start + 4], "big")):
                understood(with_number(data, start, number), example.config)


@each_example
def test_decoding_allocates_in_proportion_to_the_bytes_that_came(example: Example) -> None:
    rng = random.Random(41)
    encodings = example.encodings()
    for data in encodings:
        cases = [data, *(edit_number(rng, data, encodings) for _ in range(20))]
        cases += [case[: rng.randrange(HEADER_BYTES, len(case) + 1)] for case in cases]
        for case in cases:
            # A byte becomes at most a few objects; bits become ids, of which there are no more than clients.
            limit = 16_000 + 8 * len(case) + 100 * len(example.config.clients)
            assert allocated(lambda case=case: understood(case, example.config)) < limit


def test_a_short_message_with_a_huge_count_or_a_huge_vector_allocates_nothing_of_that_size() -> None:
    """4 million words of 3 bytes are due, and lists of up to 300: a header and a few bytes must not pay for them."""
    config = make_config(300, dim=4_000_000)
    for data in examples()[0].encodings():
        kind = data[:2]
        for digest in (config.digest(), config.binding()):
            for tail in (b"", b"\xff" * 4, b"\xff" * 42, b"\xff" * 78, (300).to_bytes(4, "big") * 12):
                case = kind + digest + tail
                assert allocated(lambda case=case: understood(case, config)) < 16_000 + 100 * len(config.clients)


@each_example
def test_parties_that_are_given_mutated_messages_raise_secagg_errors_only(example: Example) -> None:
    config, federation = example.config, Federation(example.config)
    me = config.clients[0]
    steps = (
        federation.advertise,
        federation.share,
        federation.deliver,
        lambda: federation.mask(random_vectors(config), config.clients[-1:]),
        *([federation.consent] if config.malicious else []),
        federation.reveal,
    )
    received = 0
    for step in steps:
        state = federation.clients[me]._state
        for seed, message in enumerate(decodable(example)):
            server = copy.deepcopy(federation.server)
            with contextlib.suppress(SecAggError):
                server.receive(message)
                received += 1
                if seed % 8 == 0:
                    server.deadline()
            if transition := TRANSITIONS.get((type(state), type(message))):
                with contextlib.suppress(SecAggError):
                    transition(config, Self(me, identities(config).get(me)), state, message)
        step()
    assert received > 10  # a masked vector with other tags is refused


def decodable(example: Example) -> list[Message]:
    """Messages that decode and are not those of the round."""
    found, encodings = [], example.encodings()
    for seed, data in enumerate(encodings):
        cases = mutated(data, encodings, seed=100 + seed, count=60, keep=HEADER_BYTES)
        found += [decode(case, example.config) for case in cases if case != data and understood(case, example.config)]
    return found


def test_encode_refuses_what_it_could_not_have_decoded() -> None:
    """The messages of one kind of round in another: encoded to something that decodes to them, or a BadMessage."""
    for example in examples():
        for other in examples():
            for message in other.messages:
                try:
                    data = encode(message, example.config)
                except BadMessage:
                    continue
                with contextlib.suppress(BadMessage):
                    assert decode(data, example.config) == message


def test_mutated_folded_messages_decode_to_what_has_these_bytes_or_are_bad_messages() -> None:
    example = examples()[0]
    current, following = example.config, next_round(example.config)
    opening = Federation(following).advertise().clients[following.clients[0]].greeting
    pairs = [Folded(message, opening) for message in example.messages]
    pairs += [Folded(message, None) for message in example.messages] + [Folded(None, opening)]
    encodings = [encode_folded(pair, current, following) for pair in pairs]
    accepted = 0
    for seed, data in enumerate(encodings):
        for case in mutated(data, encodings, seed=seed, count=400, keep=4 + HEADER_BYTES):
            for round_now in (current, None):
                try:
                    message = decode_folded(case, round_now, following)
                except BadMessage:
                    continue
                accepted += 1
                assert encode_folded(message, round_now, following) == case
    assert accepted > 500


# Files


def roster_text(clients: int) -> bytes:
    ids = tuple(range(5, 5 + 2 * clients, 2))
    return format_roster(Roster(ids, tuple(identity_of(client).public for client in ids))).encode()


AWKWARD_JSON = (
    b"[" * 100_000,
    b'{"version": 1, "clients": ' + b"[" * 50_000,
    b'{"a":' * 20_000,
    b"9" * 10_000,
    b'{"version": 1, "clients": [' + b'{"id": ' + b"9" * 5_000 + b', "identity": ""}]}',
    b'{"version": 1e999, "clients": []}',
    b'{"version": NaN, "clients": []}',
    b'{"version": true, "clients": []}',
    b'{"version": 1, "clients": {"id": 1}}',
    b'{"version": 1, "version": 1, "clients": []}',
    b'"\\ud800"',
    b'{"\\u0000\\n": 1}',
    b"\xef\xbb\xbf{}",
    b"\xff\xfe{\x00}\x00",
    b"",
    b"null",
)


def reads_as_roster(data: bytes) -> bool:
    """Whether `data` is a roster, which then has its own text. Lets all but a ValueError of one line through."""
    try:
        roster = parse_roster(data)
    except ValueError as error:
        assert len(str(error).splitlines()) == 1
        assert len(str(error)) < 300
        return False
    assert parse_roster(format_roster(roster).encode()) == roster
    return True


def test_mutated_rosters_are_rosters_or_one_line_of_error() -> None:
    texts = [roster_text(3), roster_text(6)]
    accepted = [
        case
        for seed, text in enumerate(texts)
        for case in mutated(text, [*texts, *AWKWARD_JSON[5:]], seed=seed, count=2500, keep=0)
        if reads_as_roster(case)
    ]
    assert 10 < len(accepted) < 2500


@pytest.mark.parametrize("data", AWKWARD_JSON, ids=lambda data: repr(data[:30]))
def test_awkward_json_is_no_roster(data: bytes) -> None:
    assert not reads_as_roster(data)


def test_mutated_signing_key_files_are_keys_or_one_line_of_error(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_signing_key(path, identity_of(1))
    text, digits, accepted = path.read_bytes(), identity_of(1).secret.hex(), 0
    for case in mutated(text, [text, b"fedpdpo signing key 2\n" + text[22:]], seed=3, count=1500, keep=0):
        path.write_bytes(case)
        try:
            key = read_signing_key(path)
        except ValueError as error:
            assert len(str(error).splitlines()) == 1
            assert not any(digits[start : start + 8] in str(error) for start in range(57))
            continue
        accepted += 1
        assert case == b"fedpdpo signing key 1\n" + key.secret.hex().encode() + b"\n"
    assert accepted > 10


def test_a_mutated_journal_keeps_every_whole_line_or_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    lines = [random.Random(i).randbytes(32).hex().encode() + b"\n" for i in range(4)]
    text, opened = b"".join(lines), 0
    path.touch(mode=0o600)
    for case in mutated(text, [text, lines[0][:40], bytes(65)], seed=9, count=2500, keep=0):
        path.write_bytes(case)
        try:
            journal = FileJournal(path)
        except JournalError as error:
            assert len(str(error).splitlines()) == 1
            assert path.read_bytes() == case  # nothing that a person may want to look at is lost
            continue
        opened += 1
        with journal:
            kept = path.read_bytes()
            assert kept.startswith(case[: case.rfind(b"\n") + 1])
            assert len(kept) % 65 == 0 and len(kept) - len(case) in range(-65, 2)
            for line in kept.split():
                with pytest.raises(WrongPhase):
                    journal.once(bytes.fromhex(line.decode()))
    assert 50 < opened < 2400


# The mutations themselves, and the fuzzer that is guided by coverage


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_each_mutation_changes_most_messages_and_takes_any_bytes(mutation: secagg_mutations.Mutation) -> None:
    rng = random.Random(2)
    encodings: Sequence[bytes] = examples()[0].encodings()
    changed = sum(mutation(rng, data, encodings) != data for data in encodings * 20)
    assert changed > 0.5 * 20 * len(encodings)
    for data in (b"", b"\x00", b"ab"):
        mutation(rng, data, [b"", b"\x00"])


def test_a_decoder_that_reads_leniently_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    example = examples()[0]
    monkeypatch.setattr(secagg_mutations, "decode", lambda data, config: decode(data.rstrip(b"\xff"), config))
    with pytest.raises(AssertionError):
        understood(example.encodings()[0] + b"\xff", example.config)
    monkeypatch.setattr(secagg_mutations, "decode", lambda data, config: {}[data])
    with pytest.raises(KeyError):
        understood(b"", example.config)


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
def test_the_coverage_guided_fuzzer_runs_and_finds_nothing_in_a_second(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(secagg.__file__).parents[1]), *sys.path])}
    done = subprocess.run(
        [sys.executable, str(FUZZER), str(tmp_path / "corpus"), "-max_total_time=1", "-artifact_prefix=found-"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Done" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]
