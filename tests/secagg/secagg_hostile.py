"""Hostile peers for the tests of secagg: whole rounds between real parties, with lies told at chosen points."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from secagg_harness import fixed_entropy, identities

from secagg import Client, RoundConfig, SecAggError, Server, SigningKey, from_ring
from secagg.client_steps import AwaitDelivery, AwaitPeerKeys, AwaitRequest, AwaitVector
from secagg.keys import KeyPair, pair_mask_key, self_mask_key
from secagg.messages import Message, Reveal, Share
from secagg.prg import apply_masks
from secagg.ring import add_packed, word_dtype
from secagg.server import CollectVectors, Total
from secagg.shamir import combine

Vectors = Mapping[int, NDArray[np.int64]]
Lie = Callable[[int, Message], Iterable[Message]]
"""What is sent instead of a message, given the client that sends or is to receive it: nothing, one or several."""


def honest(client: int, message: Message) -> Iterable[Message]:
    return (message,)


def on(kind: type[Message], change: Callable[..., Message], clients: Iterable[int] | None = None) -> Lie:
    """Change messages of one type only, to or from some clients only."""
    concerned = None if clients is None else frozenset(clients)

    def lie(client: int, message: Message) -> Iterable[Message]:
        if isinstance(message, kind) and (concerned is None or client in concerned):
            return (change(client, message),)
        return (message,)

    return lie


@dataclass
class Outcome:
    """How a round ended. A client that refuses is silent from then on; a refused message is as if never sent."""

    total: Total | None = None
    ended: SecAggError | None = None  # why the server has no sum
    refusals: dict[int, SecAggError] = field(default_factory=dict)  # by the client that refused
    refused: list[tuple[int, SecAggError]] = field(default_factory=list)  # by the server: (sender, error)
    heard: list[Message] = field(default_factory=list)  # all that was sent to the server
    config: RoundConfig | None = None

    @property
    def reveals(self) -> list[Reveal]:
        return [message for message in self.heard if isinstance(message, Reveal)]

    def vector(self) -> NDArray[np.int64]:
        assert self.total is not None and self.config is not None
        return from_ring(self.total.vector, self.config.bits)


def make_clients(config: RoundConfig, keys: Mapping[int, SigningKey] | None = None) -> dict[int, Client]:
    entropy, signing = fixed_entropy(), identities(config) if keys is None else keys
    return {client: Client(config, client, identity=signing.get(client), entropy=entropy) for client in config.clients}


def play(
    config: RoundConfig,
    vectors: Vectors,
    *,
    server: Lie = honest,
    client: Lie = honest,
    clients: Mapping[int, Client] | None = None,
) -> Outcome:
    """One round in which the server's messages pass through the lie `server` and the clients' through `client`."""
    parties = make_clients(config) if clients is None else clients
    machine, outcome = Server(config), Outcome(config=config)

    def send(sender: int, message: Message) -> None:
        for told in client(sender, message):
            outcome.heard.append(told)
            try:
                machine.receive(told)
            except SecAggError as error:
                outcome.refused.append((sender, error))

    for party in parties.values():
        send(party.client, party.greeting)
    while not machine.finished:
        try:
            outgoing = machine.deadline()
        except SecAggError as error:
            outcome.ended = error
            return outcome
        for recipient, message in outgoing.items():
            for told in server(recipient, message):
                try:
                    reply = parties[recipient].receive(told)
                except SecAggError as error:
                    outcome.refusals.setdefault(recipient, error)
                    continue
                if reply is not None:
                    send(recipient, reply)
        if isinstance(machine._state, CollectVectors):
            for party in parties.values():
                if party.ready:
                    try:
                        masked = party.mask(vectors[party.client])
                    except SecAggError as error:
                        outcome.refusals.setdefault(party.client, error)
                    else:
                        send(party.client, masked)
    outcome.total = machine.total
    return outcome


def rebuilt(shares: Mapping[int, int], config: RoundConfig) -> bytes:
    """The secret from the first `threshold` of the shares, point -> value."""
    return combine({point: shares[point] for point in sorted(shares)[: config.threshold]})


def shares_for(owner: int, reveals: Iterable[Reveal], config: RoundConfig) -> tuple[dict[int, int], dict[int, int]]:
    """The shares of one owner's self-mask seed and of its mask secret that were revealed: point -> value."""

    def of(kind: Callable[[Reveal], tuple[Share, ...]]) -> dict[int, int]:
        return {config.point(r.client): s.value for r in reveals for s in kind(r) if s.owner == owner}

    reveals = list(reveals)
    return of(lambda reveal: reveal.self_mask_seeds), of(lambda reveal: reveal.mask_secrets)


def unmask_one(
    config: RoundConfig,
    victim: int,
    packed: bytes,
    *,
    seed: bytes,
    mask_secret: bytes,
    peers: Mapping[int, bytes],
) -> NDArray[np.int64]:
    """The vector of one client from its masked vector and both of its secrets: what a dishonest server is after.

    peers: public mask keys of those with whom it exchanged masks.
    """
    words = np.zeros(config.dim, word_dtype(config.bits))
    add_packed(words, packed, config.bits)
    own = KeyPair.from_secret(mask_secret)
    pairs = {
        peer: pair_mask_key(own, key, own_id=victim, peer_id=peer, digest=config.binding())
        for peer, key in peers.items()
    }
    below = [key for peer, key in pairs.items() if peer < victim]
    above = [key for peer, key in pairs.items() if peer > victim]
    apply_masks(words, add=below, subtract=[self_mask_key(seed, client=victim, digest=config.binding()), *above])
    return from_ring(words & words.dtype.type(2**config.bits - 1), config.bits)


def secrets_in(client: Client) -> list[bytes]:
    """Every secret that the present state of a client holds, as bytes."""
    state = client._state
    found: list[bytes] = []
    if isinstance(state, AwaitPeerKeys):
        found += [state.channel.secret]
    if isinstance(state, AwaitPeerKeys | AwaitDelivery | AwaitVector):
        found += [state.mask.secret]
    if isinstance(state, AwaitDelivery | AwaitVector):
        found += [state.seed]
    if isinstance(state, AwaitDelivery | AwaitVector):
        found += [tag for both in state.tags.values() for tag in both]
    if isinstance(state, AwaitRequest):
        found += list(state.tags.values())
    if isinstance(state, AwaitVector | AwaitRequest):
        found += [
            value.to_bytes(33, "big") for p in state.shares.values() for value in (p.mask_secret, p.self_mask_seed)
        ]
    return found
