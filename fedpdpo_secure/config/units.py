"""What a unit of privacy means for sizes and steps: one pair, one group's answers to one question, or a client."""

from __future__ import annotations

from fedpdpo_secure.config.models import Config


def sampled(config: Config) -> bool:
    """Whether units within a client are Poisson-sampled, so that the bound rests on that sample."""
    return config.privacy.unit in ("pair", "question")


def moves(config: Config) -> int:
    """By how many clip norms one unit can move a client's sum: a question turns one clipped gradient into another."""
    return 2 if config.privacy.unit == "question" else 1


def most_rows(config: Config) -> int:
    """The most clipped gradients that a client adds in one step, a public number."""
    if config.privacy.unit == "question":
        return config.episodes.private
    return (config.data.pairs_per_client or 1) if config.privacy.unit == "pair" else 1


def declared_size(config: Config) -> int | None:
    """The declared public bound on a client's units, with which delta is compared."""
    return config.survey.questions_per_group if config.privacy.unit == "question" else config.data.pairs_per_client


def size_field(config: Config) -> str:
    """The field of `declared_size`."""
    return "survey.questions_per_group" if config.privacy.unit == "question" else "data.pairs_per_client"


def step_rate(config: Config) -> float:
    """The learning rate of a noised step on the clip-normalised mean."""
    if config.task == "pluralllm":
        return config.schedule.private_learning_rate
    assert config.dpo.learning_rate is not None  # filled in by the configuration's rules
    return config.dpo.learning_rate
