"""`fedpdpo data check` of a survey: who answered how much, on which side of the split, and one example."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from experiments.tables import count_of, print_table

if TYPE_CHECKING:
    from fedpdpo_secure.pluralllm.holdings import Holdings

SHOWN_GROUPS = 30
_ROLES = {"trains": 0, "unseen": 1, "pretrains": 2}  # in this order


def survey_values(holdings: Holdings) -> dict[str, Any]:
    """What is in a survey, as JSON values. The counts are facts about private data."""
    survey, split = holdings.survey, holdings.split
    counts = {
        group: {
            "role": _role(holdings, group),
            "known": len(split.known[group]),
            "heldout": len(split.heldout[group]),
        }
        for group in survey.groups
        if group in split.known
    }
    return {
        "clients": len(holdings.names),
        "questions": len(survey.questions),
        "points": int(survey.offsets[-1]),
        "embedding_width": holdings.embeddings.width,
        "counts": counts,
        "example": _example(holdings),
        "source": holdings.source,
        "notes": list(holdings.notes),
    }


def show_survey(values: dict[str, Any]) -> None:
    """Print `survey_values`."""
    click.echo(f"source  {values['source']}")
    for note in values["notes"]:
        click.echo(f"note    {note}")
    click.echo(
        f"{count_of(values['questions'], 'question')}, {count_of(values['points'], 'option')} in all, embeddings of "
        f"width {values['embedding_width']}"
    )
    example = values["example"]
    click.echo(f"one answer of {example['group']}:\n  {example['question']}")
    for option, share in zip(example["options"], example["probs"], strict=True):
        click.echo(f"  {share:6.1%}  {option}")
    counts = sorted(values["counts"].items(), key=lambda item: (_ROLES[item[1]["role"]], item[0]))
    rows = [[name, one["role"], str(one["known"]), str(one["heldout"])] for name, one in counts]
    print_table(["group", "role", "questions", "held out"], rows[:SHOWN_GROUPS])
    if len(rows) > SHOWN_GROUPS:
        click.echo(f"and {len(rows) - SHOWN_GROUPS} more groups")


def _role(holdings: Holdings, group: str) -> str:
    if group in holdings.names:
        return "trains"
    return "pretrains" if group in holdings.pretrain else "unseen"


def _example(holdings: Holdings) -> dict[str, Any]:
    group = holdings.names[0]
    index = min(holdings.survey.answers[group])
    question = holdings.survey.questions[index]
    return {
        "group": group,
        "question": question.text,
        "options": list(question.options),
        "probs": [round(float(value), 6) for value in holdings.survey.answers[group][index]],
    }
