"""What secure aggregation should cost in a configured federation, to be put beside what it did cost."""

from __future__ import annotations

from functools import cache

from fedpdpo_secure.config import Config
from fedpdpo_secure.config.masking import graph_parameters
from secagg import Stage
from secagg.cost import Rates, RoundCosts, RoundShape, predict, probe

_SILENT_LATE = Stage.AFTER_SHARES.value  # the drop-out that costs the server most


@cache
def machine_rates() -> Rates:
    """The rates of this machine, by a one-second probe on first use."""
    return probe()


def round_shape(config: Config, dim: int, *, lost: int = 0) -> RoundShape:
    """The sizes of a round in which `lost` clients disappear after sharing."""
    graph, threshold, clients = graph_parameters(config), config.secagg.threshold, config.federation.clients
    assert threshold is not None  # resolved with the configuration
    return RoundShape(
        clients=clients,
        neighbors=None if graph.complete else graph.neighbors,
        threshold=threshold,
        bits=config.secagg.bits,
        dim=dim,
        dropped=lost / clients,
        malicious=config.secagg.mode == "malicious-server",
    )


def predicted(config: Config, dim: int, round_index: int, rates: Rates) -> RoundCosts:
    """The costs of one round of the run, with the drop-outs that its configuration schedules."""
    lost = sum(d["round"] == round_index and d["stage"] == _SILENT_LATE for d in config.federation.drop)
    return predict(round_shape(config, dim, lost=lost), rates)
