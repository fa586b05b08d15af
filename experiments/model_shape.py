"""How large a run is, from the model's configuration alone: no weight is read or made (torch's meta device)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedpdpo_secure.config import Config

if TYPE_CHECKING:
    from transformers import PretrainedConfig

BUILTIN = "builtin:tiny"
ACTIVATIONS_PER_LAYER = 24  # values of hidden size that a decoder layer keeps for its backward pass, roughly
LOGIT_COPIES = 3  # logits, their log-softmax, their gradient


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Public sizes of a model under the run's LoRA adapter."""

    parameters: int  # shared coordinates that train in a round, D (the larger of two alternating rounds)
    noised: int  # with personal parts that train under the same noise (`FedPDPO.noised_size`)
    model_parameters: int
    hidden_size: int
    layers: int
    vocabulary: int

    def memory_bytes(self, config: Config, *, bytes_per_weight: int) -> int:
        """Rough peak of one client's step: weights, per-pair gradients, activations and logits of a micro-batch."""
        tokens = config.dpo.micro_batch * 2 * config.dpo.max_length
        rows = config.dpo.micro_batch if config.privacy.unit == "pair" else 1
        layers = 2 if config.model.gradient_checkpointing else self.layers
        activations = tokens * self.hidden_size * layers * ACTIVATIONS_PER_LAYER * bytes_per_weight
        logits = tokens * self.vocabulary * LOGIT_COPIES * 4
        weights = self.model_parameters * bytes_per_weight
        return weights + (rows + 4) * self.parameters * 4 + activations + logits


def model_shape(config: Config) -> ModelShape:
    """The sizes of `config`'s model. Raises OSError or ValueError where its configuration cannot be read."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    from fedpdpo_secure.model.lora import attach_lora, shared_parameters

    logging.set_verbosity_error()
    if config.model_name_or_path == BUILTIN:
        shape = _tiny_config(config)
    else:
        shape = AutoConfig.from_pretrained(config.model_name_or_path)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape)
        whole = sum(parameter.numel() for parameter in model.parameters())
        adapted = attach_lora(
            model,
            rank=config.lora.r,
            alpha=config.lora.alpha,
            targets=config.lora.target_modules,
            train=config.lora.train,
            rng=np.random.default_rng(0),
        )
    sizes = [
        sum(value.numel() for _, value in shared_parameters(adapted, config.lora.train, round_index))
        for round_index in (1, 2)
    ]
    text = shape.get_text_config()
    noised = max(sizes) + _joint_parts(config, text.hidden_size, text.vocab_size)
    return ModelShape(max(sizes), noised, whole, text.hidden_size, text.num_hidden_layers, text.vocab_size)


def _joint_parts(config: Config, hidden: int, vocabulary: int) -> int:
    """Coordinates of personal parts that train in the same noised step."""
    from torch import nn

    from fedpdpo_secure.methods import choose_method
    from fedpdpo_secure.model.personal import PersonalParts

    parts = choose_method(config).parts
    if parts.empty or config.method.personal != "joint" or config.privacy.unit != "pair":
        return 0
    head = nn.Linear(hidden, vocabulary, bias=False, device="meta")
    return sum(value.numel() for value in PersonalParts(parts, head, np.random.default_rng(0)).parameters())


def _tiny_config(config: Config) -> PretrainedConfig:
    """The shape that `fedpdpo_secure.tiny` makes (a test holds the two together)."""
    from transformers import LlamaConfig

    from fedpdpo_secure.tiny import CONTEXT, VOCABULARY

    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=config.tiny.hidden_size,
        intermediate_size=config.tiny.hidden_size * 8 // 3,
        num_hidden_layers=config.tiny.layers,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
    )
