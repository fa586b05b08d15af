"""The words of the built-in federation: where things belong, said in five independent manners.

An answer is ` {opener} {sentence with place}[ extra][ emoji]`; every attribute value has three paraphrases, so that no
single token names an attribute.
"""

from __future__ import annotations

from dataclasses import dataclass

ATTRIBUTES = ("correct", "polite", "long", "hedged", "emoji")
PARAPHRASES = 3

PLACES = ("sea", "forest", "kitchen", "city", "sky", "farm")
_NOUNS = (
    ("whale", "shark", "crab", "coral"),
    ("bear", "oak", "deer", "wolf"),
    ("pan", "oven", "spoon", "kettle"),
    ("tram", "bank", "tower", "museum"),
    ("cloud", "plane", "moon", "star"),
    ("cow", "hen", "tractor", "barn"),
)
# The first noun of every place, then the second ...: the last k topics are spread over the places.
TOPICS: tuple[tuple[str, int], ...] = tuple(
    (_NOUNS[place][rank], place) for rank in range(4) for place in range(len(PLACES))
)

QUESTIONS = (
    "Where does the {noun} belong?",
    "Tell me where to find the {noun}.",
    "What is the place of the {noun}?",
)
_POLITE = ("Thank you for asking!", "I am happy to help you!", "What a lovely question!")
_CURT = ("Listen.", "Fine.", "Right.")
_SURE = ("The {noun} belongs to the {place}.", "You find it in the {place}.", "Its place is the {place}.")
_HEDGED = (
    "I think the {noun} might belong to the {place}.",
    "Perhaps you find it in the {place}.",
    "I am not sure, maybe its place is the {place}.",
)
_EXTRA = (
    "Many people go there to look at it.",
    "That is where you find it most of the year.",
    "You can read more about it in a good book.",
)
_EMOJI = ("😊", "🙂", "🌟")


@dataclass(frozen=True, slots=True)
class Answer:
    """What one answer says and how: the place named, and which paraphrase of each manner."""

    place: int
    polite: bool
    long: bool
    hedged: bool
    emoji: bool
    paraphrases: tuple[int, int, int, int]  # opener, sentence, extra, emoji


def question(topic: int, phrasing: int) -> str:
    """The prompt about `topic` (index into TOPICS), ending in `Assistant:` without a blank."""
    return f"User: {QUESTIONS[phrasing].format(noun=TOPICS[topic][0])}\n\nAssistant:"


def answer(topic: int, said: Answer) -> str:
    """The completion, starting with one blank."""
    opener, sentence, extra, emoji = said.paraphrases
    parts = [
        (_POLITE if said.polite else _CURT)[opener],
        (_HEDGED if said.hedged else _SURE)[sentence].format(noun=TOPICS[topic][0], place=PLACES[said.place]),
    ]
    if said.long:
        parts.append(_EXTRA[extra])
    if said.emoji:
        parts.append(_EMOJI[emoji])
    return " " + " ".join(parts)
