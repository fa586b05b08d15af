"""Recording a round: the same lines for the same round, nothing secret in them, and a file that is whole or absent."""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from secagg_harness import fixed_entropy, identities, make_config, random_vectors, run_local
from secagg_transcripts import BIG, MALICIOUS, SMALL, drops_everywhere, record, small, transcript_of, two_drops
from secagg_walk import reachable

from secagg import BadMessage, LocalRound, Mode, PeerMisbehaved, RoundConfig, Stage, WrongPhase
from secagg.client import AwaitVector
from secagg.client_steps import mask_keys_of
from secagg.local import SERVER
from secagg.messages import MaskedVector, Message, Reveal, Shares, UnmaskRequest
from secagg.ring import pack, to_ring
from secagg.shamir import SHARE_BYTES
from secagg.transcript import Recorder, read_transcript, sum_hash, transcript_path, write_transcript
from secagg.transcript_check import check
from secagg.transcript_lines import to_lines
from secagg.transcript_record import DIRECTIONS, Header

each_big = pytest.mark.parametrize("config", BIG.values(), ids=BIG)


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("complete", "191949262397252054d0befe1549a21ad54d01998cb87c10187a76f544f9a5f4"),
        ("sparse", "1d89b7ffbdd144bad051005468dbae272b6b973aa7b3e4f3ada33a7fe8227aba"),
        ("complete, malicious server", "bcf1c8b50d08417f5bf5950167696b9f0ec8eaa10264e8ae597fd70b2cd2d924"),
        ("sparse, malicious server", "7eb52b4863adc240328eb15ce8940564be92ba8102a258c13f8b5c0846661c4e"),
    ],
)
def test_fixed_entropy_gives_a_fixed_transcript(name: str, digest: str) -> None:
    """A change here is a change of the protocol or of the format: then one of the two versions changes as well."""
    text = "".join(f"{line}\n" for line in small(name))
    assert hashlib.sha256(text.encode("ascii")).hexdigest() == digest
    assert record(SMALL[name], two_drops(SMALL[name])) == list(small(name))


@each_big
def test_lines_and_values_are_one_to_one(config: RoundConfig) -> None:
    lines = record(config, drops_everywhere(config))
    assert to_lines(transcript_of(lines)) == lines


def test_every_term_of_a_round_is_in_its_transcript() -> None:
    terms = {one.name for one in fields(RoundConfig) if one.init}
    assert terms <= {one.name for one in fields(Header)}
    config = make_config(9, neighbors=6, threshold=4, mode=MALICIOUS, model=b"m" * 32, context=b"c" * 32)
    config = replace(config, least_present=7)
    assert transcript_of(record(config, {})).header.round_config() == config


@each_big
def test_bytes_and_hash_are_those_of_the_round(config: RoundConfig) -> None:
    recorder = Recorder(config)
    total = run_local(config, random_vectors(config), drops_everywhere(config), tap=recorder)
    transcript = transcript_of(recorder.finish(total))
    assert {one.client: one.upload for one in transcript.clients} == total.upload_bytes
    assert {one.client: one.download for one in transcript.clients} == total.download_bytes
    assert {one.message: one.size for one in transcript.messages} == total.bytes_by_message
    little_endian = b"".join(int(value).to_bytes(8, "little", signed=True) for value in total.vector)
    assert check(to_lines(transcript)).sum_sha256 == hashlib.sha256(little_endian).hexdigest()
    assert sum_hash(total.vector) == hashlib.sha256(little_endian).digest()
    assert sum_hash(np.repeat(total.vector, 2)[::2]) == sum_hash(total.vector)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(list(SMALL)),
    st.dictionaries(st.integers(0, 6), st.sampled_from(list(Stage)), max_size=7),
    st.integers(0, 2**32),
)
def test_whatever_drops_out_an_honest_round_or_its_abort_passes(name: str, drops: dict[int, Stage], seed: int) -> None:
    config = SMALL[name]
    config = replace(config, session=hashlib.sha256(b"%d" % seed).digest()[:16])
    late = Stage.AFTER_CONSENT if config.malicious else Stage.AFTER_MASKED
    placed = {config.clients[i]: late if stage is Stage.AFTER_CONSENT else stage for i, stage in drops.items()}
    checked = check(record(config, placed))
    assert checked.ok, checked.findings


