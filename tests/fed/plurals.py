"""Small federations of groups for tests of PluralLLM: a configuration, its holdings, a run, and data of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from fedpdpo_secure.config import Config, make_config
from fedpdpo_secure.methods import choose_method
from fedpdpo_secure.pluralllm.holdings import Holdings, load_holdings
from fedpdpo_secure.pluralllm.synthetic_survey import SyntheticSettings, make_synthetic
from fedpdpo_secure.pluralllm.task import PluralLLM
from fedpdpo_secure.report import RunResult
from fedpdpo_secure.run import run_training
from tests.fed.runs import Recorder

SMALL: dict[str, Any] = {
    "task": "pluralllm",
    "data": {"id": "groups"},
    "synthetic_survey": {"groups": 6, "questions": 30, "width": 8},
    "survey": {"questions_per_group": 60, "least_answers": 5},
    "federation": {"clients": 4, "rounds": 2, "local_steps": 2},
    "predictor": {"d_model": 8, "heads": 2, "layers": 1, "feedforward": 8},
    "episodes": {"least": 3, "most": 8, "evaluation_context": 5, "private": 3},
    "device": "cpu",
}
FREE: dict[str, Any] = {"privacy": {"unit": "none"}}
QUESTION: dict[str, Any] = {"privacy": {"unit": "question", "noise_multiplier": 1.5, "delta": 1e-4, "clip_norm": 0.5}}
SHARED: dict[str, Any] = {
    "privacy": {"unit": "question", "noise": "distributed", "noise_multiplier": 1.5, "delta": 1e-4},
    "federation": {"clients": 4, "rounds": 2, "local_steps": 1},
    "secagg": {"bits": 32},
}
CLIENT: dict[str, Any] = {
    "privacy": {"unit": "client", "noise": "distributed", "noise_multiplier": 1.5, "delta": 1e-4},
    "secagg": {"bits": 32},
}


def plural_config(*parts: dict[str, Any], **sections: Any) -> Config:
    """SMALL with `parts` and `sections` laid over it, section by section."""
    values: dict[str, Any] = {}
    for part in (SMALL, *parts, sections):
        for name, section in part.items():
            values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    return make_config(values)


def plural_task(folder: Path, *parts: dict[str, Any], **sections: Any) -> PluralLLM:
    config = plural_config(*parts, **sections)
    return PluralLLM(config, choose_method(config), load_holdings(config), folder / "personal")


def plural_run(
    folder: Path, *parts: dict[str, Any], resume: bool = False, progress: Recorder | None = None, **sections: Any
) -> RunResult:
    config = plural_config(*parts, output_dir=str(folder), **sections)
    return run_training(config, resume=resume, progress=progress or Recorder())


def write_survey(
    folder: Path, *, groups: int = 6, questions: int = 24, width: int = 8, **changes: dict[str, Any]
) -> dict[str, Any]:
    """A survey file of its own with embeddings beside it: the configuration's sections that name it.

    `changes`: group -> {question index: probabilities, None: not answered}.
    """
    made = make_synthetic(SyntheticSettings(groups=groups, questions=questions, width=width))
    rows = []
    for index, question in enumerate(made.survey.questions):
        answers = []
        for group in made.survey.groups:
            given = {**made.survey.answers[group], **changes.get(group.replace("-", "_"), {})}
            if given.get(index) is not None:
                probs = np.asarray(given[index], dtype=float)
                answers.append({"group": group, "dist": [float(value) for value in probs]})
        rows.append(
            {"qid": question.qid, "question": question.text, "options": list(question.options), "answers": answers}
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "survey.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    np.savez(folder / "points.npz", embeddings=made.embeddings, offsets=made.survey.offsets)
    return {
        "dataset_name": str(folder / "survey.jsonl"),
        "survey": {"embeddings": str(folder / "points.npz")},
    }


def holdings_of(*parts: dict[str, Any], **sections: Any) -> Holdings:
    return load_holdings(plural_config(*parts, **sections))
