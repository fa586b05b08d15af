"""`keys make|show|check` on a federation's folder, sound and spoilt."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from experiments.cli import main
from secagg.identity import fingerprint, verify
from secagg.identity_files import read_roster, read_signing_key


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = main(["keys", *arguments, "--json", "--quiet"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    return code, json.loads(lines[0])


@pytest.fixture
def folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    made = tmp_path / "federation"
    assert run(capsys, "make", str(made), "--clients", "4")[0] == 0
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_make_writes_a_roster_and_a_private_key_for_each_client(folder: Path) -> None:
    names = ["client-00.key", "client-01.key", "client-02.key", "client-03.key", "roster.json"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert folder.stat().st_mode & 0o777 == 0o700
    roster = read_roster(folder / "roster.json")
    assert roster.clients == (0, 1, 2, 3)
    for client, identity in zip(roster.clients, roster.identities, strict=True):
        path = folder / f"client-{client:02d}.key"
        assert path.stat().st_mode & 0o777 == 0o600
        verify(identity, read_signing_key(path).sign(b"hello"), b"hello", signer=client, what="greeting")
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # no scratch left


def test_two_federations_share_no_key(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "make", str(tmp_path / "other"), "--clients", "4")[0] == 0
    mine, other = read_roster(folder / "roster.json"), read_roster(tmp_path / "other" / "roster.json")
    assert not set(mine.identities) & set(other.identities)


def test_make_never_overwrites_anything(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(folder)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for taken in (folder, tmp_path / "file", tmp_path / "link"):
        code, values = run(capsys, "make", str(taken), "--clients", "4")
        assert (code, values["exit_code"]) == (2, 2)
        assert "exists already" in values["error"]
    assert contents(folder) == before
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("clients", ["2", "10001", "many"])
def test_make_refuses_a_number_of_clients_out_of_range(
    tmp_path: Path, clients: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "make", str(tmp_path / "federation"), "--clients", clients)[0] == 2
    assert list(tmp_path.iterdir()) == []


def test_names_of_a_hundred_and_one_keys_sort_as_their_ids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, values = run(capsys, "make", str(tmp_path / "federation"), "--clients", "101")
    assert code == 0
    assert values["keys"] == sorted(values["keys"])
    assert values["keys"][100].endswith("client-100.key")
    assert run(capsys, "check", str(tmp_path / "federation"))[0] == 0


def test_show_prints_a_fingerprint_for_each_client(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    roster = read_roster(folder / "roster.json")
    for given in (folder, folder / "roster.json"):
        assert main(["keys", "show", str(given)]) == 0
        text = capsys.readouterr().out
        assert all(fingerprint(identity) in text for identity in roster.identities)
        assert roster.digest().hex() in text
    code, values = run(capsys, "show", str(folder))
    assert code == 0
    assert [(one["id"], one["identity"]) for one in values["clients"]] == [
        (client, identity.hex()) for client, identity in zip(roster.clients, roster.identities, strict=True)
    ]


def test_no_command_prints_a_secret(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secrets = [read_signing_key(path).secret.hex() for path in folder.glob("*.key")]
    for command in ("show", "check"):
        assert main(["keys", command, str(folder), "--json"]) == 0
        shown = capsys.readouterr()
        assert not any(secret in shown.out + shown.err for secret in secrets)


def test_check_accepts_a_roster_alone_and_a_roster_with_some_keys(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, values = run(capsys, "check", str(folder))
    assert (code, values["ok"], len(values["keys"])) == (0, True, 4)
    (folder / "client-01.key").unlink()
    assert len(run(capsys, "check", str(folder / "roster.json"))[1]["keys"]) == 3
    for path in folder.glob("*.key"):
        path.unlink()
    code, values = run(capsys, "check", str(folder))
    assert (code, values["ok"], values["keys"]) == (0, True, [])


def spoil_swap(folder: Path) -> str:
    one, two = folder / "client-01.key", folder / "client-02.key"
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    return "client-01.key: is not the key of client 1 in the roster"


def spoil_mode(folder: Path) -> str:
    (folder / "client-02.key").chmod(0o644)
    return "client-02.key: mode 0644 lets others"


def spoil_key(folder: Path) -> str:
    (folder / "client-03.key").write_text("fedpdpo signing key 1\n00\n")
    return "client-03.key: secret must be 64 lower-case"


def spoil_stranger(folder: Path) -> str:
    shutil.copy(folder / "client-00.key", folder / "client-09.key")
    return "client-09.key: the roster has no client 09"


def spoil_roster(folder: Path) -> str:
    roster = folder / "roster.json"
    roster.write_text(roster.read_text().replace('"version": 1', '"version": 3'))
    return "roster.json: version must be 1, not 3"


@pytest.mark.parametrize("spoil", [spoil_swap, spoil_mode, spoil_key, spoil_stranger, spoil_roster])
def test_check_is_exit_6_and_names_what_is_wrong(folder: Path, spoil: Any, capsys: pytest.CaptureFixture[str]) -> None:
    expected = spoil(folder)
    code, values = run(capsys, "check", str(folder))
    assert (code, values["ok"], values["exit_code"]) == (6, False, 6)
    assert expected in values["error"]
    assert any(expected in problem for problem in values["problems"])


def test_a_key_of_a_former_roster_is_found_out(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "make", str(tmp_path / "newer"), "--clients", "4")[0] == 0
    (folder / "roster.json").unlink()
    shutil.copy(tmp_path / "newer" / "roster.json", folder / "roster.json")
    code, values = run(capsys, "check", str(folder))
    assert code == 6
    assert len(values["problems"]) == 4


def test_a_place_without_a_roster_or_with_a_bad_one_is_a_usage_error(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("show", "check"):
        code, values = run(capsys, command, str(tmp_path))
        assert code == 2
        assert "roster.json does not exist" in values["error"]
    spoil_roster(folder)
    code, values = run(capsys, "show", str(folder))
    assert code == 2
    assert "version must be 1" in values["error"]
