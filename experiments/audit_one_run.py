"""`--attack one-run`: canary pairs through the real DPO training of one client."""

from __future__ import annotations

import numpy as np

from experiments.output import Output
from fedpdpo_secure.audits.one_run import audit_one_run
from fedpdpo_secure.config import Config
from privacy.audit.result import AuditResult
from privacy.entropy import Entropy


def run(config: Config, *, canaries: int, confidence: float, output: Output, client: str | None = None) -> AuditResult:
    """See `fedpdpo_secure.audits.one_run`. The canaries and the simulated game have a public seed, the coins none."""
    return audit_one_run(
        config,
        canaries=canaries,
        confidence=confidence,
        client=client,
        entropy=Entropy.os(),
        rng=np.random.default_rng(0),
        note=output.say,
    )