def secret_forms(secret: bytes) -> Iterator[str]:
    """A byte string as text: hexadecimal, base64 at every alignment, decimal in both byte orders."""
    yield secret.hex()
    yield secret.hex().upper()
    for shift in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield encode(bytes(shift) + secret).decode().rstrip("=")[4 * (shift > 0) : -4]
    if len(secret) <= SHARE_BYTES:
        yield str(int.from_bytes(secret, "big"))
        yield str(int.from_bytes(secret, "little"))


def told(text: str, secrets: set[bytes]) -> set[bytes]:
    return {secret for secret in secrets if any(form in text for form in secret_forms(secret))}


def word_lists(vector: np.ndarray[Any, Any]) -> Iterator[str]:
    """Any four neighbours of a vector as they would stand in JSON."""
    values = [str(value) for value in vector.tolist()]
    for start in range(len(values) - 3):
        yield ",".join(values[start : start + 4])


@each_big
def test_no_secret_of_a_finished_round_is_in_its_transcript(config: RoundConfig) -> None:
    drawn: list[bytes] = []
    seen: list[Message] = []
    draw, recorder, vectors = fixed_entropy(), Recorder(config), random_vectors(config)

    def entropy(size: int) -> bytes:
        drawn.append(draw(size))
        return drawn[-1]

    def tap(source: int, destination: int, message: Message, size: int) -> None:
        seen.append(message)
        recorder(source, destination, message, size)

    local = LocalRound(config, drops_everywhere(config), identities=identities(config), entropy=entropy, tap=tap)
    expected = local.open()
    states = {client: local._clients[client]._state for client in expected}
    for client in expected:
        local.submit(client, vectors[client])
    total = local.finish()
    text = "\n".join(recorder.finish(total))

    secrets = {part[i : i + 32] for part in drawn for i in range(0, len(part) - 31, 16)}  # keys, seeds, coefficients
    secrets |= {key.secret for key in identities(config).values()}
    lists: set[str] = set()
    for client, state in states.items():
        assert isinstance(state, AwaitVector)
        assert {state.mask.secret, state.seed} <= secrets
        add, subtract = mask_keys_of(config, client, state)
        secrets |= {*add, *subtract}
        for pair in state.shares.values():
            secrets |= {value.to_bytes(SHARE_BYTES, "big") for value in (pair.mask_secret, pair.self_mask_seed)}
        lists |= {*word_lists(vectors[client]), *word_lists(to_ring(vectors[client], config.bits))}
    for message in seen:
        match message:
            case MaskedVector(_, packed):
                secrets |= {packed[i : i + 24] for i in range(0, len(packed) - 23, 24)}
            case Shares(_, _, sealed):
                secrets |= {item.ciphertext[i : i + 32] for item in sealed for i in (0, 32)}
            case Reveal(_, seeds, mask_secrets):
                secrets |= {share.value.to_bytes(SHARE_BYTES, "big") for share in (*seeds, *mask_secrets)}
    packed_sum = pack(to_ring(total.vector, config.bits), config.bits)
    secrets |= {packed_sum[:24], total.vector.tobytes()[:24]}
    assert len(secrets) > 500
    assert told(text, secrets) == set()
    assert not any(part in text for part in (*lists, *word_lists(total.vector)))
    one = next(iter(secrets))
    assert told(text + base64.b64encode(b"xy" + one + b"z").decode(), secrets) == {one}
    assert all(told(form, {one}) == {one} for form in secret_forms(one))


