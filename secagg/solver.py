"""How many neighbours, and how many shares, make a sparse round of secure aggregation safe: (k, t) from a solver.

Bell et al., "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead", CCS 2020, sections 3 and 4: clients
sit on a ring in random order and each has the k/2 clients on either side as neighbours. Up to the stated numbers of
clients are corrupted and dropped, chosen without regard to the order. Then, with sigma the security bits,

(1) the honest survivors stay connected, except with probability 2^-(sigma+1): one unconnected part would be a sum of
    its own. Unconnected means two gaps of k/2 or more removed clients in a row;
(2) no client's secret is opened against it, except with probability 2^-(sigma+1). Semi-honest server: corrupted
    neighbours hold fewer than t shares. Malicious server, which may ask one half of the neighbours for the self-mask
    and the other for the mask key: 2t > k + corrupted neighbours, so that honest ones would have to answer twice;
(3) every client keeps t surviving neighbours, except with probability 2^-failure_bits; else the round is lost.

(2) and (3) are hypergeometric tails, (1) is a union bound over pairs of gaps. A client's neighbours are a uniform
subset of the other n - 1 clients, so that is the population here; the parameter finder of google-parfait/
federated-compute draws from n, with the client itself, and differs by one step at a few values (n = 1,000 with 45 %
corrupted and 45 % dropped: 822 neighbours there, 824 here).

The graph is drawn over the clients that are there when it is drawn. With fewer honest ones on the ring the corrupted
ones are a larger part of it, so (2) is computed for the smallest ring, `least_present`; a client must refuse to go on
with fewer, or a server that keeps honest clients away decides who sits beside whom.

`least_present` counts names. A client sees the keys of its neighbours alone, so a malicious server may invent the
hashes of the others, show each client another set of them, and try another graph for one hash and one sort, with no
key pair. (2) still holds: it is a union over clients and tries, each of one graph over at least that many distinct
names of the roster, and inventing a hash adds no corrupted name, since a neighbour's keys need its owner's signature.

A malicious server also chooses whom to call dropped after it has seen the graph, and (1) says nothing about that: it
can cut the sum into parts. (2) bounds the parts from below (`honest_part`), if clients answer for one survivor list
each, on which t of their neighbours agree with them, and only where every neighbour on it has said that its vector
holds the mask that they have in common.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache

from secagg.config import MIN_CLIENTS, default_threshold
from secagg.tails import log_disconnected, log_upper_tail

COMPLETE_BELOW = 100
"""Below this many clients sparse graphs are nearly complete, and the complete one costs little: the default."""
MAX_CLIENTS = 1_000_000
"""As far as the solver is tested."""
GRINDING_BITS = 64.0
"""What a malicious server is charged with: 2^64 graphs, at one hash and one sort each, in the time of one round."""
MIN_THRESHOLD = 2
"""With a threshold of 1 every holder of a share would hold the secret."""


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What a round must withstand. Raises ValueError naming the field and its bound.

    corrupted: largest fraction of the clients that work with the server, 0 or more and below 1.
    dropped: largest fraction of the clients that disappear in a round, in the same range.
    security_bits: a round is unsafe with probability 2^-security_bits at most; 1 to 256.
    failure_bits: a round is lost to drops with probability 2^-failure_bits at most; 1 to 256.
    absent: the part of `dropped` (a fraction of all clients, at most `dropped`) that may be missing already when the
        graph is drawn; None for all of it, 0 if a round starts only with everyone.
    grinding_bits: the server can have 2^grinding_bits graphs drawn and keep the one it likes best; 0 to 256. Added
        to security_bits, by the union bound. 0 where the server has no say in the graph, else GRINDING_BITS.
    """

    corrupted: float
    dropped: float
    security_bits: float = 40.0
    failure_bits: float = 30.0
    grinding_bits: float = 0.0
    absent: float | None = None

    def __post_init__(self) -> None:
        for name, fraction in (("corrupted", self.corrupted), ("dropped", self.dropped)):
            if not 0 <= fraction < 1:
                raise ValueError(f"{name} must be a fraction in [0, 1), not {fraction}")
        if self.absent is not None and not 0 <= self.absent <= self.dropped:
            raise ValueError(f"absent must lie in 0..{self.dropped} (dropped), not {self.absent}")
        bits = (("security_bits", self.security_bits, 1), ("failure_bits", self.failure_bits, 1))
        for name, value, least in (*bits, ("grinding_bits", self.grinding_bits, 0)):
            if not least <= value <= 256:
                raise ValueError(f"{name} must lie in {least}..256, not {value}")

    def counts(self, clients: int) -> tuple[int, int]:
        """The largest numbers of corrupted and of dropped clients among `clients`."""
        return _part(self.corrupted, clients), _part(self.dropped, clients)

    def least_present(self, clients: int) -> int:
        """The least number of clients over which the graph may be drawn."""
        return clients - _part(self.dropped if self.absent is None else self.absent, clients)


