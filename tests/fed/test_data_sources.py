"""Every way to read rows: numbered from 1, streamed, and faults named by file and row."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from fedpdpo_secure.data import DataError
from fedpdpo_secure.data.sources import MAX_LINE_BYTES, open_source

ROWS = [{"prompt": f"p{i}", "chosen": ' ä,\n"a"', "rejected": " b", "domain": "xy"[i % 2]} for i in range(5)]


def as_jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def as_csv(path: Path) -> Path:
    import csv

    with path.open("w", newline="", encoding="utf-8-sig") as stream:
        writer = csv.DictWriter(stream, list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)
    return path


def as_parquet(path: Path) -> Path:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    return path


def refusal(path: Path | str, **options) -> str:
    with pytest.raises(DataError) as caught:
        list(open_source(str(path), **options).read())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_kind_of_file_gives_the_same_rows_every_time(tmp_path) -> None:
    files = [
        as_jsonl(tmp_path / "a.jsonl", ROWS),
        as_jsonl(tmp_path / "a.jsonl.gz", ROWS),
        as_csv(tmp_path / "a.csv"),
        as_parquet(tmp_path / "a.parquet"),
    ]
    for file in files:
        source = open_source(str(file))
        assert list(source.read()) == list(source.read()) == list(enumerate(ROWS, start=1))
        assert source.at(3) == f"{file.name} row 3"


def test_where_keeps_listed_values_and_the_row_numbers_of_the_file(tmp_path) -> None:
    source = open_source(str(as_jsonl(tmp_path / "a.jsonl", ROWS)), where={"domain": ["y"], "prompt": ["p1", "p2"]})
    assert list(source.read()) == [(2, ROWS[1])]


def test_where_on_a_column_that_is_missing_names_row_and_column(tmp_path) -> None:
    rows = [ROWS[0], {"prompt": "p"}]
    message = refusal(as_jsonl(tmp_path / "a.jsonl", rows), where={"domain": ["x", "y"]})
    assert message.startswith("a.jsonl row 2: field domain: is missing")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"{broken", "is not JSON"),
        (b"[1, 2]", "must be a JSON object, not list"),
        (b'{"prompt": "\xff"}', "is not UTF-8 (byte 13 of the row)"),
        (b"[" * 200_000, "is not JSON"),
        (b'"' + b"a" * MAX_LINE_BYTES + b'"', "is longer than"),
    ],
)
def test_an_unreadable_jsonl_row_517_is_named(tmp_path, line: bytes, says: str) -> None:
    good = json.dumps(ROWS[0]).encode() + b"\n"
    (tmp_path / "pref.jsonl").write_bytes(good * 516 + line + b"\n" + good * 3)
    message = refusal(tmp_path / "pref.jsonl")
    assert message.startswith("pref.jsonl row 517: ")
    assert says in message


def test_blank_lines_are_skipped_but_counted(tmp_path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n  \n{"a": 2}')
    assert list(open_source(str(tmp_path / "a.jsonl")).read()) == [(1, {"a": 1}), (4, {"a": 2})]


def test_a_cut_gzip_file_is_refused(tmp_path) -> None:
    file = as_jsonl(tmp_path / "a.jsonl.gz", ROWS * 200)
    file.write_bytes(file.read_bytes()[:-40])
    assert "cannot be read" in refusal(file)
    file.write_bytes(b"no gzip at all")
    assert "a.jsonl.gz row 1: cannot be read" in refusal(file)


def test_a_csv_row_with_too_few_or_many_cells_is_named(tmp_path) -> None:
    for row in ("a,b", "a,b,c,d"):
        (tmp_path / "a.csv").write_text(f"prompt,chosen,rejected\np,c,r\n{row}\n")
        assert "a.csv row 2: has more or fewer cells" in refusal(tmp_path / "a.csv")


def test_a_broken_parquet_file_is_refused(tmp_path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing")
    assert "a.parquet row 1: cannot be read" in refusal(tmp_path / "a.parquet")


def test_missing_and_unknown_files_are_refused_before_the_hub_is_asked(tmp_path) -> None:
    assert "no such file" in refusal(tmp_path / "none.jsonl")
    assert "no such file" in refusal("folder/none.parquet")
    assert "no such file" in refusal("../up/here")
    (tmp_path / "a.txt").write_text("x")
    assert "unknown kind of file" in refusal(tmp_path / "a.txt")
    assert "is a folder" in refusal(tmp_path)


def test_a_hub_data_set_that_cannot_be_loaded_gives_one_line(monkeypatch) -> None:
    import datasets

    def unreachable(name: str, *, split: str, revision: str | None):
        assert (name, split, revision) == ("owner/name", "test", "abc")
        raise ConnectionError("could not\nreach the hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    message = refusal("owner/name:test", revision="abc")
    assert message.startswith("owner/name:test: ")
    assert "could not reach the hub" in message


def test_a_hub_data_set_is_read_row_by_row(monkeypatch) -> None:
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda name, *, split, revision: datasets.Dataset.from_list(ROWS))
    assert list(open_source("owner/name").read()) == list(enumerate(ROWS, start=1))
