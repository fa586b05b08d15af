"""What a client keeps between rounds: personal parts, their optimiser moments, and its own LoRA if it has one.

One file per client and round, 0600, so that a round cut half-way is repeated from the state before it. Nothing here is
ever sent.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from fedpdpo_secure.pairs.store import private_file


@dataclass(frozen=True)
class ClientState:
    """Tensors by name; empty for a client that has not trained yet."""

    personal: dict[str, Tensor] = field(default_factory=dict)
    moments: dict[str, Tensor] = field(default_factory=dict)  # AdamW state of the personal parts
    lora: dict[str, Tensor] = field(default_factory=dict)  # own adapter: method `local`, and serving copies


def save_state(path: Path, state: ClientState) -> None:
    """Write `state` to `path` atomically, readable by its owner alone."""
    groups = {"personal": state.personal, "moments": state.moments, "lora": state.lora}
    flat = {
        f"{group}/{name}": value.detach().cpu().contiguous()
        for group, part in groups.items()
        for name, value in part.items()
    }
    partial = path.with_suffix(".partial")
    with os.fdopen(private_file(partial), "wb") as file:
        file.write(save(flat))
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def load_state(path: Path) -> ClientState:
    """The state at `path`; an empty one where there is no file."""
    if not path.exists():
        return ClientState()
    groups: dict[str, dict[str, Tensor]] = {"personal": {}, "moments": {}, "lora": {}}
    for key, value in load_file(path).items():
        group, _, name = key.partition("/")
        groups[group][name] = value
    return ClientState(**groups)


class StateFolder:
    """`personal/<client>/state-<round>.safetensors`: the state after each round, the newest kept."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, client: str, round_index: int) -> Path:
        """File of `client` after round `round_index`; 0 is before the first."""
        return self.root / client / f"state-{round_index:05d}.safetensors"

    def load(self, client: str, round_index: int) -> ClientState:
        """State of `client` at the end of `round_index`: that of its last round until then."""
        found = [p for p in self._files(client) if _round_of(p) <= round_index]
        return load_state(max(found, key=_round_of)) if found else ClientState()

    def save(self, client: str, round_index: int, state: ClientState) -> None:
        """Keep `state` as that after `round_index`."""
        save_state(self.path(client, round_index), state)

    def prune(self, client: str, round_index: int) -> None:
        """Forget states older than the one in force at `round_index`, once that round is committed."""
        older = sorted((p for p in self._files(client) if _round_of(p) <= round_index), key=_round_of)
        for path in older[:-1]:
            path.unlink()

    def discard_after(self, client: str, round_index: int) -> None:
        """Forget states of rounds that were never committed."""
        for path in self._files(client):
            if _round_of(path) > round_index:
                path.unlink()

    def _files(self, client: str) -> list[Path]:
        return list((self.root / client).glob("state-*.safetensors"))


def _round_of(path: Path) -> int:
    return int(path.stem.removeprefix("state-"))


def write_tensors(module: nn.Module, values: dict[str, Tensor]) -> None:
    """Copy `values` into the parameters of `module` that they name."""
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        for name, value in values.items():
            parameters[name].copy_(value)


def read_tensors(module: nn.Module) -> dict[str, Tensor]:
    """A copy of every parameter of `module`, by name."""
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def read_moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's per-parameter state as named tensors."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}/{key}": torch.as_tensor(value).clone()
        for index, entry in state.items()
        for key, value in entry.items()
    }


def write_moments(optimizer: torch.optim.Optimizer, moments: dict[str, Tensor]) -> None:
    """Restore what `read_moments` returned; the step sizes stay the optimiser's own."""
    if not moments:
        return
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in moments.items():
        index, _, key = name.partition("/")
        state.setdefault(int(index), {})[key] = value.clone()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
