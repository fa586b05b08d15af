"""The four shapes (plus hh-rlhf's implicit prompt) a row may have, each parsed to three strings.

Column names are TRL's (`prompt`, `chosen`, `rejected`). Whatever the shape, `prompt + chosen` and `prompt + rejected`
are exactly the two texts of the row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fedpdpo_secure.data.pairs import DataError

TURN = "\n\nAssistant:"
OTHER_TURN = "\n\nHuman:"

Message = dict[str, str]
Render = Callable[[list[Message], bool], str]  # (messages, add_generation_prompt) -> text; may raise ValueError


@dataclass(frozen=True, slots=True)
class Texts:
    """The three texts of one row; no owner yet."""

    prompt: str
    chosen: str
    rejected: str
    templated: bool = False  # rendered by a chat template


def parse_row(row: Mapping[str, object], where: str, render: Render | None = None) -> Texts:
    """The texts of `row`, in whichever of the known shapes it is.

    Args:
        row: column name to value. Strings make a standard row, lists of {role, content} a conversational one;
            without `prompt` the prompt is implicit in both completions.
        where: file and row number, put before every error.
        render: the chat template of the model's tokenizer; None where it has none.

    Raises:
        DataError: a field is missing, empty, of a wrong type, or the two completions do not answer one prompt.
    """
    prompt, chosen, rejected = row.get("prompt"), row.get("chosen"), row.get("rejected")
    for field, value in (("chosen", chosen), ("rejected", rejected)):
        if not isinstance(value, (str, list)):
            raise DataError(f"{where}: field {field}: {_missing_or_type(row, field)}")
    if prompt is not None and not isinstance(prompt, (str, list)):
        raise DataError(f"{where}: field prompt: {_missing_or_type(row, 'prompt')}")
    if isinstance(chosen, str) and isinstance(rejected, str):
        if isinstance(prompt, list):
            raise DataError(f"{where}: field prompt: is a list of messages but chosen and rejected are strings")
        for field, value in (("prompt", prompt), ("chosen", chosen), ("rejected", rejected)):
            _check_text(value or "", field, where)
        texts = Texts(prompt, chosen, rejected) if prompt is not None else _split_implicit(chosen, rejected, where)
    elif isinstance(chosen, list) and isinstance(rejected, list):
        texts = _conversation(prompt, chosen, rejected, where, render)
    else:
        raise DataError(f"{where}: field rejected: must be of the same kind as chosen (both strings or both lists)")
    return _checked(_move_trailing_space(texts), where)


def _missing_or_type(row: Mapping[str, object], field: str) -> str:
    if row.get(field) is None:
        return "is missing" if field not in row else "is null"
    return f"must be a string or a list of messages, not {type(row[field]).__name__}"


def _check_text(text: str, field: str, where: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(f"{where}: field {field}: is not valid UTF-8 text") from None


def _checked(texts: Texts, where: str) -> Texts:
    if not texts.prompt:
        raise DataError(f"{where}: field prompt: is empty")
    for field, value in (("chosen", texts.chosen), ("rejected", texts.rejected)):
        if not value.strip():
            raise DataError(f"{where}: field {field}: the completion is empty")
    if texts.chosen == texts.rejected:
        raise DataError(f"{where}: field rejected: is identical to chosen, so the pair says nothing")
    return texts


def _move_trailing_space(texts: Texts) -> Texts:
    """Blanks that end the prompt go to the front of both completions: tokenizers join a blank to the next word."""
    prompt = texts.prompt.rstrip(" ")
    blanks = texts.prompt[len(prompt) :]
    return Texts(prompt, blanks + texts.chosen, blanks + texts.rejected, texts.templated)


def _split_implicit(chosen: str, rejected: str, where: str) -> Texts:
    """Split at the last Assistant turn; texts without turns split at the last blank both have in common."""
    turns = TURN in chosen, TURN in rejected
    if turns[0] != turns[1]:
        field = "rejected" if turns[0] else "chosen"
        raise DataError(f"{where}: field {field}: has no Assistant turn although the other text has one")
    if not turns[0]:
        return _split_common(chosen, rejected, where)
    parts = []
    for field, text in (("chosen", chosen), ("rejected", rejected)):
        cut = text.rindex(TURN) + len(TURN)
        if OTHER_TURN in text[cut:]:
            raise DataError(f"{where}: field {field}: the dialogue does not end in an Assistant turn")
        parts.append((text[:cut], text[cut:]))
    if parts[0][0] != parts[1][0]:
        raise DataError(
            f"{where}: field rejected: its dialogue before the last Assistant turn differs from that of chosen"
        )
    return Texts(parts[0][0], parts[0][1], parts[1][1])


def _split_common(chosen: str, rejected: str, where: str) -> Texts:
    cut = next((place for place, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), None)
    cut = min(len(chosen), len(rejected)) if cut is None else cut
    while cut > 0 and not chosen[cut - 1].isspace():
        cut -= 1
    cut -= cut > 0  # the blank itself starts the completions
    if cut == 0:
        raise DataError(f"{where}: field prompt: is missing, and chosen and rejected share no first words")
    return Texts(chosen[:cut], chosen[cut:], rejected[cut:])


def _conversation(
    prompt: object, chosen: list[object], rejected: list[object], where: str, render: Render | None
) -> Texts:
    if render is None:
        raise DataError(
            f"{where}: field chosen: is a list of messages, which needs the chat template of the model's tokenizer; "
            "this model has none (use a chat model, or string columns)"
        )
    best, worst = _messages(chosen, "chosen", where), _messages(rejected, "rejected", where)
    if isinstance(prompt, str) and best[0] != {"role": "user", "content": prompt}:
        asked: list[Message] | None = [{"role": "user", "content": prompt}]
    else:  # a string that only repeats the first user message adds nothing
        asked = _messages(prompt, "prompt", where) if isinstance(prompt, list) else None
    if asked is None:
        asked, rest = best[:-1], worst[:-1]
        if not asked:
            raise DataError(f"{where}: field prompt: is missing, and chosen holds one message only")
        if asked != rest:
            raise DataError(f"{where}: field rejected: its messages before the last differ from those of chosen")
        best, worst = best[-1:], worst[-1:]
    for field, messages in (("chosen", best), ("rejected", worst)):
        if messages[-1]["role"] != "assistant":
            raise DataError(f"{where}: field {field}: must end in a message of role assistant")
    if asked[-1]["role"] == "assistant":
        raise DataError(f"{where}: field prompt: must not end in a message of role assistant")
    start = _rendered(render, asked, True, "prompt", where)
    return Texts(
        start,
        _completion(render, asked, best, start, "chosen", where),
        _completion(render, asked, worst, start, "rejected", where),
        templated=True,
    )


def _messages(value: list[object], field: str, where: str) -> list[Message]:
    if not value:
        raise DataError(f"{where}: field {field}: holds no message")
    found: list[Message] = []
    for place, item in enumerate(value):
        role = item.get("role") if isinstance(item, Mapping) else None
        content = item.get("content") if isinstance(item, Mapping) else None
        if not isinstance(role, str) or not isinstance(content, str):
            raise DataError(f"{where}: field {field}[{place}]: needs the strings role and content")
        _check_text(content, f"{field}[{place}].content", where)
        found.append({"role": role, "content": content})
    if field != "prompt" and not found[-1]["content"].strip():
        raise DataError(f"{where}: field {field}: the completion is empty")
    return found


def _rendered(render: Render, messages: list[Message], generate: bool, field: str, where: str) -> str:
    try:
        return render(messages, generate)
    except ValueError as error:
        raise DataError(f"{where}: field {field}: the chat template refuses it ({error})") from error


def _completion(render: Render, asked: list[Message], reply: list[Message], start: str, field: str, where: str) -> str:
    whole = _rendered(render, asked + reply, False, field, where)
    if not whole.startswith(start):
        raise DataError(f"{where}: field {field}: the chat template writes the prompt differently before a reply")
    return whole[len(start) :]
