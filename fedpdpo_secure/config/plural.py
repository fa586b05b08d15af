"""Sections of the configuration that PluralLLM alone reads: survey, predictor, episodes, schedule.

The published system and the corrected one differ in switches, each by itself; the defaults are the corrected form.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedpdpo_secure.config.section import Section


class SurveySection(Section):
    """Whose answers to which questions. Names, counts of groups and texts of questions are public; answers are not."""

    groups: list[str] | None = None  # who trains; null: `federation.clients` names chosen by a keyed hash
    unseen: list[str] | None = None  # groups for evaluation alone; null: all others
    pretrain: list[str] = Field(default_factory=list)  # public groups that a frozen predictor is first trained on
    embeddings: str | None = None  # .npz file, or a model's path or hub id; null: those of builtin:groups
    prompt: Literal["plain", "alpaca"] = "plain"  # text of a point; alpaca: as published
    normalize: bool = True  # L2; published: false
    reading: Literal["merged", "published"] = "merged"  # published: raw shares, samples apart, hub rows filtered
    ordinal: bool = False  # options of questions that do not say so are steps of one scale
    least_answers: int = Field(30, ge=2)  # questions a group must have answered
    heldout_fraction: float = Field(0.2, ge=0, lt=0.9)  # of the questions, by hash: no group trains on them
    split: Literal["hash", "survey_order"] = "hash"  # survey_order: published, the first 90 % of a group's questions
    questions_per_group: int = Field(400, ge=4)  # declared public bound (unit question); more are refused


class SyntheticSurveySection(Section):
    """`builtin:groups`: groups with known tastes over questions with known loadings."""

    groups: int = Field(24, ge=4)
    questions: int = Field(120, ge=10)
    width: int = Field(32, ge=4)  # of the embeddings
    clusters: int = Field(4, ge=1)


class PredictorSection(Section):
    """The transformer that predicts a group's answers."""

    d_model: int = Field(128, ge=4)
    heads: int = Field(4, ge=1)
    layers: int = Field(6, ge=1)
    feedforward: int = Field(128, ge=4)
    loss: Literal["gaussian", "cross_entropy", "kl"] = "cross_entropy"  # gaussian: published
    lora_r: int | None = Field(None, ge=1)  # adapter on a frozen predictor (`survey.pretrain`, or `path`)
    path: str | None = None  # folder of a predictor to start from (shared_predictor of a run); it must be public
    pretrain_steps: int = Field(300, ge=0)  # on the groups of `survey.pretrain`


class EpisodesSection(Section):
    """How questions become context and target."""

    least: int = Field(9, ge=1)  # questions in the context, and as targets, of a training episode: drawn from
    most: int = Field(90, ge=1)  # least..most each, as published; a group with fewer uses what it has
    evaluation_context: int = Field(20, ge=1)  # questions that a group answers before it is predicted
    evaluation_seed: int = Field(17, ge=0)
    private: int = Field(4, ge=1, le=256)  # unit question: public number of episodes of a step
    target_rate: float = Field(0.5, gt=0, lt=1)  # unit question: chance that a question is a target


class ScheduleSection(Section):
    """The optimiser of local training without question-level noise."""

    learning_rate: float = Field(3.0e-4, gt=0)  # Adam
    decay: Literal["whole_run", "published", "constant"] = "whole_run"  # published: cosine of period 100 local steps
    moments: Literal["reset", "keep"] = "reset"  # of Adam, at the start of a round; published: keep
    weights: Literal["uniform", "episode"] = "uniform"  # published: size of the client's first episode of the round
    pretrain_learning_rate: float = Field(1.0e-3, gt=0)  # Adam on public groups
    private_learning_rate: float = Field(0.1, gt=0)  # of SGD on the clip-normalised mean, unit question
