"""The command line over whole small runs: three ways to epsilon agree, an interrupt and a resume lose nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
federation: {clients: 5, rounds: 3, local_steps: 2, drop: [{round: 2, client: 1, stage: after_shares}]}
synthetic: {pairs: 24, validation_pairs: 2, test_pairs: 4, public_dialogues: 200}
tiny: {warm_start_steps: 10, hidden_size: 32, layers: 1}
serving: {epochs: 1}
secagg: {threshold: 3}
lora: {r: 2}
privacy: {epsilon: 8, delta: 1.0e-5}
device: cpu
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("end to end")
    (folder / "config.yaml").write_text(CONFIG, encoding="utf-8")
    return folder


def environment(workplace: Path) -> dict[str, str]:
    homes = {name: str(workplace / "user") for name in ("XDG_CACHE_HOME", "XDG_STATE_HOME")}
    return {**os.environ, **homes, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def fedpdpo(workplace: Path, *arguments: str) -> tuple[int, dict[str, object]]:
    command = [sys.executable, "-m", "experiments.cli", *arguments, "--json", "--quiet"]
    done = subprocess.run(
        command, cwd=workplace, env=environment(workplace), capture_output=True, text=True, check=False
    )
    assert len(done.stdout.splitlines()) == 1, done.stdout + done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="module")
def trained(workplace: Path) -> dict[str, object]:
    code, values = fedpdpo(workplace, "train", "config.yaml", "--output_dir", "whole")
    assert code == 0, values
    return values


def test_train_ledger_and_account_agree_on_epsilon(workplace: Path, trained: dict[str, object]) -> None:
    code, checked = fedpdpo(workplace, "ledger", "verify", "whole")
    assert code == 0
    planned = fedpdpo(workplace, "plan", "config.yaml")[1]
    arguments = ["--noise_multiplier", repr(planned["noise_multiplier"]), "--sample_rate", "0.5", "--delta", "1e-5"]
    accounted = fedpdpo(workplace, "account", *arguments, "--steps", "6")[1]
    assert trained["epsilon"] == checked["epsilon"] == accounted["epsilon"] == planned["epsilon"]
    assert trained["epsilon"] <= 8


def test_the_plan_counts_the_parameters_that_the_run_shares(workplace: Path, trained: dict[str, object]) -> None:
    from safetensors import safe_open

    with safe_open(workplace / "whole" / "shared_adapter" / "adapter_model.safetensors", "numpy") as file:
        shared = sum(file.get_tensor(name).size for name in file.keys() if "lora_B" in name)  # noqa: SIM118
    assert fedpdpo(workplace, "plan", "config.yaml")[1]["parameters"] == shared


def test_the_json_of_train_has_rounds_metrics_drops_and_files(workplace: Path, trained: dict[str, object]) -> None:
    assert (trained["rounds"], trained["dropped"], trained["recovered"]) == (3, 1, 1)
    promised = {"accuracy_implicit", "accuracy_explicit", "accuracy_combined", "rewards/margins"}
    assert promised <= set(trained["metrics"])
    assert all((workplace / name).exists() for name in trained["files"])


def test_an_interrupted_run_resumes_to_the_epsilon_of_an_unbroken_one(
    workplace: Path, trained: dict[str, object]
) -> None:
    command = [sys.executable, "-m", "experiments.cli", "train", "config.yaml", "--output_dir", "cut", "--json"]
    process = subprocess.Popen(
        command,
        cwd=workplace,
        env=environment(workplace),
        stdout=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background has SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    rounds = workplace / "cut" / "rounds.jsonl"
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if rounds.exists() and rounds.read_text().count("\n") >= 1:
            process.send_signal(signal.SIGINT)
            break
        time.sleep(0.005)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 130, output
    stopped = json.loads(output.splitlines()[-1])
    assert stopped["exit_code"] == 130
    code, resumed = fedpdpo(workplace, "train", "--resume", "cut")
    # A round cut between reserve and commit stays charged, so the budget may end the resumed run a round early.
    assert code in (0, 4)
    assert fedpdpo(workplace, "ledger", "verify", "cut")[0] == 0
    assert stopped["rounds"] <= resumed["rounds"] <= 3
    if code == 0:
        assert resumed["epsilon"] == trained["epsilon"]
    assert resumed["epsilon"] <= 8


def test_what_another_run_spent_on_the_same_data_stops_this_one_with_exit_4(workplace: Path) -> None:
    # The noise serves three rounds, and a run on the same private data has spent them already.
    common = ["--set", "dataset_name=pairs.jsonl", "--set", "data.pairs_per_client=40", "--set", "data.id=spent"]
    assert fedpdpo(workplace, "data", "make", "made", "--clients", "5", "--pairs", "30")[0] == 0
    (workplace / "made" / "train.jsonl").rename(workplace / "pairs.jsonl")
    first = fedpdpo(workplace, "train", "config.yaml", "--output_dir", "first", *common)
    assert first[0] == 0, first[1]
    code, second = fedpdpo(workplace, "train", "config.yaml", "--output_dir", "second", *common)
    assert code == 4, second
    assert "no room for one round" in second["error"]
    assert not (workplace / "second").exists()  # nothing was made, and a corrected run may use the folder
