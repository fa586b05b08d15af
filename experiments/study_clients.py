"""The client level against the number of clients: the released adapter on public pairs, which the server may look at.

The unit is one client with all its pairs, and the noise of a round does not shrink with the number of pairs: it is
divided by the number of clients alone. Masks are left out for speed; they change no integer of the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.study import IMPLICIT, Cell, Variant, read_scores, spread, table
from experiments.study_plot import Line, plot_lines

CLIENTS = (12, 30, 100, 1000)
EPSILONS = ("8",)
_MOST_SEEDS = {1000: 1}  # a run of a thousand clients takes minutes
_PAIRS = 10  # of each client, one batch: a client's round is one AdamW step over all it has
_RATE = 0.01
# A first AdamW step moves each coordinate by at most the rate, so rate * sqrt(5,280) bounds a client's update before
# any data are seen: nothing is cut, and nothing was tuned on private pairs.
_CLIP = 0.727
_CHANGES = (
    "method.name=fedavg",
    "privacy.unit=client",
    "privacy.noise=distributed",
    f"privacy.clip_norm={_CLIP}",
    f"dpo.learning_rate={_RATE}",
    f"dpo.batch_size={_PAIRS}",
    "dpo.micro_batch=64",
    "federation.rounds=2",
    "federation.local_steps=1",
    "federation.drop=[]",
    "secagg.enabled=false",
    "secagg.bits=32",
    f"synthetic.pairs={_PAIRS}",
    "synthetic.validation_pairs=0",
    "synthetic.test_pairs=0",
    "evaluation.every=100",
    "serving.epochs=0",
)


def client_cells(seeds: Sequence[int]) -> list[Cell]:
    """Every number of clients at every epsilon, few clients first."""
    return [
        client_cell(count, epsilon, seed)
        for epsilon in reversed(EPSILONS)
        for count in CLIENTS
        for seed in _seeds(count, seeds)
    ]


def _seeds(count: int, seeds: Sequence[int]) -> Sequence[int]:
    return seeds[: _MOST_SEEDS.get(count, len(seeds))]


def client_cell(count: int, epsilon: str, seed: int) -> Cell:
    """One run of the study `clients`."""
    variant = Variant(f"{count} clients", "quickstart.yaml", (*_CHANGES, f"federation.clients={count}"))
    return Cell(variant, f"eps{epsilon}", seed, (f"privacy.epsilon={epsilon}",))


def _public(out: Path, count: int, epsilon: str, seeds: Sequence[int]) -> list[float]:
    return [
        read_scores(client_cell(count, epsilon, seed).folder(out)).public[IMPLICIT] for seed in _seeds(count, seeds)
    ]


def client_table(out: Path, seeds: Sequence[int]) -> str:
    """Accuracy on public pairs by number of clients and epsilon."""
    rows = []
    for count in CLIENTS:
        scores = [spread(_public(out, count, epsilon, seeds)) for epsilon in EPSILONS]
        rows.append([f"{count:,}", str(len(_seeds(count, seeds))), *scores])
    return table(["clients", "seeds", *(f"epsilon {epsilon}" for epsilon in EPSILONS)], rows)


def client_plot(out: Path, seeds: Sequence[int]) -> Path:
    """Draw clients.png into `out`."""
    lines = [
        Line(f"epsilon {epsilon}", CLIENTS, [_public(out, count, epsilon, seeds) for count in CLIENTS])
        for epsilon in reversed(EPSILONS)
    ]
    return plot_lines(
        lines,
        out / "clients.png",
        title=f"Released adapter on public pairs, {_PAIRS} pairs a client\n"
        f"unit: one client, zero-out, delta 1e-5, one colluder; {len(seeds)} seeds (1,000 clients: one)",
        x_label="clients",
        levels={"chance": 0.5},
    )
