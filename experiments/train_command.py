"""`fedpdpo train`: find the configuration, run it under a view, and tell how it ended."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from experiments.output import (
    EXIT_BUDGET,
    EXIT_INTERRUPTED,
    EXIT_VERIFICATION,
    CommandError,
    Output,
    exit_code,
    message,
    output_options,
)

if TYPE_CHECKING:
    from experiments.train_view import TrainView
    from fedpdpo_secure.config import Config
    from fedpdpo_secure.report import RunResult


@click.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option(
    "--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Override one value of CONFIG; repeatable."
)
@click.option("--output_dir", type=click.Path(path_type=Path), help="Run folder; replaces output_dir of CONFIG.")
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Go on with the run in DIR, under the configuration kept there.",
)
@output_options
def train(
    config: Path | None, overrides: tuple[str, ...], output_dir: Path | None, resume: Path | None, output: Output
) -> None:
    """Train the federation that CONFIG describes.

    Every round is reserved in the privacy ledger before it trains and shown with what it spent. The run stops before
    the round that would overspend the budget (exit 4, everything saved). Ctrl-C leaves a valid run for --resume.
    """
    chosen = _configuration(config, overrides, output_dir, resume)
    from experiments.train_view import TrainView

    with TrainView(quiet=output.quiet) as view:
        from fedpdpo_secure.run import run_training

        try:
            result = run_training(chosen, resume=resume is not None, progress=view)
        except (Exception, KeyboardInterrupt) as error:
            raise _failure(error, chosen, view) from error
    view.finish(result)
    values = _values(result, view)
    if result.stopped is not None:
        raise CommandError(result.stopped, EXIT_BUDGET, values)
    output.finish(values)


def _configuration(
    config: Path | None, overrides: tuple[str, ...], output_dir: Path | None, resume: Path | None
) -> Config:
    if resume is not None:
        return _resumed(config, overrides, output_dir, resume)
    if config is None:
        raise click.UsageError("CONFIG: missing; name a YAML file, or a run folder with --resume")
    from fedpdpo_secure.config import load_config

    chosen = load_config(config, overrides)
    if output_dir is not None:
        chosen = chosen.model_copy(update={"output_dir": str(output_dir)})
    return chosen


def _resumed(config: Path | None, overrides: tuple[str, ...], output_dir: Path | None, resume: Path) -> Config:
    """The configuration kept in the folder `resume`; anything given beside it must agree with it."""
    from fedpdpo_secure.config import load_config

    kept_path = resume / "config.yaml"
    if not kept_path.is_file():
        raise click.UsageError(f"--resume {resume}: holds no run (no config.yaml)")
    if output_dir is not None and output_dir.resolve() != resume.resolve():
        raise click.UsageError(f"--output_dir {output_dir}: a resumed run stays in {resume}")
    kept = load_config(kept_path)
    asked = load_config(config if config is not None else kept_path, overrides)
    change = _first_difference(kept.model_dump(exclude={"output_dir"}), asked.model_dump(exclude={"output_dir"}))
    if change is not None:
        raise click.UsageError(f"--resume {resume}: {change}; a resumed run keeps its configuration")
    return kept.model_copy(update={"output_dir": str(resume)})


def _first_difference(kept: dict[str, Any], asked: dict[str, Any], prefix: str = "") -> str | None:
    for key, value in kept.items():
        other = asked.get(key)
        if isinstance(value, dict) and isinstance(other, dict) and value.keys() == other.keys():
            inner = _first_difference(value, other, f"{prefix}{key}.")
            if inner is not None:
                return inner
        elif value != other:
            return f"{prefix}{key} is {other!r} but the run has {value!r}"
    return None


def _failure(error: BaseException, config: Config, view: TrainView) -> BaseException:
    """`error` with what the run had reached when it came; unchanged if nothing had begun."""
    if not view.begun and not isinstance(error, KeyboardInterrupt) and not _departed(error):
        return error
    code, text = exit_code(error), message(error)
    if _departed(error):
        code, text = EXIT_VERIFICATION, f"not as planned before the first round (plan.json): {error}"
    if code == EXIT_INTERRUPTED:
        where = f"after round {view.rounds_done}" if view.rounds_done else "before the first round was finished"
        text = f"interrupted {where}"
        if Path(config.output_dir, "config.yaml").exists():
            text += f"; go on with: fedpdpo train --resume {config.output_dir}"
    written = Path(config.output_dir, "privacy_statement.json")
    statement = str(written) if written.exists() else None
    return CommandError(text, code, {**view.reached(), "output_dir": config.output_dir, "statement": statement})


def _departed(error: BaseException) -> bool:
    """Whether a round would do, or did, something else than the published plan."""
    from privacy.errors import AdaptiveParameters

    return isinstance(error, AdaptiveParameters)


def _values(result: RunResult, view: TrainView) -> dict[str, Any]:
    return {
        **view.reached(),
        "rounds": result.rounds,
        "epsilon": result.epsilon if result.private else None,
        "private": result.private,
        "delta": result.delta,
        "unit": result.unit,
        "noise": result.noise,
        "output_dir": str(result.output_dir),
        "metrics": dict(result.metrics),  # local to the simulation, not released
        "metrics_shared": dict(result.shared),
        "metrics_released": dict(result.released),
        "files": [str(path) for path in result.files],
        "statement": None if result.statement is None else str(result.statement),
        "plan_digest": result.plan_digest or None,
        "public_data": result.public_data,
    }
