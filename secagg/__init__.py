"""Secure aggregation by pairwise masking: a server learns the sum of its clients' integer vectors, not the parts.

Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning", CCS 2017, figure 4, for
an honest-but-curious server and clients that may disappear at any point. `Client` and `Server` are machines
that take and give messages; `LocalRound` runs a whole round in one process.

What it is not: there is no network code, no thread, no clock, no training and no differential privacy here.
The sum itself says something about each vector in it, and a server that lies about keys or survivors, or that
fills the roster with clients of its own, is outside what this mode protects against.
"""

from secagg.client import Client
from secagg.config import RoundConfig, Stage, default_threshold
from secagg.encoding import Encoded, FixedPoint
from secagg.errors import BadMessage, PeerMisbehaved, SecAggError, TooFewSurvivors, WrongPhase
from secagg.local import LocalRound, RoundSum
from secagg.ring import from_ring, to_ring
from secagg.server import Server, Total

__all__ = [
    "BadMessage",
    "Client",
    "Encoded",
    "FixedPoint",
    "LocalRound",
    "PeerMisbehaved",
    "RoundConfig",
    "RoundSum",
    "SecAggError",
    "Server",
    "Stage",
    "TooFewSurvivors",
    "Total",
    "WrongPhase",
    "default_threshold",
    "from_ring",
    "to_ring",
]
