"""From a configuration to everything a run needs: data checked, backbone loaded, pairs tokenised, references cached.

Data are validated whole before a model is loaded, and nothing is written before both are known to be usable.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from fedpdpo_secure.config import Config, ConfigError
from fedpdpo_secure.data.federation import load_federation
from fedpdpo_secure.data.pairs import Federation
from fedpdpo_secure.methods import choose_method
from fedpdpo_secure.model.backbone import Backbone, load_backbone, load_tokenizer
from fedpdpo_secure.model.policy import reference_logps
from fedpdpo_secure.model.separable import check_separable
from fedpdpo_secure.pairs.packing import TokenPair, collate, tokenize_pair
from fedpdpo_secure.pairs.store import SPLITS, PairStore, physical_batches, write_stores
from fedpdpo_secure.progress import Progress
from fedpdpo_secure.task import POOLED, Client, FedPDPO
from fedpdpo_secure.tiny import tiny_path

BUILTIN_MODEL = "builtin:tiny"
PUBLIC = "public"
_REFERENCE_ROWS = 16


@dataclass(frozen=True)
class Prepared:
    """A run ready for its first round."""

    federation: Federation
    task: FedPDPO
    tokenizer: PreTrainedTokenizerBase
    base_path: str
    clients: tuple[Client, ...]  # who trains: the federation's clients, or one that pools them
    root: Path  # `personal/` of the run folder
    initial: NDArray[np.float64]  # [F], the adapter's public initial value

    def store(self, client: str, split: str) -> PairStore:
        """One split of one client."""
        return PairStore(self.root, client, split)


def prepare(config: Config, output_dir: Path, progress: Progress, *, fresh: bool) -> Prepared:
    """Load and check everything; writes only under `output_dir/personal` and the model cache.

    `fresh` forgets what an earlier run that never began left there. Raises ConfigError or DataError in one line.
    """
    transformers_logging.disable_progress_bar()
    federation, tokenizer, base_path = _data_and_tokenizer(config, progress)
    backbone = load_backbone(config, base_path)
    _check_length(config, backbone)
    check_separable(backbone, config.dpo.max_length)
    root = output_dir / "personal"
    method = choose_method(config)
    task = FedPDPO(config, method, backbone, root)
    if fresh:  # a resumed run keeps its pairs: references belong to them row by row
        shutil.rmtree(root, ignore_errors=True)
        write_stores(root, _token_pairs(config, federation, tokenizer, pooled=method.pooled))
    names = [POOLED] if method.pooled else list(federation.clients)
    for name in [*federation.clients, *([POOLED] if method.pooled else []), PUBLIC]:
        _cache_references(root, name, backbone)
    clients = tuple(Client(name, index, PairStore(root, name, "train")) for index, name in enumerate(names))
    return Prepared(federation, task, tokenizer, base_path, clients, root, task.lora())


def _data_and_tokenizer(config: Config, progress: Progress) -> tuple[Federation, PreTrainedTokenizerBase, str]:
    if config.model_name_or_path != BUILTIN_MODEL:
        tokenizer = load_tokenizer(config.model_name_or_path)
        return load_federation(config, tokenizer), tokenizer, config.model_name_or_path
    federation = load_federation(config, None)
    path = tiny_path(config, federation, progress=progress.warm_start)
    return federation, load_tokenizer(str(path)), str(path)


def _check_length(config: Config, backbone: Backbone) -> None:
    limit = getattr(backbone.inner.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and config.dpo.max_length > limit:
        raise ConfigError(f"dpo.max_length: {config.dpo.max_length} exceeds the model's context of {limit}")


def _token_pairs(
    config: Config, federation: Federation, tokenizer: PreTrainedTokenizerBase, *, pooled: bool
) -> Iterator[tuple[str, str, TokenPair]]:
    dpo = config.dpo
    for pair in federation.pairs():
        tokens = tokenize_pair(
            pair,
            tokenizer,
            max_length=dpo.max_length,
            max_prompt_length=dpo.max_prompt_length,
            templated=federation.templated,
        )
        yield pair.client, pair.split, tokens
        if pooled and pair.split == "train":
            yield POOLED, "train", tokens


def _cache_references(root: Path, client: str, backbone: Backbone) -> None:
    """Reference log-probabilities of every split of `client`, once; they are kept over a resume."""
    for split in SPLITS:
        store = PairStore(root, client, split)
        if len(store) == 0 or store.has_reference():
            continue
        values = np.zeros((len(store), 2), np.float32)
        for rows in physical_batches(store, np.arange(len(store)), _REFERENCE_ROWS):
            batch = collate([store[index] for index in rows], backbone.device)
            values[rows] = reference_logps(backbone, batch).float().cpu().numpy()
        store.write_reference(values)