def _part(fraction: float, clients: int) -> int:
    return math.floor(fraction * clients + 1e-9)  # 0.29 * 100 is 28.999999999999996, and means 29


@dataclass(frozen=True, slots=True)
class GraphParameters:
    """A graph and a threshold for `clients` clients, and what they withstand.

    neighbors: k, even, or clients - 1 in the complete graph.
    threshold: t, the number of shares that open a secret.
    least_present: the least number of clients over which the graph may be drawn. Clients refuse to go on with fewer.
    complete: every client is every other's neighbour and holds a share of its own secrets too. Otherwise the
        holders of a client's shares are its neighbours, without itself.
    corrupted_neighbors: most corrupted holders of any honest client's shares, up to the security bits.
    security_bits: -log2 of the bound on the probability of an unsafe round, less the grinding; infinite if that
        cannot happen within the stated numbers of corrupted and dropped clients.
    failure_bits: -log2 of the bound on the probability of a round lost to drops.
    """

    clients: int
    neighbors: int
    threshold: int
    least_present: int
    complete: bool
    corrupted_neighbors: int
    security_bits: float
    failure_bits: float

    @property
    def holders(self) -> int:
        """How many clients hold a share of one client's secret."""
        return self.clients if self.complete else self.neighbors

    @property
    def honest_part(self) -> int:
        """The least number of honest clients in any sum that a malicious server can open, up to the security bits.

        Let u be honest and its self-mask open, and c = corrupted_neighbors. At least t - c honest holders v answered
        for it, each for one list with u and v in it. Before v signed that list it saw u's tag, so u's vector holds
        the mask that it has in common with v, whatever the server delivered to whom. To remove this mask the server
        needs the mask secret of u, or that of v, or v's vector in the same sum with v's self-mask open. It has not
        the first: another t - c honest holders would have had to call u dropped, and 2t > k + c. Nor the second: v
        answered only after t of its holders signed its list, t - c honest ones among them, and they release nothing
        but v's self-mask, which leaves k - t + c < t for its mask secret. So every v is in the sum with u; in a
        complete graph one of them may be u itself. Without the tag the first step fails: u may have been kept from
        v's shares and put no mask of v's into its vector.
        """
        return self.threshold - self.corrupted_neighbors + (0 if self.complete else 1)


def default_parameters(clients: int, assumptions: Assumptions, *, malicious: bool) -> GraphParameters:
    """The complete graph below COMPLETE_BELOW clients, else the sparsest that will do. Raises ValueError as `solve`."""
    choose = complete_graph if clients < COMPLETE_BELOW else solve
    return choose(clients, assumptions, malicious=malicious)


