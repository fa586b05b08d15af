"""`python -m experiments.naive --out DIR`: the naive scheme and three sound ones, attacked on a toy and on real DPO.

Writes naive.json (all rows, with what they were measured on), naive.csv, naive.png and naive.svg. Noise and coins come
from the operating system, so figures move within their confidence from run to run.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click

CONFIG = Path(__file__).resolve().parent / "configs" / "naive.yaml"
REAL = "real DPO"


@dataclass(frozen=True, slots=True)
class Row:
    """One scheme in one setting. Bounds hold with `confidence`, each alone."""

    setting: str
    scheme: str
    runs: int
    claim: float  # epsilon for one pair added or removed
    delta: float
    confidence: float
    direct: float  # lower bound that assumes nothing of the mechanism
    gaussian: float | None  # through the curve of a Gaussian mechanism; None where the release is subsampled
    moved_mean: float  # what the pair moved one release by, in units of the sensitivity that was claimed
    moved_most: float


def real_rows(
    *, runs: int, confidence: float, schemes: Sequence[str], done: Callable[[Row], None], note: Callable[[str], None]
) -> None:
    """Attack each of `schemes` in `runs` real trainings, made from the configuration naive.yaml; `done` gets each row.

    The threshold is fixed beforehand, so all runs count for the bound.
    """
    import numpy as np

    from fedpdpo_secure.audits.membership import membership_result, play_runs
    from fedpdpo_secure.audits.schemes import SCHEMES, MembershipGame, scheme_config
    from fedpdpo_secure.audits.shadow import shadow
    from fedpdpo_secure.config import load_config
    from privacy.entropy import Entropy

    config = load_config(CONFIG)
    for scheme in (name for name in SCHEMES if name in schemes):
        small = scheme_config(config, scheme)
        with shadow(small) as copy:
            game = MembershipGame(copy, small)
            played = play_runs(game, runs=runs, confidence=confidence, entropy=Entropy.os(), note=note)
        # The rng simulates the game for its power; nothing secret is drawn from it.
        result = membership_result(played, scheme=scheme, rng=np.random.default_rng(0))
        assert result.lower_bound is not None  # a bound, not an estimate
        done(
            Row(
                setting=REAL,
                scheme=scheme,
                runs=runs,
                claim=result.claim,
                delta=result.delta,
                confidence=confidence,
                direct=float(result.details["direct_bound"] or 0.0),
                gaussian=result.lower_bound,
                moved_mean=float(played.moves.mean()),
                moved_most=float(played.moves.max()),
            )
        )


def toy_rows(*, runs: int, confidence: float, done: Callable[[Row], None]) -> None:
    """Attack every scheme on every toy, `runs` runs each: thresholds from one half of them, bounds from the other."""
    import numpy as np

    from experiments.naive_toy import DELTA, EPSILON, SCHEMES, TOYS, attack
    from fedpdpo_secure.audits.membership import held_out

    for at, toy in enumerate(TOYS):
        for place, scheme in enumerate(SCHEMES):
            if toy.sample_rate < 1.0 and scheme not in ("naive", "frozen"):
                continue
            found = attack(toy, scheme, runs=runs, rng=np.random.default_rng([at, place]))
            bound = held_out(found.scores, found.coins, delta=DELTA, confidence=confidence)
            done(
                Row(
                    setting=toy.name,
                    scheme=scheme,
                    runs=runs,
                    claim=EPSILON,
                    delta=DELTA,
                    confidence=confidence,
                    direct=bound.direct,
                    gaussian=bound.gaussian if toy.sample_rate == 1.0 else None,
                    moved_mean=found.moved_mean,
                    moved_most=found.moved_most,
                )
            )


def write_rows(rows: Sequence[Row], folder: Path) -> None:
    """naive.json and naive.csv, one row a scheme and setting."""
    values = [asdict(row) for row in rows]
    (folder / "naive.json").write_text(json.dumps(values, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    with (folder / "naive.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(values[0]))
        writer.writeheader()
        writer.writerows(values)


def read_rows(folder: Path) -> list[Row]:
    """The rows of naive.json; none where there is no such file."""
    path = folder / "naive.json"
    return [Row(**values) for values in json.loads(path.read_text(encoding="utf-8"))] if path.exists() else []


@click.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder to write into.")
@click.option("--runs", type=click.IntRange(10, 100_000), default=100, show_default=True, help="Real trainings each.")
@click.option("--toy-runs", type=click.IntRange(100, 1_000_000), default=4000, show_default=True, help="Toy runs each.")
@click.option("--confidence", type=click.FloatRange(0.8, 0.99999), default=0.95, show_default=True)
@click.option("--scheme", "schemes", multiple=True, help="Attack only this scheme on real DPO (default: all four).")
@click.option("--only", type=click.Choice(["toy", "real"]), help="Measure one half; rows of the other are kept.")
def main(out: Path, runs: int, toy_runs: int, confidence: float, schemes: tuple[str, ...], only: str | None) -> None:
    """Attack the naive scheme beside the sound ones; write table and plot. Rows already in DIR are replaced."""
    import torch

    from experiments.naive_plot import plot_rows

    torch.set_num_threads(1)  # the model is small: more threads only get in each other's way
    out.mkdir(parents=True, exist_ok=True)
    rows = {(row.setting, row.scheme): row for row in read_rows(out)}

    def done(row: Row) -> None:
        rows[row.setting, row.scheme] = row
        write_rows(list(rows.values()), out)
        through = "-" if row.gaussian is None else f"{row.gaussian:.2f}"
        click.echo(
            f"{row.setting}, {row.scheme}: claimed {row.claim:.2f}; at least {row.direct:.2f} assuming nothing, "
            f"{through} through a Gaussian curve; moved {row.moved_mean:.2f} on average, {row.moved_most:.2f} at most"
        )

    if only != "real":
        toy_rows(runs=toy_runs, confidence=confidence, done=done)
    if only != "toy":
        wanted = schemes or ("naive", "frozen", "joint", "client")
        real_rows(runs=runs, confidence=confidence, schemes=wanted, done=done, note=click.echo)
    for path in plot_rows(list(rows.values()), out):
        click.echo(str(path))


if __name__ == "__main__":
    main()
