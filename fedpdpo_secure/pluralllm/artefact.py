"""A trained predictor as files: weights, shape and what may be said of its privacy. Public; loads without a run."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from fedpdpo_secure.data.pairs import DataError
from fedpdpo_secure.model.lora import lora_parameters
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
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(f"{folder}: holds no predictor ({' '.join(str(error).split())})") from error
    version = known.get("version") if isinstance(known, dict) else None
    if version != VERSION:
        raise DataError(f"{folder / SHAPE}: version {version!r} is not known here")
    generator = torch.Generator().manual_seed(0)  # every value is overwritten below
    try:
        predictor = make_predictor(PredictorShape(**known["shape"]), generator)
        if known["lora_r"] is not None:
            with_lora(predictor, rank=known["lora_r"], alpha=2.0 * known["lora_r"], generator=generator)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder / SHAPE}: describes no predictor ({error})") from error
    wanted = {name: value.shape for name, value in predictor.state_dict().items()}
    found = {name: value.shape for name, value in tensors.items()}
    if wanted != found:
        name = next(name for name in sorted(wanted | found) if wanted.get(name) != found.get(name))
        raise DataError(f"{folder / WEIGHTS}: tensor {name!r} does not fit {SHAPE}")
    predictor.load_state_dict(tensors)
    return predictor.eval()


def read_shape(folder: Path) -> tuple[PredictorShape, int | None]:
    """(shape, rank of its adapter or None) of a saved predictor, without its weights. Raises DataError."""
    try:
        known = json.loads((folder / SHAPE).read_text(encoding="utf-8"))
        return PredictorShape(**known["shape"]), known["lora_r"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: holds no predictor ({error})") from error


def adapter_rank(predictor: Predictor) -> int | None:
    """The rank of the adapter that `predictor` carries, None without one."""
    return next((len(value) for name, value in lora_parameters(predictor) if "lora_A" in name), None)


def seeded_generator(seed: int, *path: int) -> torch.Generator:
    """A torch generator for public initial values; never for noise or samples."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence([seed, *path]).generate_state(1)[0]))
