"""`fedpdpo data check|make`: look at pairs or a survey before anything trains, or write the built-in federation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from experiments.output import Output, output_options
from experiments.tables import count_of, print_table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from fedpdpo_secure.config import Config
    from fedpdpo_secure.data.pairs import Federation

SHOWN_CLIENTS = 20
SHOWN_CHARACTERS = 300  # of each field of the example; JSON has all of it
_NO_LIMIT = 1 << 40  # tokens


@click.group()
def data() -> None:
    """Look at preference data, or make the built-in set."""


@data.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Override one value of CONFIG.")
@output_options
def check(config: Path, overrides: tuple[str, ...], output: Output) -> None:
    """Count the pairs (or survey answers) of CONFIG and show one.

    Reads them all as a run would and trains nothing. The counts are facts about private data: they are for the
    owner's eyes.
    """
    from fedpdpo_secure.config import load_config
    from fedpdpo_secure.data.federation import load_federation

    chosen = load_config(config, overrides)
    if chosen.task == "pluralllm":
        _check_survey(chosen, output)
        return
    tokenizer = _tokenizer(chosen)
    federation = load_federation(chosen, tokenizer)
    cut = None if tokenizer is None else _cut_pairs(federation, tokenizer, chosen.dpo.max_length)
    if not output.quiet:
        _show(federation)
        if cut:
            output.say(
                f"{count_of(cut, 'pair')} longer than dpo.max_length = {chosen.dpo.max_length} tokens will be cut"
            )
    output.finish({**_values(federation), "cut_pairs": cut})


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


def _check_survey(config: Config, output: Output) -> None:
    from experiments.survey_view import show_survey, survey_values
    from fedpdpo_secure.pluralllm.holdings import load_holdings

    values = survey_values(load_holdings(config))
    if not output.quiet:
        show_survey(values)
    output.finish(values)


def _tokenizer(config: Config) -> PreTrainedTokenizerBase | None:
    """That of the model; None for the built-in model, whose tokenizer is trained after the data is known."""
    if config.model_name_or_path == "builtin:tiny":
        return None
    from fedpdpo_secure.model.backbone import load_tokenizer

    return load_tokenizer(config.model_name_or_path)


def _cut_pairs(federation: Federation, tokenizer: PreTrainedTokenizerBase, max_length: int) -> int:
    """How many pairs training would cut to `max_length` tokens."""
    from transformers.utils import logging

    from fedpdpo_secure.pairs.packing import tokenize_pair

    logging.set_verbosity_error()  # too long a text is what is counted here
    cut = 0
    for pair in federation.pairs():
        whole = tokenize_pair(
            pair, tokenizer, max_length=_NO_LIMIT, max_prompt_length=None, templated=federation.templated
        )
        cut += len(whole.prompt) + max(len(whole.chosen), len(whole.rejected)) > max_length
    return cut


def _shortened(text: str) -> str:
    if len(text) <= SHOWN_CHARACTERS:
        return repr(text)
    return f"{text[:SHOWN_CHARACTERS]!r} ... ({len(text)} characters)"


def _show(federation: Federation) -> None:
    example = federation.example
    click.echo(f"source  {federation.source}")
    for note in federation.notes:
        click.echo(f"note    {note}")
    click.echo(f"one pair of {example.client}:")
    for name in ("prompt", "chosen", "rejected"):
        click.echo(f"  {name:8s} {_shortened(getattr(example, name))}")
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
