"""Studies of the protection modes: what the released adapter is worth against epsilon, and against how many clients.

Every mode takes the same public steps, so that a table differs in who adds the noise alone. Learning rates are fixed
before: `study rates` compares a small public grid on validation pairs of a seed that no other table uses.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.study import IMPLICIT, OWN, Cell, Scores, Variant, decimals, read_scores, spread, table
from experiments.study_plot import Line, plot_lines

_QUICK = "quickstart.yaml"
_PLAIN = (  # five rounds of one step; measured at the end alone, nobody drops out; masks would change no integer
    "federation.rounds=5",
    "federation.local_steps=1",
    "federation.drop=[]",
    "evaluation.every=100",
    "secagg.enabled=false",
    "synthetic.validation_pairs=0",
    "synthetic.test_pairs=50",
    "dpo.micro_batch=64",
)
_SHARED = ("privacy.noise=distributed", "secagg.bits=32")
_FLOAT = "privacy.arithmetic=float"  # what the documented runs were made with; shares are integers always
_UNIT = "unit: one pair, add or remove, delta 1e-5"
NO_NOISE = ".inf"
EPSILONS = ("0.5", "1", "8")
SERVED = ("8",)  # where frozen and joint also serve: it decides the default of method.personal


@dataclass(frozen=True, slots=True)
class Mode:
    """A line of the plot: a protection mode, or the trusted curator it is compared with."""

    key: str  # names the folder
    label: str
    changes: tuple[str, ...]
    rate: str  # dpo.learning_rate, from `rates`
    tuned: bool = True  # False: takes the rate of the mode it is compared with
    epsilons: tuple[str, ...] = EPSILONS


FROZEN = Mode("frozen", "pair/local, frozen", (_FLOAT,), "0.3")
JOINT = Mode("joint", "pair/local, joint", (_FLOAT, "method.personal=joint"), "0.3", tuned=False, epsilons=("1", "8"))
SHARES = Mode("shares", "pair/distributed, 1 colluder", (*_SHARED, "privacy.colluding=1"), "0.3")
CENTRAL = Mode("central", "central DP-SGD (trusted curator)", (_FLOAT, "method.name=centralized"), "0.3", tuned=False)
MODES = (SHARES, CENTRAL, FROZEN, JOINT)


def mode_cells(seeds: Sequence[int]) -> list[Cell]:
    """Every mode at every epsilon, the decisive ones first, and one schedule that clips without noise."""
    order = sorted(EPSILONS, key=("1", "8", "0.5").index)
    planned = [(mode, epsilon) for epsilon in order for mode in MODES if epsilon in mode.epsilons]
    return [mode_cell(mode, epsilon, seed) for mode, epsilon in (*planned, (CENTRAL, NO_NOISE)) for seed in seeds]


def mode_cell(mode: Mode, epsilon: str, seed: int) -> Cell:
    """One run; frozen and joint also fit serving copies where their default is decided."""
    serving = 5 if mode in (FROZEN, JOINT) and epsilon in SERVED else 0
    changes = (*mode.changes, *_PLAIN, f"dpo.learning_rate={mode.rate}", f"serving.epochs={serving}")
    group = f"eps{epsilon.strip('.')}"
    return Cell(Variant(mode.key, _QUICK, changes), group, seed, (f"privacy.epsilon={epsilon}",))


def released(scores: Scores) -> float:
    """Implicit accuracy of what leaves the federation, on clients' held-out pairs."""
    return (scores.shared or scores.final)[IMPLICIT]  # a curator's adapter is all there is


def mode_table(out: Path, seeds: Sequence[int]) -> str:
    """Accuracy by mode and epsilon, the differences seed by seed, and what clients serve after frozen and joint."""
    found = {
        (mode.key, epsilon): [read_scores(mode_cell(mode, epsilon, seed).folder(out)) for seed in seeds]
        for mode in MODES
        for epsilon in mode.epsilons
    }
    free = [read_scores(mode_cell(CENTRAL, NO_NOISE, seed).folder(out)) for seed in seeds]
    rows = [
        [mode.label, *(spread(released(run) for run in found.get((mode.key, epsilon), ())) for epsilon in EPSILONS)]
        for mode in MODES
    ]
    rows.append(["clipped, no noise", *[spread(released(run) for run in free)] * len(EPSILONS)])
    compared = ((SHARES, CENTRAL), (SHARES, FROZEN), (JOINT, FROZEN))
    differences = [
        [f"{one.label} minus {other.label}", *(_difference(found, one, other, e) for e in EPSILONS)]
        for one, other in compared
    ]
    header = ["", *(f"epsilon {epsilon}" for epsilon in EPSILONS)]
    parts = [
        table(["released adapter alone", *header[1:]], rows),
        "#### Differences, seed by seed\n\n" + table(header, differences),
        "#### Served after frozen and joint\n\n" + _served_table(out, seeds),
    ]
    return "\n\n".join(parts)


