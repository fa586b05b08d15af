"""Cells of a survey file: lists, dictionaries and numbers spelt as text are read, never evaluated."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Mapping

from fedpdpo_secure.data.pairs import DataError

_PRINTED = re.compile(r"^\[[\s\d.eE+\-]*\]$")  # how numpy prints a vector


def selections(value: object, where: str) -> dict[str, object]:
    """`value` as a dictionary; text may be wrapped as `defaultdict(<class 'list'>, {...})`. Raises DataError."""
    if isinstance(value, str):
        start, stop = value.find("{"), value.rfind("}")
        value = cell_value(value[start : stop + 1] if 0 <= start < stop else value, where, "selections")
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: field selections: must be a dictionary of groups, not {type(value).__name__}")
    # Arrow gives every row all groups, with null where a group was not asked.
    return {str(group): shares for group, shares in value.items() if shares is not None}


def cell_value(value: object, where: str, field: str) -> object:
    """A cell that is text, as the list, dictionary or number it spells; anything else as it is. Raises DataError."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if not isinstance(value, str):
        return value
    if _PRINTED.match(value) and "," not in value:
        value = "[" + ",".join(value.strip("[]").split()) + "]"
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        pass  # Python's spelling is next
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise DataError(f"{where}: field {field}: is neither JSON nor a Python literal") from error


def cell_text(value: object, where: str, field: str) -> str:
    """A cell as text without blanks around it; numbers are taken as they print. Raises DataError where it is none."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        kind = "null" if value is None else type(value).__name__
        raise DataError(f"{where}: field {field}: must be text, not {kind}")
    text = str(value).strip()
    if not text:
        raise DataError(f"{where}: field {field}: is empty")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(f"{where}: field {field}: is not valid UTF-8 text") from None
    return text


def absent(value: object) -> bool:
    """Whether a cell says nothing: null, NaN (an empty cell of a table), an empty text or list."""
    return value is None or (isinstance(value, float) and math.isnan(value)) or value in ("", [], "[]")
