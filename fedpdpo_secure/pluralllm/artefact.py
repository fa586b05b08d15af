"""A trained predictor as files: weights, shape and what may be said of its privacy. Public; loads without a run."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from fedpdpo_secure.data.pairs import DataError
from fedpdpo_secure.pluralllm.lora import with_lora
from fedpdpo_secure.pluralllm.predictor import Predictor, PredictorShape, make_predictor

FOLDER = "shared_predictor"
WEIGHTS, SHAPE, CARD = "predictor.safetensors", "predictor.json", "README.md"
VERSION = 1


def save_predictor(folder: Path, predictor: Predictor, *, lora_r: int | None, claim: str) -> Path:
    """Write all weights (frozen ones too), so that the folder is complete by itself; returns it.

    lora_r: rank of the adapter the predictor carries, None without one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shape = {"version": VERSION, "shape": asdict(predictor.shape), "lora_r": lora_r}
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        place = Path(scratch)
        tensors = {name: value.detach().cpu().contiguous() for name, value in predictor.state_dict().items()}
        save_file(tensors, place / WEIGHTS)
        (place / SHAPE).write_text(json.dumps(shape, indent=1) + "\n", encoding="utf-8")
        (place / CARD).write_text(f"# Preference predictor\n\n## Privacy\n\n{claim}\n", encoding="utf-8")
        for name in (WEIGHTS, SHAPE, CARD):
            os.replace(place / name, folder / name)
    return folder


def load_predictor(folder: Path) -> Predictor:
    """The predictor of `save_predictor`, on the CPU. Raises DataError where the folder holds none."""
    try:
        known = json.loads((folder / SHAPE).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS)
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: holds no predictor ({error})") from error
    if known.get("version") != VERSION:
        raise DataError(f"{folder / SHAPE}: version {known.get('version')!r} is not known here")
    generator = torch.Generator().manual_seed(0)  # every value is overwritten below
    predictor = make_predictor(PredictorShape(**known["shape"]), generator)
    if known["lora_r"] is not None:
        with_lora(predictor, rank=known["lora_r"], alpha=2.0 * known["lora_r"], generator=generator)
    missing = sorted(set(predictor.state_dict()) ^ set(tensors))
    if missing:
        raise DataError(f"{folder / WEIGHTS}: tensor {missing[0]!r} does not fit {SHAPE}")
    predictor.load_state_dict(tensors)
    return predictor.eval()


def seeded_generator(seed: int, *path: int) -> torch.Generator:
    """A torch generator for public initial values; never for noise or samples."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence([seed, *path]).generate_state(1)[0]))
