"""`bench secagg`: its figures are of the round it names, a wrong sum stops it, and nothing missing becomes a zero."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import bench_commands, bench_secagg
from experiments.bench_commands import _no_flower
from experiments.bench_plot import plot_secagg
from experiments.bench_points import Point, flower_limit, plan_points
from experiments.bench_record import write_results
from experiments.bench_secagg import PointLost, client_vector, isolated, one_round, peak_memory_bytes, value_limit
from experiments.cli import main
from secagg import LocalRound, RoundSum

ROOT = Path(__file__).resolve().parents[2]
PROMISED = {
    "clients",
    "neighbors",
    "dim",
    "dropped",
    "client_cpu_s",
    "mask_cpu_s",
    "upload_bytes",
    "lower_bound_s",
    "server_cpu_s",
    "exact",
}
TINY = ("bench", "secagg", "--clients", "3,6", "--dim", "64", "--dropped", "0.2", "--repeats", "1")
POINT = Point(6, None, 5, 64, 0.2, 1, 24, "semi-honest", 1)


def values(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = main([*arguments, "--json", "--quiet"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    return code, json.loads(lines[0])


def die(point: Point) -> dict[str, Any]:
    os._exit(1)


def peak(point: Point) -> dict[str, Any]:
    return {"peak": peak_memory_bytes()}


class OneOff(LocalRound):
    """A round whose sum is wrong by one in one word."""

    def finish(self) -> RoundSum:
        total = super().finish()
        total.vector[-1] += 1
        return total


class OneShort(LocalRound):
    """A round that leaves a vector out of the sum."""

    def submit(self, client: int, vector: np.ndarray) -> None:
        super().submit(client, vector if client != 1 else np.zeros_like(vector))


def test_a_sweep_gives_every_point_once_with_the_promised_keys(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, found = values(capsys, *TINY, "--no-flower", "--output", str(tmp_path))
    assert code == 0
    assert [(row["clients"], row["neighbors"], row["dim"], row["dropped"]) for row in found["rows"]] == [
        (3, 2, 64, 0.2),
        (6, 5, 64, 0.2),
    ]
    for row in found["rows"]:
        assert row.keys() >= PROMISED
        assert row["exact"] is True
        assert all(row[key] > 0 for key in PROMISED - {"exact"})
        assert row["mask_cpu_s"] < row["client_cpu_s"]
        assert (row["flower"], row["flower_reason"]) == (None, "not asked for")
    with (tmp_path / "secagg.csv").open(encoding="utf-8") as file:
        assert [(row["clients"], row["exact"]) for row in csv.DictReader(file)] == [("3", "True"), ("6", "True")]
    assert json.loads((tmp_path / "secagg.json").read_text())["rows"] == found["rows"]
    assert (tmp_path / "secagg.png").read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in (tmp_path / "secagg.svg").read_text()
    assert all(Path(path).is_file() for path in found["files"])


def test_raw_points_of_later_runs_are_added_with_machine_and_digest(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    one = ("bench", "secagg", "--clients", "3", "--dropped", "0", "--repeats", "1", "--no-flower")
    for dim in ("8", "8", "9"):
        assert main([*one, "--dim", dim, "--output", str(tmp_path), "--quiet"]) == 0
    points = [json.loads(line) for line in (tmp_path / "points.jsonl").read_text().splitlines()]
    assert [point["dim"] for point in points] == [8, 8, 9]
    assert points[0]["config_digest"] == points[1]["config_digest"] != points[2]["config_digest"]
    assert all(point["machine"]["cores"] and point["versions"]["cryptography"] and point["at"] for point in points)


def test_the_tables_name_every_point(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "--no-flower"]) == 0
    shown = capsys.readouterr()
    assert "mask/bound" in shown.out and "not asked for" in shown.out
    assert "[2/2] 6 clients (complete), 64 words, 1 dropped" in shown.err


@pytest.mark.parametrize("broken", [OneOff, OneShort])
def test_a_wrong_sum_is_noticed(broken: type[LocalRound], monkeypatch: pytest.MonkeyPatch) -> None:
    assert one_round(POINT)["exact"] is True
    monkeypatch.setattr(bench_secagg, "LocalRound", broken)
    assert one_round(POINT)["exact"] is False


def test_a_wrong_sum_is_exit_1_and_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bench_secagg, "LocalRound", OneOff)
    monkeypatch.setattr(bench_secagg, "isolated", lambda measure, point: measure(point))
    code = main([*TINY, "--no-flower", "--json", "--quiet", "--output", str(tmp_path)])
    shown = capsys.readouterr()
    assert code == 1
    assert len(shown.err.splitlines()) == 1 and "not the plain sum" in shown.err and "3 clients" in shown.err
    assert [row["exact"] for row in json.loads(shown.out)["rows"]] == [False]
    assert not (tmp_path / "secagg.csv").exists()


def test_a_point_whose_process_dies_is_an_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PointLost, match="6 clients"):
        isolated(die, POINT)
    monkeypatch.setattr(bench_secagg, "measure", die)
    code, found = values(capsys, *TINY, "--no-flower")
    assert code == 1 and "rows" not in found and "PointLost" in found["error"]


def test_the_peak_memory_of_a_point_is_that_of_its_own_process() -> None:
    before = bytearray(os.urandom(1)) * (256 << 20)
    assert peak_memory_bytes() > len(before)
    assert isolated(peak, POINT)["peak"] < len(before)


def test_vectors_are_made_one_at_a_time() -> None:
    point = replace(POINT, clients=24, threshold=17, dim=40_000)
    tracemalloc.start()
    try:
        assert one_round(point)["exact"]
        used = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert used < 12 * 8 * point.dim  # half of what 24 vectors would take


def test_only_survivors_upload_a_vector_and_the_dropped_left_after_sharing() -> None:
    point = replace(POINT, dropped_clients=1, dim=10_000)
    sent = one_round(point)["bytes_by_message"]
    assert len(point.survivors) * 3 * point.dim < sent["MaskedVector"] < point.clients * 3 * point.dim
    whole = one_round(replace(point, dropped_clients=0))["bytes_by_message"]
    assert sent["Shares"] == whole["Shares"] and sent["Reveal"] < whole["Reveal"]


def test_no_sum_of_vectors_can_wrap_and_they_are_the_same_again() -> None:
    for bits in (16, 24, 32):
        point = replace(POINT, bits=bits, clients=1000)
        vector = client_vector(point, 3, 1)
        assert np.abs(vector).max() <= value_limit(point) and value_limit(point) * 1000 < 2 ** (bits - 1)
        assert (client_vector(point, 3, 1) == vector).all()
        assert (client_vector(point, 4, 1) != vector).any() and (client_vector(point, 3, 2) != vector).any()
    with pytest.raises(ValueError, match="bits"):
        value_limit(replace(POINT, bits=16, clients=40_000))


@pytest.mark.parametrize(("dropped", "gone"), [(0.0, 0), (0.1, 1), (0.29, 2), (0.3, 3)])
def test_the_dropped_fraction_is_rounded_down_and_spread(dropped: float, gone: int) -> None:
    (point,) = plan_points(
        clients=[10], dims=[5], dropped=[dropped], neighbors=None, bits=24, mode="semi-honest", repeats=1
    )
    assert point.dropped_clients == gone
    assert len(point.survivors) == 10 - gone


@pytest.mark.parametrize(
    ("clients", "neighbors", "mode", "degree"),
    [
        (99, None, "semi-honest", 98),
        (100, 99, "semi-honest", 99),
        (100, 20, "semi-honest", 20),
        (50, 99, "malicious-server", 49),
    ],
)
def test_the_graph_is_complete_below_100_clients_or_as_asked(
    clients: int, neighbors: int | None, mode: str, degree: int
) -> None:
    (point,) = plan_points(
        clients=[clients], dims=[5], dropped=[0.1], neighbors=neighbors, bits=24, mode=mode, repeats=1
    )
    assert point.degree == degree
    bench_secagg.check(point)


def test_from_100_clients_on_the_solver_chooses_and_a_malicious_server_costs_more() -> None:
    semi, malicious = (
        plan_points(clients=[100], dims=[5], dropped=[0.1], neighbors=None, bits=24, mode=mode, repeats=1)[0]
        for mode in ("semi-honest", "malicious-server")
    )
    assert 2 < semi.degree < malicious.degree < 99
    bench_secagg.check(malicious)


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (("--clients", "9", "--neighbors", "3"), 2, "neighbors"),
        (("--clients", "2"), 2, "--clients"),
        (("--dropped", "1"), 2, "--dropped"),
        (("--dim", "10,x"), 2, "--dim"),
        (("--clients", "6", "--dropped", "0.6"), 3, "dropped"),
    ],
)
def test_a_sweep_with_an_impossible_point_is_refused_before_any_is_measured(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    named: str,
) -> None:
    monkeypatch.setattr(bench_secagg, "isolated", lambda measure, point: pytest.fail("measured"))
    got, found = values(capsys, "bench", "secagg", "--dim", "5", *arguments)
    assert (got, found["exit_code"]) == (code, code)
    assert named in found["error"]


def test_what_flwr_cannot_do_is_named_where_its_figures_would_be() -> None:
    def limit(clients: int, neighbors: int | None) -> str:
        return flower_limit(replace(POINT, clients=clients, neighbors=neighbors)) or ""

    assert "even num_shares" in limit(50, 19)
    assert "overflows" in limit(1024, 30)
    assert limit(1023, 30) == limit(50, None) == ""
    assert "overflows" in (_no_flower(replace(POINT, clients=1024, neighbors=30), True) or "")


def test_long_rounds_of_flwr_are_measured_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_commands, "_unusable", lambda: None)
    long, short = replace(POINT, clients=100, threshold=67), POINT
    assert "--flower measures it" in (_no_flower(long, None) or "")
    assert _no_flower(long, True) is _no_flower(short, None) is None
    monkeypatch.setattr(bench_commands, "_unusable", lambda: "flwr is not installed")
    assert _no_flower(short, None) == "flwr is not installed"


def test_flwr_asked_for_and_not_there_is_an_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_commands, "_unusable", lambda: "flwr is not installed")
    code, found = values(capsys, *TINY, "--flower")
    assert code == 2 and "not installed" in found["error"]


def test_help_of_the_bench_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from experiments.cli import main\n"
        "code = main(['bench', 'secagg', '--help'])\n"
        "sys.exit(code or str(sorted({'numpy', 'secagg', 'flwr', 'matplotlib', 'rich'} & set(sys.modules)) or ''))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "" and "--neighbors" in done.stdout


def test_a_missing_peer_is_an_empty_cell_and_not_a_zero(tmp_path: Path) -> None:
    rows = [{"dim": 1, "flower": {"client_cpu_s": 2.0}}, {"dim": 2, "flower": None}]
    _, table = write_results(tmp_path, {"rows": rows}, name="x")
    assert table.read_text().splitlines() == ["dim,flower.client_cpu_s", "1,2.0", "2,"]


def test_a_plot_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rows"):
        plot_secagg([], tmp_path)
