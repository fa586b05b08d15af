"""The text of every point (question, option) that a language model embeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from fedpdpo_secure.data.pairs import DataError
from fedpdpo_secure.pluralllm.survey import Question

PromptForm = Literal["plain", "alpaca"]


def point_texts(questions: Sequence[Question], form: PromptForm = "plain") -> list[str]:
    """One text per point, in the order of the rows: question and option, or the published prompt around them."""
    write = _plain_text if form == "plain" else _alpaca_text
    return [write(question, place) for question in questions for place in range(len(question.options))]


def _plain_text(question: Question, place: int) -> str:
    return f"{question.text}\n{question.options[place]}"


def _alpaca_text(question: Question, place: int) -> str:
    """The instruction format of Stanford Alpaca (tatsu-lab/stanford_alpaca) with the published run's instruction."""
    letters = [chr(ord("A") + index) for index in range(len(question.options))]
    if len(letters) > 26:
        raise DataError(f"question {question.qid}: has {len(letters)} options; the published prompt has 26 letters")
    listed = "".join(f"\n{letter}. {option}" for letter, option in zip(letters, question.options, strict=True))
    return (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAnswer the following question by picking ONE of the given options\n\n"
        f"### Input:\n{question.text}\n\nOptions:{listed}\n\n### Response:{letters[place]}. {question.options[place]}"
    )
