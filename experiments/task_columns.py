"""Which metrics of a task stand in its tables, and what their columns mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Column(NamedTuple):
    """One column of the per-round table."""

    title: str
    width: int
    metric: str = ""  # of a round's local metrics
    wide_only: bool = False  # left out where the terminal is too narrow for all


@dataclass(frozen=True, slots=True)
class TaskColumns:
    """The table of one task."""

    local: tuple[Column, ...]
    public: str  # the released metric under `public`
    final: tuple[tuple[str, str], ...]  # (title, metric) of the last table
    legend: tuple[str, ...]
    public_legend: str
    baselines: tuple[str, ...] = ()  # predictions that need no training, by their names in the metrics


def of_baseline(name: str, metric: str) -> str:
    """The key of a baseline's `metric`: its name stands before the last part."""
    cell, slash, last = metric.rpartition("/")
    return f"{cell}{slash}{name}: {last}"


_SNR = "clip%: gradients longer than the clip norm; snr: signal over noise of one client's step, in norms"
_STEPS = (
    Column("clip%", 6, "clip_fraction"),
    Column("snr", 7, "snr", wide_only=True),
    Column("empty", 6, "empty_batches", wide_only=True),
)
TASKS = {
    "fedpdpo": TaskColumns(
        local=(
            Column("impl", 6, "accuracy_implicit"),
            Column("expl", 6, "accuracy_explicit"),
            Column("comb", 6, "accuracy_combined"),
            Column("worst", 6, "worst_accuracy"),
            Column("margin", 8, "rewards/margins"),
            *_STEPS,
        ),
        public="accuracy_implicit",
        final=(
            ("implicit", "accuracy_implicit"),
            ("explicit", "accuracy_explicit"),
            ("combined", "accuracy_combined"),
            ("margin", "rewards/margins"),
        ),
        legend=(
            "impl, expl, comb: accuracy by the implicit, explicit, combined score; worst: that of the worst client",
            _SNR,
        ),
        public_legend="public: implicit accuracy of the shared adapter on the public split, by the server",
    ),
    "pluralllm": TaskColumns(
        local=(
            Column("align", 6, "alignment"),
            Column("worst", 6, "alignment_worst"),
            Column("fair", 6, "fairness"),
            Column("known", 6, "known questions/alignment"),
            *_STEPS,
        ),
        public="unseen groups/alignment",
        final=(
            ("held-out questions", "alignment"),
            ("worst group", "alignment_worst"),
            ("fairness", "fairness"),
            ("unseen groups", "unseen groups/alignment"),
            ("unseen both", "unseen groups, unseen questions/alignment"),
        ),
        legend=(
            "align: alignment (1 - Jensen-Shannon distance) of training groups on held-out questions, mean over "
            "groups; worst: that of the worst group",
            "fair: 1 / (1 + CoV^2) over groups; known: alignment on questions they trained on",
            _SNR,
        ),
        public_legend="public: alignment of groups that do not train, by the server",
        baselines=("uniform", "global mean"),
    ),
}
