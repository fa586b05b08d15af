"""`fedpdpo audit`: attack what a configuration would run, and put the lower bound beside the claim."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from experiments.output import EXIT_VERIFICATION, CommandError, Output, output_options
from experiments.tables import number

if TYPE_CHECKING:
    from fedpdpo_secure.config import Config
    from privacy.audit.result import AuditResult

# Each attack is a module with `run(config, *, canaries, confidence, output) -> AuditResult`, imported when asked for.
ATTACKS = {
    "dirac": ("experiments.audit_dirac", 2000, 0.999),
    "one-run": ("experiments.audit_one_run", 500, 0.95),
    "membership": ("experiments.audit_membership", 400, 0.95),
    "cosines": ("experiments.audit_cosines", 300, 0.95),
    "noise": ("experiments.audit_noise", 0, 0.999),
}


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Override one value of CONFIG.")
@click.option(
    "--attack", type=click.Choice(["auto", *ATTACKS]), default="auto", show_default=True, help="What is tried."
)
@click.option(
    "--canaries",
    type=click.IntRange(50, 1_000_000),
    help="Secret coins; runs of membership; canary clients of cosines; null coordinates a round of noise. "
    "Default: 2000 dirac, 500 one-run, 400 membership, 300 cosines, as many as a missing share needs for noise.",
)
@click.option(
    "--confidence",
    type=click.FloatRange(0.8, 0.99999),
    help="Of the bound. Default: 0.999 for dirac and noise, else 0.95.",
)
@click.option("--client", metavar="NAME", help="Whose training one-run attacks; default: the first client's.")
@click.option(
    "--save",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Add the result to this JSON file; audit.json in a run folder goes into its privacy statement.",
)
@output_options
def audit(
    config: Path,
    overrides: tuple[str, ...],
    attack: str,
    canaries: int | None,
    confidence: float | None,
    client: str | None,
    save: Path | None,
    output: Output,
) -> None:
    """Attack the privacy claim of CONFIG (or of a run folder): a lower bound on epsilon beside the claim.

    dirac: white-box canaries through the real DP-SGD of local noise, no model. one-run: canary pairs through the real
    DPO training of one client. membership: one pair in or out, many trainings of a small model. cosines: an estimate
    from canary clients. noise: the shares in the sum. auto: dirac for local noise, noise for noise in shares.

    Works on a shadow copy: no run folder and no ledger is touched. Exit 6 if a bound is above the claim or the noise is
    not as planned. A low bound is not evidence of privacy.
    """
    from fedpdpo_secure.config import config_digest, load_config

    chosen = load_config(config / "config.yaml" if config.is_dir() else config, overrides)
    name = _automatic(chosen) if attack == "auto" else attack
    module, coins, sure = ATTACKS[name]
    if client is not None and name != "one-run":
        raise click.UsageError(f"--client: {name} attacks no single client; it goes with --attack one-run")
    more: dict[str, Any] = {} if name != "one-run" else {"client": client}
    result = importlib.import_module(module).run(
        chosen, canaries=canaries or coins, confidence=confidence or sure, output=output, **more
    )
    values = {"attack": name, "config_sha256": config_digest(chosen), **result.to_dict()}
    if save is not None:
        from experiments.audit_file import add_result
        from fedpdpo_secure.statement import TEXT_NAME, restate_audits
        from fedpdpo_secure.statement_audits import AUDIT_FILE

        add_result(save, values)
        if save.name == AUDIT_FILE and restate_audits(save.parent) is not None:
            output.say(f"added to {save.parent / TEXT_NAME}")
    _show(result, output)
    if result.verdict == "violation" or result.details.get("findings"):
        reason = "the attack shows more than is claimed, or the noise is not as planned"
        raise CommandError(reason, EXIT_VERIFICATION, values)
    output.finish(values)


def _automatic(config: Config) -> str:
    from fedpdpo_secure.shares import distributed

    return "noise" if distributed(config) else "dirac"


def _show(result: AuditResult, output: Output) -> None:
    bound = "lower bound" if result.estimate is None else "ESTIMATE, no bound:"
    shown = result.lower_bound if result.estimate is None else result.estimate
    null = result.null_check
    checked = "none" if null is None else f"{null.positive} of {null.repeats}, at most {null.allowed:.1f} allowed"
    output.say(
        f"{bound} {number(shown)} at confidence {result.confidence:g}; claim {number(result.claim)}; ceiling "
        f"{number(result.ceiling)}; power at the claim {number(result.power_at_claim)}; null check {checked}; "
        f"verdict {result.verdict}"
    )
    output.say(result.words())
    for name, value in result.details.items():
        if name != "findings":
            output.say(f"  {name.replace('_', ' ')}: {f'{value:.4g}' if isinstance(value, float) else value}")
    for finding in str(result.details.get("findings") or "").split("; "):
        if finding:
            output.say(f"finding: {finding}")