def _difference(found: dict[tuple[str, str], list[Scores]], one: Mode, other: Mode, epsilon: str) -> str:
    """Mean and spread of the difference of equal seeds: they share backbone, pairs and adapter."""
    if epsilon not in one.epsilons or epsilon not in other.epsilons:
        return "-"
    pairs = zip(found[one.key, epsilon], found[other.key, epsilon], strict=True)
    values = [released(first) - released(second) for first, second in pairs]
    mean = f"{statistics.mean(values):+.3f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.3f}"


def _served_table(out: Path, seeds: Sequence[int]) -> str:
    rows = []
    for epsilon in SERVED:
        for mode in (FROZEN, JOINT):
            runs = [read_scores(mode_cell(mode, epsilon, seed).folder(out)) for seed in seeds]
            keys = (OWN, IMPLICIT, "worst_accuracy")
            rows.append([epsilon, mode.label, *(spread(run.final.get(key) for run in runs) for key in keys)])
    return table(["epsilon", "mode", "served, own score", "served, implicit", "worst client"], rows)


MARGIN = "0.5"  # the epsilon of the table where noise matters most: more seeds there
_MARGIN_MODES = (SHARES, CENTRAL, FROZEN)


def margin_cells(seeds: Sequence[int]) -> list[Cell]:
    """The cells of the table at the smallest epsilon, for as many seeds as are asked for."""
    return [mode_cell(mode, MARGIN, seed) for seed in seeds for mode in _MARGIN_MODES]


def margin_table(out: Path, seeds: Sequence[int]) -> str:
    """Accuracy and the differences of equal seeds, with the standard error of their mean."""
    found = {
        (mode.key, MARGIN): [read_scores(mode_cell(mode, MARGIN, seed).folder(out)) for seed in seeds]
        for mode in _MARGIN_MODES
    }
    rows = [[mode.label, spread(released(run) for run in found[mode.key, MARGIN])] for mode in _MARGIN_MODES]
    differences = []
    for other in (CENTRAL, FROZEN):
        pairs = zip(found[SHARES.key, MARGIN], found[other.key, MARGIN], strict=True)
        values = [released(first) - released(second) for first, second in pairs]
        error = statistics.stdev(values) / len(values) ** 0.5
        won = sum(value > 0 for value in values)
        text = f"{statistics.mean(values):+.3f}, standard error {error:.3f}, above in {won} of {len(values)}"
        differences.append([f"{SHARES.label} minus {other.label}", text])
    return table([f"epsilon {MARGIN}, {len(seeds)} seeds", "released adapter alone"], [*rows, *differences])


def mode_plot(out: Path, seeds: Sequence[int]) -> Path:
    """Draw modes.png into `out`."""
    lines = [
        Line(
            mode.label,
            [float(epsilon) for epsilon in mode.epsilons],
            [
                [released(read_scores(mode_cell(mode, epsilon, seed).folder(out))) for seed in seeds]
                for epsilon in mode.epsilons
            ],
        )
        for mode in MODES
    ]
    free = [released(read_scores(mode_cell(CENTRAL, NO_NOISE, seed).folder(out))) for seed in seeds]
    return plot_lines(
        lines,
        out / "modes.png",
        title=f"Released adapter, 12 clients of 100 pairs\n{_UNIT}; {len(seeds)} seeds",
        x_label="epsilon",
        levels={"chance": 0.5, "clipped, no noise (NOT PRIVATE)": statistics.mean(free)},
    )


# ---- learning rates, chosen on validation pairs of a seed that no table uses -----------------------------------------

RATES = ("0.3", "1", "3")
RATE_SEED = 100
RATE_EPSILON = "2"


def rate_cells(seeds: Sequence[int]) -> list[Cell]:
    """Every mode that has a rate of its own, at every rate of the grid; `seeds` has no say."""
    return [_rate_cell(mode, rate) for mode in MODES if mode.tuned for rate in RATES]


def _rate_cell(mode: Mode, rate: str) -> Cell:
    validation = ("synthetic.validation_pairs=100", "evaluation.final_split=validation", "evaluation.split=validation")
    changes = (*mode.changes, *_PLAIN, *validation, "serving.epochs=0", f"dpo.learning_rate={rate}")
    return Cell(Variant(f"{mode.key} {rate}", _QUICK, changes), "rate", RATE_SEED, (f"privacy.epsilon={RATE_EPSILON}",))


def rate_table(out: Path, seeds: Sequence[int]) -> str:
    """Validation accuracy of the released adapter by mode and rate."""
    rows = [
        [mode.label, *(decimals(released(read_scores(_rate_cell(mode, rate).folder(out)))) for rate in RATES)]
        for mode in MODES
        if mode.tuned
    ]
    return table(["mode", *(f"learning rate {rate}" for rate in RATES)], rows)
