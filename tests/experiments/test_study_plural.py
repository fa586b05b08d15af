"""The study of PluralLLM: cells compare what the tables say they compare, and tables say what their folders say.

The run folders of this file are fabricated: fixtures with made-up numbers, which no table of the documentation uses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from experiments import study_plural
from experiments.study import CONFIGS, Cell
from experiments.study_plural import CLIENT, CLIPPED, EPSILONS, HEADLINE, QUESTION, STUDIES, epsilon_cell
from experiments.study_plural_plot import draw_epsilon
from fedpdpo_secure.config import Config, dump_config, load_config
from fedpdpo_secure.report import LOCAL

SEEDS = (0, 1)
PARTS = ("", "known questions/", "unseen groups/", "unseen groups, unseen questions/")
METRICS = ("alignment", "alignment_micro", "alignment_worst", "fairness", "cov")


@pytest.fixture(autouse=True)
def data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDPDPO_DATA", "data")


def resolved(cell: Cell) -> Config:
    """The configuration of a cell."""
    return load_config(CONFIGS / cell.variant.config, (*cell.variant.changes, *cell.changes, f"seed={cell.seed}"))


def fabricate(cell: Cell, out: Path, end: float, curve: Mapping[int, float]) -> None:
    """A finished run folder that ends at `end` and started at 0.6, baselines at 0.5."""
    folder = cell.folder(out)
    folder.mkdir(parents=True)
    served = {f"{part}{metric}": end for part in PARTS for metric in METRICS}
    untrained = {f"{part}{metric}": 0.6 for part in PARTS for metric in METRICS}
    for name in study_plural.BASELINES:
        untrained |= {f"{part}{name}: {metric}": 0.5 for part in PARTS for metric in METRICS}
    (folder / "metrics.json").write_text(json.dumps({LOCAL: {"served": served, "untrained": untrained}}))
    lines = [
        json.dumps({"round_index": at, "released": {"unseen groups/alignment": score}, LOCAL: {}})
        for at, score in curve.items()
    ]
    (folder / "rounds.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "config.yaml").write_text(dump_config(resolved(cell)))


def rows(text: str) -> list[list[str]]:
    """Rows of the Markdown tables in `text`."""
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_every_cell_of_the_study_is_accepted_and_lies_in_a_folder_of_its_own(name: str, tmp_path: Path) -> None:
    cells = STUDIES[name].cells(SEEDS)
    assert len({cell.folder(tmp_path) for cell in cells}) == len(cells)
    for cell in cells:
        resolved(cell)


@pytest.mark.parametrize("form", sorted(HEADLINE))
def test_federated_and_central_take_equal_steps_with_one_schedule(form: str) -> None:
    found = {variant.name: resolved(Cell(variant, form, 0, ())) for variant in HEADLINE[form]}
    federated, central = found["federated"], found["central, equal steps"]
    assert central.federation.rounds * (central.federation.local_steps or 0) == federated.federation.rounds * (
        federated.federation.local_steps or 0
    )
    assert central.predictor == federated.predictor
    assert central.schedule.decay == federated.schedule.decay
    assert central.schedule.learning_rate == federated.schedule.learning_rate
    assert central.survey == federated.survey


def test_the_published_habits_are_all_switched_on() -> None:
    config = load_config(CONFIGS / "pluralllm_published.yaml", ())
    schedule, episodes = config.schedule, config.episodes
    assert (schedule.decay, schedule.moments, schedule.weights) == ("published", "keep", "episode")
    assert (config.survey.split, config.predictor.loss) == ("survey_order", "gaussian")
    assert (episodes.least, episodes.most, config.federation.rounds, config.federation.local_steps) == (9, 90, 100, 6)


def test_cells_of_one_unit_differ_in_epsilon_and_the_size_of_the_step_alone() -> None:
    for variant in (QUESTION, CLIENT):
        found = [resolved(epsilon_cell(variant, epsilon, 0)) for epsilon in EPSILONS]
        kept = [(c.federation.rounds, c.privacy.clip_norm, c.privacy.delta, c.predictor, c.survey) for c in found]
        assert all(one == kept[0] for one in kept)
        assert [c.privacy.epsilon for c in found] == [float(epsilon) for epsilon in EPSILONS]
        assert {(c.privacy.unit, c.privacy.noise) for c in found} == {
            ("question" if variant is QUESTION else "client", "distributed")
        }


def test_the_headline_counts_rounds_and_steps_apart(tmp_path: Path) -> None:
    curve = {4: 0.6, 8: 0.8, 12: 0.8, 16: 0.8, 20: 0.8, 24: 0.8}  # smoothed over three measurements: there at round 16
    for cell in study_plural.headline_cells(SEEDS):
        fabricate(cell, tmp_path, 0.8, curve)
    table = rows(study_plural.headline_table(tmp_path, SEEDS))
    published = {row[0]: row[2:4] for row in table[1:8]}
    assert published["federated"] == ["16 (16-16)", "96 (96-96)"]
    assert published["central, 1 step an epoch"] == ["16 (16-16)", "16 (16-16)"]


def test_the_table_of_epsilons_shows_what_has_ended_beside_the_public_predictor(tmp_path: Path) -> None:
    for seed in SEEDS:
        for place, epsilon in enumerate(EPSILONS):
            fabricate(epsilon_cell(QUESTION, epsilon, seed), tmp_path, 0.7 + place / 100 + seed / 500, {})
    fabricate(study_plural.free_cell(CLIPPED, 0), tmp_path, 0.8, {})
    found = {row[0]: row[1:] for row in rows(study_plural.epsilon_table(tmp_path, SEEDS))}
    assert found["question, noise in shares, epsilon 8"][:2] == ["2", "0.731 ± 0.001"]
    assert found["question, clipped without noise"][:2] == ["1", "0.800"]
    assert found["public predictor alone"][1].startswith("0.600")
    assert found["global mean"][2].startswith("0.500")
    assert not any(name.startswith("country, noise") for name in found)


def test_the_plot_draws_the_curves_that_exist(tmp_path: Path) -> None:
    for cell in study_plural.epsilon_cells((0,)):
        fabricate(cell, tmp_path, 0.7, {})
    panel = study_plural.epsilon_lines(tmp_path, SEEDS, "unseen groups/alignment")
    assert [list(line.places) for line in panel[0]] == [[1.0, 2.0, 4.0, 8.0, 16.0]] * 2
    assert panel[1]["groups' mean"] == 0.5
    assert draw_epsilon({"one": panel}, tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="panels"):
        draw_epsilon({}, tmp_path / "none.png")


def test_the_table_of_groups_shows_public_private_and_free_side_by_side(tmp_path: Path) -> None:
    for cell in study_plural.group_cells(SEEDS):
        fabricate(cell, tmp_path, {"eps8": 0.7, "eps1": 0.65}.get(cell.group, 0.8), {})
    found = {row[0]: row[1:] for row in rows(study_plural.group_table(tmp_path, SEEDS))}
    assert found["192"][:4] == ["0.600 ± 0.000", "0.650 ± 0.000", "0.700 ± 0.000", "0.800 ± 0.000"]
