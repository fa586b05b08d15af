"""The example through both systems runs as it stands, and what it prints is true."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NUMBER = r"([\d.e+-]+)"


@lru_cache
def output() -> str:
    """Standard output of the example, run once for all tests."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "examples" / "plural_to_dpo.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def numbers(pattern: str) -> list[float]:
    """The numbers of the one line that `pattern` matches."""
    found = re.findall(f"^{pattern}$", output(), flags=re.MULTILINE)
    assert len(found) == 1, (pattern, output())
    return [float(value) for value in (found[0] if isinstance(found[0], tuple) else found)]


@pytest.mark.slow
def test_the_predictor_is_trained_within_its_budget() -> None:
    pattern = rf"predictor: pretrained on {NUMBER} public groups, trained by {NUMBER} others in {NUMBER} rounds, "
    public, groups, rounds, spent, delta = numbers(rf"{pattern}epsilon {NUMBER} at delta {NUMBER}, unit question")
    assert (public, groups, rounds) == (8, 8, 5)
    assert 7.9 < spent <= 8.0 and delta == 1e-4


@pytest.mark.slow
def test_ten_answers_of_an_unseen_group_tell_its_favourites_on_known_and_on_new_questions() -> None:
    pattern = rf"best of n, questions that groups trained on: {NUMBER} \(chance {NUMBER}, "
    picked, chance, mean, count = numbers(
        rf"{pattern}mean of the groups that trained {NUMBER}\) of {NUMBER} favourites"
    )
    assert picked > chance + 0.3 and picked > mean
    assert count > 300
    picked, chance, count = numbers(
        rf"best of n, questions nobody trained on: {NUMBER} \(chance {NUMBER}\) of {NUMBER} favourites"
    )
    assert picked > chance + 0.25 and count > 100


@pytest.mark.slow
def test_every_pair_is_read_by_fedpdpo_which_protects_whole_groups() -> None:
    count, groups = numbers(rf"pairs: {NUMBER} of {NUMBER} groups")
    assert count == groups * 110 * 2  # 120 questions but the ten shown, two pairs each
    clients, fewest, most = numbers(rf"data check: {NUMBER} clients, {NUMBER} to {NUMBER} training pairs each")
    assert clients == groups and 100 < fewest <= most < 220
    pair = json.loads(re.findall(r"^one pair: (.*)$", output(), flags=re.MULTILINE)[0])
    options = {f" {line[2:]}" for line in pair["prompt"].splitlines() if line.startswith("- ")}
    assert {pair["chosen"], pair["rejected"]} <= options
    rounds, spent = numbers(rf"FedPDPO: {NUMBER} rounds, epsilon {NUMBER} of 8 at delta 1e-05, unit client")
    assert rounds == 2 and 7.9 < spent <= 8.0


@pytest.mark.slow
def test_the_example_says_what_a_claim_for_one_pair_would_have_been_worth() -> None:
    whole, pairs = numbers(
        rf"at unit pair, epsilon 8 for one pair would be epsilon {NUMBER} for the {NUMBER} pairs of one group"
    )
    assert whole > 8 * pairs > 800  # worse than adding epsilons up: delta stays
    assert "Not shown:" in output()
