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

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from secagg.client import Client
    from secagg.config import Mode, RoundConfig, Stage, default_threshold
    from secagg.encoding import Encoded, FixedPoint
    from secagg.errors import BadMessage, PeerMisbehaved, SecAggError, TooFewSurvivors, WrongPhase
    from secagg.folded import Folded, FoldedClient, FoldedServer
    from secagg.identity import SigningKey
    from secagg.journal import FileJournal, MemoryJournal
    from secagg.local import LocalRound, RoundSum
    from secagg.ring import from_ring, to_ring
    from secagg.server import Server, Total

_HOMES = {
    "secagg.client": ("Client",),
    "secagg.config": ("Mode", "RoundConfig", "Stage", "default_threshold"),
    "secagg.encoding": ("Encoded", "FixedPoint"),
    "secagg.errors": ("BadMessage", "PeerMisbehaved", "SecAggError", "TooFewSurvivors", "WrongPhase"),
    "secagg.folded": ("Folded", "FoldedClient", "FoldedServer"),
    "secagg.identity": ("SigningKey",),
    "secagg.journal": ("FileJournal", "MemoryJournal"),
    "secagg.local": ("LocalRound", "RoundSum"),
    "secagg.ring": ("from_ring", "to_ring"),
    "secagg.server": ("Server", "Total"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "BadMessage",
    "Client",
    "Encoded",
    "FileJournal",
    "FixedPoint",
    "Folded",
    "FoldedClient",
    "FoldedServer",
    "LocalRound",
    "MemoryJournal",
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


def __getattr__(name: str) -> object:
    """Load a name where it is first used: `fedpdpo --help` and ledger readers need none of the cryptography."""
    if name not in _HOME:
        raise AttributeError(f"module 'secagg' has no attribute {name!r}")
    value: object = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
