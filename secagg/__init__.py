"""Secure aggregation by pairwise masking: a server learns the sum of its clients' integer vectors, not the parts.

Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning", CCS 2017 (complete graph),
and Bell et al., "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead", CCS 2020 (random k-regular
graph), for clients that may disappear at any point. `Mode.SEMI_HONEST` protects against a server that follows the
protocol, `Mode.MALICIOUS_SERVER` against one that lies about keys and survivors. `Client` and `Server` are machines
that take and give messages; `LocalRound` runs a whole round in one process; `folded` chains rounds.

What it is not: there is no network code, no clock, no training and no differential privacy here. The sum itself
says something about each vector in it, and a server that fills the roster with clients of its own is outside what
any mode protects against.
"""

from secagg.client import Client
from secagg.config import Mode, RoundConfig, Stage, default_threshold
from secagg.encoding import Encoded, FixedPoint
from secagg.errors import BadMessage, PeerMisbehaved, SecAggError, TooFewSurvivors, WrongPhase
from secagg.identity import SigningKey
from secagg.local import LocalRound, RoundSum
from secagg.ring import from_ring, to_ring
from secagg.server import Server, Total

__all__ = [
    "BadMessage",
    "Client",
    "Encoded",
    "FixedPoint",
    "LocalRound",
    "Mode",
    "PeerMisbehaved",
    "RoundConfig",
    "RoundSum",
    "SecAggError",
    "Server",
    "SigningKey",
    "Stage",
    "TooFewSurvivors",
    "Total",
    "WrongPhase",
    "default_threshold",
    "from_ring",
    "to_ring",
]
