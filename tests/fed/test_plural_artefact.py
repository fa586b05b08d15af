"""A saved predictor predicts the same, with its adapter and without a run; a damaged folder is one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fedpdpo_secure.data.pairs import DataError
from fedpdpo_secure.pluralllm.artefact import (
    CARD,
    SHAPE,
    WEIGHTS,
    adapter_rank,
    load_predictor,
    read_shape,
    save_predictor,
    seeded_generator,
)
from fedpdpo_secure.pluralllm.lora import trainable, with_lora
from tests.fed.episodes import MIXED, WIDTH, episodes, small_predictor


@pytest.mark.parametrize("rank", [None, 3])
def test_a_loaded_predictor_predicts_the_same(tmp_path: Path, rank: int | None) -> None:
    predictor = small_predictor(4)
    if rank is not None:
        with_lora(predictor, rank=rank, alpha=2.0 * rank, generator=seeded_generator(1))
        with torch.no_grad():
            for _, value in trainable(predictor):
                value.normal_(generator=seeded_generator(2))
    assert adapter_rank(predictor) == rank
    save_predictor(tmp_path / "kept", predictor, lora_r=rank, claim="epsilon 3 of something")
    loaded = load_predictor(tmp_path / "kept")
    assert read_shape(tmp_path / "kept") == (predictor.shape, rank) and adapter_rank(loaded) == rank
    batch = episodes(MIXED)
    with torch.no_grad():
        ours, theirs = predictor.eval()(batch), loaded(batch)
    assert torch.equal(ours.mean, theirs.mean) and torch.equal(ours.log_std, theirs.log_std)
    assert [name for name, _ in trainable(loaded)] == [name for name, _ in trainable(predictor)]
    assert "epsilon 3 of something" in (tmp_path / "kept" / CARD).read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept"]  # no scratch is left


def test_saving_again_replaces_the_predictor(tmp_path: Path) -> None:
    for seed in (1, 2):
        save_predictor(tmp_path / "kept", small_predictor(seed), lora_r=None, claim=f"claim {seed}")
    found = dict(load_predictor(tmp_path / "kept").named_parameters())
    for name, value in small_predictor(2).named_parameters():
        assert torch.equal(found[name], value)
    assert "claim 2" in (tmp_path / "kept" / CARD).read_text()


def described(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        known = json.loads((folder / SHAPE).read_text())
        change(known)
        (folder / SHAPE).write_text(json.dumps(known))

    return damage


def reshaped(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors["embed.0.weight"] = torch.zeros(2, WIDTH)
    save_file(tensors, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / WEIGHTS).write_bytes(b"nothing"), "holds no predictor"),
        (lambda folder: (folder / SHAPE).write_text("{"), "holds no predictor"),
        (lambda folder: (folder / SHAPE).unlink(), "holds no predictor"),
        (lambda folder: (folder / SHAPE).write_text("[]"), "version None is not known"),
        (described(lambda known: known.update(version=9)), "version 9 is not known"),
        (described(lambda known: known["shape"].update(heads=3)), "describes no predictor"),
        (described(lambda known: known["shape"].update(colour=3)), "describes no predictor"),
        (described(lambda known: known.pop("lora_r")), "describes no predictor"),
        (described(lambda known: known.update(lora_r=2)), "does not fit"),
        (described(lambda known: known["shape"].update(layers=3)), "does not fit"),
        (reshaped, "tensor 'embed.0.weight' does not fit"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(tmp_path: Path, damage: Callable[[Path], None], said: str) -> None:
    save_predictor(tmp_path / "kept", small_predictor(0), lora_r=None, claim="none")
    damage(tmp_path / "kept")
    with pytest.raises(DataError) as caught:
        load_predictor(tmp_path / "kept")
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_public_initial_values_follow_from_seed_and_path_alone() -> None:
    drawn = [torch.rand(4, generator=seeded_generator(*path)).numpy() for path in ((0, 1), (0, 1), (0, 2), (1, 1))]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2]) and not np.array_equal(drawn[0], drawn[3])
