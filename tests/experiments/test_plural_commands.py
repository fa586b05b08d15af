"""The commands on PluralLLM: plan and data check before a run; train, resume, ledger and transcript after it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.cli import main
from experiments.predictor_size import predictor_size
from fedpdpo_secure.config import load_config, make_config
from fedpdpo_secure.methods import choose_method
from fedpdpo_secure.pluralllm.artefact import save_predictor, seeded_generator
from fedpdpo_secure.pluralllm.holdings import load_holdings
from fedpdpo_secure.pluralllm.lora import with_lora
from fedpdpo_secure.pluralllm.predictor import PredictorShape, make_predictor
from fedpdpo_secure.pluralllm.task import PluralLLM
from fedpdpo_secure.report import LOCAL
from tests.fed.plurals import write_survey

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
task: pluralllm
data: {id: groups}
synthetic_survey: {groups: 6, questions: 30, width: 8}
survey: {questions_per_group: 60, least_answers: 5}
federation: {clients: 4, rounds: 2, local_steps: 1}
predictor: {d_model: 8, heads: 2, layers: 1, feedforward: 8}
episodes: {least: 3, most: 8, evaluation_context: 5, private: 3}
privacy: {unit: question, epsilon: 8, delta: 1.0e-4, clip_norm: 0.5}
device: cpu
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plural") / "config.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


def called(capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 0) -> tuple[dict[str, Any], str]:
    """(the JSON object on the last line, all that was shown before it) of one command."""
    ended = main([*(str(argument) for argument in arguments), "--json"])
    shown = capsys.readouterr()
    assert ended == code, shown.out + shown.err
    *lines, last = shown.out.splitlines()
    return json.loads(last), "\n".join([*lines, shown.err])


@pytest.fixture(scope="module")
def trained(config: Path) -> Path:
    """The folder of one small run."""
    folder = config.parent / "run"
    assert main(["train", str(config), "--output_dir", str(folder), "--quiet"]) == 0
    return folder


@pytest.mark.parametrize(
    "changes",
    [(), ("predictor.lora_r=2", "survey.pretrain=[group-00]"), ("privacy.noise=distributed", "secagg.bits=32")],
    ids=["whole", "adapter", "shares"],
)
def test_the_plan_counts_the_parameters_that_a_run_shares_and_noises(
    config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, changes: tuple[str, ...]
) -> None:
    options = [part for change in changes for part in ("--set", change)]
    values, shown = called(capsys, "plan", config, *options)
    chosen = load_config(config, changes)
    task = PluralLLM(chosen, choose_method(chosen), load_holdings(chosen), tmp_path)
    assert values["parameters"] == values["noised"] == task.noised_size()
    assert values["model_parameters"] == sum(
        value.numel() for name, value in task.predictor.named_parameters() if "lora_" not in name
    )
    assert values["embedding_width"] == 8 and values["memory_bytes"] is None
    assert values["unit"] == "question" and values["epsilon"] <= 8 and values["private"]
    for words in ("one group's answers to one question", "Poisson, rate 0.5", "twice the clip norm", "if the sample"):
        assert words in shown
    assert values["secagg_costs"]["dim"] == values["parameters"]


def test_the_published_sizes_give_the_published_count(tmp_path: Path) -> None:
    np.savez(tmp_path / "alpaca.npz", embeddings=np.zeros((2, 4096), np.float16))
    np.savez(tmp_path / "short.npz", emb=np.zeros((2, 384), np.float16))
    parts = {"task": "pluralllm", "dataset_name": "x.jsonl", "privacy": {"unit": "none"}}
    for name, count in (("alpaca.npz", 1_188_354), ("short.npz", None)):
        chosen = make_config({**parts, "survey": {"embeddings": str(tmp_path / name)}})
        size = predictor_size(chosen)
        assert size.parameters == size.predictor_parameters and count in (None, size.parameters)
    assert size.width == 384


def test_the_plan_reads_a_kept_predictor_and_says_null_where_a_width_is_unknown(
    config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    predictor = make_predictor(PredictorShape(8, d_model=16, heads=4, layers=2, feedforward=8), seeded_generator(0))
    with_lora(predictor, rank=3, alpha=6.0, generator=seeded_generator(1))
    save_predictor(tmp_path / "kept", predictor, lora_r=3, claim="public")
    values, _ = called(capsys, "plan", config, "--set", f"predictor.path={tmp_path / 'kept'}")
    assert values["parameters"] == sum(value.numel() for value in predictor.parameters() if value.requires_grad)
    unknown = ["--set", "dataset_name=x.jsonl", "--set", "survey.groups=[a, b, c, d]"]
    values, _ = called(capsys, "plan", config, *unknown, "--set", "privacy.arithmetic=float")
    assert values["parameters"] is None and values["upload_bytes"] is None and values["secagg_costs"] is None
    assert "survey.embeddings: missing" in values["model_unread"] and values["epsilon"] is not None
    values, _ = called(capsys, "plan", config, *unknown, code=3)  # integer noise needs the number of coordinates
    assert "survey.embeddings: missing" in json.dumps(values) and "--dim" in json.dumps(values)
    values, _ = called(capsys, "plan", config, *unknown, "--dim", "500")
    assert values["secagg_costs"]["dim"] == 500


def test_data_check_shows_groups_by_role_and_one_answer(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values, shown = called(capsys, "data", "check", config, "--set", "survey.pretrain=[group-01]")
    roles = {name: one["role"] for name, one in values["counts"].items()}
    assert roles["group-01"] == "pretrains" and sorted(roles.values()) == ["pretrains", *["trains"] * 4, "unseen"]
    assert values["clients"] == 4 and values["questions"] == 30 and values["embedding_width"] == 8
    assert values["source"] == "builtin:groups" and len(values["example"]["options"]) == len(values["example"]["probs"])
    assert values["example"]["question"] in shown and "held out" in shown and "group-01  pretrains" in shown


def test_data_check_reads_a_file_and_names_the_row_that_is_wrong(
    config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    written = write_survey(tmp_path)
    options = ["--set", f"dataset_name={written['dataset_name']}", "--set", "data.public=true"]
    options += ["--set", f"survey.embeddings={written['survey']['embeddings']}"]
    values, _ = called(capsys, "data", "check", config, *options)
    assert values["questions"] == 24 and sum(one["known"] + one["heldout"] for one in values["counts"].values()) > 50
    rows = Path(written["dataset_name"]).read_text().splitlines()
    broken = json.loads(rows[2])
    broken["answers"][0]["dist"][0] = -1
    Path(written["dataset_name"]).write_text("\n".join([*rows[:2], json.dumps(broken), *rows[3:]]) + "\n")
    values, _ = called(capsys, "data", "check", config, *options, code=2)
    assert "survey.jsonl row 3: field answers[0].dist[0]" in values["error"]


def test_train_reports_alignment_and_its_ledgers_and_transcripts_verify(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verified, shown = called(capsys, "ledger", "verify", trained)
    assert "one group's answers to one question" in shown and verified["unit"] == "question"
    kept = json.loads((trained / "metrics.json").read_text())
    assert kept["epsilon"] == pytest.approx(verified["epsilon"])
    called(capsys, "transcript", "verify", trained)
    again, shown = called(capsys, "train", "--resume", trained)  # a finished run: nothing is left to do
    assert again["rounds"] == 2 and again["epsilon"] == pytest.approx(kept["epsilon"])
    wanted = {"alignment", "alignment_worst", "fairness", "cov", "unseen groups/alignment", "known questions/alignment"}
    assert wanted <= set(again["metrics"]) and again["metrics"] == kept[LOCAL]["served"]
    assert again["metrics_released"] == {} and again["unit"] == "question" and again["private"]
    for words in ("align", "unseen groups", "twice the clip norm", "preference predictor"):
        assert words in shown


def test_a_resumed_run_keeps_its_configuration(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values, _ = called(capsys, "train", "--resume", trained, "--set", "episodes.private=5", code=2)
    assert "episodes.private is 5 but the run has 3" in values["error"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("survey.groups=[group-00, group-01, group-02, grup-03]", "survey.groups: no answers of 'grup-03'"),
        ("survey.grops=[a]", "survey.grops: unknown key; did you mean 'groups'?"),
        ("episodes.target_rate=1.5", "episodes.target_rate"),
        ("privacy.unit=pair", "privacy.unit: pair is not a unit of task pluralllm"),
        ("federation.clients=40", "federation.clients: 40 asked for, the survey has 6 groups"),
        ("predictor.lora_r=64", "predictor.lora_r: rank must be between 1 and 8"),
        ("dataset_name=nowhere.jsonl", "survey.groups: name the groups that train"),
    ],
)
def test_a_wrong_configuration_is_one_line_naming_the_field_and_exit_2(
    config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, change: str, said: str
) -> None:
    values, _ = called(capsys, "train", config, "--set", change, "--output_dir", tmp_path / "run", code=2)
    assert values["error"].startswith(said) and "\n" not in values["error"]
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_the_quickstart_is_planned_and_its_groups_are_public(capsys: pytest.CaptureFixture[str]) -> None:
    path = ROOT / "experiments" / "configs" / "pluralllm_quickstart.yaml"
    values, _ = called(capsys, "plan", path)
    assert values["private"] and values["unit"] == "question" and values["parameters"] > 100
    assert load_config(path).data.public
