"""Whole runs of PluralLLM in every mode: ledgers, files, baselines, resume, and the same sum plain as masked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpdpo_secure.config import ConfigError, make_config
from fedpdpo_secure.data.pairs import DataError
from fedpdpo_secure.local.plan import NonFiniteError
from fedpdpo_secure.pluralllm.artefact import load_predictor
from fedpdpo_secure.report import LOCAL, RunResult, read_reports
from fedpdpo_secure.statement import JSON_NAME, TEXT_NAME
from privacy.discrete import norm_bound_squared
from privacy.distributed import BETA
from privacy.errors import RowsChargedElsewhere
from privacy.events import IntegerGaussian
from privacy.ledger import verify_dir
from privacy.ledger_heads import read_head
from privacy.ledger_store import read
from privacy.ledger_view import charged_events
from secagg.transcript import read_transcript, transcript_path
from tests.fed.plurals import CLIENT, FREE, QUESTION, SHARED, holdings_of, plural_run, write_survey
from tests.fed.runs import Recorder

LOCAL_METHOD = {"method": {"name": "local"}}
CENTRAL = {"method": {"name": "centralized"}, "secagg": {"enabled": False}}
METRICS = {"alignment", "alignment_worst", "alignment_micro", "fairness", "cov", "known questions/alignment"}
UNSEEN_METRICS = {"unseen groups/alignment", "unseen groups, unseen questions/alignment"}


def load_vector(folder: Path) -> np.ndarray:
    """All weights of the predictor that a run left behind."""
    predictor = load_predictor(folder / "shared_predictor")
    return np.concatenate([value.numpy().ravel() for _, value in sorted(predictor.state_dict().items())])


MODES = {"question": QUESTION, "shared": SHARED, "client": CLIENT, "none": FREE}
RunOf = Callable[[str], tuple[Path, RunResult]]


@pytest.fixture(scope="module")
def run_of(tmp_path_factory: pytest.TempPathFactory) -> RunOf:
    """Folder and result of a small finished run in a mode; each is trained once."""
    done: dict[str, tuple[Path, RunResult]] = {}

    def trained(mode: str) -> tuple[Path, RunResult]:
        if mode not in done:
            folder = tmp_path_factory.mktemp("run") / mode
            done[mode] = folder, plural_run(folder, MODES[mode])
        return done[mode]

    return trained


@pytest.mark.parametrize("mode", ["question", "shared", "client"])
def test_a_private_run_charges_its_own_unit_and_its_ledgers_verify(run_of: RunOf, mode: str) -> None:
    folder, result = run_of(mode)
    assert result.private and result.rounds == 2 and result.epsilon is not None
    found = verify_dir(folder)
    assert len(found) == 4 and all(one.ok for one in found)
    unit = MODES[mode]["privacy"]["unit"]
    assert {one.unit for one in found} == {unit}
    assert max(one.epsilon.epsilon for one in found) == result.epsilon
    for one in found:
        assert read_head(one.path).client.startswith("group-")
    assert set(result.metrics) >= METRICS | UNSEEN_METRICS
    values = json.loads((folder / "metrics.json").read_text())
    assert values["unit"] == unit and values["released"] == {}
    assert set(values[LOCAL]["served"]) >= METRICS and "nearest group: alignment" in values[LOCAL]["untrained"]
    load_predictor(folder / "shared_predictor")


def test_the_charged_event_is_of_the_unit_question_with_twice_the_norm(run_of: RunOf) -> None:
    folder, _ = run_of("question")
    events = charged_events(read(verify_dir(folder)[0].path).records)
    assert len(events) == 2 and all(isinstance(event, IntegerGaussian) for event in events)
    size = len(load_vector(folder))
    for event in events:
        assert event.unit == "question" and event.steps == 2
        assert event.norm_squared == 4 * norm_bound_squared(65536.0, size, BETA)
        assert event.variance >= 1.5**2 * event.norm_squared


@pytest.mark.parametrize("mode", MODES)
def test_every_round_leaves_a_transcript_and_a_report(run_of: RunOf, mode: str) -> None:
    folder, _ = run_of(mode)
    reports = read_reports(folder)
    assert [report.round_index for report in reports] == [1, 2]
    for report in reports:
        assert report.task == "pluralllm" and report.transcript_head
        assert read_transcript(transcript_path(folder / "transcript", report.round_index))
        assert {"alignment", "alignment_worst", "fairness"} <= set(report.local)
        assert "unseen groups/alignment" in report.released  # the built-in groups are public
        assert ("loss" in report.released) == (mode == "none")


def test_masks_change_no_bit_of_what_a_federation_learns(tmp_path: Path) -> None:
    """Question-level shares under a test seed: the same coins with secure aggregation and without."""
    plain = {"secagg": {"bits": 32, "enabled": False}}
    found = []
    for name, seed, parts in (("masked", 7, {}), ("plain", 7, plain), ("other", 8, {})):
        seeded = {"privacy": {**SHARED["privacy"], "insecure_seed": seed}}
        result = plural_run(tmp_path / name, SHARED, seeded, parts)
        assert not result.private and result.epsilon is None  # noise that can be repeated
        found.append(load_vector(tmp_path / name))
    assert np.array_equal(found[0], found[1]) and not np.array_equal(found[0], found[2])


@pytest.mark.parametrize("baseline", [LOCAL_METHOD, CENTRAL], ids=["local", "centralized"])
def test_the_baselines_run_and_are_scored_on_the_same_questions(tmp_path: Path, baseline: dict[str, Any]) -> None:
    result = plural_run(tmp_path / "run", FREE, baseline)
    assert not result.private and set(result.metrics) >= METRICS
    assert result.served == ("own predictors" if baseline is LOCAL_METHOD else "pooled predictor")
    reference = plural_run(tmp_path / "reference", FREE)
    untrained = [
        json.loads((tmp_path / name / "metrics.json").read_text())[LOCAL]["untrained"] for name in ("run", "reference")
    ]
    assert untrained[0] == untrained[1] and reference.metrics["alignment"] != result.metrics["alignment"]
    if baseline is LOCAL_METHOD:
        states = list((tmp_path / "run" / "personal").glob("group-*/state-*.safetensors"))
        assert len({path.parent for path in states}) == 4
        assert all(path.stat().st_mode & 0o077 == 0 for path in states)


@pytest.mark.parametrize(
    "mode",
    [FREE, {**FREE, "schedule": {"moments": "keep"}}, {**FREE, **LOCAL_METHOD}, {**FREE, **CENTRAL}],
    ids=["reset", "keep", "local", "centralized"],
)
def test_a_resumed_run_gives_the_unbroken_result(tmp_path: Path, mode: dict[str, Any]) -> None:
    rounds = {"federation": {"clients": 4, "rounds": 3, "local_steps": 2}}
    whole = plural_run(tmp_path / "whole", mode, rounds)
    last = 1 if mode.get("method", {}).get("name") == "centralized" else 3
    with pytest.raises(KeyboardInterrupt):
        plural_run(tmp_path / "cut", mode, rounds, progress=Recorder(stop_at=(2, last)))
    again = plural_run(tmp_path / "cut", mode, rounds, resume=True)
    assert again.metrics == whole.metrics
    assert np.array_equal(load_vector(tmp_path / "cut"), load_vector(tmp_path / "whole"))


def test_a_cut_private_run_charges_the_cut_round_too(tmp_path: Path) -> None:
    whole = plural_run(tmp_path / "whole", QUESTION)
    with pytest.raises(KeyboardInterrupt):
        plural_run(tmp_path / "cut", QUESTION, progress=Recorder(stop_at=(2, 3)))
    again = plural_run(tmp_path / "cut", QUESTION, resume=True)
    assert again.rounds == 2
    assert again.epsilon is not None and whole.epsilon is not None and again.epsilon > whole.epsilon


@pytest.mark.parametrize("mode", MODES)
def test_the_privacy_statement_speaks_of_groups_questions_and_a_predictor(run_of: RunOf, mode: str) -> None:
    folder, _ = run_of(mode)
    text, values = (folder / TEXT_NAME).read_text(), json.loads((folder / JSON_NAME).read_text())
    for word in ("pair ", "pairs", "adapter", "serving", "head full", "personal parts", "base model"):
        assert word not in text.replace("pairwise", ""), word
    assert values["run"]["task"] == "pluralllm" and values["private"] == (mode != "none")
    assert "scores of groups that do not train" in text
    if mode in ("question", "shared"):
        assert "one group's answers to one question" in text and "at most 60 questions of a group" in text
        counts = [one["questions"] for one in values["unit"]["person"]]
        epsilons = [one["epsilon"] for one in values["unit"]["person"] if one["epsilon"] is not None]
        assert counts == [2, 5, 10] and "in 5 of a group's questions" in text
        assert len(epsilons) >= 2 and sorted({values["spent"]["epsilon"], *epsilons}) == [
            values["spent"]["epsilon"],
            *epsilons,
        ]
    if mode == "client":
        assert "the roster is public" in text and values["unit"]["person"] == []


def private_data(folder: Path, **changes: Any) -> dict[str, Any]:
    """Sections of a run on data that is not declared public, its ledgers in `folder`/ledgers."""
    written = write_survey(folder / "data", **changes)
    return {
        **written,
        "data": {"id": "mine", "public": False},
        "survey": {**written["survey"], "groups": ["group-00", "group-01", "group-02", "group-03"]},
        "federation": {"clients": 4, "rounds": 1, "local_steps": 1},
        "privacy": {**QUESTION["privacy"], "ledger_root": str(folder / "ledgers")},
    }


def test_private_answers_keep_one_ledger_a_group_that_the_next_run_goes_on_with(tmp_path: Path) -> None:
    sections = private_data(tmp_path)
    first = plural_run(tmp_path / "one", sections)
    report = read_reports(tmp_path / "one")[0]
    assert not report.released and "unseen groups/alignment" in report.local  # a score of private answers stays
    assert {path.stem for path in (tmp_path / "ledgers" / "mine").glob("group-*")} >= {"group-00", "group-03"}
    second = plural_run(tmp_path / "two", sections, seed=5)  # another split, the same ledgers
    assert first.epsilon is not None and second.epsilon is not None and second.epsilon > first.epsilon * 1.1
    assert "earlier runs on the same ledgers" in (tmp_path / "two" / TEXT_NAME).read_text()


def test_the_same_answers_under_another_name_are_refused(tmp_path: Path) -> None:
    sections = private_data(tmp_path)
    plural_run(tmp_path / "one", sections)
    with pytest.raises(RowsChargedElsewhere):
        plural_run(tmp_path / "two", sections, data={"id": "renamed", "public": False})
    other = private_data(tmp_path / "elsewhere", groups=6, questions=24)
    moved = {**other, "privacy": sections["privacy"], "data": {"id": "renamed", "public": False}}
    with pytest.raises(RowsChargedElsewhere):  # a copy of the file is the same answers
        plural_run(tmp_path / "three", moved)


def test_answers_that_were_charged_cannot_be_pretrained_on_as_public(tmp_path: Path) -> None:
    sections = private_data(tmp_path)
    plural_run(tmp_path / "one", sections)
    groups = ["group-01", "group-02", "group-03", "group-04"]
    hidden = {"survey": {**sections["survey"], "groups": groups, "pretrain": ["group-00"]}}
    with pytest.raises(ConfigError, match=r"survey\.pretrain: 'group-00' has a ledger of mine"):
        plural_run(tmp_path / "two", sections, hidden)
    never = {"survey": {**sections["survey"], "pretrain": ["group-05"]}}
    plural_run(tmp_path / "three", sections, never)
    assert "the answers of group-05: trained on without noise" in (tmp_path / "three" / TEXT_NAME).read_text()


@pytest.mark.parametrize(
    ("sections", "field"),
    [
        ({"survey": {"groups": ["group-00", "group-01", "grup-02"]}}, "survey.groups: no answers of 'grup-02'"),
        ({"survey": {"unseen": ["nobody"]}}, "survey.unseen: no answers of 'nobody'"),
        ({"survey": {"pretrain": ["nobody"]}}, "survey.pretrain: no answers of 'nobody'"),
        ({"survey": {"groups": ["group-00", "group-01", "group-01"]}}, "survey.groups: 'group-01' has two roles"),
        ({"survey": {"groups": ["group-00"], "pretrain": ["group-00"]}, "federation": {"clients": 1}}, "federation"),
        ({"federation": {"clients": 9}}, "federation.clients: 9 asked for, the survey has 6 groups"),
        ({"survey": {"questions_per_group": 5}}, "survey.questions_per_group: group group-0"),
        ({"predictor": {"path": "nowhere"}}, "predictor.path: nowhere: holds no predictor"),
        ({"predictor": {"lora_r": 100}}, "predictor.lora_r: rank must be between 1 and 8"),
        ({"predictor": {"d_model": 10, "heads": 4}}, "predictor.d_model: 10 must be a multiple"),
        ({"episodes": {"least": 9, "most": 5}}, "episodes.least: 9 must be at most"),
        ({"privacy": {"unit": "pair", "epsilon": 8}}, "privacy.unit: pair is not a unit of task pluralllm"),
        ({"predictor": {"loss": "gaussian"}}, "predictor.loss: gaussian is not bounded below"),
        ({"schedule": {"weights": "episode"}}, "schedule.weights: episode tells how many"),
        ({"survey": {"split": "survey_order"}}, "survey.split: survey_order cuts by a count"),
        ({"federation": {"local_steps": None}}, "federation.local_steps"),
        ({"method": {"name": "fedper"}}, "method.name: fedper is not one of"),
        ({"method": {"name": "local"}}, "method.name: local"),
    ],
)
def test_wrong_names_and_values_are_one_line_naming_the_field(
    tmp_path: Path, sections: dict[str, Any], field: str
) -> None:
    if "groups" in sections.get("survey", {}) and "federation" not in sections:
        sections = {**sections, "federation": {"clients": len(sections["survey"]["groups"])}}
    with pytest.raises((ConfigError, DataError)) as caught:
        plural_run(tmp_path / "run", {key: value for key, value in QUESTION.items()}, sections)
    assert str(caught.value).startswith(field) and "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_the_federation_has_twelve_groups_of_twenty_four_unless_told() -> None:
    plain = make_config({"task": "pluralllm", "privacy": {"epsilon": 8}})
    assert (plain.dataset_name, plain.method.name, plain.privacy.unit) == ("builtin:groups", "fedavg", "question")
    assert plain.federation.clients == 12 and plain.data.public and plain.privacy.expected_batch == 4.0
    named = holdings_of(FREE, survey={"groups": ["group-03", "group-00", "group-05"]}, federation={"clients": 3})
    assert named.names == ("group-00", "group-03", "group-05")


def test_diverged_training_without_a_claim_stops_and_names_the_group(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match="group-0"):
        plural_run(tmp_path / "run", FREE, schedule={"learning_rate": 1e30}, predictor={"loss": "gaussian"})
