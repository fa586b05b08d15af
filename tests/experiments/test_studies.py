"""Studies: the cells are what a table says they are, and tables say what their run folders say.

The run folders of this file are fabricated: fixtures with made-up numbers, which no table of the documentation uses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from experiments import study_clients, study_modes
from experiments.studies import STUDIES
from experiments.study import Cell, Variant, run_cells
from experiments.study_plot import Line, plot_lines
from fedpdpo_secure.config import Config, load_config
from fedpdpo_secure.report import LOCAL

CONFIGS = Path(study_modes.__file__).parent / "configs"
SEEDS = (0, 1)


def fabricate(folder: Path, *, shared: Mapping[str, float], served: Mapping[str, float], public: float = 0.5) -> None:
    """A finished run folder with made-up numbers."""
    local = {"served": served, "shared adapter alone": shared, "untrained": {"accuracy_implicit": 0.5}}
    folder.mkdir(parents=True)
    values = {LOCAL: local, "released": {"accuracy_implicit": public}}
    (folder / "metrics.json").write_text(json.dumps(values))
    (folder / "rounds.jsonl").write_text(json.dumps({LOCAL: {}}) + "\n")


def fabricate_modes(out: Path) -> None:
    """Every cell of `modes`: the accuracy is epsilon's place in hundredths, above a base that names the mode."""
    base = {mode.key: 0.5 + number / 10 for number, mode in enumerate(study_modes.MODES)}
    for cell in study_modes.mode_cells(SEEDS):
        place = ("0.5", "1", "8", "inf").index(cell.group.removeprefix("eps"))
        accuracy = base[cell.variant.name] + place / 100 + cell.seed / 500
        scores = {"accuracy_implicit": accuracy, "accuracy_combined": accuracy, "worst_accuracy": 0.4}
        pooled = cell.variant.name == "central"
        fabricate(cell.folder(out), shared={} if pooled else scores, served=scores)


def rows(text: str) -> dict[str, list[str]]:
    """Rows of the Markdown tables in `text` by their first cell; the last one wins."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {line[0]: line[1:] for line in lines}


def test_the_table_of_modes_shows_mean_and_spread_of_the_released_adapter(tmp_path: Path) -> None:
    fabricate_modes(tmp_path)
    found = rows(study_modes.mode_table(tmp_path, SEEDS))
    assert found["pair/distributed, 1 colluder"][0] == "0.501 ± 0.001"
    assert found["central DP-SGD (trusted curator)"][2].startswith("0.62")  # a curator has no separate shared adapter
    assert found["clipped, no noise"][0].startswith("0.63")


def test_differences_are_taken_between_equal_seeds(tmp_path: Path) -> None:
    fabricate_modes(tmp_path)
    found = rows(study_modes.mode_table(tmp_path, SEEDS))
    assert found["pair/distributed, 1 colluder minus pair/local, frozen"] == ["-0.200 ± 0.000"] * 3


def test_modes_differ_in_who_adds_the_noise_alone() -> None:
    configs = {cell.variant.name: resolved(cell) for cell in study_modes.mode_cells((0,)) if cell.group == "eps1"}
    kept = {
        (c.federation.rounds, c.federation.local_steps, c.privacy.sample_rate, c.privacy.clip_norm, c.privacy.delta)
        for c in configs.values()
    }
    assert len(kept) == 1
    shares, central = configs["shares"], configs["central"]
    assert shares.dpo.learning_rate == central.dpo.learning_rate
    assert central.privacy.expected_batch == 12 * (shares.privacy.expected_batch or 0)
    assert shares.privacy.colluding == 1


def test_rates_are_chosen_on_validation_pairs_of_a_seed_that_no_table_uses() -> None:
    cells = study_modes.rate_cells((0, 1, 2))
    assert {cell.seed for cell in cells} == {study_modes.RATE_SEED}
    assert study_modes.RATE_SEED not in range(100)
    assert {resolved(cell).evaluation.final_split for cell in cells} == {"validation"}
    for mode in study_modes.MODES:
        assert mode.rate in study_modes.RATES


def test_a_mode_that_is_not_tuned_takes_the_rate_of_the_mode_it_is_compared_with() -> None:
    assert study_modes.CENTRAL.rate == study_modes.SHARES.rate
    assert study_modes.JOINT.rate == study_modes.FROZEN.rate


def test_every_cell_is_a_configuration_that_is_accepted_and_lies_in_a_folder_of_its_own(tmp_path: Path) -> None:
    for name in ("modes", "clients", "rates"):
        cells = STUDIES[name].cells(SEEDS)
        assert len({cell.folder(tmp_path) for cell in cells}) == len(cells)
        for cell in cells:
            resolved(cell)


def test_an_update_of_one_adam_step_never_exceeds_the_clip_norm_of_the_client_study() -> None:
    config = resolved(study_clients.client_cell(12, "8", 0))
    assert config.federation.local_steps == 1
    assert config.dpo.learning_rate is not None
    coordinates = 5280  # B of rank 4 on every linear layer of builtin:tiny (tests/fed pin the layout)
    assert config.dpo.learning_rate * coordinates**0.5 == pytest.approx(config.privacy.clip_norm, rel=1e-3)


def test_the_table_of_clients_shows_public_accuracy_by_their_number(tmp_path: Path) -> None:
    for cell in study_clients.client_cells(SEEDS):
        count = int(cell.variant.name.split()[0])
        fabricate(cell.folder(tmp_path), shared={}, served={}, public=0.5 + count / 10_000 + cell.seed / 500)
    found = rows(study_clients.client_table(tmp_path, SEEDS))
    assert found["1,000"] == ["1", "0.600"]  # the largest federation runs on one seed, and the table says so
    assert found["100"] == ["2", "0.511 ± 0.001"]
    assert study_clients.client_plot(tmp_path, SEEDS).read_bytes().startswith(b"\x89PNG")


def test_the_plot_of_modes_is_drawn_from_the_same_folders(tmp_path: Path) -> None:
    fabricate_modes(tmp_path)
    assert study_modes.mode_plot(tmp_path, SEEDS).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("lines", [[], [Line("a", [1.0, 2.0], [[0.5]])]])
def test_a_plot_of_nothing_or_of_lines_that_do_not_fit_is_refused(tmp_path: Path, lines: list[Line]) -> None:
    with pytest.raises(ValueError, match="lines"):
        plot_lines(lines, tmp_path / "plot.png", title="", x_label="", levels={})


def test_finished_cells_are_not_run_again(tmp_path: Path) -> None:
    cell = Cell(Variant("kept", "no_such_configuration.yaml"), "group", 0, ())
    fabricate(cell.folder(tmp_path), shared={}, served={})
    run_cells([cell], tmp_path, 1)


def test_a_cell_that_fails_is_named_with_what_it_said(tmp_path: Path) -> None:
    cell = Cell(Variant("broken", "quickstart.yaml"), "group", 0, ("privacy.epsilon=-1",))
    with pytest.raises(SystemExit, match=r"broken/seed0: .*privacy.epsilon"):
        run_cells([cell], tmp_path, 1)


def resolved(cell: Cell) -> Config:
    """The configuration of a cell."""
    return load_config(CONFIGS / cell.variant.config, (*cell.variant.changes, *cell.changes, f"seed={cell.seed}"))