@each_big
def test_the_recorder_holds_no_vector_share_or_ciphertext(config: RoundConfig) -> None:
    recorder = Recorder(config)
    forbidden: set[bytes] = set()
    shares: set[int] = set()

    def tap(source: int, destination: int, message: Message, size: int) -> None:
        recorder(source, destination, message, size)
        match message:
            case MaskedVector(_, packed):
                forbidden.add(packed)
            case Shares(_, _, sealed):
                forbidden.update(item.ciphertext for item in sealed)
            case Reveal(_, seeds, mask_secrets):
                shares.update(share.value for share in (*seeds, *mask_secrets))

    run_local(config, random_vectors(config), drops_everywhere(config), tap=tap)
    assert forbidden and shares
    assert forbidden.isdisjoint(reachable(recorder))
    assert sum(map(len, set(reachable(recorder)))) < 600 * len(config.clients)
    lines = "".join(recorder.abort("Stopped"))
    assert not any(str(share) in lines or f"{share:x}" in lines for share in shares)


@pytest.mark.parametrize("aborted", [False, True])
def test_a_transcript_is_made_once(aborted: bool) -> None:
    config = make_config()
    recorder = Recorder(config)
    total = run_local(config, random_vectors(config), tap=recorder)
    ends: tuple[Callable[[], object], ...] = (lambda: recorder.finish(total), lambda: recorder.abort("Stopped"))
    ends[aborted]()
    late = (lambda: recorder(0, SERVER, MaskedVector(0, b""), 1), lambda: recorder.bind(bytes(32)))
    for again in (*ends, *late):
        with pytest.raises(WrongPhase):
            again()


def test_two_survivor_lists_in_one_round_are_refused() -> None:
    recorder = Recorder(make_config())
    recorder(SERVER, 10, UnmaskRequest((10, 13, 16, 19)), 40)
    recorder(SERVER, 13, UnmaskRequest((10, 13, 16, 19)), 40)
    with pytest.raises(PeerMisbehaved, match="two survivor lists"):
        recorder(SERVER, 16, UnmaskRequest((10, 13, 16, 22)), 40)


def test_a_model_that_became_known_after_the_keys_is_bound() -> None:
    config = make_config()
    recorder = Recorder(config)
    recorder.bind(b"m" * 32)
    assert transcript_of(recorder.abort("Stopped")).header.model == b"m" * 32


@pytest.mark.parametrize("name", ["", "two words", "the client said: 17", "é", "A" * 65, "a.b", "x\n"])
def test_an_abort_tells_the_class_of_an_error_and_nothing_of_its_text(name: str) -> None:
    with pytest.raises(ValueError, match="name of a class"):
        Recorder(make_config()).abort(name)


def test_the_directions_are_those_of_the_messages() -> None:
    seen: dict[str, str] = {}

    def tap(source: int, destination: int, message: Message, size: int) -> None:
        seen[type(message).__name__] = "download" if source == SERVER else "upload"

    config = make_config(mode=Mode.MALICIOUS_SERVER)
    run_local(config, random_vectors(config), tap=tap)
    assert seen == dict(DIRECTIONS)


def test_a_file_is_shared_whole_and_read_back(tmp_path: Path) -> None:
    path = transcript_path(tmp_path / "run" / "transcript", 7)
    assert path.name == "round-0007.jsonl"
    before = os.umask(0o077)
    try:
        write_transcript(path, small("complete"))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert read_transcript(path) == list(small("complete"))
    write_transcript(path, small("sparse"))
    assert read_transcript(path) == list(small("sparse"))
    assert os.listdir(path.parent) == [path.name]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "round-0001.jsonl"
    write_transcript(path, small("complete"))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_transcript(path, small("sparse"))
    assert read_transcript(path) == list(small("complete"))
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("data", [b"", b"{}", b"\xc3\xa9\n", b"{}\n{}"], ids=["empty", "cut", "not ASCII", "cut later"])
def test_a_file_that_is_not_whole_lines_is_a_bad_message(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "round-0001.jsonl"
    path.write_bytes(data)
    with pytest.raises(BadMessage, match=r"round-0001\.jsonl"):
        read_transcript(path)
    with pytest.raises(BadMessage, match="is not a file"):
        read_transcript(tmp_path)


def test_windows_line_ends_are_found(tmp_path: Path) -> None:
    path = tmp_path / "round-0001.jsonl"
    path.write_bytes("".join(f"{line}\r\n" for line in small("complete")).encode())
    with pytest.raises(BadMessage, match="line 1"):
        check(read_transcript(path))
