"""What a run's model or predictor weighs, for `fedpdpo plan`: coordinates, bytes and memory, without loading it."""

from __future__ import annotations

from typing import Any

from fedpdpo_secure.config import Config


def model_values(config: Config) -> dict[str, Any]:
    """Shared parameters, upload and memory from the model's shape; nulls where that cannot be read."""
    from experiments.model_shape import model_shape
    from experiments.predictor_size import predictor_size

    try:
        if config.task == "pluralllm":
            size = predictor_size(config)
            sizes = _sizes(config, size.parameters, size.parameters, size.predictor_parameters)
            return {**sizes, "embedding_width": size.width, "memory_bytes": None}
        shape = model_shape(config)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        return {"parameters": None, "noised": None, "upload_bytes": None, "memory_bytes": None, "model_unread": reason}
    return {
        **_sizes(config, shape.parameters, shape.noised, shape.model_parameters),
        "memory_bytes": {
            "float32": shape.memory_bytes(config, bytes_per_weight=4),
            "bfloat16": shape.memory_bytes(config, bytes_per_weight=2),
        },
    }


def _sizes(config: Config, parameters: int, noised: int, whole: int) -> dict[str, Any]:
    extra = 2 if config.privacy.unit == "none" else 0  # weight and loss travel inside the vector
    upload = (parameters + extra) * config.secagg.bits // 8
    return {
        "parameters": parameters,
        "noised": noised,
        "model_parameters": whole,
        "upload_bytes": upload,
        "round_upload_bytes": upload * config.federation.clients,
    }
