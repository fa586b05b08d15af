"""The frozen language model with its LoRA adapter: loading, dtype and device, and the two halves a score needs.

One backbone serves every client; clients' states are written into it. Build order is device, then peft, then privacy
(an optimiser made before the move to a device trains dead copies: meta-pytorch/opacus#820).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from fedpdpo_secure.config import Config, ConfigError
from fedpdpo_secure.model.lora import attach_lora


@dataclass(frozen=True)
class Backbone:
    """A causal language model under a LoRA adapter, split into body and LM head."""

    model: PeftModel
    device: torch.device

    @property
    def inner(self) -> PreTrainedModel:
        """The language model itself, LoRA layers in place."""
        return self.model.base_model.model

    @property
    def head(self) -> nn.Module:
        """The frozen LM head."""
        return self.inner.get_output_embeddings()

    def hidden(self, tokens: Tensor, positions: Tensor, attention: Tensor) -> Tensor:
        """Last hidden states [B, S, d] in the model's dtype, for int64[B, S] tokens and bool[B, 1, S, S] attention."""
        dtype = self.inner.dtype
        bias = torch.zeros(attention.shape, dtype=dtype, device=attention.device)
        bias = bias.masked_fill(~attention, torch.finfo(dtype).min)
        output = self.inner.base_model(input_ids=tokens, position_ids=positions, attention_mask=bias, use_cache=False)
        return output.last_hidden_state

    def without_adapter(self) -> AbstractContextManager[None]:
        """Context in which the model is the reference: LoRA off."""
        return self.model.disable_adapter()


def choose_device(name: str) -> torch.device:
    """`auto` is the first GPU if there is one. Raises ConfigError for a GPU that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device: {name} asked for, but torch sees no GPU")
    return torch.device(name)


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model path or hub id. Raises ConfigError in one line."""
    if path.startswith(("/", ".", "~")) and not Path(path).is_dir():
        raise ConfigError(f"model_name_or_path: no such folder: {path}")
    try:
        return AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model_name_or_path: no tokenizer at {path} ({_first_line(error)})") from error


def load_backbone(config: Config, path: str) -> Backbone:
    """The model at `path` on its device, in its dtype, with the run's LoRA adapter at its public initial values.

    Raises ConfigError when it cannot be loaded, or computes its logits from more than body and head.
    """
    transformers_logging.set_verbosity_error()
    device = choose_device(config.device)
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    dtype = dtypes.get(config.model.dtype, torch.bfloat16 if device.type == "cuda" else torch.float32)
    try:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model_name_or_path: {path} cannot be loaded ({_first_line(error)})") from error
    model.eval()  # dropout off: reference and policy must be the same function
    return wrap_backbone(model.to(device), config)


def wrap_backbone(model: PreTrainedModel, config: Config) -> Backbone:
    """`model`, already on its device, under the run's LoRA adapter."""
    _check_split(model)
    lora = config.lora
    rng = np.random.default_rng([config.seed, 0x10A])
    try:
        adapted = attach_lora(
            model, rank=lora.r, alpha=lora.alpha, targets=lora.target_modules, train=lora.train, rng=rng
        )
    except ValueError as error:
        raise ConfigError(f"lora: {_first_line(error)}") from error
    adapted.eval()
    if config.model.gradient_checkpointing:
        # Re-entrant checkpointing runs each hook once; the other kind fires them twice and loses per-pair gradients.
        adapted.enable_input_require_grads()
        adapted.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
        adapted.train()
        _no_dropout(adapted)
    return Backbone(adapted, next(model.parameters()).device)


def _check_split(model: PreTrainedModel) -> None:
    """The packed row needs logits = head(body(x)); a model that scales or caps its logits is refused."""
    device = next(model.parameters()).device
    tokens = torch.arange(1, 9, device=device)[None] % model.config.get_text_config().vocab_size
    with torch.no_grad():
        whole = model(input_ids=tokens, use_cache=False).logits
        head = model.get_output_embeddings()
        split = None if head is None else head(model.base_model(input_ids=tokens, use_cache=False).last_hidden_state)
    if split is None or not torch.allclose(whole.float(), split.float(), rtol=1e-3, atol=1e-3):
        raise ConfigError(
            f"model_name_or_path: {type(model).__name__} does not compute logits as head(body(x)); not supported"
        )


def _no_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
