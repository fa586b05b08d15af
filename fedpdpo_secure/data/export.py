"""A federation as files that `load_federation` reads back."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

from fedpdpo_secure.data.pairs import Federation

PUBLIC_TEXTS = "public_texts.jsonl"


def write_jsonl(federation: Federation, folder: str | Path) -> tuple[Path, ...]:
    """Write one file per split (rows: prompt, chosen, rejected, client_id, split) and public_texts.jsonl (rows: text).

    Returns:
        The files written, in alphabetical order; a split without pairs has none.

    Raises:
        FileExistsError: one of the files exists already; nothing is overwritten.
    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    files: dict[str, TextIO] = {}
    with ExitStack() as stack:

        def write(name: str, row: dict[str, str]) -> None:
            if name not in files:
                files[name] = stack.enter_context((place / name).open("x", encoding="utf-8", newline="\n"))
            files[name].write(json.dumps(row, ensure_ascii=False) + "\n")

        for pair in federation.pairs():
            texts = {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
            write(f"{pair.split}.jsonl", {**texts, "client_id": pair.client, "split": pair.split})
        for text in federation.public_texts():
            write(PUBLIC_TEXTS, {"text": text})
    return tuple(sorted(place / name for name in files))
