"""The modes and graphs of secure aggregation inside a whole run: who signs, what is refused, what is left behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedpdpo_secure.aggregate import open_aggregation, round_config
from fedpdpo_secure.config import ConfigError
from fedpdpo_secure.config.masking import graph_parameters
from fedpdpo_secure.identities import load_identities
from secagg import Mode, SigningKey, Stage, TooFewSurvivors
from secagg.identity import Roster
from secagg.identity_files import key_name, write_roster, write_signing_key
from secagg.transcript import read_transcript, transcript_path
from secagg.transcript_check import check
from tests.fed.builders import small_config
from tests.fed.runs import Recorder, run

LORA = np.linspace(-1, 1, 30)


def make_identities(folder: Path, clients: int) -> Path:
    folder.mkdir()
    keys = [SigningKey.generate() for _ in range(clients)]
    write_roster(folder / "roster.json", Roster(tuple(range(clients)), tuple(key.public for key in keys)))
    for client, key in enumerate(keys):
        write_signing_key(folder / key_name(client, clients), key)
    return folder


def malicious(folder: Path, clients: int, **secagg: object) -> dict[str, object]:
    return {"mode": "malicious-server", "identities": str(make_identities(folder, clients)), **secagg}


def test_a_run_against_a_malicious_server_leaves_signed_transcripts_that_verify(tmp_path: Path) -> None:
    listener = Recorder()
    drop = [{"round": 1, "client": 2, "stage": "after_shares"}, {"round": 2, "client": 0, "stage": "after_consent"}]
    federation = {"clients": 6, "rounds": 2, "local_steps": 1, "drop": drop}
    secagg = malicious(tmp_path / "identities", 6, threshold=5)
    run(tmp_path / "run", federation=federation, secagg=secagg, progress=listener)
    assert listener.info is not None
    assert "malicious-server, threshold 5 of 6" in listener.info.secagg
    assert "may lie about keys and survivors" in listener.info.adversary
    assert [len(report.dropped) for report in listener.reports] == [1, 1]
    identities = load_identities(small_config(federation=federation, secagg=secagg))
    assert identities is not None
    roster = dict(zip(identities.roster.clients, identities.roster.identities, strict=True))
    for round_index in (1, 2):
        lines = read_transcript(transcript_path(tmp_path / "run" / "transcript", round_index))
        assert check(lines, roster=roster).findings == ()
    stranger = {**roster, 0: SigningKey.generate().public}
    assert check(lines, roster=stranger).findings != ()


def test_every_run_reports_predicted_beside_measured_seconds(tmp_path: Path) -> None:
    listener = Recorder()
    run(tmp_path / "run", federation={"clients": 4, "rounds": 1, "local_steps": 1}, progress=listener)
    report = listener.reports[0]
    assert report.secagg_client_seconds > 0 < report.secagg_server_seconds
    assert report.secagg_predicted_client_seconds > 0 < report.secagg_predicted_server_seconds


def test_an_aborted_round_leaves_a_transcript_that_says_so(tmp_path: Path) -> None:
    config = small_config(federation={"clients": 5, "rounds": 1, "local_steps": 1})
    aggregation = open_aggregation(config, 1, LORA.size, LORA, tmp_path)
    for client in aggregation.open()[:2]:
        aggregation.submit(client, np.zeros(LORA.size, np.int64))
    with pytest.raises(TooFewSurvivors):
        aggregation.finish()
    lines = read_transcript(transcript_path(tmp_path, 1))
    assert any('"aborted"' in line and "TooFewSurvivors" in line for line in lines)


def test_a_hundred_clients_get_a_sparse_graph_from_the_solver_and_fewer_the_complete_one(tmp_path: Path) -> None:
    few = small_config(federation={"clients": 99})
    many = small_config(federation={"clients": 100})
    assert graph_parameters(few).complete and few.secagg.threshold == 67
    assert not graph_parameters(many).complete
    assert many.secagg.threshold == graph_parameters(many).threshold < 67
    chosen = round_config(many, 1, LORA.size, LORA, None)
    assert (chosen.neighbors, chosen.threshold) == (graph_parameters(many).neighbors, many.secagg.threshold)
    assert chosen.least_present == graph_parameters(many).least_present == 90
    forced = small_config(federation={"clients": 100}, secagg={"graph": "complete"})
    assert graph_parameters(forced).complete
    signed = small_config(federation={"clients": 150}, secagg=malicious(tmp_path / "identities", 150))
    plain = small_config(federation={"clients": 150})
    assert graph_parameters(signed).neighbors > graph_parameters(plain).neighbors  # it pays for 2^64 tries
    assert round_config(signed, 1, LORA.size, LORA, load_identities(signed)).mode is Mode.MALICIOUS_SERVER


def test_a_sparse_round_of_the_run_sums_exactly_with_drop_outs(tmp_path: Path) -> None:
    config = small_config(
        federation={"clients": 110, "drop": [{"round": 1, "client": c, "stage": "after_shares"} for c in (3, 50)]}
    )
    aggregation = open_aggregation(config, 1, LORA.size, LORA, tmp_path)
    rng, total = np.random.default_rng(0), np.zeros(LORA.size, np.int64)
    for client in aggregation.open():
        vector = rng.integers(-9, 9, LORA.size)
        total += vector
        aggregation.submit(client, vector)
    result = aggregation.finish()
    assert np.array_equal(result.vector, total)
    assert result.dropped == ((3, Stage.AFTER_SHARES), (50, Stage.AFTER_SHARES))
    assert check(read_transcript(transcript_path(tmp_path, 1))).findings == ()


@pytest.mark.parametrize(
    ("clients", "secagg", "words"),
    [
        (6, {"mode": "malicious-server"}, ["secagg.identities", "fedpdpo keys make DIR --clients 6"]),
        (6, {"mode": "malicious-server", "threshold": 4, "identities": "x"}, ["secagg.threshold", "5..6"]),
        (150, {"threshold": 80}, ["secagg.threshold", "it follows from secagg.corrupted"]),
        (150, {"corrupted": 0.6, "dropped": 0.5}, ["secagg.corrupted", "no sparse graph is safe"]),
    ],
)
def test_an_unsafe_protocol_is_refused_with_the_configuration(
    clients: int, secagg: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        small_config(federation={"clients": clients}, secagg=secagg)
    assert all(word in str(caught.value) for word in words)


def test_more_survivors_than_a_sparse_graph_can_promise_are_refused_against_a_malicious_server(tmp_path: Path) -> None:
    secagg = malicious(tmp_path / "identities", 200)
    with pytest.raises(ConfigError, match=r"federation\.min_survivors: 100 is above"):
        small_config(federation={"clients": 200, "min_survivors": 100}, secagg=secagg)
    small_config(federation={"clients": 200, "min_survivors": 100})
    nobody = {**secagg, "corrupted": 0.0}  # a part has one client more than shares, and a client sees t signatures
    chosen = graph_parameters(small_config(federation={"clients": 200}, secagg=nobody))
    assert not chosen.complete and chosen.honest_part == chosen.threshold + 1
    small_config(federation={"clients": 200, "min_survivors": chosen.threshold}, secagg=nobody)
    with pytest.raises(ConfigError, match=rf"federation\.min_survivors: {chosen.honest_part} is above"):
        small_config(federation={"clients": 200, "min_survivors": chosen.honest_part}, secagg=nobody)


def test_wrong_identity_files_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    folder = make_identities(tmp_path / "identities", 6)
    secagg = {"mode": "malicious-server", "identities": str(folder)}
    federation = {"clients": 5, "rounds": 1, "local_steps": 1}
    with pytest.raises(ConfigError, match=r"is of 6 clients, federation\.clients is 5"):
        run(tmp_path / "run", federation=federation, secagg=secagg)
    federation["clients"] = 6
    key = folder / key_name(3, 6)
    key.unlink()
    write_signing_key(key, SigningKey.generate())
    with pytest.raises(ConfigError, match="not the key of client 3"):
        run(tmp_path / "run", federation=federation, secagg=secagg)
    key.chmod(0o644)
    with pytest.raises(ConfigError, match="0600"):
        run(tmp_path / "run", federation=federation, secagg=secagg)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["local", "centralized"])
def test_a_method_that_sums_nothing_needs_no_graph_and_may_have_two_clients(method: str) -> None:
    config = small_config(federation={"clients": 2}, method={"name": method}, privacy={"unit": "none"})
    assert config.secagg.threshold is None
