"""Small models, pairs and configurations that tests build on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from fedpdpo_secure.config import Config, make_config
from fedpdpo_secure.pairs.packing import TokenPair
from fedpdpo_secure.pairs.store import write_stores

VOCABULARY = 97
ARCHITECTURES = ("llama", "gpt2", "qwen2")


def small_model(architecture: str, attention: str = "sdpa") -> PreTrainedModel:
    """A random-weight model of a few thousand parameters, in eval mode."""
    common: dict[str, Any] = {"vocab_size": VOCABULARY, "attn_implementation": attention}
    torch.manual_seed(0)
    if architecture == "gpt2":
        config = GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=128, bos_token_id=1, eos_token_id=2, **common)
        return GPT2LMHeadModel(config).eval()
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "max_position_embeddings": 128}
    if architecture == "llama":
        return LlamaForCausalLM(LlamaConfig(**sizes, **common)).eval()
    return Qwen2ForCausalLM(Qwen2Config(**sizes, tie_word_embeddings=True, **common)).eval()


def token_pairs(count: int, seed: int = 0) -> list[TokenPair]:
    """Random pairs of varying lengths, without reference log-probabilities."""
    rng = np.random.default_rng(seed)

    def tokens(low: int, high: int) -> np.ndarray:
        return rng.integers(3, VOCABULARY, rng.integers(low, high)).astype(np.int32)

    return [TokenPair(tokens(1, 9), tokens(1, 12), tokens(1, 12)) for _ in range(count)]


def write_pairs(root: Path, client: str, pairs: list[TokenPair], split: str = "train") -> None:
    """Put `pairs` into a client's store."""
    write_stores(root, ((client, split, pair) for pair in pairs))


def small_config(**sections: Any) -> Config:
    """A resolved configuration that runs in seconds."""
    values: dict[str, Any] = {
        "synthetic": {"pairs": 24, "validation_pairs": 6, "test_pairs": 12, "public_dialogues": 200},
        "tiny": {"warm_start_steps": 20, "hidden_size": 32, "layers": 1},
        "federation": {"clients": 4, "rounds": 2, "local_steps": 2},
        "lora": {"r": 4, "alpha": 8},
        "dpo": {"beta": 1.0, "max_length": 64},
        "privacy": {"noise_multiplier": 1.5},
        "serving": {"epochs": 1},
        "device": "cpu",
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    if values["privacy"].get("unit") == "none" or "epsilon" in values["privacy"]:
        del values["privacy"]["noise_multiplier"]
    return make_config(values)
