"""The points of `bench secagg`: what one measurement is of, how a sweep becomes points, and what flwr can do of them.

Nothing is measured here, and neither numpy nor flwr is imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CORRUPTED = 0.1
"""Fraction of clients assumed to work with the server where the solver chooses a graph."""
DROPPED = 0.1
"""Fraction of clients that such a graph withstands at least, whatever the point drops."""

FLOWER_QUANTISER_BITS = 22
FLOWER_RING_BITS = 32
_FLOWER_SHARE_S = 2e-4  # creating shares: seconds per share and unit of threshold, pure Python
_FLOWER_COMBINE_S = 6.6e-5  # rebuilding a seed: seconds per square of the shares; a key has 20 blocks, a seed 3
_FLOWER_WORD_S = 4.3e-9  # one word of one mask: generator and addition


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement.

    neighbors: of the graph, None where it is complete. dropped: fraction, as asked for; `dropped_clients` of them
    vanish when their masked vector is due. bits: of the ring. repeats: rounds of which medians are taken.
    """

    clients: int
    neighbors: int | None
    threshold: int
    dim: int
    dropped: float
    dropped_clients: int
    bits: int
    mode: str
    repeats: int

    @property
    def degree(self) -> int:
        """With how many others each client exchanges keys."""
        return self.clients - 1 if self.neighbors is None else self.neighbors

    @property
    def survivors(self) -> tuple[int, ...]:
        """The clients whose vectors are in the sum; the dropped ones are spread evenly over the roster."""
        gone = {i * self.clients // self.dropped_clients for i in range(self.dropped_clients)}
        return tuple(client for client in range(self.clients) if client not in gone)

    def __str__(self) -> str:
        graph = "complete" if self.neighbors is None else f"{self.neighbors} neighbours"
        return f"{self.clients} clients ({graph}), {self.dim:,} words, {self.dropped_clients} dropped"


def plan_points(
    *,
    clients: Sequence[int],
    dims: Sequence[int],
    dropped: Sequence[float],
    neighbors: int | None,
    bits: int,
    mode: str,
    repeats: int,
) -> list[Point]:
    """Every combination as a point. Raises ValueError, naming the field, for one that no graph or threshold suits.

    Without `neighbors` the solver decides (complete below 100 clients). With it the threshold is the least majority
    of the neighbours, as in published comparisons; `clients - 1` or more neighbours are the complete graph.
    """
    points = []
    for n in clients:
        for fraction in dropped:
            degree, threshold, gone = _graph(n, fraction, neighbors, malicious=mode == "malicious-server")
            points += [Point(n, degree, threshold, dim, fraction, gone, bits, mode, repeats) for dim in dims]
    return sorted(points, key=lambda point: (point.clients, point.dim, point.dropped))


def _graph(clients: int, dropped: float, neighbors: int | None, *, malicious: bool) -> tuple[int | None, int, int]:
    """Neighbours (None: all), threshold, and the number of dropped clients."""
    from secagg.solver import GRINDING_BITS, Assumptions, complete_graph, default_parameters

    grinding = GRINDING_BITS if malicious else 0.0
    gone = Assumptions(0, dropped).counts(clients)[1]
    if neighbors is not None and neighbors < clients - 1:
        return neighbors, neighbors // 2 + 1, gone
    if neighbors is not None:
        return None, complete_graph(clients, Assumptions(0, dropped), malicious=malicious).threshold, gone
    assumed = Assumptions(CORRUPTED, max(DROPPED, dropped), grinding_bits=grinding)
    chosen = default_parameters(clients, assumed, malicious=malicious)
    return None if chosen.complete else chosen.neighbors, chosen.threshold, gone


def flower_limit(point: Point) -> str | None:
    """What in flwr's own protocol keeps it from doing the same work, or None."""
    shares = point.degree + 1
    if point.clients << FLOWER_QUANTISER_BITS >= 1 << FLOWER_RING_BITS:
        return (
            f"flwr sums {point.clients} x 2^{FLOWER_QUANTISER_BITS} levels in a ring of 2^{FLOWER_RING_BITS}: "
            "it overflows from 1,024 clients on, without an error"
        )
    if point.neighbors is not None and shares % 2 == 0:
        return f"flwr crashes with an even num_shares below the number of clients, here {shares}"
    return None


def flower_note(point: Point) -> str | None:
    """How flwr's work at this point differs from ours, or None."""
    if point.mode == "malicious-server":
        return "flwr signs nothing and compares no survivor lists: its figures are those of a semi-honest server"
    return None


def flower_share_seconds(point: Point) -> float:
    """Roughly the CPU seconds in which one flwr client makes its shares."""
    return _FLOWER_SHARE_S * (point.degree + 1) * point.threshold


def flower_seconds(point: Point) -> float:
    """Roughly the CPU seconds of one whole flwr round, from figures of one server core; good to a factor of two."""
    shares, gone, left = point.degree + 1, point.dropped_clients, len(point.survivors)
    sharing = min(4.0, point.clients * flower_share_seconds(point)) + 5e-3 * point.clients * shares / 10
    combining = _FLOWER_COMBINE_S * shares**2 * (left + 20 / 3 * gone)
    masks = left * (shares + 6) + left + gone * shares
    return sharing + combining + _FLOWER_WORD_S * point.dim * masks
