"""`fedpdpo data check|make`: look at preference data before anything trains, or write the built-in federation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from experiments.output import Output, output_options
from experiments.tables import print_table

if TYPE_CHECKING:
    from fedpdpo_secure.config import Config
    from fedpdpo_secure.data.pairs import Federation

SHOWN_CLIENTS = 20


@click.group()
def data() -> None:
    """Look at preference data, or make the built-in set."""


@data.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Override one value of CONFIG.")
@output_options
def check(config: Path, overrides: tuple[str, ...], output: Output) -> None:
    """Read all pairs of CONFIG as a run would, show one and count them; trains nothing.

    The counts are facts about private data: they are for the owner's eyes.
    """
    from fedpdpo_secure.config import load_config

    chosen = load_config(config, overrides)
    federation = _load(chosen)
    if not output.quiet:
        _show(federation)
    output.finish(_values(federation))


@data.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--clients", type=click.IntRange(1, 100_000), default=12, show_default=True, help="Number of clients.")
@click.option("--pairs", type=click.IntRange(1), default=100, show_default=True, help="Training pairs per client.")
@click.option(
    "--heterogeneity",
    type=click.FloatRange(0, 1),
    default=1.0,
    show_default=True,
    help="0: all clients share every preference; 1: full opposition on some.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the federation.")
@output_options
def make(folder: Path, clients: int, pairs: int, heterogeneity: float, seed: int, output: Output) -> None:
    """Write the built-in synthetic federation as JSONL files into FOLDER."""
    from fedpdpo_secure.config import make_config
    from fedpdpo_secure.data.export import write_jsonl
    from fedpdpo_secure.data.synthetic import make_federation

    chosen = make_config(
        {
            "data": {"public": True},
            "federation": {"clients": clients},
            "synthetic": {"pairs": pairs, "heterogeneity": heterogeneity},
            "privacy": {"unit": "none"},
            "seed": seed,
        }
    )
    try:
        files = write_jsonl(make_federation(chosen), folder)
    except OSError as error:
        raise click.UsageError(f"FOLDER: {error.filename}: {error.strerror}") from error
    for path in files:
        output.say(str(path))
    output.finish({"files": [str(path) for path in files], "clients": clients, "pairs": pairs, "seed": seed})


def _load(config: Config) -> Federation:
    from fedpdpo_secure.data.federation import load_federation

    if config.model_name_or_path == "builtin:tiny":
        return load_federation(config, None)
    from fedpdpo_secure.model.backbone import load_tokenizer

    return load_federation(config, load_tokenizer(config.model_name_or_path))


def _show(federation: Federation) -> None:
    example = federation.example
    click.echo(f"source  {federation.source}")
    for note in federation.notes:
        click.echo(f"note    {note}")
    click.echo(f"one pair of {example.client}:")
    for name in ("prompt", "chosen", "rejected"):
        click.echo(f"  {name:8s} {getattr(example, name)!r}")
    splits = sorted({split for counts in federation.counts.values() for split in counts})
    names = list(federation.counts)
    rows = [[name, *(str(federation.counts[name].get(split, 0)) for split in splits)] for name in names]
    print_table(["client", *splits], rows[:SHOWN_CLIENTS])
    if len(rows) > SHOWN_CLIENTS:
        click.echo(f"and {len(rows) - SHOWN_CLIENTS} more clients")


def _values(federation: Federation) -> dict[str, Any]:
    example = federation.example
    return {
        "clients": len(federation.clients),
        "counts": {name: dict(counts) for name, counts in federation.counts.items()},
        "example": {
            "prompt": example.prompt,
            "chosen": example.chosen,
            "rejected": example.rejected,
            "client": example.client,
            "split": example.split,
        },
        "source": federation.source,
        "notes": list(federation.notes),
    }
