"""`fedpdpo sweep`: cells are ordinary runs, finished ones are kept, and the table says what the runs say."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from experiments.cli import main

CONFIG = """
synthetic: {pairs: 24, validation_pairs: 6, test_pairs: 12, public_dialogues: 200}
tiny: {warm_start_steps: 20, hidden_size: 32, layers: 1}
federation: {clients: 4, rounds: 1, local_steps: 1}
lora: {r: 4, alpha: 8}
dpo: {beta: 1.0, max_length: 64}
privacy: {epsilon: 8}
serving: {epochs: 0}
device: cpu
"""


def test_a_sweep_makes_one_run_a_cell_and_repeats_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, out = tmp_path / "config.yaml", tmp_path / "out"
    config.write_text(CONFIG)
    command = ["sweep", str(config), "--epsilons", "2,inf", "--seeds", "1", "--output", str(out), "--json"]
    assert main(command) == 0
    values = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [(row["epsilon"], row["seed"]) for row in values["rows"]] == [("2", 0), ("inf", 0)]
    for row in values["rows"]:
        metrics = json.loads((out / row["folder"] / "metrics.json").read_text())
        shared = metrics["local, not released"]["shared adapter alone"]
        assert row["shared"] == shared["accuracy_implicit"]
        assert (metrics["epsilon"] is None) == (row["epsilon"] == "inf")
    with (out / "sweep.csv").open() as file:
        assert [row["epsilon"] for row in csv.DictReader(file)] == ["2", "inf"]
    assert (out / "sweep.png").read_bytes().startswith(b"\x89PNG")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("metrics.json")}
    assert main(command) == 0
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("metrics.json")}


def test_a_folder_of_another_configuration_is_refused(tmp_path: Path) -> None:
    config, out = tmp_path / "config.yaml", tmp_path / "out"
    config.write_text(CONFIG)
    out.mkdir()
    (out / "sweep.json").write_text(json.dumps({"config": CONFIG, "set": ["dpo.beta=2"]}))
    assert main(["sweep", str(config), "--epsilons", "2", "--seeds", "1", "--output", str(out)]) == 2


@pytest.mark.parametrize("epsilons", ["", "0,1", "1,1", "two", "nan"])
def test_bad_epsilons_are_refused(tmp_path: Path, epsilons: str) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)
    assert main(["sweep", str(config), "--epsilons", epsilons, "--output", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()
