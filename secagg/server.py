"""The server of one round: collects what clients send, and moves on when its caller says that time is up.

It adds each masked vector into one accumulator on arrival and keeps nothing else of it. A message that is
refused leaves the round as it was. That includes public keys over which all clients would abort: repeated
ones and those of small order. What the server cannot see into can still stop the round: shares of one client
that do not open at their recipients, or do not rebuild its secret. Running short of clients ends it for good.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from secagg.config import RoundConfig, Stage
from secagg.errors import PeerMisbehaved, TooFewSurvivors, WrongPhase
from secagg.keys import has_small_order
from secagg.messages import (
    Advertise,
    Delivery,
    MaskedVector,
    Message,
    Reveal,
    Roster,
    Sealed,
    Shares,
    UnmaskRequest,
)
from secagg.ring import RingVector, add_packed
from secagg.unmask import SharedClient, remove_masks


@dataclass(frozen=True, slots=True)
class Total:
    """The sum and who is in it.

    vector: uint32[dim], modulo 2^bits.
    survivors: U3, ascending.
    dropped: the others of the roster, ascending, with the stage at which they disappeared; those dropped
        after the masked vector are among the survivors too.
    misfits: (holder, owner) of each share left out because it did not fit its secret.
    """

    vector: RingVector = field(repr=False)
    survivors: tuple[int, ...]
    dropped: tuple[tuple[int, Stage], ...]
    misfits: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class CollectKeys:
    keys: dict[int, Advertise]


@dataclass(frozen=True, slots=True)
class CollectShares:
    keys: Mapping[int, Advertise]  # U1
    shares: dict[int, Shares]


@dataclass(frozen=True, slots=True)
class CollectVectors:
    advertised: frozenset[int]  # U1
    shared: Mapping[int, SharedClient]  # U2
    accumulator: RingVector  # uint32[dim]
    submitted: set[int]


@dataclass(frozen=True, slots=True)
class CollectReveals:
    advertised: frozenset[int]
    shared: Mapping[int, SharedClient]
    accumulator: RingVector
    survivors: frozenset[int]  # U3, fixed
    reveals: dict[int, Reveal]


@dataclass(frozen=True, slots=True)
class Done:
    total: Total


@dataclass(frozen=True, slots=True)
class Failed:
    pass


State = CollectKeys | CollectShares | CollectVectors | CollectReveals | Done | Failed
Outgoing = Mapping[int, Message]


def _add_keys(config: RoundConfig, state: CollectKeys, message: Advertise) -> None:
    _expect(message.client, set(config.clients), state.keys, "advertisement")
    own = (message.channel_key, message.mask_key)
    taken = {key for other in state.keys.values() for key in (other.channel_key, other.mask_key)}
    if own[0] == own[1] or not taken.isdisjoint(own):
        raise PeerMisbehaved(f"client {message.client} repeats a public key of this round")
    if any(has_small_order(key) for key in own):
        raise PeerMisbehaved(f"client {message.client} advertised a public key of small order")
    state.keys[message.client] = message


def _add_shares(config: RoundConfig, state: CollectShares, message: Shares) -> None:
    _expect(message.client, state.keys, state.shares, "shares")
    if {item.peer for item in message.sealed} != state.keys.keys() - {message.client}:
        raise PeerMisbehaved(f"client {message.client} did not share with exactly the others of the roster")
    state.shares[message.client] = message


def _add_vector(config: RoundConfig, state: CollectVectors, message: MaskedVector) -> None:
    _expect(message.client, state.shared, state.submitted, "masked vector")
    add_packed(state.accumulator, message.packed, config.bits)
    state.submitted.add(message.client)


def _add_reveal(config: RoundConfig, state: CollectReveals, message: Reveal) -> None:
    _expect(message.client, state.survivors, state.reveals, "reveal")
    survivors = {share.owner for share in message.self_mask_seeds}
    dropped = {share.owner for share in message.mask_secrets}
    if survivors != state.survivors or dropped != state.shared.keys() - state.survivors:
        raise PeerMisbehaved(f"client {message.client} did not answer for exactly the clients it was asked for")
    state.reveals[message.client] = message


def _send_roster(config: RoundConfig, state: CollectKeys) -> tuple[CollectShares, Outgoing]:
    _check_quorum("advertised keys", len(state.keys), config.quorum)
    keys = dict(sorted(state.keys.items()))
    roster = Roster(tuple(keys.values()))
    return CollectShares(keys, {}), dict.fromkeys(keys, roster)


def _deliver_shares(config: RoundConfig, state: CollectShares) -> tuple[CollectVectors, Outgoing]:
    _check_quorum("shared their secrets", len(state.shares), config.quorum)
    inbox: dict[int, list[Sealed]] = {client: [] for client in sorted(state.shares)}
    for sender in inbox:  # ascending, so each inbox is too
        for item in state.shares[sender].sealed:
            if item.peer in inbox:
                inbox[item.peer].append(Sealed(sender, item.ciphertext))
    shared = {u: SharedClient(state.keys[u].mask_key, state.shares[u].commitment) for u in inbox}
    accumulator = np.zeros(config.dim, np.uint32)
    following = CollectVectors(frozenset(state.keys), shared, accumulator, set())
    return following, {client: Delivery(tuple(items)) for client, items in inbox.items()}


def _request_unmasking(config: RoundConfig, state: CollectVectors) -> tuple[CollectReveals, Outgoing]:
    _check_quorum("sent a masked vector", len(state.submitted), config.quorum)
    survivors = frozenset(state.submitted)
    following = CollectReveals(state.advertised, state.shared, state.accumulator, survivors, {})
    request = UnmaskRequest(tuple(sorted(survivors)))
    return following, dict.fromkeys(request.survivors, request)


def _unmask(config: RoundConfig, state: CollectReveals) -> tuple[Done, Outgoing]:
    _check_quorum("answered the request to unmask", len(state.reveals), config.threshold)
    total = state.accumulator
    misfits = remove_masks(config, total, shared=state.shared, survivors=state.survivors, reveals=state.reveals)
    total &= np.uint32(2**config.bits - 1)
    return Done(Total(total, tuple(sorted(state.survivors)), _dropped(config, state), misfits)), {}


def _dropped(config: RoundConfig, state: CollectReveals) -> tuple[tuple[int, Stage], ...]:
    reached = {
        Stage.BEFORE_KEYS: state.advertised,
        Stage.AFTER_KEYS: state.shared.keys(),
        Stage.AFTER_SHARES: state.survivors,
        Stage.AFTER_MASKED: state.reveals.keys(),
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
        (CollectReveals, Reveal): _add_reveal,
    }
)
DEADLINE: Mapping[type, Callable[[RoundConfig, Any], tuple[State, Outgoing]]] = MappingProxyType(
    {
        CollectKeys: _send_roster,
        CollectShares: _deliver_shares,
        CollectVectors: _request_unmasking,
        CollectReveals: _unmask,
    }
)


class Server:
    """One round: `receive` messages, call `deadline` when no more are expected in this stage, four times."""

    def __init__(self, config: RoundConfig) -> None:
        self._config = config
        self._state: State = CollectKeys({})

    def receive(self, message: Message) -> None:
        """Take in one client's message. Raises SecAggError, the round unchanged, if it is refused.

        `message.client` is believed: a transport must compare it with its authenticated sender first.
        """
        accept = RECEIVE.get((type(self._state), type(message)))
        if accept is None:
            raise WrongPhase(f"the server in state {type(self._state).__name__} accepts no {type(message).__name__}")
        accept(self._config, self._state, message)

    def deadline(self) -> Outgoing:
        """End the stage; the messages to send, by client (none at the end).

        Raises TooFewSurvivors or PeerMisbehaved, and then the round is over and holds no sum.
        """
        state, self._state = self._state, Failed()  # stays so unless the stage ends well
        close = DEADLINE.get(type(state))
        if close is None:
            raise WrongPhase(f"the server in state {type(state).__name__} has no deadline")
        self._state, outgoing = close(self._config, state)
        return outgoing

    @property
    def total(self) -> Total:
        """The result. Raises WrongPhase before the fourth deadline and after a failure."""
        if not isinstance(self._state, Done):
            raise WrongPhase(f"the server in state {type(self._state).__name__} has no sum")
        return self._state.total


def _expect(client: int, allowed: Any, seen: Any, what: str) -> None:
    if client not in allowed:
        raise PeerMisbehaved(f"client {client} may not send its {what} in this round")
    if client in seen:
        raise PeerMisbehaved(f"client {client} sent its {what} twice")


def _check_quorum(what: str, present: int, needed: int) -> None:
    if present < needed:
        raise TooFewSurvivors(f"{present} clients {what}, at least {needed} are needed")
