"""`--attack dirac`: white-box Dirac canaries through the real DP-SGD of local noise; no data, no model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from experiments.output import Output
from fedpdpo_secure.budget import plan_budget
from fedpdpo_secure.config import Config, ConfigError
from fedpdpo_secure.config.units import sampled
from fedpdpo_secure.local.plan import local_plan
from fedpdpo_secure.shares import distributed
from privacy.audit.dirac import NULL_COORDINATES, audit_dirac, dirac_noise, dirac_rule, run_dirac
from privacy.audit.result import AuditResult
from privacy.entropy import Entropy
from privacy.events import IntegerGaussian, gaussian_event


def run(config: Config, *, canaries: int, confidence: float, output: Output) -> AuditResult:
    """All steps of the configuration (its sampler, clip, noise and event) on canaries with sealed coins.

    Integer noise is planned for the canaries' own coordinates. Raises ConfigError where no local noise is claimed.
    """
    if not sampled(config) or distributed(config):
        raise ConfigError(
            "privacy.unit, privacy.noise: dirac attacks unit pair or question with local noise, not "
            f"{config.privacy.unit} with {config.privacy.noise}"
        )
    if config.privacy.insecure_seed is not None or config.method.personal == "free":
        raise ConfigError("privacy: this run claims no finite epsilon, so there is nothing to audit")
    budget = plan_budget(config, canaries + NULL_COORDINATES)
    if budget.noise_multiplier == 0:
        raise ConfigError("privacy.noise_multiplier: 0 claims nothing, so there is nothing to audit")
    plan = local_plan(config, 1, budget.noise_multiplier, integer=budget.integer).dp
    if plan is None:
        raise ConfigError(f"method.name: {config.method.name} releases nothing, so there is nothing to audit")
    steps = (config.federation.local_steps or 1) * config.federation.rounds
    rule = dirac_rule(canaries=canaries, delta=budget.delta, confidence=confidence)
    done = run_dirac(plan, steps=steps, rule=rule, entropy=Entropy.os())
    output.say(f"coins sealed before the run: {done.sealed.commitment}")
    if isinstance(done.event, IntegerGaussian):  # the same curve; what its samplers add to delta is below 2^-40
        event = gaussian_event(
            noise_multiplier=done.event.noise_multiplier,
            sample_rate=done.event.sample_rate,
            steps=done.event.steps,
            unit=done.event.unit,
        )
        done = replace(done, event=event)
    # The game is simulated with a public seed: nothing secret is drawn here.
    result = audit_dirac(done, plan, rng=np.random.default_rng(0))
    noise = dirac_noise(done, plan, confidence=confidence)
    measured = {
        "noise_claimed": noise.claimed,
        "noise_measured": noise.measured,
        "noise_detectable_share": noise.detectable,
        "findings": "; ".join(noise.findings),
    }
    verdict = "violation" if noise.findings else result.verdict
    return replace(result, verdict=verdict, details={**result.details, **measured})
