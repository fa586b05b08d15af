"""PluralLLM measured: `python -m experiments.study_plural headline|epsilon|clients --out FOLDER`.

A cell is one ordinary `fedpdpo train` in a folder of its own, skipped if it is finished. Private settings were
chosen on seed 100, which no table uses. Masks are left out for speed; they change no integer of a sum.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.study import Cell, Variant, run_cells, spread, table
from experiments.study_plot import Line
from experiments.study_plural_plot import draw_epsilon
from fedpdpo_secure.pluralllm.convergence import convergence
from fedpdpo_secure.report import LOCAL

UNSEEN_GROUPS, UNSEEN_BOTH, KNOWN = "unseen groups/", "unseen groups, unseen questions/", "known questions/"
BASELINES = ("uniform", "global mean", "nearest group")
_PLAIN = ("secagg.enabled=false",)


@dataclass(frozen=True, slots=True)
class Study:
    """Cells to run and what is written of them."""

    cells: Callable[[Sequence[int]], list[Cell]]
    render: Callable[[Path, Sequence[int]], str]


def read_plural(folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    """(scores at the end, scores of the initial predictor and the baselines) of a finished run, by metric name."""
    values: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return values[LOCAL]["served"], values[LOCAL]["untrained"]


# ---- federated against centralised -----------------------------------------------------------------------------------

_PUBLISHED, _MATCHED = "pluralllm_published.yaml", "pluralllm_matched.yaml"
_CENTRAL = ("method.name=centralized",)
HEADLINE = {
    "published": (
        Variant("federated", _PUBLISHED, _PLAIN),
        Variant("central, 1 step an epoch", _PUBLISHED, (*_CENTRAL, "federation.local_steps=1")),
        Variant("central, equal steps", _PUBLISHED, _CENTRAL),
    ),
    "corrected": (
        Variant("federated", _MATCHED, _PLAIN),
        Variant("central, equal steps", _MATCHED, (*_CENTRAL, "schedule.moments=keep")),  # nothing overwrites it
    ),
}


def headline_cells(seeds: Sequence[int]) -> list[Cell]:
    """Both forms, seed by seed."""
    return [Cell(variant, form, seed, ()) for seed in seeds for form in HEADLINE for variant in HEADLINE[form]]


def curve(folder: Path, metric: str) -> tuple[list[float], list[int]]:
    """(scores, rounds) of `metric`, the initial predictor at round 0 first."""
    scores, rounds = [read_plural(folder)[1][metric]], [0]
    for line in (folder / "rounds.jsonl").read_text(encoding="utf-8").splitlines():
        report = json.loads(line)
        value = {**report[LOCAL], **report["released"]}.get(metric)
        if value is not None:
            scores.append(value)
            rounds.append(report["round_index"])
    return scores, rounds


def local_steps(folder: Path) -> int:
    """Optimiser steps of a round of one client (or of the pooled predictor)."""
    from fedpdpo_secure.config import load_config

    return load_config(folder / "config.yaml").federation.local_steps or 1


def headline_row(variant: Variant, folders: Sequence[Path]) -> list[str]:
    """Rounds and steps to 95 % of the gain on unseen groups, then how good the end is."""
    metric = f"{UNSEEN_GROUPS}alignment"
    found = []
    for folder in folders:
        scores, rounds = curve(folder, metric)
        each = local_steps(folder)
        found.append(convergence(scores, rounds=rounds, steps=[each * r for r in rounds], window=3))
    reached = [point for point in found if point is not None]
    names = ("alignment_micro", "alignment", "alignment_worst", "fairness", "cov")
    ends = [spread(read_plural(folder)[0][f"{UNSEEN_GROUPS}{name}"] for folder in folders) for name in names]
    heldout = spread(read_plural(folder)[0].get(f"{UNSEEN_BOTH}alignment") for folder in folders)
    counts = [whole([point.rounds for point in reached]), whole([point.steps for point in reached])]
    return [variant.name, str(len(folders)), *counts, *ends, heldout]


def whole(values: Sequence[int]) -> str:
    """Mean of counts with their least and largest; a dash for none."""
    if not values:
        return "-"
    return f"{sum(values) / len(values):.0f} ({min(values)}-{max(values)})"


def baseline_row(name: str, folders: Sequence[Path]) -> list[str]:
    """What needs no training, on the same targets."""
    names = ("alignment_micro", "alignment", "alignment_worst", "fairness", "cov")
    part = "" if name == "untrained" else f"{name}: "
    ends = [spread(read_plural(folder)[1][f"{UNSEEN_GROUPS}{part}{metric}"] for folder in folders) for metric in names]
    heldout = spread(read_plural(folder)[1].get(f"{UNSEEN_BOTH}{part}alignment") for folder in folders)
    return [name, str(len(folders)), "-", "-", *ends, heldout]


def headline_table(out: Path, seeds: Sequence[int]) -> str:
    """One table per form."""
    header = [
        "unseen groups",
        "seeds",
        "rounds to 95 %",
        "optimiser steps to 95 %",
        "micro",
        "macro",
        "worst",
        "fairness",
        "CoV",
    ]
    parts = []
    for form, variants in HEADLINE.items():
        folders = {variant: finished([Cell(variant, form, seed, ()) for seed in seeds], out) for variant in variants}
        rows = [headline_row(variant, found) for variant, found in folders.items() if found]
        rows += [baseline_row(name, folders[variants[0]]) for name in ("untrained", *BASELINES)]
        parts.append(f"### {form}\n\n" + table([*header, "macro, questions held out too"], rows))
    return "\n\n".join(parts)


# ---- epsilon against alignment, both units ---------------------------------------------------------------------------

_REAL = "pluralllm_real_eps8.yaml"
EPSILONS = ("1", "2", "4", "8", "16")
_QUIET = ("secagg.enabled=false", "evaluation.every=1000")
_CLIENT = (  # a country's whole update: three Adam steps of its own
    "privacy.unit=client",
    "privacy.clip_norm=1.2",
    "federation.rounds=4",
    "federation.local_steps=3",
    "federation.server_momentum=0",
    "schedule.learning_rate=0.02",
    "schedule.decay=constant",
)
QUESTION = Variant("question, noise in shares", _REAL, _QUIET)
CLIENT = Variant("country, noise in shares", _REAL, (*_QUIET, *_CLIENT))
LOCAL_NOISE = Variant("question, local noise", _REAL, (*_QUIET, "privacy.noise=local"))
CLIPPED = Variant("question, clipped without noise", _REAL, (*_QUIET, "privacy.noise=local"))
PLAIN_UPDATE = Variant(
    "country, no privacy",
    _REAL,
    (*_QUIET, *_CLIENT, "privacy.unit=none", "privacy.noise=local", "privacy.epsilon=null"),
)


def step_share(epsilon: str) -> float:
    """How much of the step is taken: the step shrinks with epsilon, a rule fixed before any table was made."""
    return min(1.0, float(epsilon) / 8.0)


def epsilon_cell(variant: Variant, epsilon: str, seed: int) -> Cell:
    """One run at one epsilon."""
    if variant is CLIENT:
        changes = (f"federation.server_learning_rate={step_share(epsilon)}",)
    else:
        rate = step_share(epsilon) * (0.3 if variant is LOCAL_NOISE else 1.0)
        changes = (f"schedule.private_learning_rate={rate:g}",)
    return Cell(variant, f"eps{epsilon}", seed, (*changes, f"privacy.epsilon={epsilon}"))


def free_cell(variant: Variant, seed: int) -> Cell:
    """One run without noise."""
    changes = ("privacy.epsilon=.inf",) if variant is CLIPPED else ()
    return Cell(variant, "no noise", seed, changes)


def epsilon_cells(seeds: Sequence[int]) -> list[Cell]:
    """Both units at five epsilons, local noise at 8 alone, and without noise."""
    cells = []
    for seed in seeds:
        cells += [epsilon_cell(variant, epsilon, seed) for variant in (CLIENT, QUESTION) for epsilon in EPSILONS]
        cells += [free_cell(CLIPPED, seed), free_cell(PLAIN_UPDATE, seed), epsilon_cell(LOCAL_NOISE, "8", seed)]
    return cells


# ---- a whole group as the unit, against the number of groups ---------------------------------------------------------

GROUPS = (12, 48, 192)
_UNSEEN = 20
_MANY = (
    *_QUIET,
    "privacy.unit=client",
    "privacy.noise=distributed",
    "privacy.sample_rate=1.0",
    "privacy.delta=1.0e-5",
    "privacy.clip_norm=0.8",
    "secagg.bits=32",
    "synthetic_survey.questions=80",
    "federation.rounds=4",
    "federation.local_steps=3",
    "federation.server_momentum=0",
    "schedule.learning_rate=0.02",
    "schedule.decay=constant",
)


def group_cell(count: int, seed: int, epsilon: str | None) -> Cell:
    """One run with `count` training groups of the built-in kind, at `epsilon` or without privacy."""
    size = (f"federation.clients={count}", f"synthetic_survey.groups={count + 4 + _UNSEEN}")
    if epsilon is None:
        privacy: tuple[str, ...] = ("privacy.unit=none", "privacy.noise=local", "privacy.epsilon=null")
    else:
        rate = f"federation.server_learning_rate={step_share(epsilon)}"
        privacy = (f"privacy.epsilon={epsilon}", *(() if epsilon == "8" else (rate,)))
    digits = 3 if count + 4 + _UNSEEN > 100 else 2
    names = ", ".join(f"group-{index:0{digits}d}" for index in range(4))  # public ones
    variant = Variant(f"{count} groups", "pluralllm_quickstart.yaml", (*_MANY, *size))
    group = "free" if epsilon is None else f"eps{epsilon}"
    return Cell(variant, group, seed, (*privacy, f"survey.pretrain=[{names}]"))


def group_cells(seeds: Sequence[int]) -> list[Cell]:
    """Every number of groups, few first."""
    return [group_cell(count, seed, epsilon) for count in GROUPS for seed in seeds for epsilon in ("8", None, "1")]


def finished(cells: Sequence[Cell], out: Path) -> list[Path]:
    """Folders of the cells that have ended: a table may be made before all have."""
    return [cell.folder(out) for cell in cells if (cell.folder(out) / "metrics.json").exists()]


SCORES = {  # column: metric
    "known questions": f"{KNOWN}alignment",
    "held-out questions": "alignment",
    "unseen groups": f"{UNSEEN_GROUPS}alignment",
    "unseen groups, held-out questions": f"{UNSEEN_BOTH}alignment",
    "worst group, held-out": "alignment_worst",
}


def score_row(name: str, folders: Sequence[Path], *, initial: bool = False, baseline: str = "") -> list[str]:
    """One line of scores: at the end, of the initial predictor, or of a baseline."""
    found = []
    for metric in SCORES.values():
        part, _, last = metric.rpartition("/")
        named = f"{part}/{baseline}: {last}" if part and baseline else f"{baseline}: {last}" if baseline else metric
        found.append(spread(read_plural(folder)[1 if initial or baseline else 0].get(named) for folder in folders))
    return [name, str(len(folders)), *found]


def epsilon_table(out: Path, seeds: Sequence[int]) -> str:
    """Units and epsilons, with what needs no federation."""
    rows = []
    for variant in (QUESTION, CLIENT, LOCAL_NOISE):
        for epsilon in EPSILONS:
            folders = finished([epsilon_cell(variant, epsilon, seed) for seed in seeds], out)
            if folders:
                rows.append(score_row(f"{variant.name}, epsilon {epsilon}", folders))
    for variant in (CLIPPED, PLAIN_UPDATE):
        folders = finished([free_cell(variant, seed) for seed in seeds], out)
        if folders:
            rows.append(score_row(variant.name, folders))
    first = finished([epsilon_cell(QUESTION, "8", seed) for seed in seeds], out)
    rows.append(score_row("public predictor alone", first, initial=True))
    rows += [score_row(name, first, baseline=name) for name in BASELINES]
    return table(["run", "seeds", *SCORES], rows)


def epsilon_lines(out: Path, seeds: Sequence[int], metric: str) -> tuple[list[Line], dict[str, float]]:
    """(curves, levels across the plot) of one metric."""
    lines = []
    for variant in (QUESTION, CLIENT):
        by_epsilon = {
            float(epsilon): [
                read_plural(folder)[0][metric]
                for folder in finished([epsilon_cell(variant, epsilon, seed) for seed in seeds], out)
            ]
            for epsilon in EPSILONS
        }
        known = {epsilon: values for epsilon, values in by_epsilon.items() if values}
        lines.append(Line(variant.name, list(known), list(known.values())))
    levels = {}
    for label, variant in (("clipped, no noise", CLIPPED), ("country updates, no privacy", PLAIN_UPDATE)):
        values = [
            read_plural(folder)[0][metric] for folder in finished([free_cell(variant, seed) for seed in seeds], out)
        ]
        if values:
            levels[label] = sum(values) / len(values)
    first = [read_plural(folder)[1] for folder in finished([epsilon_cell(QUESTION, "8", seed) for seed in seeds], out)]
    levels["public predictor alone"] = sum(values[metric] for values in first) / len(first)
    part, _, last = metric.rpartition("/")
    levels["groups' mean"] = sum(values[f"{part}/global mean: {last}"] for values in first) / len(first)
    return lines, levels


def _epsilon(out: Path, seeds: Sequence[int]) -> str:
    panels = {
        name: epsilon_lines(out, seeds, f"{part}alignment")
        for name, part in (
            ("unseen groups, known questions", UNSEEN_GROUPS),
            ("unseen groups, new questions", UNSEEN_BOTH),
        )
    }
    draw_epsilon(panels, out / "plural-epsilon.png")
    return epsilon_table(out, seeds)


def group_table(out: Path, seeds: Sequence[int]) -> str:
    """Unseen groups by number of training groups: public predictor, two epsilons, without privacy."""
    rows = []
    for count in GROUPS:
        runs = {
            epsilon: finished([group_cell(count, seed, epsilon) for seed in seeds], out) for epsilon in ("1", "8", None)
        }
        cells = []
        for part in (UNSEEN_GROUPS, UNSEEN_BOTH):
            metric = f"{part}alignment"
            cells.append(spread(read_plural(folder)[1][metric] for folder in runs["8"]))
            cells += [spread(read_plural(folder)[0][metric] for folder in folders) for folders in runs.values()]
        rows.append([str(count), *cells])
    what = ("public", "epsilon 1", "epsilon 8", "no privacy")
    return table(["groups", *(f"{kind}: {name}" for kind in ("known", "held out") for name in what)], rows)


STUDIES: dict[str, Study] = {
    "headline": Study(headline_cells, headline_table),
    "epsilon": Study(epsilon_cells, _epsilon),
    "clients": Study(group_cells, group_table),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments.study_plural", description=__doc__)
    parser.add_argument("name", choices=sorted(STUDIES))
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs; finished ones are kept")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--show", action="store_true", help="run nothing, make the table of what has ended")
    chosen = parser.parse_args(arguments)
    study, seeds = STUDIES[chosen.name], range(chosen.seeds)
    if not chosen.show:
        run_cells(study.cells(seeds), chosen.out, chosen.jobs)
    text = study.render(chosen.out, seeds)
    (chosen.out / f"{chosen.name}.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
