"""The record of a round: what is local is marked, what is not private says so, and a crash costs at most one line."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.round_table import column_lines, narrow_line, round_line, table_width
from experiments.tables import count_of, number
from fedpdpo_secure.progress import RunInfo
from fedpdpo_secure.report import (
    CSV_NAME,
    JSON_NAME,
    LOCAL,
    NOT_PRIVATE,
    Drop,
    RoundReport,
    append_report,
    csv_columns,
    from_json,
    read_reports,
    to_json,
    write_reports,
)


def make_report(
    round_index: int = 1, *, unit: str = "pair", noise: str = "local", epsilon: float | None = 3.25
) -> RoundReport:
    return RoundReport(
        round_index=round_index,
        clients=12,
        survivors=11,
        dropped=(Drop("client-04", "after_shares"),),
        recovered=1,
        steps=2,
        epsilon_round=epsilon,
        epsilon=epsilon,
        epsilon_pld=epsilon,
        epsilon_rdp=None if epsilon is None else epsilon + 1,
        epsilon_left=None if epsilon is None else 8 - epsilon,
        delta=1e-5,
        noise_multiplier=1.25,
        sample_rate=0.5,
        clip_norm=1.0,
        unit=unit,
        noise=noise,
        upload_bytes=30_000,
        seconds=1.5,
        released={"accuracy_implicit": 0.5625},
        local={"accuracy_combined": 0.875, "clip_fraction": 0.5, "snr": math.nan},
    )


def make_info(*, unit: str = "pair", noise: str = "local", projected: float | None = 7.99) -> RunInfo:
    return RunInfo(
        task="fedpdpo", method="fedpdpo", personal="frozen", model="builtin:tiny", dataset="builtin:synthetic",
        device="cpu", clients=12, rounds=6, first_round=1, parameters=4608, unit=unit, noise=noise, delta=1e-5,
        budget=8.0, epsilon_projected=projected, accountant="pld", sampler="Poisson, rate 0.5", noise_multiplier=1.25,
        clip_norm=1.0, sample_rate=0.5, expected_batch=50.0, local_steps=2, secagg="on", upload_bytes=30_000,
    )  # fmt: skip


def test_a_report_survives_its_json_line() -> None:
    report = make_report()
    back = from_json(to_json(report))
    assert math.isnan(back.local["snr"])
    assert to_json(back) == to_json(report)


def test_local_numbers_stand_under_their_mark_and_can_be_left_out() -> None:
    values = json.loads(to_json(make_report()))
    assert values[LOCAL]["accuracy_combined"] == 0.875
    assert "accuracy_combined" not in values
    assert "0.875" not in to_json(make_report(), local=False)


@pytest.mark.parametrize(
    "report",
    [
        make_report(unit="none", noise="none", epsilon=None),
        make_report(noise="seeded"),  # an epsilon that seeded noise cannot earn
        make_report(epsilon=math.inf),
        make_report(noise="none", epsilon=None),
    ],
)
def test_what_is_not_private_says_so_in_every_form(report: RoundReport, tmp_path: Path) -> None:
    append_report(tmp_path, report)
    line = json.loads((tmp_path / JSON_NAME).read_text())
    row = next(csv.DictReader((tmp_path / CSV_NAME).open()))
    assert (line["private"], line["claim"]) == (False, NOT_PRIVATE)
    assert (row["private"], row["claim"]) == ("False", NOT_PRIVATE)
    assert NOT_PRIVATE in round_line(report)
    assert "3.25" not in round_line(report)


def test_csv_and_json_agree_and_columns_never_move(tmp_path: Path) -> None:
    reports = [make_report(1), make_report(2, unit="none", noise="none", epsilon=None)]
    for report in reports:
        append_report(tmp_path, report)
    rows = list(csv.DictReader((tmp_path / CSV_NAME).open()))
    assert [tuple(row) for row in rows] == [csv_columns()] * 2
    assert [row["epsilon"] for row in rows] == ["3.25", ""]
    assert rows[0]["dropped"] == "client-04:after_shares"
    assert rows[0]["local not released: accuracy_combined"] == "0.875"
    assert rows[0]["released: accuracy_implicit"] == "0.5625"
    assert [report.round_index for report in read_reports(tmp_path)] == [1, 2]


def test_a_line_that_a_crash_cut_short_is_dropped_and_written_over(tmp_path: Path) -> None:
    append_report(tmp_path, make_report(1))
    for name in (JSON_NAME, CSV_NAME):
        with (tmp_path / name).open("a") as file:
            file.write('{"round_index": 2, "cli')
    assert [report.round_index for report in read_reports(tmp_path)] == [1]
    append_report(tmp_path, make_report(2))
    assert [report.round_index for report in read_reports(tmp_path)] == [1, 2]
    assert [row["round_index"] for row in csv.DictReader((tmp_path / CSV_NAME).open())] == ["1", "2"]


def test_rewriting_keeps_exactly_the_given_rounds(tmp_path: Path) -> None:
    for round_index in (1, 2, 3):
        append_report(tmp_path, make_report(round_index))
    write_reports(tmp_path, read_reports(tmp_path)[:2])
    assert [report.round_index for report in read_reports(tmp_path)] == [1, 2]
    assert len((tmp_path / CSV_NAME).read_text().splitlines()) == 3


def test_in_the_table_local_numbers_stand_right_of_the_bar_and_epsilon_has_its_claim() -> None:
    title, columns = column_lines(make_info())
    left, right = round_line(make_report()).split(" | ")
    assert len(left) == columns.index(" | ")
    assert title.index(LOCAL) > len(left)
    assert "0.875" in right
    assert "0.875" not in left
    assert "3.250" in left
    assert "delta 1e-05" in title
    assert NOT_PRIVATE in column_lines(make_info(unit="none", projected=None))[0]


def test_columns_by_adversary_are_shown_where_noise_is_shared_and_only_there() -> None:
    report = replace(make_report(noise="distributed"), epsilon_own=17.5, epsilon_sum=2.875)
    titles, line = column_lines(make_info(noise="distributed"))[1], round_line(report)
    assert len(line) == len(titles)
    for title, value in (("own", "17.500"), ("sum", "2.875"), ("spent", "3.250")):
        assert line[: titles.index(title) + len(title)].endswith(value)
    assert " own" not in column_lines(make_info())[1] and "17.500" not in round_line(replace(report, noise="local"))
    assert from_json(to_json(report)).epsilon_own == 17.5


def test_a_narrow_table_leaves_out_only_the_columns_it_names_and_keeps_its_bar() -> None:
    for info in (make_info(), make_info(noise="distributed")):
        wide, narrow = (column_lines(info, narrow=narrow)[1] for narrow in (False, True))
        assert len(wide) == table_width(info)
        titles = narrow_line(info).split(":")[0].split(", ")
        assert all(title in wide and title not in narrow for title in titles)
        assert "spent" in narrow
        for report in (make_report(noise=info.noise), make_report(noise=info.noise, epsilon=None)):
            line = round_line(report, narrow=True)
            assert len(line) == len(narrow)
            assert line.index(" | ") == narrow.index(" | ")


def test_a_positive_number_never_reads_as_zero() -> None:
    assert [number(value) for value in (0.0, 1e-9, 0.0004, 0.0006, 0.25)] == [
        "0.000",
        "<0.001",
        "<0.001",
        "0.001",
        "0.250",
    ]
    assert number(1e-9, 4) == "<0.0001"
    assert len(round_line(make_report(epsilon=1e-6))) == table_width(make_info())


def test_one_is_singular() -> None:
    assert [count_of(count, "round") for count in (0, 1, 2)] == ["0 rounds", "1 round", "2 rounds"]
