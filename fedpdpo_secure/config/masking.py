"""What the configuration says about secure aggregation, as values of `secagg`: who masks with whom, and the mode."""

from __future__ import annotations

from fedpdpo_secure.config.models import Config
from secagg import Mode
from secagg.solver import (
    COMPLETE_BELOW,
    GRINDING_BITS,
    Assumptions,
    GraphParameters,
    complete_graph,
    solve,
)


def graph_parameters(config: Config) -> GraphParameters:
    """Neighbours and threshold for the federation of `config`. Raises ValueError if no graph withstands its losses."""
    section, clients = config.secagg, config.federation.clients
    malicious = section.mode == "malicious-server"
    if section.graph == "complete" or (section.graph == "auto" and clients < COMPLETE_BELOW):
        # The complete graph needs no guess of who drops: above the threshold it goes on, below it there is no sum.
        return complete_graph(clients, Assumptions(0.0, 0.0), malicious=malicious)
    losses = Assumptions(
        section.corrupted, section.dropped, absent=None, grinding_bits=GRINDING_BITS if malicious else 0.0
    )
    return solve(clients, losses, malicious=malicious)


def mode_of(config: Config) -> Mode:
    """Whom the configured protocol protects against."""
    return Mode(config.secagg.mode)
