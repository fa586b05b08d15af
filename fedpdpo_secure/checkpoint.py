"""The federation's state after a round, in one atomically replaced file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

FILE = "checkpoint/federation.safetensors"


class CheckpointError(ValueError):
    """The run folder cannot be resumed; one line says why."""


@dataclass(frozen=True)
class GlobalState:
    """What the server holds between rounds."""

    round_index: int  # rounds completed
    shared: NDArray[np.float64]  # [F], the whole shared part: FedPDPO's adapter, PluralLLM's predictor or its adapter
    velocity: NDArray[np.float64] | None = None  # [D], of the server's momentum


def save_checkpoint(folder: Path, state: GlobalState, config_digest: str) -> None:
    """Replace the checkpoint of `folder`; it is on disk when this returns."""
    path = folder / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"round_index": str(state.round_index), "config": config_digest}
    tensors = {"shared": state.shared, "velocity": state.velocity}
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(save({name: value for name, value in tensors.items() if value is not None}, metadata))
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def load_checkpoint(folder: Path, config_digest: str) -> GlobalState | None:
    """The checkpoint of `folder`, None if no round was recorded. Raises CheckpointError for another configuration's."""
    path = folder / FILE
    if not path.exists():
        return None
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
        if metadata["config"] != config_digest:
            raise CheckpointError(f"{folder}: the checkpoint belongs to another configuration")
        velocity = file.get_tensor("velocity") if "velocity" in set(file.keys()) else None
        return GlobalState(int(metadata["round_index"]), file.get_tensor("shared"), velocity)
