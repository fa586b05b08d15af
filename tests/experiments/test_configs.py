"""Every configuration that ships loads, and says what it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedpdpo_secure.config import dump_config, load_config

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "experiments" / "configs").glob("*.yaml"))


def test_the_configurations_of_the_documents_are_there() -> None:
    names = {path.name for path in CONFIGS}
    assert names >= {"quickstart.yaml", "nonprivate.yaml", "pref_open_eps8.yaml", "pref_open_nonprivate.yaml"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_configuration_loads_and_its_resolved_form_is_a_fixed_point(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDPDPO_DATA", str(tmp_path))
    config = load_config(path)
    (tmp_path / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    monkeypatch.delenv("FEDPDPO_DATA")
    assert load_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_an_unprivate_configuration_says_so_at_its_head(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    private = "unit: none" not in text and "epsilon: .inf" not in text
    assert private or "NOT PRIVATE" in text.splitlines()[0]


def test_the_quickstart_loses_clients_in_both_recoverable_stages() -> None:
    config = load_config(next(path for path in CONFIGS if path.name == "quickstart.yaml"))
    stages = {drop["stage"] for drop in config.federation.drop}
    assert {"after_shares", "after_masked"} <= stages
    assert len({drop["round"] for drop in config.federation.drop}) > 1
