"""`--attack cosines`: an estimate from canary clients in a shadow federation."""

from __future__ import annotations

import numpy as np

from experiments.output import Output
from fedpdpo_secure.audits.cosines import audit_cosines
from fedpdpo_secure.config import Config
from privacy.audit.result import AuditResult
from privacy.entropy import Entropy


def run(config: Config, *, canaries: int, confidence: float, output: Output) -> AuditResult:
    """See `fedpdpo_secure.audits.cosines`. Directions and bootstrap have a public seed, the noise none."""
    return audit_cosines(
        config,
        canaries=canaries,
        confidence=confidence,
        entropy=Entropy.os(),
        rng=np.random.default_rng(0),
        note=output.say,
    )
