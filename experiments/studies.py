"""The tables in the documentation, from real runs: `python -m experiments.studies NAME --out FOLDER`.

A study is a list of cells; a cell is one ordinary `fedpdpo train` in a folder of its own, skipped if it is finished.
Nothing is chosen on test pairs: where a number of rounds is chosen, it is by validation pairs, the same for all seeds.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.study import (
    EXPLICIT,
    IMPLICIT,
    OWN,
    Cell,
    Scores,
    Variant,
    best_round,
    read_scores,
    rounds_table,
    run_cells,
    spread,
    table,
)
from experiments.study_clients import client_cells, client_plot, client_table
from experiments.study_modes import (
    margin_cells,
    margin_table,
    mode_cells,
    mode_plot,
    mode_table,
    rate_cells,
    rate_table,
)

ALONE = "no federation"  # the best local recipe: it releases nothing, so it is the honest comparator
LEVELS = (0.0, 0.5, 1.0)  # heterogeneity: none, medium, strong; fixed before any result was seen


@dataclass(frozen=True)
class Study:
    """Cells to run, a table to print, a plot to draw."""

    cells: Callable[[Sequence[int]], list[Cell]]
    render: Callable[[Path, Sequence[int]], str]
    plot: Callable[[Path, Sequence[int]], Path] | None = None


# ---- every method at three levels of heterogeneity, no privacy -------------------------------------------------------

_FREE = "nonprivate.yaml"
_EVALUATE = ("evaluation.split=both", "evaluation.every=2")
METHODS = (
    *(
        Variant(name, _FREE, (f"method.name={name}", *_EVALUATE))
        for name in ("fedpdpo", "fedavg", "fedprox", "fedper", "fedrep", "local", "centralized")
    ),
    Variant(
        "local LoRA only",
        _FREE,
        ("method.name=local", "method.bottleneck=false", "method.lm_head=none", "method.reward_head=false", *_EVALUATE),
    ),
    Variant("fedavg + local fit", _FREE, ("method.name=fedavg", "serving.epochs=3", *_EVALUATE)),
)
ABLATIONS = (  # at strong heterogeneity alone
    Variant("fedpdpo joint", _FREE, ("method.schedule=joint", *_EVALUATE)),
    Variant("fedpdpo -reward", _FREE, ("method.reward_head=false", *_EVALUATE)),
    Variant("fedpdpo -bottleneck", _FREE, ("method.bottleneck=false", *_EVALUATE)),
    Variant("fedpdpo -head", _FREE, ("method.lm_head=none", *_EVALUATE)),
)


def _variants(level: float) -> tuple[Variant, ...]:
    return (*METHODS, *ABLATIONS) if level == LEVELS[-1] else METHODS


def _method_cells(seeds: Sequence[int]) -> list[Cell]:
    return [
        Cell(variant, f"h{level:g}", seed, (f"synthetic.heterogeneity={level}",))
        for seed in seeds
        for level in LEVELS
        for variant in _variants(level)
    ]


def _method_table(out: Path, seeds: Sequence[int]) -> str:
    header = ["method", "own score", "implicit", "explicit", "worst client", "held-out topics (implicit)", "rounds"]
    parts = []
    for level in LEVELS:
        rows = []
        for variant in _variants(level):
            runs = [read_scores(Cell(variant, f"h{level:g}", seed, ()).folder(out)) for seed in seeds]
            rows.append(_method_row(variant, runs))
        parts.append(f"### Heterogeneity {level:g}\n\n" + table(header, rows))
    return "\n\n".join(parts)


def _method_row(variant: Variant, runs: Sequence[Scores]) -> list[str]:
    fitted = "fit" in variant.name  # serving copies exist at the end only
    chosen = len(runs[0].by_round) - 1 if fitted else best_round(runs)
    scores = [run.final if fitted else run.by_round[chosen] for run in runs]
    cells = [spread(score.get(key) for score in scores) for key in (OWN, IMPLICIT, EXPLICIT, "worst_accuracy")]
    heldout = spread(run.final.get(f"heldout/{IMPLICIT}") for run in runs)
    return [variant.name, *cells, heldout, str(chosen + 1)]


# ---- the price of privacy: synthetic and real data -------------------------------------------------------------------


def _privacy_variants(private: str, free: str, epsilons: Sequence[str], local_rounds: int) -> tuple[Variant, ...]:
    alone = ("method.name=local", "lora.train=AB", f"federation.rounds={local_rounds}", *_EVALUATE)
    return (
        Variant(ALONE, free, alone),
        *(
            Variant("clip only" if value == ".inf" else f"epsilon {value}", private, (f"privacy.epsilon={value}",))
            for value in epsilons
        ),
        Variant("non-private", free),
    )


def _privacy_study(group: str, variants: tuple[Variant, ...]) -> Study:
    def cells(seeds: Sequence[int]) -> list[Cell]:
        return [Cell(variant, group, seed, ()) for seed in seeds for variant in variants]

    def render(out: Path, seeds: Sequence[int]) -> str:
        header = ["run", "shared adapter alone", "served, own score", "served, implicit", "worst client"]
        rows: list[list[str]] = []
        for variant in variants:
            runs = [read_scores(Cell(variant, group, seed, ()).folder(out)) for seed in seeds]
            if not rows:
                untrained = [spread(run.untrained.get(key) for run in runs) for key in (IMPLICIT, OWN, IMPLICIT)]
                rows.append(["untrained", *untrained, spread(run.untrained.get("worst_accuracy") for run in runs)])
            rows.append(_privacy_row(variant, runs))
        shown = [variant for variant in variants if variant.name in ("epsilon 8", "non-private")]
        rounds = (
            f"#### Round by round, {variant.name}, seed {seeds[0]}\n\n"
            + rounds_table(Cell(variant, group, seeds[0], ()).folder(out))
            for variant in shown
        )
        return "\n\n".join([table(header, rows), *rounds])

    return Study(cells, render)


def _privacy_row(variant: Variant, runs: Sequence[Scores]) -> list[str]:
    name, scores = variant.name, [run.final for run in runs]
    if name == ALONE:  # its number of passes is chosen on validation pairs
        chosen = best_round(runs)
        name, scores = f"{name}, {chosen + 1} passes", [run.by_round[chosen] for run in runs]
    served = [spread(score.get(key) for score in scores) for key in (OWN, IMPLICIT, "worst_accuracy")]
    return [name, spread(run.shared.get(IMPLICIT) for run in runs), *served]


STUDIES: dict[str, Study] = {
    "clients": Study(client_cells, client_table, client_plot),
    "margin": Study(margin_cells, margin_table),
    "modes": Study(mode_cells, mode_table, mode_plot),
    "rates": Study(rate_cells, rate_table),
    "methods": Study(_method_cells, _method_table),
    "privacy": _privacy_study("synthetic", _privacy_variants("quickstart.yaml", _FREE, ("1", "8", ".inf"), 8)),
    "real": _privacy_study(
        "pref_open", _privacy_variants("pref_open_eps8.yaml", "pref_open_nonprivate.yaml", ("8",), 4)
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments.studies", description=__doc__)
    parser.add_argument("name", choices=sorted(STUDIES))
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs; finished ones are kept")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=max(1, os.cpu_count() or 1), help="runs at a time")
    chosen = parser.parse_args(arguments)
    study = STUDIES[chosen.name]
    run_cells(study.cells(range(chosen.seeds)), chosen.out, chosen.jobs)
    text = study.render(chosen.out, range(chosen.seeds))
    (chosen.out / f"{chosen.name}.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    if study.plot is not None:
        print(study.plot(chosen.out, range(chosen.seeds)))


if __name__ == "__main__":
    main()
