"""The lines of a transcript as text: canonical JSON, a hash chain, and readers that take nothing else.

A line is one JSON object with sorted keys, no spaces, ASCII only and no number but integers, so a value has one
text. `previous` is the SHA-256 of the line before, without its newline.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NoReturn

from secagg.errors import BadMessage

GENESIS = "0" * 64
"""`previous` of the first line."""
_MAX_INTEGER = 2**63


def line_hash(line: str) -> str:
    """SHA-256 of a line without its newline, 64 hexadecimal digits. What is not ASCII has the hash of its escapes."""
    return hashlib.sha256(line.encode("ascii", "backslashreplace")).hexdigest()


def canonical(values: Mapping[str, object]) -> str:
    """The one text of `values`."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)


def chained(kinds_and_values: Iterable[tuple[str, Mapping[str, object]]]) -> list[str]:
    """One line for each (kind, values), numbered and bound to the one before."""
    lines: list[str] = []
    for index, (kind, values) in enumerate(kinds_and_values):
        previous = line_hash(lines[-1]) if lines else GENESIS
        lines.append(canonical({**values, "index": index, "kind": kind, "previous": previous}))
    return lines


def parse_line(line: str, place: str) -> dict[str, object]:
    """The object of one line. Raises BadMessage unless `line` is the canonical text of it."""
    try:
        values = json.loads(line, parse_float=_refuse, parse_constant=_refuse)
        text = canonical(values) if isinstance(values, dict) else None
    except (ValueError, RecursionError) as error:
        raise BadMessage(f"{place} is not JSON of integers, texts and lists: {str(error)[:80]}") from error
    if text != line:
        raise BadMessage(f"{place} is not a JSON object in its one spelling (sorted keys, no spaces, ASCII)")
    return dict(values)


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"the number {text[:40]} is not an integer")


def fields(value: object, names: Collection[str], place: str) -> dict[str, object]:
    """An object with exactly the fields `names`."""
    if not isinstance(value, dict) or set(value) != set(names):
        raise BadMessage(f"{place} must be an object with the fields {', '.join(sorted(names))}")
    return value


def objects(value: object, names: Collection[str], place: str) -> list[dict[str, object]]:
    """A list of objects, each with exactly the fields `names`."""
    if not isinstance(value, list):
        raise BadMessage(f"{place} must be a list")
    return [fields(item, names, f"{place}[{i}]") for i, item in enumerate(value)]


def integer(value: object, place: str) -> int:
    """An integer in 0..2^63-1."""
    if type(value) is not int or not 0 <= value < _MAX_INTEGER:  # True is an int to isinstance
        raise BadMessage(f"{place} must be an integer in 0..2^63-1")
    return value


def text(value: object, place: str, *, limit: int = 64) -> str:
    """At most `limit` characters of ASCII."""
    if not isinstance(value, str) or len(value) > limit or not value.isascii():
        raise BadMessage(f"{place} must be a text of at most {limit} ASCII characters")
    return value


def one_of(value: object, choices: Collection[str], place: str) -> str:
    """A text out of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise BadMessage(f"{place} must be one of {', '.join(choices)}")
    return value


def octets(value: object, sizes: Sequence[int], place: str) -> bytes:
    """Bytes of one of `sizes`, from lower-case hexadecimal digits."""
    if isinstance(value, str) and len(value) in {2 * size for size in sizes} and set(value) <= set("0123456789abcdef"):
        return bytes.fromhex(value)
    raise BadMessage(f"{place} must be {' or '.join(str(2 * size) for size in sizes)} lower-case hexadecimal digits")


def ids(value: object, place: str) -> tuple[int, ...]:
    """Client ids, distinct and ascending."""
    if not isinstance(value, list):
        raise BadMessage(f"{place} must be a list")
    return ascending([integer(item, place) for item in value], place)


def by_client(value: object, names: Collection[str], place: str) -> list[tuple[int, dict[str, object]]]:
    """A list of objects with the fields `names` and `client`, ascending by client: (client, object) of each."""
    entries = objects(value, {"client", *names}, place)
    return list(zip(ascending([integer(e["client"], place) for e in entries], place), entries, strict=True))


def ascending(clients: Sequence[int], place: str) -> tuple[int, ...]:
    """`clients`, if they are distinct, ascending and below 2^32."""
    before = -1
    for client in clients:
        if not before < client < 2**32:
            raise BadMessage(f"{place}: ids must be distinct, ascending and below 2^32")
        before = client
    return tuple(clients)
