"""The steps of the server, as functions on its states.

`_add_...` takes in one message and leaves the state as it was if it refuses it; `_send_...` and the like end a
stage. The server adds each masked vector into one accumulator on arrival and keeps nothing else of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from secagg.config import RoundConfig, Stage
from secagg.errors import PeerMisbehaved, TooFewSurvivors
from secagg.graph import Graph, roster_hash
from secagg.identity import verify
from secagg.keys import has_small_order
from secagg.messages import (
    Advertise,
    Consent,
    Consents,
    Delivery,
    Included,
    MaskedVector,
    Message,
    PeerKeys,
    Reveal,
    Sealed,
    Shares,
    UnmaskRequest,
)
from secagg.ring import RingVector, add_packed, word_dtype
from secagg.statements import keys_statement, survivors_statement
from secagg.unmask import SharedClient, remove_masks


@dataclass(frozen=True, slots=True)
class Total:
    """The sum and who is in it.

    vector: uint16[dim] or uint32[dim], modulo 2^bits.
    survivors: U3, ascending.
    dropped: the others of the roster, ascending, with the stage at which they disappeared; those dropped
        after the masked vector are among the survivors too.
    misfits: (holder, owner) of each share that did not fit its secret. Either may have lied, the holder when it
        answered or the owner when it dealt; a wrong share among those that were not needed goes unseen.
    """

    vector: RingVector = field(repr=False)
    survivors: tuple[int, ...]
    dropped: tuple[tuple[int, Stage], ...]
    misfits: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class CollectKeys:
    keys: dict[int, Advertise]
    taken: set[bytes]  # every public key in it


@dataclass(frozen=True, slots=True)
class CollectShares:
    graph: Graph
    keys: Mapping[int, Advertise]  # U1
    shares: dict[int, Shares]


@dataclass(frozen=True, slots=True)
class CollectVectors:
    graph: Graph
    shared: Mapping[int, SharedClient]  # U2
    accumulator: RingVector  # [dim]
    submitted: dict[int, tuple[Included, ...]]  # by client, its tags for others (malicious-server mode)


@dataclass(frozen=True, slots=True)
class CollectConsents:
    """Malicious-server mode only."""

    graph: Graph
    shared: Mapping[int, SharedClient]
    accumulator: RingVector
    survivors: tuple[int, ...]  # U3, fixed
    statement: bytes  # what each of them signs
    consents: dict[int, Consent]


@dataclass(frozen=True, slots=True)
class CollectReveals:
    graph: Graph
    shared: Mapping[int, SharedClient]
    accumulator: RingVector
    survivors: tuple[int, ...]
    asked: frozenset[int]  # U3, or in malicious-server mode those of it who signed the list
    reveals: dict[int, Reveal]


@dataclass(frozen=True, slots=True)
class Done:
    total: Total


@dataclass(frozen=True, slots=True)
class Failed:
    pass


State = CollectKeys | CollectShares | CollectVectors | CollectConsents | CollectReveals | Done | Failed
Outgoing = Mapping[int, Message]


def _add_keys(config: RoundConfig, state: CollectKeys, message: Advertise) -> None:
    _expect(message.client, config.clients, state.keys, "advertisement")
    own = (message.channel_key, message.mask_key)
    if own[0] == own[1] or not state.taken.isdisjoint(own):
        raise PeerMisbehaved(f"client {message.client} repeats a public key of this round")
    if any(has_small_order(key) for key in own):
        raise PeerMisbehaved(f"client {message.client} advertised a public key of small order")
    if config.malicious:
        identity = config.identity(message.client)
        verify(
            identity,
            message.signature,
            keys_statement(config, message.client, *own),
            signer=message.client,
            what="public keys",
        )
    state.keys[message.client] = message
    state.taken.update(own)


def _add_shares(config: RoundConfig, state: CollectShares, message: Shares) -> None:
    _expect(message.client, state.keys, state.shares, "shares")
    if tuple(item.peer for item in message.sealed) != state.graph.neighbors(message.client):
        raise PeerMisbehaved(f"client {message.client} did not share with exactly its neighbours")
    state.shares[message.client] = message


def _add_vector(config: RoundConfig, state: CollectVectors, message: MaskedVector) -> None:
    _expect(message.client, state.shared, state.submitted, "masked vector")
    neighbors = state.graph.neighbors(message.client) if config.malicious else ()
    if [item.peer for item in message.tags] != [peer for peer in neighbors if peer in state.shared]:
        raise PeerMisbehaved(f"client {message.client} did not send its tags to exactly its neighbours")
    add_packed(state.accumulator, message.packed, config.bits)
    state.submitted[message.client] = message.tags


def _add_consent(config: RoundConfig, state: CollectConsents, message: Consent) -> None:
    _expect(message.client, state.survivors, state.consents, "consent")
    identity = config.identity(message.client)
    verify(identity, message.signature, state.statement, signer=message.client, what="survivor list")
    state.consents[message.client] = message


def _add_reveal(config: RoundConfig, state: CollectReveals, message: Reveal) -> None:
    _expect(message.client, state.asked, state.reveals, "reveal")
    own = {message.client} if config.complete else set()
    owners = (own | set(state.graph.neighbors(message.client))) & state.shared.keys()
    alive = owners & set(state.survivors)
    answered = {share.owner for share in message.self_mask_seeds}, {share.owner for share in message.mask_secrets}
    if answered != (alive, owners - alive):
        raise PeerMisbehaved(f"client {message.client} did not answer for exactly the clients it was asked for")
    state.reveals[message.client] = message


def _send_keys(config: RoundConfig, state: CollectKeys) -> tuple[CollectShares, Outgoing]:
    _require(config.least_advertised, "advertised keys", len(state.keys))
    keys = dict(sorted(state.keys.items()))
    present = tuple(keys)
    hashes = b"".join(entry.key_hash() for entry in keys.values())
    graph = Graph.build(config, present, roster_hash(config, present, hashes))
    following = CollectShares(graph, keys, {})
    if config.complete:
        return following, dict.fromkeys(keys, PeerKeys(present, b"", tuple(keys.values())))
    closed = {client: sorted((client, *graph.neighbors(client))) for client in present}
    return following, {
        client: PeerKeys(present, hashes, tuple(keys[peer] for peer in peers)) for client, peers in closed.items()
    }


def _deliver_shares(config: RoundConfig, state: CollectShares) -> tuple[CollectVectors, Outgoing]:
    kept = _recoverable(config, state.graph, state.shares.keys())
    _require(config.quorum, "shared their secrets", len(kept))
    inbox: dict[int, list[Sealed]] = {client: [] for client in sorted(kept)}
    for sender in inbox:  # ascending, so each inbox is too
        for item in state.shares[sender].sealed:
            if item.peer in inbox:
                inbox[item.peer].append(Sealed(sender, item.ciphertext))
    shared = {u: SharedClient(state.keys[u].mask_key, state.shares[u].commitment) for u in inbox}
    accumulator = np.zeros(config.dim, word_dtype(config.bits))
    following = CollectVectors(state.graph, shared, accumulator, {})
    return following, {client: Delivery(tuple(items)) for client, items in inbox.items()}


def _recoverable(config: RoundConfig, graph: Graph, shared: Collection[int]) -> set[int]:
    """Those of U2 whose secrets `threshold` others of U2 hold; the rest could only end the round, so they drop here."""
    kept = set(shared)
    while not config.complete:
        lost = {client for client in kept if len(kept.intersection(graph.holders(client))) < config.threshold}
        if not lost:
            break
        kept -= lost
    return kept


def _request_unmasking(config: RoundConfig, state: CollectVectors) -> tuple[CollectConsents | CollectReveals, Outgoing]:
    _require(config.quorum, "sent a masked vector", len(state.submitted))
    survivors = tuple(sorted(state.submitted))
    outgoing = dict.fromkeys(survivors, UnmaskRequest(survivors))
    if config.malicious:
        inbox: dict[int, list[Included]] = {client: [] for client in survivors}
        for sender in survivors:  # ascending, so each inbox is too
            for item in state.submitted[sender]:
                if item.peer in inbox:
                    inbox[item.peer].append(Included(sender, item.tag))
        outgoing = {client: UnmaskRequest(survivors, tuple(items)) for client, items in inbox.items()}
        statement = survivors_statement(config, state.graph.seed, survivors)
        return CollectConsents(state.graph, state.shared, state.accumulator, survivors, statement, {}), outgoing
    asked = frozenset(survivors)
    return CollectReveals(state.graph, state.shared, state.accumulator, survivors, asked, {}), outgoing


def _send_consents(config: RoundConfig, state: CollectConsents) -> tuple[CollectReveals, Outgoing]:
    _require(config.threshold, "signed the survivor list", len(state.consents))
    signed = sorted(state.consents)
    outgoing = {
        client: Consents(
            tuple(state.consents[peer] for peer in state.graph.neighbors(client) if peer in state.consents)
        )
        for client in signed
    }
    following = CollectReveals(state.graph, state.shared, state.accumulator, state.survivors, frozenset(signed), {})
    return following, outgoing


def _unmask(config: RoundConfig, state: CollectReveals) -> tuple[Done, Outgoing]:
    _require(config.threshold, "answered the request to unmask", len(state.reveals))
    total = state.accumulator
    misfits = remove_masks(
        config, total, graph=state.graph, shared=state.shared, survivors=state.survivors, reveals=state.reveals
    )
    total &= total.dtype.type(2**config.bits - 1)
    return Done(Total(total, state.survivors, _dropped(config, state), misfits)), {}


def _dropped(config: RoundConfig, state: CollectReveals) -> tuple[tuple[int, Stage], ...]:
    reached: dict[Stage, Collection[int]] = {
        Stage.BEFORE_KEYS: set(state.graph.clients),
        Stage.AFTER_KEYS: state.shared.keys(),
        Stage.AFTER_SHARES: set(state.survivors),
        Stage.AFTER_MASKED: state.asked,
        Stage.AFTER_CONSENT if config.malicious else Stage.AFTER_MASKED: state.asked & state.reveals.keys(),
    }
    first_missed = (
        (client, next((stage for stage, present in reached.items() if client not in present), None))
        for client in config.clients
    )
    return tuple((client, stage) for client, stage in first_missed if stage is not None)


RECEIVE: Mapping[tuple[type, type], Callable[[RoundConfig, Any, Any], None]] = MappingProxyType(
    {
        (CollectKeys, Advertise): _add_keys,
        (CollectShares, Shares): _add_shares,
        (CollectVectors, MaskedVector): _add_vector,
        (CollectConsents, Consent): _add_consent,
        (CollectReveals, Reveal): _add_reveal,
    }
)
DEADLINE: Mapping[type, Callable[[RoundConfig, Any], tuple[State, Outgoing]]] = MappingProxyType(
    {
        CollectKeys: _send_keys,
        CollectShares: _deliver_shares,
        CollectVectors: _request_unmasking,
        CollectConsents: _send_consents,
        CollectReveals: _unmask,
    }
)


def _expect(client: int, allowed: Collection[int], seen: Collection[int], what: str) -> None:
    if client not in allowed:
        raise PeerMisbehaved(f"client {client} may not send its {what} in this round")
    if client in seen:
        raise PeerMisbehaved(f"client {client} sent its {what} twice")


def _require(needed: int, what: str, present: int) -> None:
    if present < needed:
        raise TooFewSurvivors(f"{present} clients {what}, at least {needed} are needed")
