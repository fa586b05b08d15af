"""Preference pairs for DPO, made from what a predictor says a group would answer.

What the pairs give away. They are computed from the predictor (public; trained under a claim or not), the question's
public words, and the context: the group's own answers, un-noised.
- With a public context the pairs are post-processing of the predictor: they cost nothing beyond its claim.
- With the group's own answers as context they are private data of that group. They stay with it; a pair that leaves is
  a release without noise, whatever the predictor's epsilon.
- ONE context answer moves the shares behind EVERY pair of its group, so FedPDPO at unit `pair` says nothing about that
  answer: it protects a pair, and here no pair is anybody's. Use unit `client` (the whole update of the group, hence its
  whole file of n pairs) or `privacy.units.person(events, delta, pairs=n)`, never epsilon as printed for one pair. Both
  say "the group is there or not"; one changed answer REPLACES its update, or its n pairs. A group that also helped to
  train the predictor pays for both: epsilons and deltas add up.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedpdpo_secure.data.pairs import DataError
from fedpdpo_secure.pluralllm.reward import GroupReward, Vectors
from fedpdpo_secure.pluralllm.survey import Question

Comparison = tuple[int, int]  # places of the chosen and of the rejected option
Compare = Callable[[NDArray[np.float64]], list[Comparison]]  # predicted shares float64[k] -> comparisons
Row = dict[str, str]  # prompt, chosen, rejected, group


def bradley_terry(shares: NDArray[np.float64], *, pairs: int, rng: np.random.Generator) -> list[Comparison]:
    """`pairs` random pairs of options; a wins against b with chance shares[a] / (shares[a] + shares[b]).

    That is a judge drawn from the group (Bradley and Terry 1952; Luce 1959): minorities are heard by their share. None
    for fewer than two options. Raises ValueError where pairs is below 1.
    """
    if pairs < 1:
        raise ValueError(f"pairs must be at least 1, got {pairs}")
    found: list[Comparison] = []
    for _ in range(pairs if len(shares) > 1 else 0):
        first, second = (int(place) for place in rng.choice(len(shares), 2, replace=False))
        both = shares[first] + shares[second]
        wins = rng.random() < (shares[first] / both if both > 0 else 0.5)  # both can underflow to 0
        found.append((first, second) if wins else (second, first))
    return found


def best_against_worst(shares: NDArray[np.float64], *, least_margin: float) -> list[Comparison]:
    """The largest share against the smallest, if they are at least `least_margin` apart, else nothing.

    The group's majority alone is heard. Raises ValueError unless least_margin is in (0, 1).
    """
    if not 0 < least_margin < 1:
        raise ValueError(f"least_margin must be in (0, 1), got {least_margin}")
    best, worst = int(np.argmax(shares)), int(np.argmin(shares))
    return [(best, worst)] if shares[best] - shares[worst] >= least_margin else []


def prompt_of(question: Question, *, list_options: bool = True) -> str:
    """The question as one turn of a user, ending in `Assistant:` without a blank; options one to a line."""
    listed = "".join(f"\n- {option}" for option in question.options) if list_options else ""
    return f"User: {question.text}{listed}\n\nAssistant:"


def preference_rows(
    reward: GroupReward,
    questions: Iterable[tuple[Question, Vectors]],
    *,
    group: str,
    compare: Compare,
    list_options: bool = True,
) -> Iterator[Row]:
    """One row for each comparison of each question, read by `load_federation` with `data.partition: group`.

    Args:
        reward: of `group`; private to it unless its context is public (see the module).
        questions: with their options' embeddings, float32[k, W].
        compare: for instance `lambda shares: bradley_terry(shares, pairs=2, rng=rng)`.

    Raises:
        DataError: an option without words, or two with the same.
        ValueError: as `GroupReward.scores`.
    """
    for question, vectors in questions:
        _check_options(question, len(vectors))
        prompt = prompt_of(question, list_options=list_options)
        for chosen, rejected in compare(reward.scores(vectors)):
            options = question.options
            yield {
                "prompt": prompt,
                "chosen": f" {options[chosen]}",
                "rejected": f" {options[rejected]}",
                "group": group,
            }


def write_rows(path: Path, rows: Iterable[Row]) -> int:
    """Write JSONL that its owner alone can read; returns the number of rows.

    Raises:
        FileExistsError: there is such a file; nothing is overwritten.
    """
    count = 0
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def _check_options(question: Question, vectors: int) -> None:
    words = [option.strip() for option in question.options]
    if len(words) != vectors:
        raise DataError(f"question {question.qid}: has {len(words)} options and {vectors} embeddings")
    if "" in words or len(set(words)) < len(words):
        raise DataError(f"question {question.qid}: options must be different texts, none of them empty")
