"""How large a preference predictor is, from the configuration and the width of its embeddings: nothing is trained."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedpdpo_secure.config import Config

if TYPE_CHECKING:
    from fedpdpo_secure.pluralllm.predictor import PredictorShape

BUILTIN = "builtin:groups"


@dataclass(frozen=True, slots=True)
class PredictorSize:
    """Public sizes of a predictor."""

    parameters: int  # shared coordinates, all of them trained and noised
    predictor_parameters: int  # without an adapter
    width: int  # of an embedding


def predictor_size(config: Config) -> PredictorSize:
    """The sizes of `config`'s predictor. Raises OSError or ValueError where the width of embeddings is not known."""
    import torch
    from torch import nn

    from fedpdpo_secure.pluralllm.predictor import Predictor

    shape, rank = _shape(config)
    with torch.device("meta"):
        predictor = Predictor(shape)
    whole = sum(parameter.numel() for parameter in predictor.parameters())
    outputs = sum(module.out_features for module in predictor.modules() if isinstance(module, nn.Linear))
    return PredictorSize(whole if rank is None else rank * outputs, whole, shape.width)


def _shape(config: Config) -> tuple[PredictorShape, int | None]:
    """(shape, rank of the adapter that trains, None: everything trains)."""
    from fedpdpo_secure.pluralllm.artefact import read_shape
    from fedpdpo_secure.pluralllm.initial import configured_shape

    chosen = config.predictor
    if chosen.path is None:
        return configured_shape(config, embedding_width(config)), chosen.lora_r
    shape, rank = read_shape(Path(chosen.path).expanduser())
    return shape, chosen.lora_r or rank


def embedding_width(config: Config) -> int:
    """W: of the built-in groups, from an .npz file's header, or from a model's configuration. Raises as above."""
    if config.dataset_name == BUILTIN:
        return config.synthetic_survey.width
    name = config.survey.embeddings
    if name is None:
        raise ValueError("survey.embeddings: missing; name an .npz file, or a model by path or hub id")
    if name.endswith(".npz"):
        return _npz_width(Path(name).expanduser())
    from transformers import AutoConfig

    return int(AutoConfig.from_pretrained(name).get_text_config().hidden_size)


def _npz_width(path: Path) -> int:
    """The second length of `embeddings` or `emb`, without reading the array."""
    from numpy.lib import format as header

    try:
        with zipfile.ZipFile(path) as arrays:
            name = next((name for name in ("embeddings.npy", "emb.npy") if name in arrays.namelist()), None)
            if name is None:
                raise ValueError(f"survey.embeddings: {path.name} holds neither `embeddings` nor `emb`")
            with arrays.open(name) as file:
                read = (
                    header.read_array_header_1_0 if header.read_magic(file) == (1, 0) else header.read_array_header_2_0
                )
                shape = read(file)[0]
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"survey.embeddings: {path.name} cannot be read ({error})") from error
    if len(shape) != 2:
        raise ValueError(f"survey.embeddings: {path.name} must hold vectors [points, width], not {list(shape)}")
    return int(shape[1])