def complete_graph(clients: int, assumptions: Assumptions, *, malicious: bool) -> GraphParameters:
    """The complete graph with threshold floor(2n/3) + 1, or the nearest to it that the assumptions allow.

    Bonawitz et al. 2017, section 6: more shares than corrupted clients and no more than survive; with a malicious
    server 2t > n + corrupted and at least floor(2n/3) + 1, else a majority. Raises ValueError.
    """
    corrupted, dropped = _checked_counts(clients, assumptions, malicious=malicious)
    usual = default_threshold(clients)
    low = max((clients + corrupted) // 2 + 1, usual) if malicious else max(clients // 2, corrupted) + 1
    high = clients - dropped
    if low > high:
        raise ValueError(f"dropped: {dropped} of {clients} clients leave {high}, fewer than the {low} shares needed")
    return GraphParameters(
        clients=clients,
        neighbors=clients - 1,
        threshold=min(max(usual, low), high),
        least_present=high,
        complete=True,
        corrupted_neighbors=corrupted,
        security_bits=math.inf,
        failure_bits=math.inf,
    )


@lru_cache(maxsize=64)
def solve(clients: int, assumptions: Assumptions, *, malicious: bool) -> GraphParameters:
    """The least even k, with the least t, that meets (1) to (3) above; the complete graph if none below n - 1 does.

    Raises ValueError if not even the complete graph withstands the assumptions, or for clients outside
    3..MAX_CLIENTS.
    """
    corrupted, dropped = _checked_counts(clients, assumptions, malicious=malicious)
    problem = _Problem(clients, corrupted, dropped, assumptions.least_present(clients), assumptions, malicious)
    neighbors = problem.least_connected()
    while neighbors <= problem.least_present - 2:
        low, high = problem.thresholds(neighbors)
        if low <= high:
            return problem.parameters(neighbors, low)
        # A neighbour more raises `high` by 1 at most and never lowers `low`, so nothing closer can do.
        neighbors += (low - high + 1) // 2 * 2
    return complete_graph(clients, assumptions, malicious=malicious)


def _checked_counts(clients: int, assumptions: Assumptions, *, malicious: bool) -> tuple[int, int]:
    if not MIN_CLIENTS <= clients <= MAX_CLIENTS:
        raise ValueError(f"clients must lie in {MIN_CLIENTS}..{MAX_CLIENTS}, not {clients}")
    corrupted, dropped = assumptions.counts(clients)
    if corrupted + (2 if malicious else 1) * dropped >= clients:
        rule = "corrupted + 2 * dropped (malicious server)" if malicious else "corrupted + dropped"
        raise ValueError(f"{rule} must stay below clients: {corrupted} and {dropped} of {clients} do not")
    return corrupted, dropped


@dataclass(frozen=True, slots=True)
class _Problem:
    clients: int
    corrupted: int
    dropped: int
    least_present: int
    assumptions: Assumptions
    malicious: bool

    @property
    def limit(self) -> float:
        """ln of the probability allowed to (1), and to (2)."""
        return -math.log(2) * (self.assumptions.security_bits + self.assumptions.grinding_bits + 1)

    def log_disconnected(self, neighbors: int) -> float:
        """ln of a bound on the probability that the honest survivors are not connected."""
        return log_disconnected(clients=self.clients, removed=self.corrupted + self.dropped, neighbors=neighbors)

    def least_connected(self) -> int:
        """The least even k that meets (1); a wider neighbourhood is never worse."""
        halves = range(1, self.clients // 2 + 1)
        return 2 * halves[bisect_left(halves, True, key=lambda half: self.log_disconnected(2 * half) <= self.limit)]

    def log_corrupted(self, neighbors: int, at_least: int) -> float:
        """ln of a bound on the probability that any client has so many corrupted neighbours."""
        others = self.least_present - 1
        tail = log_upper_tail(at_least, population=others, marked=self.corrupted, drawn=neighbors)
        return tail + math.log(self.clients)

    def log_dropped(self, neighbors: int, at_least: int) -> float:
        """ln of a bound on the probability that any client has so many dropped neighbours."""
        tail = log_upper_tail(at_least, population=self.clients - 1, marked=self.dropped, drawn=neighbors)
        return tail + math.log(self.clients)

    def most_corrupted(self, neighbors: int) -> int:
        """The least x such that more than x corrupted neighbours are unlikely enough for (2)."""
        return bisect_left(range(neighbors), True, key=lambda x: self.log_corrupted(neighbors, x + 1) <= self.limit)

    def thresholds(self, neighbors: int) -> tuple[int, int]:
        """The least t that meets (2), and the largest that meets (3)."""
        limit = -math.log(2) * self.assumptions.failure_bits
        corrupted = self.most_corrupted(neighbors)
        lost = bisect_left(range(neighbors), True, key=lambda x: self.log_dropped(neighbors, x + 1) <= limit)
        low = (neighbors + corrupted) // 2 + 1 if self.malicious else corrupted + 1
        return max(low, MIN_THRESHOLD), neighbors - lost

    def parameters(self, neighbors: int, threshold: int) -> GraphParameters:
        opened = 2 * threshold - neighbors if self.malicious else threshold
        unsafe = _log_add(self.log_disconnected(neighbors), self.log_corrupted(neighbors, opened))
        failed = self.log_dropped(neighbors, neighbors - threshold + 1)
        return GraphParameters(
            clients=self.clients,
            neighbors=neighbors,
            threshold=threshold,
            least_present=self.least_present,
            complete=False,
            corrupted_neighbors=self.most_corrupted(neighbors),
            security_bits=-unsafe / math.log(2) - self.assumptions.grinding_bits,
            failure_bits=-failed / math.log(2),
        )


def _log_add(a: float, b: float) -> float:
    """ln(e^a + e^b)."""
    high, low = max(a, b), min(a, b)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))
