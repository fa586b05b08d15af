"""The run folder: resolved configuration, shared adapter that loads in plain peft, final metrics."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from fedpdpo_secure.checkpoint import GlobalState
from fedpdpo_secure.config import Config, dump_config, load_config
from fedpdpo_secure.report import finite
from fedpdpo_secure.task import FedPDPO

ADAPTER = "shared_adapter"
BASE = "base_model"
CONFIG = "config.yaml"


class RunFolderError(ValueError):
    """The output folder cannot be used as asked; one line says why."""


def claim_folder(config: Config, *, resume: bool) -> Path:
    """The run folder, made if new. Raises RunFolderError when a run is already there or the one to resume differs."""
    folder = Path(config.output_dir)
    known = folder / CONFIG
    if resume:
        if not known.exists():
            raise RunFolderError(f"--resume {folder}: no {CONFIG} there")
        if load_config(known).model_dump(exclude={"output_dir"}) != config.model_dump(exclude={"output_dir"}):
            raise RunFolderError(f"--resume {folder}: its {CONFIG} differs from the configuration given")
        return folder
    if known.exists():
        raise RunFolderError(f"output_dir: {folder} already holds a run; use --resume {folder} or another folder")
    _make_writable(folder)
    return folder


def discard_unstarted(folder: Path) -> None:
    """Remove what a refused run had prepared, so that the corrected one finds the folder as it was."""
    if (folder / CONFIG).exists():
        return
    for name in ("personal", BASE):
        shutil.rmtree(folder / name, ignore_errors=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _make_writable(folder: Path) -> None:
    """Make `folder`, or raise RunFolderError if files cannot be put into it; `discard_unstarted` takes it back."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RunFolderError(f"output_dir: {folder} cannot be written ({error.strerror})") from error


def write_config(folder: Path, config: Config) -> None:
    """The resolved configuration, once per run."""
    folder.mkdir(parents=True, exist_ok=True)
    _replace_text(folder / CONFIG, dump_config(config))


def save_adapter(folder: Path, task: FedPDPO, state: GlobalState, *, base: str, claim: str) -> Path:
    """Write the shared adapter with peft; `base` is the path or id it must be loaded on, `claim` what its card says."""
    task.set_lora(state.shared)
    model = task.backbone.model
    model.peft_config["default"].base_model_name_or_path = base
    target = folder / ADAPTER
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        model.save_pretrained(scratch, save_embedding_layers=False)
        (Path(scratch) / "README.md").write_text(_card(task.config, state, base, claim), encoding="utf-8")
        for file in Path(scratch).iterdir():
            os.replace(file, target / file.name)
    return target


def keep_base(folder: Path, base_path: str) -> str:
    """A copy of the built-in base model beside the adapter, so that the run folder is complete by itself."""
    target = folder / BASE
    if not target.exists():
        partial = target.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(base_path, partial)
        os.replace(partial, target)
    return str(target)


def write_metrics(folder: Path, values: Mapping[str, object]) -> Path:
    """`metrics.json`: final numbers of the run; an infinite or undefined number is null."""
    path = folder / "metrics.json"
    _replace_text(path, json.dumps(_plain(values), indent=1, allow_nan=False) + "\n")
    return path


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return finite(value)


def _replace_text(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def _card(config: Config, state: GlobalState, base: str, claim: str) -> str:
    return (
        f"---\nbase_model: {base}\nlibrary_name: peft\npipeline_tag: text-generation\n"
        "tags: [dpo, federated, differential-privacy, lora]\n---\n\n"
        f"# Shared LoRA adapter after round {state.round_index}\n\n"
        f"Method `{config.method.name}`, {config.federation.clients} clients, DPO with beta {config.dpo.beta:g}.\n\n"
        f"## Privacy\n\n{claim}\n\nClients' personal parts are not in this folder and never left their owners.\n"
    )
