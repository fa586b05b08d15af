"""`fedpdpo audit`: a bound below the claim on the honest mechanism, exit 6 on a broken one, refusals by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from experiments import audit_command
from experiments.cli import main
from fedpdpo_secure.audits import shares
from privacy.discrete import DiscreteGaussian
from privacy.distributed import SharePlan
from privacy.entropy import Entropy, Keystream

CONFIG = str(Path(__file__).resolve().parents[2] / "experiments" / "configs" / "quickstart.yaml")
SMALL = ["--canaries", "400", "--set", "federation.rounds=4", "--set", "federation.drop=[]", "--json"]
SHARED = ["--set", "privacy.noise=distributed", "--set", "federation.local_steps=1", "--set", "secagg.bits=32"]
PLAIN = ["--set", "secagg.enabled=false", "--confidence", "0.9999"]


def run(capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, dict[str, object]]:
    code = main(["audit", CONFIG, *SMALL, *more])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize("arithmetic", ["float", "integer"])
def test_the_honest_mechanism_stays_below_its_claim(arithmetic: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, values = run(capsys, "--set", f"privacy.arithmetic={arithmetic}")
    assert code == 0
    assert values["attack"] == "dirac"
    assert values["verdict"] != "violation"
    assert 0 < values["lower_bound"] < values["claim"] <= 8
    assert values["power_at_claim"] <= values["ceiling"]
    assert len(values["coins_commitment"]) == 64
    assert values["details"]["noise_measured"] == pytest.approx(values["details"]["noise_claimed"], rel=0.1)
    assert values["null_check"]["passed"]


@pytest.mark.parametrize("arithmetic", ["float", "integer"])
def test_halved_noise_is_found_with_exit_6(
    arithmetic: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, whole_numbers = Keystream.normal, DiscreteGaussian.sample

    def halved(self: Keystream, n: int) -> np.ndarray:
        return real(self, n) / 2

    def halves(self: DiscreteGaussian, n: int, keystream: Keystream) -> np.ndarray:
        return whole_numbers(self, n, keystream) // 2

    monkeypatch.setattr(Keystream, "normal", halved)
    monkeypatch.setattr(DiscreteGaussian, "sample", halves)
    code, values = run(capsys, "--set", f"privacy.arithmetic={arithmetic}")
    assert code == 6
    assert "too little noise" in values["details"]["findings"]


def test_noise_in_shares_is_attested_without_being_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    code, values = run(capsys, *SHARED, *PLAIN, "--canaries", "4000")
    assert (code, values["attack"], values["verdict"]) == (0, "noise", "consistent")
    assert 0 < values["lower_bound"] < values["claim"] <= 8


def test_a_share_that_is_missing_has_exit_6(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(plan: SharePlan, entropy: Entropy) -> np.ndarray:
        return np.zeros(plan.size, np.int64)

    calls = iter(range(1_000_000))
    honest = shares.noise_share
    monkeypatch.setattr(shares, "noise_share", lambda plan, e: (honest if next(calls) % 12 else without)(plan, e))
    code, values = run(capsys, *SHARED, *PLAIN, "--canaries", "4000")
    assert code == 6
    assert "too little noise" in values["details"]["findings"]


def test_one_run_trains_the_named_client_of_a_small_federation(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--set", "tiny.hidden_size=32", "--set", "tiny.layers=1", "--set", "tiny.warm_start_steps=20"]
    small += [
        "--set",
        "synthetic.pairs=10",
        "--set",
        "synthetic.test_pairs=2",
        "--set",
        "synthetic.public_dialogues=200",
    ]
    small += ["--set", "federation.clients=3", "--set", "privacy.delta=1e-3", "--canaries", "100"]
    code, values = run(capsys, *small, "--attack", "one-run", "--set", "federation.rounds=1")
    assert code == 0
    assert values["attack"] == "one-run"
    assert values["lower_bound"] <= values["claim"]
    assert values["details"]["canaries"] == 100
    assert run(capsys, *small, "--attack", "one-run", "--client", "nobody")[0] == 2


def test_results_are_kept_one_for_each_attack(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "audit.json"
    for _ in range(2):
        run(capsys, *SHARED, *PLAIN, "--save", str(path))
    run(capsys, "--save", str(path))
    assert [one["attack"] for one in json.loads(path.read_text())] == ["noise", "dirac"]
    path.write_text("{}")
    assert run(capsys, *SHARED, *PLAIN, "--save", str(path))[0] == 2


def test_a_run_folder_stands_for_its_configuration(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(Path(CONFIG).read_text(), encoding="utf-8")
    assert main(["audit", str(tmp_path), *SMALL, *SHARED, *PLAIN]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (["--attack", "dirac", *SHARED], "privacy.unit, privacy.noise"),
        (["--attack", "one-run", *SHARED], "privacy.unit, privacy.noise"),
        (["--attack", "cosines"], "privacy.unit"),
        (["--attack", "noise"], "privacy.noise"),
        (["--set", "privacy.insecure_seed=1"], "privacy"),
        (["--set", "privacy.epsilon=inf"], "privacy.noise_multiplier"),
        (["--client", "a"], "--client"),
    ],
)
def test_what_makes_no_sense_is_refused_by_field(
    arguments: list[str], field: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, values = run(capsys, *arguments)
    assert code == 2
    assert field in values["error"]


def test_every_attack_is_a_module_of_its_own() -> None:
    for module, _, confidence in audit_command.ATTACKS.values():
        assert (Path(CONFIG).parents[2] / f"{module.replace('.', '/')}.py").is_file()
        assert 0.8 <= confidence < 1
