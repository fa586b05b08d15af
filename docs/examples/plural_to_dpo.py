"""One example through both systems: groups train a preference predictor, which makes pairs that FedPDPO trains on.

Run it: python docs/examples/plural_to_dpo.py  (under two minutes on one core; nothing is downloaded, nothing is kept)

The groups, their answers and all pairs are made up, so `data.public` is true below. With real answers it is false, and
steps 2 to 5 happen where the answers of the group are: see docs/pluralllm.md, "As a reward model".
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml

from fedpdpo_secure.config import load_config
from fedpdpo_secure.pluralllm.artefact import FOLDER, load_predictor
from fedpdpo_secure.pluralllm.holdings import Holdings, load_holdings
from fedpdpo_secure.pluralllm.predictor import Predictor
from fedpdpo_secure.pluralllm.preferences import Row, bradley_terry, preference_rows, write_rows
from fedpdpo_secure.pluralllm.reward import Answered, GroupReward, Vectors
from privacy.calibration import noise_multiplier
from privacy.events import gaussian_event
from privacy.units import person

ROOT = Path(__file__).resolve().parents[2]
PUBLIC = [f"group-{number:02d}" for number in range(8)]  # published their answers: the predictor starts from them
PREDICTOR = {  # the quickstart with fewer groups, all of them small, and a longer public start
    "synthetic_survey": {"groups": 24},
    "federation": {"clients": 8, "rounds": 5, "local_steps": 2, "server_momentum": 0},
    "survey": {"pretrain": PUBLIC},
    "predictor": {"d_model": 32, "heads": 4, "feedforward": 32, "layers": 1, "lora_r": 2, "pretrain_steps": 1000},
    "episodes": {"least": 8, "most": 12, "private": 4},
    "schedule": {"pretrain_learning_rate": 4e-3, "private_learning_rate": 0.1},
    "privacy": {"clip_norm": 0.5, "sample_rate": 0.5},
}
CONTEXT = 10  # questions that an unseen group answers
CLIENTS, PAIRS = 6, 2  # groups that go on to FedPDPO; pairs for each question
EPSILON, DELTA, ROUNDS = 8.0, 1e-5, 2


def fedpdpo(command: str, *arguments: object) -> dict:
    """The JSON of one command of the project."""
    line = [sys.executable, "-m", "experiments.cli", *command.split(), *map(str, arguments), "--quiet", "--json"]
    done = subprocess.run(line, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    return json.loads(done.stdout.splitlines()[-1])


# ---- 1. the first federation: groups train the predictor, their answers stay with them


def train_predictor(run: Path) -> tuple[Predictor, Holdings]:
    """A frozen predictor from public groups; the federation trains an adapter on it under question-level privacy."""
    changed = [f"{section}.{key}={value}" for section, chosen in PREDICTOR.items() for key, value in chosen.items()]
    overrides = [argument for override in changed for argument in ("--set", override)]
    result = fedpdpo("train", "experiments/configs/pluralllm_quickstart.yaml", "--output_dir", run, *overrides)
    holdings = load_holdings(load_config(run / "config.yaml"))
    spent = f"epsilon {result['epsilon']:.2f} at delta {result['delta']:g}, unit {result['unit']}"
    print(
        f"predictor: pretrained on {len(holdings.pretrain)} public groups, trained by {len(holdings.names)} others in "
        f"{result['rounds']} rounds, {spent}"
    )
    return load_predictor(run / FOLDER), holdings


# ---- 2. a group that took no part answers a few questions, and the predictor is its reward model


def vectors(holdings: Holdings, question: int) -> Vectors:
    return holdings.embeddings.values[holdings.embeddings.rows(question)]


def reward_of(predictor: Predictor, holdings: Holdings, group: str) -> tuple[GroupReward, frozenset[int]]:
    """The reward model of `group`, and the questions it was shown."""
    known = holdings.split.known[group]
    shown = np.random.default_rng([0, *group.encode()]).permutation(known)[:CONTEXT].tolist()
    given = holdings.survey.answers[group]
    context = tuple(Answered(vectors(holdings, question), given[question]) for question in shown)
    return GroupReward(predictor, context), frozenset(shown)


# ---- 3. best of n: is the group's favourite option picked?


def best_of_n(predictor: Predictor, holdings: Holdings) -> None:
    split, answers = holdings.split, holdings.survey.answers
    asked = (*holdings.names, *holdings.pretrain)
    hits: dict[str, list[tuple[float, float, float]]] = {"known": [], "new": []}
    for group in split.unseen_groups:
        reward, shown = reward_of(predictor, holdings, group)
        for kind, questions in (("known", split.known[group]), ("new", split.heldout[group])):
            for question in (int(number) for number in questions if int(number) not in shown):
                favourite = int(np.argmax(answers[group][question]))
                picked = reward.best_of(vectors(holdings, question)) == favourite
                others = [answers[name][question] for name in asked if question in answers[name]]
                average = int(np.argmax(np.mean(others, axis=0))) == favourite if others else False
                hits[kind].append((picked, 1 / len(answers[group][question]), average))
    for kind, words in (("known", "questions that groups trained on"), ("new", "questions nobody trained on")):
        picked, chance, average = np.mean(hits[kind], axis=0)
        mean = f", mean of the groups that trained {average:.3f}" if kind == "known" else ""
        print(f"best of n, {words}: {picked:.3f} (chance {chance:.3f}{mean}) of {len(hits[kind])} favourites")


# ---- 4. pairs for DPO; each group writes its own


def rows_of(predictor: Predictor, holdings: Holdings, group: str) -> Iterator[Row]:
    reward, shown = reward_of(predictor, holdings, group)
    rng = np.random.default_rng([1, *group.encode()])
    asked = [number for number in range(len(holdings.survey.questions)) if number not in shown]
    questions = [(holdings.survey.questions[number], vectors(holdings, number)) for number in asked]
    yield from preference_rows(
        reward, questions, group=group, compare=lambda shares: bradley_terry(shares, pairs=PAIRS, rng=rng)
    )


# ---- 5. the second federation: FedPDPO on the pairs. The unit is a whole group: one answer is behind all of its pairs


def dpo_config(pairs: Path, run: Path) -> dict:
    return {
        "task": "fedpdpo",
        "model_name_or_path": "builtin:tiny",
        "dataset_name": str(pairs),
        "data": {"id": "plural-pairs", "public": True, "partition": "group"},
        "tiny": {"hidden_size": 32, "layers": 1, "warm_start_steps": 100},
        "federation": {"clients": CLIENTS, "rounds": ROUNDS, "local_steps": 8},
        "lora": {"r": 4, "alpha": 8, "train": "B"},
        "privacy": {"unit": "client", "noise": "distributed", "epsilon": EPSILON, "delta": DELTA, "clip_norm": 0.5},
        "secagg": {"bits": 32},
        "device": "cpu",
        "output_dir": str(run),
    }


def group_epsilon(pairs: int) -> float:
    """What EPSILON for one pair would mean for all pairs of a group: every context answer is behind every pair."""
    noise = noise_multiplier(epsilon=EPSILON, delta=DELTA, sample_rate=0.5, steps=ROUNDS)
    event = gaussian_event(noise_multiplier=noise, sample_rate=0.5, steps=ROUNDS)
    return person([event], DELTA, pairs=pairs).epsilon


def main(folder: Path) -> None:
    predictor, holdings = train_predictor(folder / "predictor")
    best_of_n(predictor, holdings)

    pairs, config = folder / "pairs.jsonl", folder / "dpo.yaml"
    groups = holdings.split.unseen_groups[:CLIENTS]
    count = write_rows(pairs, (row for group in groups for row in rows_of(predictor, holdings, group)))
    print(f"pairs: {count} of {len(groups)} groups")

    config.write_text(yaml.safe_dump(dpo_config(pairs, folder / "dpo")), encoding="utf-8")
    checked = fedpdpo("data check", config)
    train = [counts["train"] for counts in checked["counts"].values()]
    print(f"data check: {checked['clients']} clients, {min(train)} to {max(train)} training pairs each")
    print(f"one pair: {json.dumps(checked['example'])}")

    result = fedpdpo("train", config)
    print(
        f"FedPDPO: {result['rounds']} rounds, epsilon {result['epsilon']:.2f} of {EPSILON:g} at delta {DELTA:g}, "
        f"unit {result['unit']}"
    )
    print(
        f"at unit pair, epsilon {EPSILON:g} for one pair would be epsilon {group_epsilon(max(train)):.0f} for the "
        f"{max(train)} pairs of one group"
    )
    print(
        "Not shown: that two rounds teach the language model anything; that scores of free texts are right (the "
        "predictor knows survey options); protection of a group against those who read its own pairs."
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(Path(scratch))
