"""A run's ledgers: one that was cut or put back is noticed; rows keep the budget of the name they were charged to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fedpdpo_secure.budget import ClientLedgers, plan_budget
from fedpdpo_secure.config import Config, ConfigError, make_config
from fedpdpo_secure.data.pairs import Federation, PreferencePair, canonical_row
from privacy.errors import CommitMismatch, LedgerBroken, LedgerMismatch, LedgerRolledBack, RowsChargedElsewhere
from privacy.events import FullBatchGaussian
from privacy.ledger import Ledger, verify, verify_dir
from privacy.ledger_heads import read_heads
from privacy.ledger_signing import OWNER_KEY, make_key, public_hex

CLIENTS = ("c0", "c1", "c2")


def pairs(first: int, count: int) -> list[PreferencePair]:
    """Pairs number first.. of three clients in turn, every tenth a validation pair."""
    return [
        PreferencePair(f"Question {n}?", f" Yes {n}.", " No.", CLIENTS[n % 3], "validation" if n % 10 == 9 else "train")
        for n in range(first, first + count)
    ]


def federation(rows: list[PreferencePair]) -> Federation:
    return Federation(CLIENTS, {}, rows[0], "test", False, (), lambda: iter(rows), lambda: iter(()))


@pytest.fixture
def values(tmp_path: Path) -> dict[str, object]:
    return {
        "dataset_name": "pairs.jsonl",
        "data": {"id": "owned", "partition": "site", "pairs_per_client": 60},
        "federation": {"clients": 3, "rounds": 3, "local_steps": 1},
        "privacy": {
            "noise_multiplier": 4.0,
            "arithmetic": "float",
            "sample_rate": 1.0,
            "ledger_root": str(tmp_path / "ledgers"),
        },
    }


def ledgers(config: Config, folder: Path, rows: list[PreferencePair]) -> ClientLedgers:
    return ClientLedgers(config, plan_budget(config), folder, federation(rows))


def one_round(opened: ClientLedgers, config: Config, round_index: int = 1) -> None:
    event = plan_budget(config).event
    for index, reservation in opened.reserve(round_index, (0, 1, 2)).items():
        opened.commit(reservation, index, event)
    opened.spent()


def named(values: dict[str, object], name: str, **data: object) -> Config:
    return make_config({**values, "data": {**values["data"], "id": name, **data}})  # type: ignore[dict-item]


# ---- heads


def test_the_federation_keeps_the_head_of_every_ledger_twice(values: dict[str, object], tmp_path: Path) -> None:
    config = make_config(values)
    one_round(ledgers(config, tmp_path / "run", pairs(0, 90)), config)
    for folder in (tmp_path / "ledgers" / "owned", tmp_path / "run" / "ledger" / "owned"):
        heads = read_heads(folder / "heads.json")
        assert [(head.client, head.records) for head in heads] == [(client, 3) for client in CLIENTS]
        assert all(one.ok for one in verify_dir(tmp_path / "ledgers", heads))


@pytest.mark.parametrize("damage", ["cut", "put back", "deleted"])
@pytest.mark.parametrize("lost", ["neither", "beside the ledgers", "in the run folder"])
def test_one_clients_ledger_that_lost_its_end_is_refused_by_the_next_run(
    values: dict[str, object], tmp_path: Path, damage: str, lost: str
) -> None:
    config, run = make_config(values), tmp_path / "run"
    path = tmp_path / "ledgers" / "owned" / "c1.jsonl"
    first = ledgers(config, run, pairs(0, 90))
    one_round(first, config)
    backup = path.read_bytes()
    one_round(first, config, 2)
    if damage == "cut":
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-2]))
    elif damage == "put back":
        path.write_bytes(backup)
    else:
        path.unlink()
    if lost == "beside the ledgers":
        (tmp_path / "ledgers" / "owned" / "heads.json").unlink()
    if lost == "in the run folder":
        (run / "ledger" / "owned" / "heads.json").unlink()
    with pytest.raises(LedgerRolledBack, match=r"c1\.jsonl"):
        ledgers(config, run, pairs(0, 90))
    with pytest.raises(LedgerRolledBack, match=r"c1\.jsonl"):
        first.reserve(3, (0, 1, 2))  # nor by the run that is under way
    others = [verify(path.with_name(f"{client}.jsonl")).reserved for client in ("c0", "c2")]
    assert others == [2, 2]  # refused before any client was charged


def test_another_run_without_the_first_ones_folder_notices_it_too(values: dict[str, object], tmp_path: Path) -> None:
    config = make_config(values)
    one_round(ledgers(config, tmp_path / "run", pairs(0, 90)), config)
    path = tmp_path / "ledgers" / "owned" / "c2.jsonl"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(LedgerRolledBack, match="has 1 records, but a head of 3"):
        ledgers(config, tmp_path / "another", pairs(0, 90))


def test_two_runs_in_turn_do_not_alarm_each_other(values: dict[str, object], tmp_path: Path) -> None:
    config = make_config(values)
    first, second = (ledgers(config, tmp_path / name, pairs(0, 90)) for name in ("one", "two"))
    for round_index in (1, 2, 3):
        one_round(first, config, round_index)
        one_round(second, config, round_index)
    ledgers(config, tmp_path / "one", pairs(0, 90))
    assert {one.reserved for one in verify_dir(tmp_path / "ledgers")} == {6}


def test_public_data_keeps_its_heads_in_the_run_folder(values: dict[str, object], tmp_path: Path) -> None:
    config = named(values, "owned", public=True)
    one_round(ledgers(config, tmp_path / "run", pairs(0, 90)), config)
    assert not (tmp_path / "ledgers").exists()
    path = tmp_path / "run" / "ledger" / "owned" / "c0.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    ledgers(config, tmp_path / "elsewhere", pairs(0, 90))
    with pytest.raises(LedgerRolledBack, match=r"c0\.jsonl"):
        ledgers(config, tmp_path / "run", pairs(0, 90))


def test_a_head_is_kept_of_what_was_done_beyond_the_plan(values: dict[str, object], tmp_path: Path) -> None:
    config = make_config(values)
    opened = ledgers(config, tmp_path / "run", pairs(0, 90))
    reservation = opened.reserve(1, (0,))[0]
    with pytest.raises(CommitMismatch):
        opened.commit(reservation, 0, FullBatchGaussian(noise_multiplier=4.0, steps=9))
    assert read_heads(tmp_path / "ledgers" / "owned" / "heads.json")[0].records == 3


def test_a_spoilt_file_of_heads_is_refused(values: dict[str, object], tmp_path: Path) -> None:
    config = make_config(values)
    one_round(ledgers(config, tmp_path / "run", pairs(0, 90)), config)
    (tmp_path / "ledgers" / "owned" / "heads.json").write_text("{}")
    with pytest.raises(LedgerBroken, match="is not a file of heads"):
        ledgers(config, tmp_path / "run", pairs(0, 90))


# ---- signing and units


def test_ledgers_are_signed_where_their_root_holds_the_owners_key(values: dict[str, object], tmp_path: Path) -> None:
    config = make_config(values)
    (tmp_path / "ledgers").mkdir(mode=0o700)
    public = public_hex(make_key(tmp_path / "ledgers" / OWNER_KEY))
    one_round(ledgers(config, tmp_path / "run", pairs(0, 90)), config)
    found = verify_dir(tmp_path / "ledgers")
    assert [(one.ok, one.public_key) for one in found] == [(True, public)] * 3
    assert all(head.signature for head in read_heads(tmp_path / "ledgers" / "owned" / "heads.json"))
    (tmp_path / "ledgers" / OWNER_KEY).chmod(0o644)
    with pytest.raises(ConfigError, match=r"privacy\.ledger_root: .*owner\.key: must be a file that its owner alone"):
        ledgers(config, tmp_path / "run", pairs(0, 90))
    (tmp_path / "ledgers" / OWNER_KEY).unlink()
    with pytest.raises(LedgerMismatch, match="is signed with the key"):
        ledgers(config, tmp_path / "run", pairs(0, 90))


# ---- rows


def test_the_same_rows_under_another_id_are_refused_and_leave_nothing(
    values: dict[str, object], tmp_path: Path
) -> None:
    config = make_config(values)
    one_round(ledgers(config, tmp_path / "run", pairs(0, 90)), config)
    with pytest.raises(RowsChargedElsewhere, match="charged as 'owned'"):
        ledgers(named(values, "renamed"), tmp_path / "again", pairs(0, 90))
    assert not (tmp_path / "ledgers" / "renamed").exists()
    fresh = named(values, "fresh")
    one_round(ledgers(fresh, tmp_path / "fresh", pairs(90, 90)), fresh)


def test_rows_that_were_never_charged_may_be_named_anew(values: dict[str, object], tmp_path: Path) -> None:
    ledgers(make_config(values), tmp_path / "run", pairs(0, 90))  # opened, but no round
    again = named(values, "renamed")
    one_round(ledgers(again, tmp_path / "again", pairs(0, 90)), again)


def test_rows_are_tagged_before_any_client_is_charged(
    values: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, seen = make_config(values), []
    opened = ledgers(config, tmp_path / "run", pairs(0, 90))
    folder = tmp_path / "ledgers" / "owned"
    assert not list(folder.glob("*.rows"))
    reserve = Ledger.reserve
    monkeypatch.setattr(
        Ledger, "reserve", lambda *given: (seen.append(len(list(folder.glob("*.rows")))), reserve(*given))[1]
    )
    one_round(opened, config)
    assert seen == [3, 3, 3]


def test_public_data_is_not_tagged(values: dict[str, object], tmp_path: Path) -> None:
    for name in ("one", "two"):
        config = named(values, name, public=True)
        one_round(ledgers(config, tmp_path / name, pairs(0, 90)), config)
    assert not list(tmp_path.rglob("*.rows"))


def test_only_training_rows_count(values: dict[str, object], tmp_path: Path) -> None:
    rows = pairs(0, 90)
    config = make_config(values)
    one_round(ledgers(config, tmp_path / "run", rows), config)
    turned = [replace(pair, split="validation" if pair.split == "train" else "train") for pair in rows]
    again = named(values, "renamed")
    one_round(ledgers(again, tmp_path / "again", turned), again)


def test_rows_that_change_hands_within_one_id_are_refused(values: dict[str, object], tmp_path: Path) -> None:
    config, rows = make_config(values), pairs(0, 90)
    one_round(ledgers(config, tmp_path / "run", rows), config)
    dealt = [replace(rows[0], client="c1"), *rows[1:]]
    with pytest.raises(RowsChargedElsewhere, match="charged to client c0 are now dealt to client c1"):
        ledgers(config, tmp_path / "again", dealt)
    one_round(ledgers(config, tmp_path / "again", [*rows, *pairs(90, 30)]), config)  # growth is no change of hands


def test_a_changed_partition_is_still_named_first(values: dict[str, object], tmp_path: Path) -> None:
    one_round(ledgers(make_config(values), tmp_path / "run", pairs(0, 90)), make_config(values))
    with pytest.raises(ConfigError, match="was dealt with seed"):
        ledgers(make_config({**values, "seed": 1}), tmp_path / "other", pairs(1, 90))


def test_no_tag_and_no_key_reaches_the_run_folder(values: dict[str, object], tmp_path: Path) -> None:
    config = make_config(values)
    opened = ledgers(config, tmp_path / "run", pairs(0, 90))
    one_round(opened, config)
    opened.export()
    names = {path.name for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert names == {"heads.json", "c0.jsonl", "c1.jsonl", "c2.jsonl"}
    secret = (tmp_path / "ledgers" / "rows.key").read_bytes()
    tags = (tmp_path / "ledgers" / "owned" / "c0.rows").read_bytes().split(b"\n", 1)[1][:16]
    for path in (tmp_path / "run").rglob("*.*"):
        content = path.read_bytes()
        assert secret not in content and secret.hex().encode() not in content
        assert tags not in content and tags.hex().encode() not in content


def test_a_row_is_its_three_texts_however_they_are_spelt() -> None:
    pair = PreferencePair("Caf\u00e9 ?", " Yes", " No", "c0", "train")
    same = [
        PreferencePair("Cafe\u0301 ?", " Yes", " No", "c1", "validation"),
        PreferencePair("Caf\u00e9   ?\n", "Yes ", "No", "c0", "train"),
    ]
    assert {canonical_row(one) for one in same} == {canonical_row(pair)}
    other = [
        replace(pair, chosen=" No", rejected=" Yes"),
        replace(pair, prompt="Caf\u00e9"),
        replace(pair, chosen=" yes"),
    ]
    moved = (
        PreferencePair("Caf\u00e9 ? Yes", " x", " No", "c0", "train"),
        PreferencePair("Caf\u00e9 ?", " Yes x", " No", "c0", "train"),
    )
    assert len({canonical_row(one) for one in (pair, *other, *moved)}) == 6
    json.loads(canonical_row(pair))
