"""`fedpdpo audit`: a bound below the claim on the honest mechanism, exit 6 on a broken one, refusals by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from experiments.cli import main
from privacy.entropy import Keystream

CONFIG = str(Path(__file__).resolve().parents[2] / "experiments" / "configs" / "quickstart.yaml")
SMALL = ["--canaries", "400", "--set", "federation.rounds=4", "--json"]


def run(capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, dict[str, object]]:
    code = main(["audit", CONFIG, *SMALL, *more])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


def test_the_honest_mechanism_stays_below_its_claim(capsys: pytest.CaptureFixture[str]) -> None:
    code, values = run(capsys)
    assert code == 0
    assert values["verdict"] != "violation"
    assert 0 < values["lower_bound"] < values["claim"] <= 8
    assert values["power_at_claim"] <= values["ceiling"]
    assert len(values["coins_commitment"]) == 64
    assert values["noise"]["measured"] == pytest.approx(values["noise"]["claimed"], rel=0.1)


def test_halved_noise_is_a_violation_with_exit_6(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Keystream.normal

    def halved(self: Keystream, n: int) -> np.ndarray:
        return honest(self, n) / 2

    monkeypatch.setattr(Keystream, "normal", halved)
    code, values = run(capsys)
    assert code == 6
    assert values["noise"]["findings"]


def test_modes_that_it_cannot_attack_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--set", "privacy.noise=distributed", "--set", "federation.local_steps=1", "--set", "secagg.bits=32"]
    assert run(capsys, "--set", "federation.drop=[]", *more)[0] == 2
