"""Rows become three texts whose concatenations are the row's own texts, or one line says why not."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpdpo_secure.data import DataError
from fedpdpo_secure.data.shapes import Message, Texts, parse_row

WHERE = "pref.jsonl row 517"
user = {"role": "user", "content": "What is it?"}


def said(content: str) -> Message:
    return {"role": "assistant", "content": content}


def render(messages: list[Message], generate: bool) -> str:
    """A chat template in the manner of ChatML that also checks roles."""
    if any(message["role"] == "nobody" for message in messages):
        raise ValueError("unknown role nobody")
    text = "".join(f"<{message['role']}>{message['content']}<end>\n" for message in messages)
    return text + ("<assistant>" if generate else "")


def refusal(row: dict[str, object], template=render) -> str:
    with pytest.raises(DataError) as caught:
        parse_row(row, WHERE, template)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{WHERE}: field ")
    return message


def test_an_explicit_row_is_taken_as_it_is() -> None:
    row = {"prompt": "The sky is", "chosen": " blue.", "rejected": " green.", "id": 7}
    assert parse_row(row, WHERE) == Texts("The sky is", " blue.", " green.")


def test_a_blank_at_the_end_of_the_prompt_moves_to_the_completions() -> None:
    row = {"prompt": "The sky is ", "chosen": "blue.", "rejected": "green."}
    assert parse_row(row, WHERE) == Texts("The sky is", " blue.", " green.")


def test_hh_rlhf_is_split_at_the_last_assistant_turn_even_if_the_replies_begin_alike() -> None:
    start = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: And?\n\nAssistant:"
    row = {"chosen": start + " I think so too.", "rejected": start + " I think not."}
    assert parse_row(row, WHERE) == Texts(start, " I think so too.", " I think not.")


def test_hh_rlhf_dialogues_that_differ_before_the_last_turn_are_refused_by_row() -> None:
    row = {
        "chosen": "\n\nHuman: Hi\n\nAssistant: A\n\nHuman: And?\n\nAssistant: yes",
        "rejected": "\n\nHuman: Hi\n\nAssistant: B\n\nHuman: And?\n\nAssistant: no",
    }
    assert "differs" in refusal(row)


def test_hh_rlhf_dialogues_of_unequal_turns_or_ending_with_the_human_are_refused() -> None:
    one = "\n\nHuman: Hi\n\nAssistant: A"
    assert "differs" in refusal({"chosen": one, "rejected": one + "\n\nHuman: And?\n\nAssistant: B"})
    assert "does not end" in refusal({"chosen": one, "rejected": one + "x\n\nHuman: And?"})
    assert "no Assistant turn" in refusal({"chosen": one, "rejected": "\n\nHuman: Hi"})


def test_texts_without_turns_are_split_at_the_last_common_blank() -> None:
    row = {"chosen": "The sky is bluish today", "rejected": "The sky is blue"}
    assert parse_row(row, WHERE) == Texts("The sky is", " bluish today", " blue")


def test_texts_without_a_common_start_are_refused() -> None:
    assert "share no first words" in refusal({"chosen": "Yes.", "rejected": "No."})
    assert "share no first words" in refusal({"chosen": "Yesterday", "rejected": "Yes"})


def test_conversations_are_rendered_by_the_chat_template() -> None:
    expected = Texts("<user>What is it?<end>\n<assistant>", "A cat.<end>\n", "A dog.<end>\n", templated=True)
    explicit = {"prompt": [user], "chosen": [said("A cat.")], "rejected": [said("A dog.")]}
    implicit = {"chosen": [user, said("A cat.")], "rejected": [user, said("A dog.")]}
    repeated = {**implicit, "prompt": user["content"]}
    mixed = {**explicit, "prompt": user["content"]}
    for row in (explicit, implicit, repeated, mixed):
        assert parse_row(row, WHERE, render) == expected


def test_conversations_without_a_chat_template_are_refused() -> None:
    row = {"chosen": [user, said("A")], "rejected": [user, said("B")]}
    assert "chat template" in refusal(row, template=None)


def test_a_template_that_writes_the_prompt_differently_before_a_reply_is_refused() -> None:
    def forgetful(messages: list[Message], generate: bool) -> str:
        return render(messages[-1:], generate)

    row = {"chosen": [user, said("A")], "rejected": [user, said("B")]}
    assert "differently" in refusal(row, template=forgetful)


def test_a_template_that_refuses_the_roles_is_quoted() -> None:
    nobody = {"role": "nobody", "content": "x"}
    assert "unknown role" in refusal({"chosen": [nobody, said("A")], "rejected": [nobody, said("B")]})


@pytest.mark.parametrize(
    ("row", "field", "says"),
    [
        ({"prompt": "p", "rejected": " b"}, "chosen", "is missing"),
        ({"prompt": "p", "chosen": " a", "rejected": None}, "rejected", "is null"),
        ({"prompt": "p", "chosen": 5, "rejected": " b"}, "chosen", "not int"),
        ({"prompt": 5, "chosen": " a", "rejected": " b"}, "prompt", "not int"),
        ({"prompt": "", "chosen": " a", "rejected": " b"}, "prompt", "is empty"),
        ({"prompt": "  ", "chosen": "a", "rejected": "b"}, "prompt", "is empty"),
        ({"prompt": "p", "chosen": "", "rejected": " b"}, "chosen", "empty"),
        ({"prompt": "p", "chosen": " a", "rejected": " \n"}, "rejected", "empty"),
        ({"prompt": "p", "chosen": " a", "rejected": " a"}, "rejected", "identical"),
        ({"chosen": "x a", "rejected": "x a"}, "rejected", "identical"),
        ({"prompt": "p", "chosen": " \ud800", "rejected": " a"}, "chosen", "UTF-8"),
        ({"prompt": "p", "chosen": [user, said("a")], "rejected": " b"}, "rejected", "same kind"),
        ({"prompt": [user], "chosen": " a", "rejected": " b"}, "prompt", "list of messages"),
        ({"chosen": [], "rejected": [said("b")]}, "chosen", "holds no message"),
        ({"chosen": [said("a")], "rejected": [said("b")]}, "prompt", "is missing"),
        ({"chosen": [user, said("a")], "rejected": [said("q"), said("b")]}, "rejected", "differ"),
        ({"chosen": [user, said(" ")], "rejected": [user, said("b")]}, "chosen", "empty"),
        ({"chosen": [user, user], "rejected": [user, said("b")]}, "chosen", "role assistant"),
        ({"prompt": [said("x")], "chosen": [said("a")], "rejected": [said("b")]}, "prompt", "must not end"),
        ({"chosen": [user, {"role": "assistant"}], "rejected": [user, said("b")]}, "chosen[1]", "role and content"),
    ],
)
def test_a_faulty_row_is_refused_in_one_line_naming_row_and_field(row, field: str, says: str) -> None:
    message = refusal(row)
    assert message.startswith(f"{WHERE}: field {field}: ")
    assert says in message


texts = st.text(alphabet="ab \n", max_size=12)


@settings(deadline=None)
@given(prompt=texts, chosen=texts, rejected=texts)
def test_no_character_is_lost_or_gained_by_explicit_rows(prompt: str, chosen: str, rejected: str) -> None:
    try:
        parsed = parse_row({"prompt": prompt, "chosen": chosen, "rejected": rejected}, WHERE)
    except DataError:
        assert not prompt.strip(" ") or not chosen.strip() or not rejected.strip() or chosen == rejected
        return
    assert parsed.prompt + parsed.chosen == prompt + chosen
    assert parsed.prompt + parsed.rejected == prompt + rejected
    assert not parsed.prompt.endswith(" ")


@settings(deadline=None)
@given(prompt=texts, chosen=texts, rejected=texts)
def test_no_character_is_lost_or_gained_by_implicit_rows(prompt: str, chosen: str, rejected: str) -> None:
    for turn in ("", "\n\nAssistant:"):
        row = {"chosen": prompt + turn + chosen, "rejected": prompt + turn + rejected}
        try:
            parsed = parse_row(row, WHERE)
        except DataError:
            continue
        assert parsed.prompt + parsed.chosen == row["chosen"]
        assert parsed.prompt + parsed.rejected == row["rejected"]
        assert parsed.chosen.strip()
        assert parsed.rejected.strip()
        if turn:
            assert parsed.prompt == prompt + turn


@settings(deadline=None)
@given(start=st.text(alphabet="ab", min_size=1, max_size=5), more=st.text(alphabet="ab", min_size=1, max_size=5))
def test_a_reply_that_begins_another_reply_is_kept_whole(start: str, more: str) -> None:
    shape = "\n\nHuman: q\n\nAssistant: "
    parsed = parse_row({"chosen": shape + start, "rejected": shape + start + more}, WHERE)
    assert (parsed.chosen, parsed.rejected) == (" " + start, " " + start + more)
    parsed = parse_row({"chosen": "q: " + start, "rejected": "q: " + start + more}, WHERE)
    assert (parsed.prompt, parsed.chosen, parsed.rejected) == ("q:", " " + start, " " + start + more)
