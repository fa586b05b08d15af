"""Rows from JSONL (also .gz), CSV, Parquet or a hub data set: streamed, numbered from 1, every fault named by row."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from fedpdpo_secure.data.pairs import DataError

MAX_LINE_BYTES = 1 << 24  # a longer JSONL row is a fault, not something to load
_READ_BATCH = 64  # Parquet rows in memory at a time
_HUB_NAME = re.compile(r"^[\w-][\w.-]*/[\w-][\w.-]*(:[\w.\-\[\]%:]+)?$")
_FILE_SUFFIX = re.compile(
    r"\.(txt|jsonl?|csv|tsv|parquet|arrow|ya?ml|md|pkl|gz|bz2|xz|zst|zip|tar|tgz)$", re.IGNORECASE
)

NumberedRow = tuple[int, dict[str, object]]


@dataclass(frozen=True, slots=True)
class Source:
    """A place that can be read from the start as often as wished."""

    label: str  # short name put before row numbers
    read: Callable[[], Iterator[NumberedRow]]

    def at(self, number: int) -> str:
        return f"{self.label} row {number}"


def open_source(
    name: str,
    *,
    revision: str | None = None,
    where: Mapping[str, Sequence[str]] | None = None,
    field: str = "dataset_name",
) -> Source:
    """The rows of a file, or of a hub data set ("owner/name" or "owner/name:split", split "train" unless told).

    `where` keeps the rows whose column holds one of the listed values. `field` is the setting that errors name. No
    code of a data set is ever run, and the hub is asked only for what cannot be a file.

    Raises:
        DataError: no such file, unknown kind, or the hub cannot be reached; while reading, a row that cannot be read.
    """
    path = Path(name).expanduser()
    kind = next((kind for kind in _READERS if path.name.lower().endswith(kind)), None)
    if path.is_dir():
        raise DataError(f"{name}: is a folder; name a file ({', '.join(_READERS)})")
    if path.is_file() and kind is None:
        raise DataError(f"{name}: unknown kind of file; known: {', '.join(_READERS)}")
    if path.is_file() and kind is not None:
        reader = _READERS[kind]
        source = Source(path.name, lambda: reader(path))
    elif _FILE_SUFFIX.search(name) or not _HUB_NAME.match(name):
        raise DataError(f"{field}: no such file: {name} (or give a hub id owner/name)")
    else:
        source = _hub_source(name, revision)
    if not where:
        return source
    wanted = {column: frozenset(values) for column, values in where.items()}
    return Source(source.label, lambda: _filtered(source, wanted))


def column_value(row: Mapping[str, object], column: str, where: str) -> str:
    """A label cell as text: strings and whole numbers only."""
    value = row.get(column)
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        found = "is missing" if column not in row else "is null" if value is None else f"is a {type(value).__name__}"
        raise DataError(f"{where}: field {column}: {found}; a string or whole number is needed here")
    return str(value)


def _filtered(source: Source, wanted: Mapping[str, frozenset[str]]) -> Iterator[NumberedRow]:
    for number, row in source.read():
        if all(column_value(row, column, source.at(number)) in values for column, values in wanted.items()):
            yield number, row


def _jsonl_rows(path: Path) -> Iterator[NumberedRow]:
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as stream:
            while line := cast(IO[bytes], stream).readline(MAX_LINE_BYTES + 1):
                number += 1
                if line.strip():
                    yield number, _json_row(line, f"{path.name} row {number}")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path.name} row {number + 1}: cannot be read ({error})") from error


def _json_row(line: bytes, where: str) -> dict[str, object]:
    if len(line) > MAX_LINE_BYTES:
        raise DataError(f"{where}: is longer than {MAX_LINE_BYTES} bytes")
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: is not UTF-8 (byte {error.start + 1} of the row)") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{where}: is not JSON ({error})") from error
    if not isinstance(row, dict):
        raise DataError(f"{where}: must be a JSON object, not {type(row).__name__}")
    return row


def _csv_rows(path: Path) -> Iterator[NumberedRow]:
    number = 0
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        # Bytes that are not UTF-8 become lone surrogates, which the field check reports with row and field.
        with (
            opened(path, "rb") as binary,
            io.TextIOWrapper(
                cast(IO[bytes], binary), encoding="utf-8-sig", errors="surrogateescape", newline=""
            ) as stream,
        ):
            for row in csv.DictReader(stream):
                number += 1
                if None in row or any(value is None for value in row.values()):
                    raise DataError(f"{path.name} row {number}: has more or fewer cells than the header")
                yield number, dict(row)
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise DataError(f"{path.name} row {number + 1}: cannot be read ({error})") from error


def _parquet_rows(path: Path) -> Iterator[NumberedRow]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=_READ_BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path.name} row {number + 1}: cannot be read ({_line(error)})") from error


def _hub_source(name: str, revision: str | None) -> Source:
    import datasets
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # its retries: the error below says it once
    repository, _, split = name.partition(":")
    try:
        table = datasets.load_dataset(repository, split=split or "train", revision=revision)
    except Exception as error:  # the hub client raises a dozen unrelated types; all mean: no data
        raise DataError(
            f"{name}: no such file, and it could not be loaded as a hub data set "
            f"({type(error).__name__}: {_line(error)})"
        ) from error
    return Source(name, lambda: enumerate(table, start=1))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


_READERS: dict[str, Callable[[Path], Iterator[NumberedRow]]] = {
    ".jsonl": _jsonl_rows,
    ".jsonl.gz": _jsonl_rows,
    ".csv": _csv_rows,
    ".csv.gz": _csv_rows,
    ".parquet": _parquet_rows,
}
