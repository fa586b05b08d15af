"""`fedpdpo train` without the training: how a run is chosen, what is shown of it, and how its end is told."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from experiments import train_view
from experiments.cli import main
from fedpdpo_secure.claims import REJECTED
from fedpdpo_secure.config import Config, dump_config, load_config
from fedpdpo_secure.progress import Progress
from fedpdpo_secure.report import NOT_PRIVATE, RunResult
from privacy.errors import AdaptiveParameters, BudgetExceeded
from secagg import TooFewSurvivors
from tests.experiments.test_report import make_info, make_report

CONFIG = "federation: {clients: 12, rounds: 3}\nprivacy: {epsilon: 8, delta: 1.0e-5}\n"
Behaviour = Callable[[Config, bool, Progress], RunResult]


def make_result(config: Config, *, unit: str = "pair", stopped: str | None = None) -> RunResult:
    private = unit == "pair"
    return RunResult(
        rounds=2,
        epsilon=3.25 if private else None,
        delta=1e-5 if private else None,
        unit=unit,
        noise="local" if private else "none",
        output_dir=Path(config.output_dir),
        metrics={
            "accuracy_implicit": 0.5,
            "accuracy_explicit": 0.625,
            "accuracy_combined": 0.75,
            "rewards/margins": 0.1,
        },
        shared={"accuracy_implicit": 0.375},
        files=(Path(config.output_dir) / "rounds.csv",),
        public_data=True,
        stopped=stopped,
    )


def good_run(config: Config, resume: bool, progress: Progress) -> RunResult:
    progress.warm_start(1, 1, 2.5)
    progress.started(make_info())
    progress.client(1, 1, 12, "client-00")
    progress.round(make_report(1))
    progress.round(make_report(2))
    progress.serving(1, 12)
    return make_result(config)


class FakeRun:
    """Stands where `fedpdpo_secure.run` stands and keeps what it was called with."""

    def __init__(self) -> None:
        self.behaviour: Behaviour = good_run
        self.calls: list[tuple[Config, bool]] = []

    def run_training(self, config: Config, *, resume: bool, progress: Progress) -> RunResult:
        self.calls.append((config, resume))
        return self.behaviour(config, resume, progress)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> FakeRun:
    fake, module = FakeRun(), ModuleType("fedpdpo_secure.run")
    module.run_training = fake.run_training  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fedpdpo_secure.run", module)
    return fake


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


def last_json(text: str) -> dict[str, object]:
    return json.loads(text.splitlines()[-1])


def raising(error: BaseException) -> Behaviour:
    def behave(config: Config, resume: bool, progress: Progress) -> RunResult:
        progress.started(make_info())
        progress.round(make_report(1))
        raise error

    return behave


def test_the_end_names_the_statement_the_plan_the_sampler_and_what_is_served(
    run: FakeRun, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def behave(config: Config, resume: bool, progress: Progress) -> RunResult:
        statement = Path(config.output_dir) / "privacy_statement.json"
        told = {"statement": statement, "plan_digest": "ab" * 32, "served": "pooled adapter", "sampler": REJECTED}
        return replace(good_run(config, resume, progress), **told)

    run.behaviour = behave
    assert main(["train", str(config_file), "--json"]) == 0
    text = capsys.readouterr().out
    values = last_json(text)
    assert values["statement"].endswith("privacy_statement.json") and values["plan_digest"] == "ab" * 32
    assert text.count("privacy statement: ") == 1 and "privacy_statement.md" in text
    assert "pooled adapter" in text and "serving copy" not in text
    footer = text[text.index("epsilon: one preference pair") :]
    assert REJECTED in footer and "Poisson" not in footer


def test_a_round_that_is_not_as_planned_is_a_failed_verification(
    run: FakeRun, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run.behaviour = raising(AdaptiveParameters("round 2: planned A, but B was done"))
    assert main(["train", str(config_file), "--json"]) == 6
    captured = capsys.readouterr()
    assert "plan.json" in captured.err and "round 2: planned A" in captured.err
    assert last_json(captured.out)["rounds"] == 1


def test_a_finished_run_ends_with_the_promised_keys(
    run: FakeRun, config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(config_file), "--output-dir", str(tmp_path / "r"), "--json"]) == 0
    values = last_json(capsys.readouterr().out)
    assert (values["rounds"], values["epsilon"], values["delta"], values["private"]) == (2, 3.25, 1e-5, True)
    assert values["output_dir"] == str(tmp_path / "r")
    assert set(values["metrics"]) == {"accuracy_implicit", "accuracy_explicit", "accuracy_combined", "rewards/margins"}
    assert (values["dropped"], values["recovered"]) == (2, 2)


def test_the_text_names_claim_drops_parts_and_files(
    run: FakeRun, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(config_file)]) == 0
    text = capsys.readouterr().out
    for phrase in (
        "add or remove one pair",
        "delta 1e-05",
        "honest-but-curious server",
        "local, not released",
        "client-04 (after_shares)",
        "rebuilt from shares",
        "public data: budgets of several runs are not composed",
        "shared adapter alone",
        "rounds.csv",
    ):
        assert phrase in text
    assert NOT_PRIVATE not in text


def test_the_public_column_is_explained_only_where_it_holds_a_value(
    run: FakeRun, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def behave(config: Config, resume: bool, progress: Progress) -> RunResult:
        progress.started(make_info())
        progress.round(replace(make_report(1), released={}))
        return make_result(config)

    assert main(["train", str(config_file)]) == 0
    assert "public: implicit" in capsys.readouterr().out
    run.behaviour = behave
    assert main(["train", str(config_file)]) == 0
    text = capsys.readouterr().out
    assert "public: implicit" not in text
    assert "later rounds add less" in text


def test_the_bar_keeps_nothing_of_the_phase_before(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int, int | None, str]] = []

    class Bar:
        on_stdout = False

        def advance(self, label: str, done: int, total: int | None, detail: str) -> None:
            seen.append((label, done, total, detail))

        def stop(self) -> None:
            return None

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(train_view, "_Bar", Bar)
    with train_view.TrainView(quiet=False) as view:
        view.started(replace(make_info(), rounds=1))
        view.client(1, 12, 12, "client-11")
        view.round(make_report(1))
    assert seen == [
        ("round 1/1", 0, 12, ""),
        ("round 1/1", 12, 12, "client-11"),
        ("serving copies (local)", 0, 12, ""),
    ]


def test_a_run_without_privacy_says_so_and_its_epsilon_is_null(
    run: FakeRun, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def behave(config: Config, resume: bool, progress: Progress) -> RunResult:
        progress.started(make_info(unit="none", noise="none", projected=None))
        progress.round(make_report(1, unit="none", noise="none", epsilon=None))
        return make_result(config, unit="none")

    run.behaviour = behave
    assert main(["train", str(config_file), "--json"]) == 0
    text = capsys.readouterr().out
    assert text.count(NOT_PRIVATE) >= 4  # header, table head, round, verdict
    values = last_json(text)
    assert (values["epsilon"], values["private"]) == (None, False)


def test_a_spent_budget_is_exit_4_with_everything_the_run_made(
    run: FakeRun, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def behave(config: Config, resume: bool, progress: Progress) -> RunResult:
        good_run(config, resume, progress)
        return make_result(config, stopped="round 3 would cost 8.35 > 8")

    run.behaviour = behave
    assert main(["train", str(config_file), "--json"]) == 4
    captured = capsys.readouterr()
    values = last_json(captured.out)
    assert (values["exit_code"], values["rounds"], values["epsilon"]) == (4, 2, 3.25)
    assert values["metrics"]
    assert captured.err == "fedpdpo: error: round 3 would cost 8.35 > 8\n"
    assert captured.out.count("round 3 would cost") == 1  # in the JSON alone


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BudgetExceeded("spent"), 4),
        (TooFewSurvivors("2 left"), 5),
        (RuntimeError("broken"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_a_run_cut_short_tells_how_far_it_came(
    error: BaseException, code: int, run: FakeRun, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run.behaviour = raising(error)
    assert main(["train", str(config_file), "--json"]) == code
    values = last_json(capsys.readouterr().out)
    assert (values["exit_code"], values["rounds"], values["epsilon"]) == (code, 1, 3.25)


def test_an_interrupted_run_says_how_to_go_on(
    run: FakeRun, config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "r"
    folder.mkdir()
    (folder / "config.yaml").write_text(CONFIG, encoding="utf-8")
    run.behaviour = raising(KeyboardInterrupt())
    assert main(["train", str(config_file), "--output_dir", str(folder)]) == 130
    assert f"fedpdpo train --resume {folder}" in capsys.readouterr().err


@pytest.fixture
def run_folder(tmp_path: Path, config_file: Path) -> Path:
    folder = tmp_path / "moved"
    folder.mkdir()
    (folder / "config.yaml").write_text(dump_config(load_config(config_file)), encoding="utf-8")
    return folder


def test_resume_needs_no_config_and_stays_in_the_folder_it_is_given(run: FakeRun, run_folder: Path) -> None:
    assert main(["train", "--resume", str(run_folder), "--quiet"]) == 0
    config, resume = run.calls[0]
    assert resume
    assert config.output_dir == str(run_folder)
    assert config.federation.rounds == 3


def test_resume_takes_the_same_configuration_again(run: FakeRun, run_folder: Path, config_file: Path) -> None:
    arguments = ["train", str(config_file), "--resume", str(run_folder), "--set", "federation.rounds=3", "--quiet"]
    assert main(arguments) == 0


@pytest.mark.parametrize("override", ["federation.rounds=9", "privacy.epsilon=9", "privacy.insecure_seed=1"])
def test_resume_refuses_what_would_change_the_run(
    override: str, run: FakeRun, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--resume", str(run_folder), "--set", override]) == 2
    assert override.split("=")[0] in capsys.readouterr().err
    assert run.calls == []


def test_resume_of_a_folder_without_a_run_is_a_usage_error(run: FakeRun, tmp_path: Path) -> None:
    assert main(["train", "--resume", str(tmp_path / "nothing")]) == 2
    assert run.calls == []


def test_train_needs_a_configuration(run: FakeRun) -> None:
    assert main(["train"]) == 2
