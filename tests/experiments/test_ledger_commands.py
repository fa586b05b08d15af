"""`ledger show|verify|export` on real ledgers, sound and spoilt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.cli import main
from fedpdpo_secure.report import append_report
from privacy.accounting import epsilon
from privacy.events import PoissonGaussian
from privacy.ledger import Ledger
from tests.experiments.test_report import make_report

EVENT = PoissonGaussian(noise_multiplier=2.0, sample_rate=0.5, steps=2)
DELTA = 1e-5


def write_ledger(folder: Path, client: str, rounds: int, *, cut: bool = False) -> None:
    path = folder / "ledger" / f"{client}.jsonl"
    with Ledger.open(path, budget_epsilon=50, delta=DELTA, data_id="mine", client=client) as ledger:
        for round_index in range(1, rounds + 1):
            reservation = ledger.reserve(EVENT, run_id="r", round_index=round_index)
            if not (cut and round_index == rounds):
                ledger.commit(reservation, EVENT)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_ledger(tmp_path, "client-00", 2)
    write_ledger(tmp_path, "client-01", 3, cut=True)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, object]]:
    code = main([*arguments, "--json", "--quiet"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    return code, json.loads(lines[0])


def test_verify_recomputes_the_worst_client_and_counts_what_was_cut(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, values = run(capsys, "ledger", "verify", str(folder))
    assert code == 0
    assert values["epsilon"] == epsilon([EVENT] * 3, DELTA).epsilon
    assert (values["ok"], values["private"], values["delta"]) == (True, True, DELTA)
    assert [one["uncommitted"] for one in values["ledgers"]] == [0, 1]


def test_an_edited_record_is_exit_6_and_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "ledger" / "client-01.jsonl"
    path.write_text(path.read_text().replace('"noise_multiplier":2.0', '"noise_multiplier":9.0', 1))
    code, values = run(capsys, "ledger", "verify", str(folder))
    assert (code, values["ok"], values["exit_code"]) == (6, False, 6)
    assert "client-01.jsonl" in str(values["error"])
    assert (values["epsilon"], values["private"]) == (None, False)


def test_an_older_ledger_put_back_does_not_cover_the_reported_rounds(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spent = epsilon([EVENT] * 3, DELTA).epsilon
    append_report(folder, make_report(3, epsilon=spent))
    assert run(capsys, "ledger", "verify", str(folder))[0] == 0
    (folder / "ledger" / "client-01.jsonl").unlink()
    write_ledger(folder, "client-01", 2)
    code, values = run(capsys, "ledger", "verify", str(folder))
    assert code == 6
    assert "rounds report" in str(values["error"])


def test_show_lists_every_client_and_one_clients_records(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger", "show", str(folder), "--client", "client-01"]) == 0
    text = capsys.readouterr().out
    assert text.count("reserve") == 3
    assert "client-00" not in text
    assert main(["ledger", "show", str(folder), "--client", "nobody"]) == 2


def test_show_claims_nothing_of_a_broken_ledger_and_names_its_path_once(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "ledger" / "client-01.jsonl"
    path.write_text(path.read_text().replace('"noise_multiplier":2.0', '"noise_multiplier":9.0', 1))
    for arguments in ([], ["--client", "client-01"]):
        assert main(["ledger", "show", str(folder), *arguments]) == 6
        captured = capsys.readouterr()
        row = next(line for line in captured.out.splitlines() if line.startswith("client-01"))
        assert row.split()[1:7] == ["unknown", "-", "-", "-", "-", "-"]
        assert "NOT PRIVATE" not in captured.out
        assert "nan" not in captured.out
        assert str(path) not in captured.out
        assert captured.err.count(str(path)) == 1
    assert main(["ledger", "show", str(folder), "--client", "client-00"]) == 0


def test_export_copies_sound_ledgers_that_verify_again(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, values = run(capsys, "ledger", "export", str(folder), str(tmp_path / "copy"))
    assert code == 0
    assert len(values["files"]) == 2
    assert run(capsys, "ledger", "verify", str(tmp_path / "copy"))[1]["epsilon"] == epsilon([EVENT] * 3, DELTA).epsilon


def test_export_refuses_a_broken_ledger(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "ledger" / "client-00.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:1] + lines[2:]))
    assert run(capsys, "ledger", "export", str(folder), str(tmp_path / "copy"))[0] == 6
    assert not (tmp_path / "copy" / "client-00.jsonl").exists()


@pytest.mark.parametrize("name", ["nothing", "."])
def test_a_folder_without_ledgers_is_a_usage_error(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "ledger", "verify", str(tmp_path / name))[0] == 2


def test_a_private_run_folder_leads_to_the_ledgers_in_the_state_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "rounds.jsonl").write_text("")
    (folder / "config.yaml").write_text(
        "dataset_name: pairs.jsonl\ndata: {id: mine, pairs_per_client: 50}\nprivacy: {epsilon: 8, delta: 1.0e-5}\n"
    )
    place = state / "fedpdpo" / "ledgers" / "mine"
    with Ledger.open(place / "c0.jsonl", budget_epsilon=8, delta=DELTA, data_id="mine", client="c0") as ledger:
        ledger.reserve(EVENT, run_id="run", round_index=1)
    code, values = run(capsys, "ledger", "verify", str(folder))
    assert code == 0
    assert values["epsilon"] == epsilon([EVENT], DELTA).epsilon
    assert run(capsys, "ledger", "export", str(folder), str(folder / "ledger"))[0] == 0
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another machine"))
    assert run(capsys, "ledger", "verify", str(folder))[1]["epsilon"] == values["epsilon"]


def test_an_unprivate_run_has_no_ledger_and_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text("privacy: {unit: none}\n")
    code, values = run(capsys, "ledger", "verify", str(tmp_path))
    assert code == 2
    assert "NOT PRIVATE" in str(values["error"])


# ---- every accountant, heads, keys


def test_verify_shows_the_least_and_largest_epsilon_of_all_accountants(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = run(capsys, "ledger", "verify", str(folder))[1]
    bound = epsilon([EVENT] * 3, DELTA)
    assert (values["least"], values["largest"]) == (bound.pld, bound.rdp)
    assert (values["unit"], values["relation"]) == ("pair", "add or remove one pair")
    two = epsilon([EVENT] * 2, DELTA)
    assert [(one["least"], one["largest"]) for one in values["ledgers"]] == [
        (two.pld, two.rdp),
        (bound.pld, bound.rdp),
    ]
    assert main(["ledger", "verify", str(folder)]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[0].split()[:4] == ["client", "epsilon", "least", "largest"]
    assert f"accountants give {bound.pld:.6f} to {bound.rdp:.6f}" in text


def test_a_ledger_put_back_is_exit_6_against_a_head_kept_elsewhere(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, path = tmp_path / "kept" / "by-a-peer.json", folder / "ledger" / "client-01.jsonl"
    code, values = run(capsys, "ledger", "head", str(folder), "--out", str(kept))
    assert code == 0
    assert [(head["client"], head["records"]) for head in values["heads"]] == [("client-00", 5), ("client-01", 6)]
    assert run(capsys, "ledger", "verify", str(folder), "--head", str(kept))[0] == 0
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    assert run(capsys, "ledger", "verify", str(folder))[0] == 0  # the chain alone cannot know
    code, values = run(capsys, "ledger", "verify", str(folder), "--head", str(kept))
    assert (code, values["ok"], values["epsilon"]) == (6, False, None)
    assert "an older copy was put back" in str(values["error"])
    other = tmp_path / "other"
    write_ledger(other, "client-07", 1)
    assert run(capsys, "ledger", "verify", str(other / "ledger" / "client-07.jsonl"), "--head", str(kept))[0] == 2
    path.unlink()
    code, values = run(capsys, "ledger", "verify", str(folder), "--head", str(kept))
    assert code == 6
    assert "is missing" in str(values["error"])


def test_heads_that_a_run_kept_are_compared_without_being_asked_for(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "ledger", "head", str(folder), "--out", str(folder / "ledger" / "heads.json"))[0] == 0
    path = folder / "ledger" / "client-00.jsonl"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    for command in (["verify", str(folder)], ["show", str(folder)], ["verify", str(path)]):
        code, values = run(capsys, "ledger", *command)
        assert code == 6
        assert "client-00" in str(values["error"])


def test_a_file_that_holds_no_heads_is_exit_6(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.json").write_text("[]")
    assert run(capsys, "ledger", "verify", str(folder), "--head", str(tmp_path / "bad.json"))[0] == 6
    assert run(capsys, "ledger", "verify", str(folder), "--head", str(tmp_path / "none.json"))[0] == 2


def test_a_peer_countersigns_heads_and_refuses_older_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key, known = tmp_path / "peer", tmp_path / "known.json"
    code, made = run(capsys, "ledger", "key", str(key))
    assert code == 0
    assert run(capsys, "ledger", "key", str(key))[0] == 2  # never overwritten
    write_ledger(tmp_path / "run", "client-00", 1)
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    assert run(capsys, "ledger", "head", str(tmp_path / "run"), "--out", str(old))[0] == 0
    write_ledger(tmp_path / "run", "client-00", 2)
    assert run(capsys, "ledger", "head", str(tmp_path / "run"), "--out", str(new))[0] == 0
    sign = ["--key", str(key / "owner.key"), "--known", str(known)]
    code, values = run(capsys, "ledger", "countersign", str(new), *sign)
    assert (code, values["known"]) == (0, 1)
    assert values["heads"][0]["peer_key"] == made["public_key"]
    assert run(capsys, "ledger", "verify", str(tmp_path / "run"), "--head", str(new))[0] == 0
    code, values = run(capsys, "ledger", "countersign", str(old), *sign)
    assert code == 6
    assert "records, 7 are known" in str(values["error"])
    assert run(capsys, "ledger", "countersign", str(new), "--key", str(new))[0] == 2
    forged = new.read_text().replace('"records": 7', '"records": 8')
    new.write_text(forged)
    assert run(capsys, "ledger", "verify", str(tmp_path / "run"), "--head", str(new))[0] == 6


def test_heads_are_signed_with_the_owners_key_beside_the_ledgers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from privacy.ledger_signing import read_key

    place = tmp_path / "ledgers" / "mine"
    public = run(capsys, "ledger", "key", str(tmp_path / "ledgers"))[1]["public_key"]
    with Ledger.open(
        place / "c0.jsonl", budget_epsilon=8, delta=DELTA, data_id="mine", client="c0",
        key=read_key(tmp_path / "ledgers" / "owner.key"),
    ) as ledger:  # fmt: skip
        ledger.reserve(EVENT, run_id="run", round_index=1)
    for named in (tmp_path / "ledgers", place, place / "c0.jsonl"):
        head = run(capsys, "ledger", "head", str(named))[1]["heads"][0]
        assert (head["public_key"], bool(head["signature"])) == (public, True)
    assert main(["ledger", "verify", str(place)]) == 0
    assert "ok, signed" in capsys.readouterr().out
