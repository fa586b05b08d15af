"""flwr does the same work: the same vectors, dropouts and graph, and its mean is right. Needs flwr."""

from __future__ import annotations

import json
from dataclasses import replace
from statistics import median

import pytest

pytest.importorskip("flwr")

from flwr.app import Context, Message

from experiments import bench_flower
from experiments.bench_flower import measure
from experiments.bench_points import Point
from experiments.bench_secagg import one_round
from experiments.cli import main

POINT = Point(10, None, 7, 200, 0.3, 3, 24, "semi-honest", 1)


@pytest.mark.parametrize("point", [POINT, replace(POINT, neighbors=6, threshold=4, dropped_clients=1)])
def test_flwr_sums_the_survivors_of_the_point(point: Point) -> None:
    found = measure(point)
    assert found["correct"] and found["max_error"] > 0
    assert found["clients_sampled"] == len(point.survivors)
    assert 8 * point.dim < found["upload_bytes"] and one_round(point)["upload_bytes"] < found["upload_bytes"]
    assert 0 < found["client_cpu_s"] < found["client_with_quantise_s"]
    assert 0 < found["server_cpu_s"] < found["server_with_quantise_s"]
    assert found["client_cpu_s"] >= median(found["stages"].values())


def test_told_another_threshold_the_other_clients_change_neither_mean_nor_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = measure(POINT)
    monkeypatch.setattr(bench_flower, "SHARING_SECONDS", 0.0)
    sampled = measure(POINT)
    assert (sampled["clients_sampled"], sampled["correct"]) == (4, True)
    assert sampled["upload_bytes"] == pytest.approx(whole["upload_bytes"], rel=0.01)


class OneMore(bench_flower._Grid):
    """Expects a sum that is larger by one than what the clients hand in."""

    def _train(self, message: Message, context: Context) -> Message:
        if not self.total.any():
            self.total += 1
        return super()._train(message, context)


def test_a_wrong_mean_of_flwr_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_flower, "_Grid", OneMore)
    assert not measure(POINT)["correct"]


def test_an_even_number_of_shares_crashes_flwr_as_its_limit_says() -> None:
    with pytest.raises(IndexError):
        measure(replace(POINT, neighbors=5, threshold=3))


def test_a_round_that_flwr_halts_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="halted"):
        measure(replace(POINT, threshold=9))


def test_the_functions_of_flwr_are_put_back() -> None:
    before = {name: getattr(bench_flower._CLIENT, name) for name in bench_flower._CLIENT_FLOATS}
    measure(replace(POINT, dim=3))
    assert {name: getattr(bench_flower._CLIENT, name) for name in before} == before


def test_a_row_sets_flwr_beside_ours_and_says_that_it_signs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--clients", "4", "--dim", "50", "--repeats", "1", "--mode", "malicious-server", "--flower")
    assert main(["bench", "secagg", *arguments, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert row["flower"]["correct"] and "semi-honest" in row["flower_reason"]
    assert row["client_vs_flower"] == row["flower"]["client_cpu_s"] / row["client_cpu_s"]
    assert row["server_vs_flower"] == row["flower"]["server_cpu_s"] / row["server_cpu_s"]
    assert row["peak_memory_bytes"] != row["flower"]["peak_memory_bytes"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
def test_flwr_overflows_at_1024_clients_without_an_error() -> None:
    assert not measure(Point(1024, 2, 2, 4, 0.0, 0, 24, "semi-honest", 1))["correct"]
