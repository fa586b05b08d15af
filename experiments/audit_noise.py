"""`--attack noise`: attestation of the shares in the sum."""

from __future__ import annotations

from experiments.output import Output
from experiments.plan_model import model_values
from fedpdpo_secure.audits.shares import attest_shares, coordinates_for
from fedpdpo_secure.config import Config, ConfigError
from privacy.audit.result import AuditResult
from privacy.entropy import Entropy


def run(config: Config, *, canaries: int, confidence: float, output: Output) -> AuditResult:
    """See `fedpdpo_secure.audits.shares`. `canaries` null coordinates a round; 0: as many as a missing share needs."""
    coordinates = canaries or coordinates_for(config.federation.clients, confidence)
    dim = model_values(config)["parameters"]
    if dim is None:
        raise ConfigError("survey.embeddings, model_name_or_path: the number of coordinates cannot be read from here")
    result, report = attest_shares(
        config,
        dim,
        coordinates=coordinates,
        confidence=confidence,
        entropy=Entropy.os(),
    )
    output.say(
        f"{report.rounds} sums of {coordinates} null coordinates: {report.measured:.4f} of the noise that the "
        f"survivors' shares add up to; {100 * (1 - report.detectable):.1f} % less would be found"
    )
    return result
