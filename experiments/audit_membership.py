"""`fedpdpo audit CONFIG --attack membership`: the many-run membership attack on the configuration's own scheme."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.output import Output
    from fedpdpo_secure.config import Config
    from privacy.audit.result import AuditResult


def run(config: Config, *, canaries: int, confidence: float, output: Output) -> AuditResult:
    """Train `canaries` times with one pair in or out, and say what the guesses show. Raises ConfigError."""
    import numpy as np

    from fedpdpo_secure.audits.membership import SHRUNK, audit_membership
    from fedpdpo_secure.audits.schemes import TARGET, scheme_of
    from privacy.entropy import Entropy

    scheme = scheme_of(config)
    output.say(f"attacked: {SHRUNK}")
    output.say(f"the target: {TARGET}")
    if scheme == "naive":
        output.say(
            "method.personal: free under privacy.unit: pair. The claim attacked is what an accountant prints who "
            "overlooks the personal parts; a run of this configuration reports epsilon infinite"
        )
    # The rng simulates the game for its power; nothing secret is drawn from it.
    rng = np.random.default_rng(0)
    result = audit_membership(
        config, runs=canaries, confidence=confidence, entropy=Entropy.os(), rng=rng, note=output.say
    )
    output.say(
        f"the pair moved one release by {result.details['moved_mean']:.2f} of what was claimed on average, by "
        f"{result.details['moved_most']:.2f} at most"
    )
    return result
