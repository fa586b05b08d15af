"""`fedpdpo audit`: attack the mechanism that a configuration would run, and put the lower bound beside the claim."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from experiments.output import EXIT_VERIFICATION, CommandError, Output, output_options
from experiments.tables import number


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Override one value of CONFIG.")
@click.option("--canaries", type=click.IntRange(100, 100_000), default=2000, show_default=True, help="Secret coins.")
@click.option(
    "--confidence", type=click.FloatRange(0.8, 0.99999), default=0.999, show_default=True, help="Of the lower bound."
)
@output_options
def audit(config: Path, overrides: tuple[str, ...], canaries: int, confidence: float, output: Output) -> None:
    """Attack the noise of CONFIG with white-box Dirac canaries: a lower bound on epsilon beside the claim.

    Runs the real DP-SGD of the configuration (its sampler, clip, noise and event) for all its steps on canaries whose
    coins are sealed beforehand; touches no data, no model and no ledger. Exit 6 if the bound is above the claim, or if
    the noise of any step is less than planned. A low bound is not evidence of privacy.
    """
    import numpy as np

    from fedpdpo_secure.budget import plan_budget
    from fedpdpo_secure.config import ConfigError, load_config
    from fedpdpo_secure.local.plan import local_plan
    from fedpdpo_secure.shares import distributed
    from privacy.audit.dirac import audit_dirac, dirac_noise, dirac_rule, run_dirac
    from privacy.entropy import Entropy

    chosen = load_config(config, overrides)
    if chosen.privacy.unit != "pair" or distributed(chosen):
        raise ConfigError("privacy: this audit attacks unit pair with local noise; other modes have no command yet")
    budget = plan_budget(chosen)
    plan = local_plan(chosen, 1, budget.noise_multiplier).dp
    assert plan is not None  # unit pair
    if budget.noise_multiplier == 0:
        raise ConfigError("privacy.noise_multiplier: 0 claims nothing, so there is nothing to audit")
    steps = (chosen.federation.local_steps or 1) * chosen.federation.rounds
    rule = dirac_rule(canaries=canaries, delta=budget.delta, confidence=confidence)
    run = run_dirac(plan, steps=steps, rule=rule, entropy=Entropy.os())
    # The game is simulated with a public seed: nothing secret is drawn here.
    result = audit_dirac(run, plan, rng=np.random.default_rng(0))
    noise = dirac_noise(run, plan, confidence=confidence)
    values: dict[str, Any] = {
        "steps": steps,
        **result.to_dict(),
        "noise": {"claimed": noise.claimed, "measured": noise.measured, "findings": list(noise.findings)},
    }
    output.say(f"coins sealed before the run: {run.sealed.commitment}")
    output.say(
        f"lower bound {number(result.lower_bound)} at confidence {confidence:g}; claim {number(result.claim)}; "
        f"ceiling {number(result.ceiling)}; power at the claim {number(result.power_at_claim)}; {result.verdict}"
    )
    output.say(result.words())
    output.say(
        f"noise on {noise.coordinates} null coordinates a step: {number(noise.measured)} of {number(noise.claimed)} "
        f"clip norms; a deviation of {100 * (1 - noise.detectable):.1f} % would show"
    )
    for finding in noise.findings:
        output.say(f"noise: {finding}")
    if result.verdict == "violation" or noise.findings:
        reason = "the attack shows more than is claimed, or the noise is not as planned"
        raise CommandError(reason, EXIT_VERIFICATION, values)
    output.finish(values)
