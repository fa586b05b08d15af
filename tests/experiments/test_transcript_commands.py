"""`transcript verify|show` on the records of real rounds, sound and spoilt."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.cli import main
from fedpdpo_secure.report import append_report
from secagg import LocalRound, Mode, RoundConfig, SecAggError, SigningKey, Stage
from secagg.identity import Roster
from secagg.identity_files import write_roster
from secagg.transcript import Recorder, read_transcript, transcript_path, write_transcript
from secagg.transcript_lines import from_lines, to_lines
from tests.experiments.test_report import make_report

KEYS = {client: SigningKey.from_secret(bytes([client + 1]) * 32) for client in range(6)}
DIM = 8
NOBODY: Mapping[int, Stage] = {}


def round_config(round_index: int, *, mode: Mode = Mode.MALICIOUS_SERVER, min_survivors: int = 3) -> RoundConfig:
    malicious = mode is Mode.MALICIOUS_SERVER
    return RoundConfig(
        session=bytes([round_index]) * 16,
        round_index=round_index,
        clients=tuple(KEYS),
        threshold=5 if malicious else 4,
        min_survivors=min_survivors,
        bits=24,
        dim=DIM,
        context=bytes(32),
        mode=mode,
        identities=tuple(key.public for key in KEYS.values()) if malicious else (),
    )


def record(config: RoundConfig, drops: Mapping[int, Stage] = NOBODY) -> list[str]:
    recorder = Recorder(config)
    local = LocalRound(config, drops, identities=KEYS if config.malicious else None, tap=recorder)
    try:
        for client in local.open():
            local.submit(client, np.full(DIM, client, np.int64))
        return recorder.finish(local.finish())
    except SecAggError as error:
        return recorder.abort(type(error).__name__)


def write_round(run: Path, config: RoundConfig, drops: Mapping[int, Stage] = NOBODY) -> Path:
    path = transcript_path(run / "transcript", config.round_index)
    write_transcript(path, record(config, drops))
    return path


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """Three rounds, client 2 missing from the sum of the second."""
    for index in (1, 2, 3):
        write_round(tmp_path, round_config(index), {2: Stage.AFTER_SHARES} if index == 2 else NOBODY)
    return tmp_path


@pytest.fixture
def roster(tmp_path: Path) -> Path:
    path = tmp_path / "roster.json"
    write_roster(path, Roster(tuple(KEYS), tuple(key.public for key in KEYS.values())))
    return path


def invoke(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, dict[str, Any]]:
    code = main([*map(str, arguments), "--json", "--quiet"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    return code, json.loads(lines[0])


def edit(path: Path, **change: object) -> None:
    """Change the terms of a recorded round, its chain made anew."""
    transcript, _ = from_lines(read_transcript(path))
    assert transcript is not None
    write_transcript(path, to_lines(replace(transcript, header=replace(transcript.header, **change))))


def test_every_round_of_a_run_is_checked_against_the_roster(
    run_folder: Path, roster: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, values = invoke(capsys, "transcript", "verify", run_folder, "--roster", roster)
    assert (code, values["ok"], values["problems"]) == (0, True, [])
    assert [one["round_index"] for one in values["transcripts"]] == [1, 2, 3]
    for one in values["transcripts"]:
        assert {guarantee["verdict"] for guarantee in one["guarantees"]} == {"held"}
    assert invoke(capsys, "transcript", "verify", run_folder / "transcript")[1]["ok"]
    assert any("other sums" in limit or "sums of other rounds" in limit for limit in values["cannot_show"])


def test_text_names_what_held_and_what_cannot_be_shown(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transcript", "verify", str(run_folder)]) == 0
    text = capsys.readouterr().out
    assert "3 transcripts: held: chain, configuration, keys, signed keys, graph" in text
    assert "cannot show that the identities belong to the clients" in text
    assert main(["transcript", "verify", str(transcript_path(run_folder / "transcript", 2)), "--client", "2"]) == 0
    text = capsys.readouterr().out
    assert "its vector is in no sum; it was last heard after shares" in text
    assert "not checked" in text  # no roster was given


def test_survivors_that_differ_by_fewer_than_min_survivors_are_a_warning(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, values = invoke(capsys, "transcript", "verify", run_folder)
    assert code == 0
    (warning,) = values["warnings"]
    assert warning.startswith("2 of 3 pairs of sums are over survivors that differ by fewer than min_survivors clients")
    assert "(rounds 1 and 2: by 1)" in warning
    write_round(run_folder, round_config(2))
    assert invoke(capsys, "transcript", "verify", run_folder)[1]["warnings"] == []


def test_an_edited_file_is_exit_6_and_named(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = transcript_path(run_folder / "transcript", 2)
    path.write_text(path.read_text().replace('"sealed":5', '"sealed":4', 1))
    for command in ("verify", "show"):
        code, values = invoke(capsys, "transcript", command, run_folder)
        assert (code, values["exit_code"]) == (6, 6)
        assert "round-0002.jsonl: chain: line 4 does not follow" in values["error"]
        assert [one["ok"] for one in values["transcripts"]] == [True, False, True]


@pytest.mark.parametrize("data", [b"", b"no transcript\n", b"\xff\n", b"[]\n" * 9])
def test_a_file_that_is_no_transcript_is_exit_6(
    run_folder: Path, data: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path = transcript_path(run_folder / "transcript", 2)
    path.write_bytes(data)
    for command in ("verify", "show"):
        code, values = invoke(capsys, "transcript", command, run_folder)
        assert code == 6
        assert values["error"].count("round-0002.jsonl") == 1
    assert main(["transcript", "show", str(path)]) == 6


def test_identities_of_another_roster_are_exit_6(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.json"
    identities = [key.public for key in KEYS.values()]
    write_roster(other, Roster(tuple(KEYS), (SigningKey.from_secret(b"x" * 32).public, *identities[1:])))
    code, values = invoke(capsys, "transcript", "verify", run_folder, "--roster", other)
    assert code == 6
    assert "client 0 has another identity in the roster" in values["error"]
    assert main(["transcript", "verify", str(run_folder), "--roster", str(tmp_path / "absent.json")]) == 2
    other.write_text("{}")
    assert main(["transcript", "verify", str(run_folder), "--roster", str(other)]) == 2


def test_a_copy_of_one_round_as_another_is_found(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_folder / "transcript"
    transcript_path(folder, 4).write_bytes(transcript_path(folder, 3).read_bytes())
    code, values = invoke(capsys, "transcript", "verify", run_folder)
    assert code == 6
    assert any("is of round 3, and named for another" in problem for problem in values["problems"])
    assert "round 3: its session and index are those of another round" in values["problems"]


def test_rounds_that_change_their_mode_or_clients_are_found(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_round(run_folder, round_config(2, mode=Mode.SEMI_HONEST))
    code, values = invoke(capsys, "transcript", "verify", run_folder)
    assert code == 6
    assert "round 2: semi-honest mode follows malicious-server mode in round 1" in values["problems"]
    fewer = replace(round_config(3, mode=Mode.SEMI_HONEST), clients=(0, 1, 2, 3, 4))
    write_round(run_folder, fewer)
    problems = invoke(capsys, "transcript", "verify", run_folder)[1]["problems"]
    assert "round 3: its clients are not those of round 2" in problems


def test_a_public_key_of_an_earlier_round_is_found(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = round_config(4, mode=Mode.SEMI_HONEST)
    for index in (1, 2, 3):
        write_round(run_folder, round_config(index, mode=Mode.SEMI_HONEST))
    first, _ = from_lines(read_transcript(transcript_path(run_folder / "transcript", 1)))
    last, _ = from_lines(record(config))
    assert first is not None and last is not None
    write_transcript(transcript_path(run_folder / "transcript", 4), to_lines(replace(last, keys=first.keys)))
    problems = invoke(capsys, "transcript", "verify", run_folder)[1]["problems"]
    assert "round 4: client 0 uses a public key of client 0 in round 1" in problems


def test_a_missing_round_is_a_warning_and_with_the_runs_reports_a_failure(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    upload = {}
    for index in (1, 2, 3):
        told, _ = from_lines(read_transcript(transcript_path(run_folder / "transcript", index)))
        assert told is not None
        upload[index] = sum(carried.upload for carried in told.clients)
        survivors = len(told.survivors)
        append_report(run_folder, replace(make_report(index), survivors=survivors, upload_bytes=upload[index]))
    assert invoke(capsys, "transcript", "verify", run_folder)[0] == 0
    transcript_path(run_folder / "transcript", 2).unlink()
    code, values = invoke(capsys, "transcript", "verify", run_folder)
    assert code == 6
    assert "round 2 is reported and has no transcript" in values["error"]
    assert values["warnings"] == ["there is no transcript of any round between 1 and 3"]
    write_round(run_folder, round_config(2))
    assert "the run reports another round 2" in invoke(capsys, "transcript", "verify", run_folder)[1]["error"]


def test_an_aborted_round_is_shown_and_is_no_failure(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_round(run_folder, round_config(4), dict.fromkeys((0, 1, 2), Stage.AFTER_KEYS))
    code, values = invoke(capsys, "transcript", "verify", run_folder)
    assert code == 0
    assert [one["aborted"] for one in values["transcripts"]] == [None, None, None, "TooFewSurvivors"]
    assert main(["transcript", "verify", str(run_folder)]) == 0
    assert "4 transcripts, 1 of them aborted without a sum: held: chain" in capsys.readouterr().out
    assert main(["transcript", "show", str(run_folder)]) == 0
    assert "aborted: TooFewSurvivors" in capsys.readouterr().out


def test_show_lists_the_rounds_and_the_messages_of_one(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transcript", "show", str(run_folder)]) == 0
    text = capsys.readouterr().out
    assert text.count("malicious-server") == 3
    assert main(["transcript", "show", str(transcript_path(run_folder / "transcript", 2))]) == 0
    text = capsys.readouterr().out
    assert "dropped out: 2 after shares" in text
    assert re.search(r"^MaskedVector +upload +5 +830 B$", text, re.MULTILINE)


@pytest.mark.parametrize("name", ["absent", "."])
def test_a_place_without_transcripts_is_a_usage_error(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rounds.jsonl").touch()
    for command in ("verify", "show"):
        code, values = invoke(capsys, "transcript", command, tmp_path / name)
        assert (code, values["error"].startswith("PATH: ")) == (2, True)


def test_terms_that_do_not_fit_their_digest_are_found(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(transcript_path(run_folder / "transcript", 1), min_survivors=4)
    code, values = invoke(capsys, "transcript", "verify", run_folder)
    assert code == 6
    assert "round-0001.jsonl: configuration: the digest is not that of the configuration" in values["problems"][0]
