"""Whether a model scores each row by itself, which every pair-level claim rests on."""

from __future__ import annotations

import numpy as np
import torch

from fedpdpo_secure.config import ConfigError
from fedpdpo_secure.model.backbone import Backbone
from fedpdpo_secure.model.policy import reference_logps
from fedpdpo_secure.pairs.packing import TokenPair, collate


def check_separable(backbone: Backbone, max_length: int) -> None:
    """A row's scores must not depend on the rows beside it, or one pair moves other pairs' gradients.

    Some position encodings (longrope, dynamic) switch on the longest row of a batch. Raises ConfigError.
    """
    limit = getattr(backbone.inner.config.get_text_config(), "max_position_embeddings", max_length)
    vocabulary = backbone.inner.config.get_text_config().vocab_size
    long = np.arange(min(max_length, limit) - 4, dtype=np.int32) % vocabulary
    answers = np.arange(4, dtype=np.int32) % vocabulary
    short, tall = TokenPair(long[:3], answers, answers[::-1].copy()), TokenPair(long, answers, answers[::-1].copy())
    alone, beside = (
        reference_logps(backbone, collate(rows, backbone.device))[0].float() for rows in ([short], [short, tall])
    )
    tolerance = 1e-2 if backbone.inner.dtype == torch.float32 else 0.5  # nats; rounding alone stays far below
    if not torch.allclose(alone, beside, rtol=0, atol=tolerance):
        raise ConfigError(
            f"model_name_or_path: with rows of dpo.max_length = {max_length} tokens a pair's scores depend on the "
            "pairs beside it (a position encoding that looks at the whole batch?); no pair-level claim can hold"
        )
