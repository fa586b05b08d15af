"""The naive scheme shown: the toy's clipping against an oracle, its attack on every scheme, table and plot."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from experiments.cli import main
from experiments.naive import CONFIG, REAL, Row, read_rows, write_rows
from experiments.naive_plot import plot_rows
from experiments.naive_toy import (
    CLIP,
    DELTA,
    EPSILON,
    RECORDS,
    ROUNDS,
    SCHEMES,
    Scheme,
    attack,
    claimed_noise,
    clipped_weights,
    outlier,
    worst_case,
)
from fedpdpo_secure.audits.membership import held_out
from privacy.accounting import epsilon
from privacy.events import FullBatchGaussian


def one_gradient(shared: np.ndarray, head: np.ndarray, x: np.ndarray, y: float, joint: bool) -> np.ndarray:
    """The gradient of log(1 + exp(-y h . W x)) for one record, by finite differences."""

    def loss(flat: np.ndarray) -> float:
        w, h = flat[: shared.size].reshape(shared.shape), flat[shared.size :]
        return float(-np.log(expit(y * (h @ w @ x))))

    start = np.concatenate([shared.ravel(), head])
    size = len(start) if joint else shared.size
    steps = 1e-6 * np.eye(len(start))[:size]
    return np.array([(loss(start + step) - loss(start - step)) / 2e-6 for step in steps])


@pytest.mark.parametrize("joint", [False, True], ids=["shared alone", "joint"])
def test_the_toys_clipped_weights_are_those_of_each_records_own_gradient(joint: bool) -> None:
    rng = np.random.default_rng(0)
    shared, head = 2 * rng.standard_normal((1, 4, 8)), rng.standard_normal((1, 4))
    x, y = rng.standard_normal((6, 8)) * np.array([[0.1], [0.2], [1], [2], [3], [5]]), np.array([1.0, -1, 1, -1, 1, -1])
    weights = clipped_weights(shared, head, x, y, joint=joint)[0]
    clipped = 0
    for weight, record, label in zip(weights, x, y, strict=True):
        gradient = one_gradient(shared[0], head[0], record, label, joint)
        norm = np.linalg.norm(gradient)
        clipped += norm > CLIP
        whole = np.concatenate([np.outer(head[0], record).ravel(), shared[0] @ record if joint else []])
        assert weight * whole == pytest.approx(gradient * min(1, CLIP / norm), rel=1e-4, abs=1e-7)
    assert 0 < clipped < 6


@pytest.mark.parametrize("toy", [worst_case(), outlier()], ids=lambda toy: toy.name)
@pytest.mark.parametrize("scheme", ["frozen", "joint", "client"])
def test_a_sound_scheme_moves_by_at_most_what_it_claims_and_stays_below_its_claim(toy, scheme: Scheme) -> None:
    found = attack(toy, scheme, runs=800, rng=np.random.default_rng(2))
    assert found.moved_most <= 1 + 1e-9
    bound = held_out(found.scores, found.coins, delta=DELTA, confidence=0.95)
    assert max(bound.direct, bound.gaussian) < EPSILON


@pytest.mark.parametrize("toy", [worst_case(), outlier(), outlier(0.25)], ids=lambda toy: toy.name)
def test_the_naive_scheme_is_attacked_above_its_claim(toy) -> None:
    found = attack(toy, "naive", runs=800, rng=np.random.default_rng(2))
    assert held_out(found.scores, found.coins, delta=DELTA, confidence=0.95).direct > EPSILON
    assert 3 < found.moved_most <= 2 * RECORDS + 1


def test_the_worst_case_makes_every_other_record_move() -> None:
    found = attack(worst_case(), "naive", runs=4, rng=np.random.default_rng(0))
    assert found.moved_most > 0.9 * RECORDS


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_carries_the_noise_of_the_same_claim(scheme: Scheme) -> None:
    sensitivity = 2 if scheme == "client" else 1
    noise = claimed_noise(outlier(), scheme) / CLIP / sensitivity
    event = FullBatchGaussian(noise_multiplier=noise, steps=ROUNDS)
    assert epsilon([event], DELTA).epsilon == pytest.approx(EPSILON, rel=1e-3)


def row(scheme: str, direct: float, gaussian: float | None, setting: str = REAL) -> Row:
    return Row(setting, scheme, 10, 2.0, 1e-3, 0.95, direct, gaussian, 1.0, 2.0)


def test_rows_come_back_from_their_file_and_stand_in_the_table(tmp_path: Path) -> None:
    rows = [row("naive", 3.0, 9.0), row("frozen", 0.0, None)]
    write_rows(rows, tmp_path)
    assert read_rows(tmp_path) == rows
    assert json.loads((tmp_path / "naive.json").read_text())[1]["gaussian"] is None
    with (tmp_path / "naive.csv").open() as file:
        assert [line["scheme"] for line in csv.DictReader(file)] == ["naive", "frozen"]


def test_the_plot_has_a_panel_a_setting_with_the_claim_and_the_confidence(tmp_path: Path) -> None:
    rows = [row("naive", 3.0, 30.0), row("frozen", 0.1, 0.2), row("naive", 4.0, None, "toy, outlier")]
    png, svg = plot_rows(rows, tmp_path)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert svg.read_text().count('id="axes_') == 2
    with pytest.raises(ValueError, match="rows"):
        plot_rows([], tmp_path)


@pytest.mark.slow
def test_the_shipped_configuration_ends_with_exit_6(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["audit", str(CONFIG), "--attack", "membership", "--canaries", "60", "--json"])
    values = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert code == 6
    assert values["verdict"] == "violation"
    assert values["lower_bound"] > values["claim"] == pytest.approx(2.0, rel=0.01)
    assert values["details"]["moved_most"] > 3
