"""Row tags: the rows of a budget cannot be charged again under another name, and tags say nothing without the key."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from privacy.errors import LedgerBroken, RowsChargedElsewhere
from privacy.ledger import ledger_path
from privacy.ledger_tags import ALLOWED_SHARE, RowTags, Tags


def rows(tags: RowTags, numbers: Iterable[int]) -> Tags:
    return frozenset(tags.tag(b"row %d" % number) for number in numbers)


def charge(root: Path, data_id: str, **clients: Iterable[int]) -> None:
    tags = RowTags(root)
    tags.charge(data_id, {client: rows(tags, numbers) for client, numbers in clients.items()})


def test_the_same_rows_under_another_name_are_refused_by_that_name(tmp_path: Path) -> None:
    charge(tmp_path, "survey", anna=range(50), ben=range(50, 90))
    with pytest.raises(
        RowsChargedElsewhere, match=r"40 of the 40 rows of client carl were charged as 'survey'.*second"
    ):
        charge(tmp_path, "survey-2", carl=range(50, 90))
    assert not (tmp_path / "survey-2").exists()
    charge(tmp_path, "other", carl=range(100, 140))
    charge(tmp_path, "survey", anna=range(50), ben=range(50, 90))  # its own name goes on


def test_charged_rows_count_over_all_clients_and_names(tmp_path: Path) -> None:
    charge(tmp_path, "a", anna=range(30))
    charge(tmp_path, "b", anna=range(30, 60))
    for number, name in ((0, "a"), (59, "b")):
        with pytest.raises(RowsChargedElsewhere, match=f"charged as '{name}'"):
            charge(tmp_path, "c", x=[number, *range(100, 140)])


@pytest.mark.parametrize(
    ("size", "shared", "refused"), [(99, 1, True), (100, 1, False), (100, 2, True), (1000, 10, False)]
)
def test_up_to_one_row_in_a_hundred_may_occur_elsewhere(tmp_path: Path, size: int, shared: int, refused: bool) -> None:
    assert ALLOWED_SHARE == 0.01
    charge(tmp_path, "a", anna=range(size))
    again = {"ben": range(size - shared, 2 * size - shared)}
    if refused:
        with pytest.raises(RowsChargedElsewhere):
            charge(tmp_path, "b", **again)
    else:
        charge(tmp_path, "b", **again)


def test_the_smaller_of_the_two_decides_so_that_a_small_client_does_not_hide_in_a_large_one(tmp_path: Path) -> None:
    charge(tmp_path, "a", anna=range(10))
    with pytest.raises(RowsChargedElsewhere, match="1 of the 5000 rows"):
        charge(tmp_path, "b", ben=range(9, 5009))
    charge(tmp_path, "large", anna=range(10_000, 20_000))
    with pytest.raises(RowsChargedElsewhere, match="of client small"):
        charge(tmp_path, "c", big=range(30_000, 40_000), small=range(19_999, 20_009))


def test_a_row_that_was_charged_to_one_client_and_now_comes_to_another_is_refused(tmp_path: Path) -> None:
    charge(tmp_path, "a", anna=range(50), ben=range(50, 100))
    with pytest.raises(RowsChargedElsewhere, match="1 rows of 'a' that were charged to client anna"):
        charge(tmp_path, "a", anna=range(1, 50), ben=[0, *range(50, 100)])
    with pytest.raises(RowsChargedElsewhere, match="charged to client anna are now dealt to client carl"):
        charge(tmp_path, "a", carl=range(50))


def test_equal_rows_of_several_clients_are_each_clients_own(tmp_path: Path) -> None:
    charge(tmp_path, "a", anna=range(50), ben=range(49, 90))
    charge(tmp_path, "a", anna=range(50), ben=range(49, 90))


def test_rows_that_left_stay_charged(tmp_path: Path) -> None:
    charge(tmp_path, "a", anna=range(100))
    charge(tmp_path, "a", anna=range(100, 150))
    with pytest.raises(RowsChargedElsewhere):
        charge(tmp_path, "b", anna=range(60))


def test_a_check_writes_no_tag(tmp_path: Path) -> None:
    tags = RowTags(tmp_path)
    tags.check("a", {"anna": rows(tags, range(5))})
    assert [path.name for path in tmp_path.iterdir()] == ["rows.key"]


# ---- what the files say


def test_files_are_the_owners_alone_and_hold_no_row(tmp_path: Path) -> None:
    charge(tmp_path, "a", anna=range(20))
    path = tmp_path / "a" / "anna.rows"
    for one in (path, tmp_path / "rows.key"):
        assert one.stat().st_mode & 0o777 == 0o600
    assert b"row " not in path.read_bytes().split(b"\n", 1)[1]
    assert len((tmp_path / "rows.key").read_bytes()) == 32
    assert sorted(one.name for one in tmp_path.rglob("*") if one.is_file()) == ["anna.rows", "rows.key"]


def test_tags_differ_between_owners_and_do_not_show_the_rows_order(tmp_path: Path) -> None:
    first, second = RowTags(tmp_path / "one"), RowTags(tmp_path / "two")
    assert not rows(first, range(20)) & rows(second, range(20))
    charge(tmp_path / "one", "a", anna=range(20))
    content = (tmp_path / "one" / "a" / "anna.rows").read_bytes().split(b"\n", 1)[1]
    stored = [content[start : start + 16] for start in range(0, len(content), 16)]
    assert stored == sorted(rows(first, range(20)))


def test_names_are_escaped_like_the_ledgers(tmp_path: Path) -> None:
    charge(tmp_path, "a/b", **{"x/y": range(20)})
    assert ledger_path(tmp_path, "a/b", "x/y").with_suffix(".rows").exists()
    with pytest.raises(RowsChargedElsewhere, match="charged as 'a/b'"):
        charge(tmp_path, "c", **{"x/y": range(20)})


def test_a_lost_or_exchanged_key_is_noticed_not_passed_over(tmp_path: Path) -> None:
    charge(tmp_path, "a", anna=range(20))
    key = (tmp_path / "rows.key").read_bytes()
    (tmp_path / "rows.key").unlink()
    with pytest.raises(LedgerBroken, match=r"rows\.key: is missing, and .*anna\.rows cannot be read without it"):
        RowTags(tmp_path)
    (tmp_path / "rows.key").write_bytes(bytes(32))
    (tmp_path / "rows.key").chmod(0o600)
    with pytest.raises(LedgerBroken, match="was made with another key"):
        charge(tmp_path, "b", anna=range(20))
    (tmp_path / "rows.key").write_bytes(key)
    (tmp_path / "rows.key").chmod(0o644)
    with pytest.raises(LedgerBroken, match="mode 0600"):
        RowTags(tmp_path)


@pytest.mark.parametrize("damage", [lambda d: d[:-1], lambda d: b"x" + d, lambda d: b"", lambda d: d + b"0"])
def test_a_damaged_file_is_refused(tmp_path: Path, damage: object) -> None:
    charge(tmp_path, "a", anna=range(20))
    path = tmp_path / "a" / "anna.rows"
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(LedgerBroken, match=r"anna\.rows"):
        charge(tmp_path, "b", ben=range(50, 90))
