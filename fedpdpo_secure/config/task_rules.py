"""What the task decides: derived names, and what does not go together with it."""

from __future__ import annotations

from fedpdpo_secure.config.errors import ConfigError
from fedpdpo_secure.config.models import Config

BUILTIN_GROUPS = "builtin:groups"
DATASETS = {"fedpdpo": "builtin:synthetic", "pluralllm": BUILTIN_GROUPS}
METHODS = {"fedpdpo": "fedpdpo", "pluralllm": "fedavg"}
UNITS = {"fedpdpo": ("pair", "client", "none"), "pluralllm": ("question", "client", "none")}
PLURAL_METHODS = ("fedavg", "local", "centralized")


def with_task(config: Config) -> Config:
    """Fill in what follows from the task alone: data set, method, unit; and the number of clients from named groups.

    Raises ConfigError where named groups and federation.clients disagree.
    """
    privacy, method, data = config.privacy, config.method, config.data
    dataset = config.dataset_name or DATASETS[config.task]
    federation = config.federation
    if config.task == "pluralllm":
        if dataset == BUILTIN_GROUPS:
            data = data.model_copy(update={"public": True})
        if config.survey.groups is not None and len(config.survey.groups) != federation.clients:
            if "clients" in federation.model_fields_set:
                raise ConfigError(
                    f"federation.clients: {federation.clients}, but survey.groups names {len(config.survey.groups)}"
                )
            federation = federation.model_copy(update={"clients": len(config.survey.groups)})
    return config.model_copy(
        update={
            "dataset_name": dataset,
            "data": data,
            "federation": federation,
            "privacy": privacy.model_copy(update={"unit": privacy.unit or UNITS[config.task][0]}),
            "method": method.model_copy(update={"name": method.name or METHODS[config.task]}),
        }
    )


def check_task(config: Config) -> None:
    """Unit, method and switches must be the task's own."""
    unit, task = config.privacy.unit, config.task
    if unit not in UNITS[task]:
        raise ConfigError(f"privacy.unit: {unit} is not a unit of task {task}; use {', '.join(UNITS[task])}")
    if task == "fedpdpo":
        return
    if config.method.name not in PLURAL_METHODS:
        raise ConfigError(f"method.name: {config.method.name} is not one of {', '.join(PLURAL_METHODS)} (pluralllm)")
    if config.method.name != "fedavg" and unit != "none":
        raise ConfigError(
            f"method.name: {config.method.name} is a baseline without privacy here; use privacy.unit: none"
        )
    if config.federation.local_steps is None:
        raise ConfigError("federation.local_steps: pluralllm has no pass over the data; give a number of steps")
    if config.predictor.d_model % config.predictor.heads:
        raise ConfigError(
            f"predictor.d_model: {config.predictor.d_model} must be a multiple of predictor.heads = "
            f"{config.predictor.heads}"
        )
    if config.episodes.least > config.episodes.most:
        raise ConfigError(
            f"episodes.least: {config.episodes.least} must be at most episodes.most = {config.episodes.most}"
        )
    if unit == "question" and config.predictor.loss == "gaussian":
        raise ConfigError(
            "predictor.loss: gaussian is not bounded below and its scale is a second output to fit under noise; use "
            "cross_entropy or kl with privacy.unit question"
        )
    if unit != "none" and config.survey.split == "survey_order":
        raise ConfigError(
            "survey.split: survey_order cuts by a count of private answers, so one question moves another; it is for "
            "the published comparison, privacy.unit none"
        )
    if unit != "none" and config.survey.reading == "published":
        raise ConfigError(
            "survey.reading: published leaves shares unscaled and leaves questions out by who answered them; it is for "
            "the published comparison, privacy.unit none"
        )
    if unit != "none" and config.schedule.weights == "episode":
        raise ConfigError("schedule.weights: episode tells how many questions a group holds; uniform in a private run")
    if unit != "none" and config.survey.groups is None and not config.data.public:
        raise ConfigError("survey.groups: name the groups that train; a choice among private groups looks at them")
