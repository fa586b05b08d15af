"""Budgets outlive runs: one identity of data has one budget, whatever a later run calls itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fedpdpo_secure import round as round_module
from fedpdpo_secure.aggregate import PlainRound
from fedpdpo_secure.artefacts import RunFolderError
from fedpdpo_secure.config import Config, ConfigError, make_config
from fedpdpo_secure.local import private
from fedpdpo_secure.progress import SilentProgress
from fedpdpo_secure.run import run_training
from privacy.errors import BudgetExceeded, LedgerMismatch
from privacy.events import gaussian_event
from privacy.ledger_view import show, verify_dir
from tests.fed.runs import run

SMALL = {
    "federation": {"clients": 3, "rounds": 1, "local_steps": 1},
    "synthetic": {"pairs": 16, "public_dialogues": 200},
}


@pytest.fixture
def owned(tmp_path: Path) -> dict[str, object]:
    """A configuration over a file of pairs that is not declared public, with ledgers of its own."""
    rng = np.random.default_rng(0)
    rows = [
        {"prompt": f"Question {n}?", "chosen": f" Yes, {rng.integers(99)}.", "rejected": " No.", "site": f"s{n % 3}"}
        for n in range(120)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {
        "dataset_name": str(path),
        "data": {"id": "owned", "partition": "site", "pairs_per_client": 60, "test_fraction": 0.2},
        "tiny": {"warm_start_steps": 5, "hidden_size": 32, "layers": 1},
        "synthetic": {"public_dialogues": 200},
        "federation": {"clients": 3, "rounds": 1, "local_steps": 1},
        "lora": {"r": 2},
        "dpo": {"max_length": 64},
        "serving": {"epochs": 0},
        "privacy": {"noise_multiplier": 2.0, "ledger_root": str(tmp_path / "ledgers")},
        "device": "cpu",
        "output_dir": str(tmp_path / "run"),
    }


def changed(values: dict[str, object], **sections: object) -> Config:
    merged = {
        name: {**section, **sections.get(name, {})} if isinstance(section, dict) else sections.get(name, section)
        for name, section in values.items()
    }
    return make_config(merged)


def train(config: Config) -> object:
    return run_training(config, resume=False, progress=SilentProgress())


def test_a_second_run_over_the_same_data_goes_on_with_the_same_ledgers(owned, tmp_path) -> None:
    first = train(changed(owned))
    second = train(changed(owned, output_dir=str(tmp_path / "again")))
    assert second.epsilon > first.epsilon
    found = verify_dir(tmp_path / "ledgers")
    assert len(found) == 3 and {ledger.reserved for ledger in found} == {2}
    assert len(verify_dir(tmp_path / "again")) == 3  # copies in the run folder


@pytest.mark.parametrize(
    "sections", [{"federation": {"clients": 6}}, {"seed": 1}, {"data": {"partition": "round_robin"}}], ids=str
)
def test_a_run_that_would_deal_the_same_data_otherwise_is_refused(owned, tmp_path, sections) -> None:
    train(changed({**owned, "seed": 0}))
    with pytest.raises(ConfigError, match=r"data\.id: owned was dealt with"):
        train(changed({**owned, "seed": 0}, output_dir=str(tmp_path / "other"), **sections))


def test_data_with_ledgers_of_its_own_cannot_be_called_public_later(owned, tmp_path) -> None:
    train(changed(owned))
    with pytest.raises(ConfigError, match="it is not public data"):
        train(changed(owned, data={"public": True}, output_dir=str(tmp_path / "other")))


def test_a_run_without_privacy_is_recorded_and_ends_a_finite_budget(owned, tmp_path) -> None:
    free = {**owned, "privacy": {"unit": "none", "ledger_root": str(tmp_path / "ledgers")}}
    finite = {**owned, "privacy": {"epsilon": 8, "ledger_root": str(tmp_path / "ledgers")}}
    train(changed(finite))
    with pytest.raises(LedgerMismatch):
        train(changed(free, output_dir=str(tmp_path / "free")))
    reason = {"raise_budget_reason": "the study ended"}
    result = train(changed(free, output_dir=str(tmp_path / "free2"), privacy=reason))
    assert result.epsilon is None
    rows = [row.detail for path in (tmp_path / "ledgers").rglob("*.jsonl") for row in show(path)]
    assert any("privacy.unit: none" in row for row in rows)


def test_rows_of_private_data_cannot_be_made_public(owned) -> None:
    with pytest.raises(ConfigError, match=r"data\.public_fraction"):
        changed(owned, data={"public_fraction": 0.3})


def test_the_ledger_names_configuration_clip_norm_and_divisor(owned, tmp_path) -> None:
    train(changed(owned, privacy={"unaccounted_releases": ["learning rate chosen on these pairs"]}))
    detail = next(
        row.detail for path in (tmp_path / "ledgers").rglob("*.jsonl") for row in show(path) if row.round_index
    )
    for words in ("clip_norm=1.0", "expected_batch=30.0", "config=", "learning rate chosen on these pairs"):
        assert words in detail
    card = (tmp_path / "run" / "shared_adapter" / "README.md").read_text()
    assert "learning rate chosen on these pairs" in card


@pytest.mark.parametrize(
    ("privacy", "words"),
    [
        (
            {"noise_multiplier": 2.0},
            ["epsilon ", "delta 1e-05", "honest-but-curious", "Accountant", "add or remove one"],
        ),
        ({"epsilon": float("inf")}, ["NOT PRIVATE: clip only"]),
        ({"noise_multiplier": 2.0, "insecure_seed": 1}, ["NOT PRIVATE: seeded noise"]),
        ({"unit": "none"}, ["NOT PRIVATE: privacy.unit: none"]),
    ],
    ids=["private", "clip only", "seeded", "none"],
)
def test_the_card_of_the_adapter_says_what_holds(tmp_path, privacy, words) -> None:
    run(tmp_path, **SMALL, privacy=privacy)
    card = (tmp_path / "shared_adapter" / "README.md").read_text()
    assert all(word in card for word in words), card


def test_an_update_whose_noise_was_not_charged_is_never_sent(tmp_path, monkeypatch) -> None:
    sent: list[int] = []
    original = PlainRound.submit
    monkeypatch.setattr(
        PlainRound, "submit", lambda self, client, vector: (sent.append(client), original(self, client, vector))
    )
    weaker = gaussian_event(noise_multiplier=0.1, sample_rate=0.5, steps=1)
    monkeypatch.setattr(private.PairDPSGD, "event", lambda self: weaker)
    with pytest.raises(round_module.EventMismatch, match="nothing was sent"):
        run(tmp_path, **SMALL, secagg={"enabled": False})
    assert not sent


def test_a_refused_run_leaves_nothing_behind_and_the_corrected_one_may_use_its_folder(owned, tmp_path) -> None:
    train(changed({**owned, "privacy": {"epsilon": 8, "ledger_root": str(tmp_path / "ledgers")}}))
    other = {
        **owned,
        "privacy": {"epsilon": 12, "ledger_root": str(tmp_path / "ledgers")},
        "output_dir": str(tmp_path / "b"),
    }
    with pytest.raises(LedgerMismatch, match="raise_budget_reason"):
        train(changed(other))
    assert not (tmp_path / "b").exists()
    with pytest.raises(BudgetExceeded, match="no room for one round"):  # its noise is for an unused ledger
        train(changed(other, privacy={"raise_budget_reason": "a second study"}))
    assert not (tmp_path / "b").exists()
    noise = {"epsilon": None, "noise_multiplier": 20.0, "raise_budget_reason": "a third study"}
    assert train(changed(other, privacy=noise)).rounds == 1


def test_an_output_folder_that_cannot_be_written_is_refused_at_once(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    for folder in ("/proc/none", str(tmp_path / "file")):
        with pytest.raises(RunFolderError, match="cannot be written"):
            run(Path(folder), **SMALL)
