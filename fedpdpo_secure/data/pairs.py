"""The records everything else is built from: one preference pair, and a federation of clients holding pairs."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

PUBLIC_CLIENT = "public"
SPLITS = ("train", "validation", "test", "heldout", "public")


class DataError(ValueError):
    """The data is refused; one line naming the file, the row and the field. Nothing was trained or spent."""


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """One comparison: the unit of privacy. `prompt + chosen` and `prompt + rejected` are its two texts."""

    prompt: str  # not empty, ends in no blank
    chosen: str  # not empty; starts with the blank (if any) that separates it from the prompt
    rejected: str  # not empty, differs from chosen
    client: str  # owner; "public" for a pair no client owns
    split: str  # train | validation | test | heldout (topics no training pair mentions) | public


def canonical_row(pair: PreferencePair) -> bytes:
    """What makes a pair the same row: its three texts, whatever their Unicode composition and white space; not its
    place, owner or split."""
    texts = (pair.prompt, pair.chosen, pair.rejected)
    return json.dumps([" ".join(unicodedata.normalize("NFC", text).split()) for text in texts]).encode("ascii")


@dataclass(frozen=True)
class Federation:
    """Clients and their pairs, as a stream: no text is held in memory.

    `clients` is sorted; a client's place in it is its id in secure aggregation. `counts` are local facts about
    private data: they never leave a client.
    """

    clients: tuple[str, ...]
    counts: Mapping[str, Mapping[str, int]]  # client (and "public") -> split -> pairs
    example: PreferencePair  # the first training pair of the stream
    source: str  # where the pairs come from, in words
    templated: bool  # texts carry a chat template's special tokens: tokenize without adding any, append no second EOS
    notes: tuple[str, ...]  # what was left out or looks odd, one line each
    stream: Callable[[], Iterator[PreferencePair]]
    public_stream: Callable[[], Iterator[str]]

    def pairs(self) -> Iterator[PreferencePair]:
        """Every pair once, in a fixed order; may be called again. Public pairs come with client "public"."""
        return self.stream()

    def public_texts(self) -> Iterator[str]:
        """Whole dialogues (prompt and answer) that no client owns, for the warm start of a language model."""
        return self.public_stream()

    def rows(self) -> Iterator[tuple[str, bytes]]:
        """(client, `canonical_row`) of every training pair. Private."""
        return ((pair.client, canonical_row(pair)) for pair in self.pairs() if pair.split == "train")
