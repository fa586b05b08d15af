"""The public predictor that a federation begins with: drawn from a seed or read from a file, pretrained, adapted."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedpdpo_secure.config import Config, ConfigError
from fedpdpo_secure.data.pairs import DataError
from fedpdpo_secure.model.backbone import choose_device
from fedpdpo_secure.pluralllm.artefact import load_predictor, seeded_generator
from fedpdpo_secure.pluralllm.episodes import Bounds
from fedpdpo_secure.pluralllm.holdings import Holdings
from fedpdpo_secure.pluralllm.lora import trainable, with_lora
from fedpdpo_secure.pluralllm.predictor import Predictor, PredictorShape, make_predictor
from fedpdpo_secure.pluralllm.training import AdamPlan, train_adam


def make_shared_predictor(config: Config, holdings: Holdings) -> Predictor:
    """The public initial predictor: seeded or from a file, first trained on public groups where asked, then frozen
    under an adapter where asked. Raises ConfigError naming predictor.path, predictor.lora_r or device."""
    chosen = config.predictor
    if chosen.path is not None:
        predictor = _load_public(chosen.path, holdings.embeddings.width)
    else:
        shape = configured_shape(config, holdings.embeddings.width)
        predictor = make_predictor(shape, seeded_generator(config.seed, 0x9D))
    if holdings.pretrain:
        pretrain(predictor, config, holdings)
    if chosen.lora_r is not None:
        drawn = seeded_generator(config.seed, 0x10)
        try:
            with_lora(predictor, rank=chosen.lora_r, alpha=2.0 * chosen.lora_r, generator=drawn)
        except ValueError as error:
            raise ConfigError(f"predictor.lora_r: {error}") from error
    # a small predictor is not faster on a GPU: only where one is asked for
    return predictor.to(choose_device("cpu" if config.device == "auto" else config.device)).eval()


def configured_shape(config: Config, width: int) -> PredictorShape:
    """The sizes of a predictor that is not read from a file, over embeddings of `width`."""
    chosen = config.predictor
    return PredictorShape(
        width=width,
        d_model=chosen.d_model,
        heads=chosen.heads,
        layers=chosen.layers,
        feedforward=chosen.feedforward,
    )


def _load_public(path: str, width: int) -> Predictor:
    try:
        predictor = load_predictor(Path(path).expanduser())
    except DataError as error:
        raise ConfigError(f"predictor.path: {error}") from error
    if predictor.shape.width != width:
        have = predictor.shape.width
        raise ConfigError(f"predictor.path: reads embeddings of width {have}, the survey's have {width}")
    return predictor


def pretrain(predictor: Predictor, config: Config, holdings: Holdings) -> None:
    """Adam on the public groups of `survey.pretrain`, in place."""
    steps, chosen = config.predictor.pretrain_steps, config.episodes
    plan = AdamPlan(
        loss=config.predictor.loss,
        bounds=Bounds((chosen.least, chosen.most), (chosen.least, chosen.most)),
        learning_rate=config.schedule.pretrain_learning_rate,
        decay="whole_run",
        first_step=0,
        steps=steps,
        all_steps=steps,
        one_size=False,
    )
    rng = np.random.default_rng([config.seed, 0x9E])
    train_adam(predictor, trainable(predictor), holdings, holdings.pretrain, plan, moments={}, rng=rng)
