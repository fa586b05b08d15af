"""What follows from a transcript: the graph, U1 to U3, and the size that every message must have had."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from secagg.channel import SEALED_BYTES
from secagg.config import RoundConfig, Stage
from secagg.errors import BadMessage
from secagg.graph import HASH_BYTES, Graph, roster_hash
from secagg.identity import SIGNATURE_BYTES
from secagg.keys import PUBLIC_KEY_BYTES, TAG_BYTES
from secagg.messages import COMMITMENT_BYTES
from secagg.ring import packed_size
from secagg.shamir import SHARE_BYTES
from secagg.transcript_record import Revealed, Transcript

_HEAD = 1 + 1 + 32  # version, type, digest
_ID = 4
_COUNT = 4
MAX_PAIRS = 4_000_000
"""A complete graph of 2000 clients, or 10,000 clients with 400 neighbours: a file must not exhaust its reader."""


@dataclass(frozen=True, slots=True)
class View:
    """Sets of clients as the round's own rules give them; ids outside the roster are kept for a rule to find."""

    config: RoundConfig
    transcript: Transcript
    roster: frozenset[int]
    roster_hash: bytes
    advertised: frozenset[int]  # U1
    neighbors: Mapping[int, frozenset[int]]  # of each of U1
    sharers: frozenset[int]
    shared: frozenset[int]  # U2: those of them whose secrets enough others of them hold
    survivors: frozenset[int]  # U3
    consented: frozenset[int]
    revealed: Mapping[int, Revealed]

    def neighbors_of(self, client: int) -> frozenset[int]:
        return self.neighbors.get(client, frozenset())

    def holders_of(self, client: int) -> frozenset[int]:
        """Those who were given a share of its secrets."""
        if self.config.complete and client in self.advertised:
            return self.advertised
        return self.neighbors_of(client)


def view_of(config: RoundConfig, transcript: Transcript) -> View:
    """Raises BadMessage if the round is too large to be looked at here."""
    present = tuple(key.client for key in transcript.keys)
    if len(present) * min(config.neighbors or len(present), len(present)) > MAX_PAIRS:
        raise BadMessage(f"{len(present)} clients have more than {MAX_PAIRS} pairs of neighbours")
    seed = roster_hash(config, present, b"".join(key.key_hash() for key in transcript.keys))
    graph = Graph.build(config, present, seed)
    neighbors = {client: frozenset(graph.neighbors(client)) for client in present}
    sharers = frozenset(shared.client for shared in transcript.shares)
    return View(
        config=config,
        transcript=transcript,
        roster=frozenset(config.clients),
        roster_hash=seed,
        advertised=frozenset(present),
        neighbors=neighbors,
        sharers=sharers,
        shared=_kept(config, sharers & neighbors.keys(), neighbors),
        survivors=frozenset(transcript.survivors),
        consented=frozenset(consent.client for consent in transcript.consents or ()),
        revealed={revealed.client: revealed for revealed in transcript.reveals},
    )


def _kept(config: RoundConfig, sharers: frozenset[int], neighbors: Mapping[int, frozenset[int]]) -> frozenset[int]:
    """U2. A k-regular round leaves out whose secrets too few others of U2 hold, until nobody is left out."""
    if config.complete:
        return sharers
    held = {client: len(sharers & neighbors[client]) for client in sharers}
    lost = [client for client, count in held.items() if count < config.threshold]
    for client in lost:  # grows
        for peer in neighbors[client] & sharers:
            held[peer] -= 1
            if held[peer] == config.threshold - 1:
                lost.append(peer)
    return sharers.difference(lost)


def expected_size(view: View, message: str, client: int) -> int:
    """Bytes of the message of that type from or to `client` (`wire.py`), whatever it holds."""
    config = view.config
    bitmap = -(-len(config.clients) // 8)
    signature = SIGNATURE_BYTES if config.malicious else 0
    key = _ID + 2 * PUBLIC_KEY_BYTES + signature
    sealed = _ID + SEALED_BYTES
    near = view.neighbors_of(client)
    match message:
        case "Advertise":
            return _HEAD + key
        case "PeerKeys":
            hashes = 0 if config.complete else HASH_BYTES * len(view.advertised)
            return _HEAD + bitmap + hashes + _COUNT + (len(near) + 1) * key
        case "Shares":
            return _HEAD + _ID + COMMITMENT_BYTES + _COUNT + len(near) * sealed
        case "Delivery":
            return _HEAD + _COUNT + len(near & view.shared) * sealed
        case "MaskedVector":
            return _HEAD + _ID + packed_size(config.dim, config.bits) + _tags(config, near & view.shared)
        case "UnmaskRequest":
            return _HEAD + bitmap + _tags(config, near & view.survivors)
        case "Consent":
            return _HEAD + _ID + SIGNATURE_BYTES
        case "Consents":
            return _HEAD + _COUNT + len(near & view.consented) * (_ID + SIGNATURE_BYTES)
        case "Reveal":
            return _HEAD + _ID + 2 * _COUNT + len(owners(view, client)) * (_ID + SHARE_BYTES)
    raise ValueError(f"message {message} does not exist")


def _tags(config: RoundConfig, peers: frozenset[int]) -> int:
    return _COUNT + len(peers) * (_ID + TAG_BYTES) if config.malicious else 0


def owners(view: View, holder: int) -> frozenset[int]:
    """Those of U2 of whose secrets `holder` has shares."""
    own = {holder} if view.config.complete else set()
    return (view.neighbors_of(holder) | own) & view.shared


def last_stage(view: View, client: int) -> Stage | None:
    """Where `client` disappeared; None if it stayed to the end."""
    config = view.config
    steps: tuple[tuple[Stage, Iterable[int]], ...] = (
        (Stage.BEFORE_KEYS, view.advertised),
        (Stage.AFTER_KEYS, view.shared),
        (Stage.AFTER_SHARES, view.survivors),
        (Stage.AFTER_MASKED, view.consented if config.malicious else view.revealed),
        (Stage.AFTER_CONSENT, view.revealed),
    )
    return next((stage for stage, present in steps if client not in present), None)
