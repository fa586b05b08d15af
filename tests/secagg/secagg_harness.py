"""Builders for the tests of secagg: configurations, a fixed entropy source, and a federation stopped anywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from secagg import Client, Mode, RoundConfig, RoundSum, Server, SigningKey, Stage, default_threshold
from secagg.local import LocalRound, Tap
from secagg.messages import Delivery, Included, MaskedVector, Message, PeerKeys, UnmaskRequest


def make_config(
    n: int = 5,
    *,
    dim: int = 40,
    bits: int = 24,
    threshold: int | None = None,
    min_survivors: int = 3,
    session: bytes = b"0123456789abcdef",
    round_index: int = 7,
    context: bytes = bytes(32),
    neighbors: int | None = None,
    least_present: int | None = None,
    mode: Mode = Mode.SEMI_HONEST,
    model: bytes = bytes(32),
) -> RoundConfig:
    """A round of clients 10, 13, 16, ... so that ids and positions differ.

    Where `least_present` must be a number it is the quorum, unless given.
    """
    clients = tuple(range(10, 10 + 3 * n, 3))
    if threshold is None:
        threshold = default_threshold(n) if neighbors is None else neighbors // 2 + 1
    malicious = mode is Mode.MALICIOUS_SERVER
    if malicious and neighbors is not None and least_present is None:
        least_present = max(threshold, min_survivors)
    return RoundConfig(
        session=session,
        round_index=round_index,
        clients=clients,
        threshold=threshold,
        min_survivors=min_survivors,
        bits=bits,
        dim=dim,
        context=context,
        neighbors=neighbors,
        least_present=least_present,
        mode=mode,
        identities=tuple(identity_of(client).public for client in clients) if malicious else (),
        model=model,
    )


def identity_of(client: int) -> SigningKey:
    """A fixed long-term key for each id."""
    return SigningKey.from_secret(hashlib.sha256(b"identity %d" % client).digest())


def identities(config: RoundConfig) -> dict[int, SigningKey]:
    return {client: identity_of(client) for client in config.clients} if config.malicious else {}


def fixed_entropy(seed: bytes = b"secagg tests") -> Callable[[int], bytes]:
    """A reproducible stand-in for os.urandom: SHAKE-256 of the seed and a call counter."""
    calls = 0

    def draw(size: int) -> bytes:
        nonlocal calls
        calls += 1
        return hashlib.shake_256(seed + calls.to_bytes(8, "big")).digest(size)

    return draw


def random_vectors(config: RoundConfig, seed: int = 0) -> dict[int, NDArray[np.int64]]:
    """Small vectors whose sum cannot wrap: int64[dim] for each client."""
    rng = np.random.default_rng(seed)
    return {client: rng.integers(-900, 900, config.dim) for client in config.clients}


def centred_sum(vectors: list[NDArray[np.int64]], config: RoundConfig) -> NDArray[np.int64]:
    """The oracle: Python integers, reduced into [-2^(bits-1), 2^(bits-1))."""
    modulus = 2**config.bits
    sums = [sum(int(value) for value in column) for column in zip(*vectors, strict=True)]
    return np.array([(s + modulus // 2) % modulus - modulus // 2 for s in sums], np.int64)


def run_local(
    config: RoundConfig,
    vectors: Mapping[int, NDArray[np.int64]],
    drops: Mapping[int, Stage] | None = None,
    *,
    tap: Tap | None = None,
    entropy: Callable[[int], bytes] | None = None,
) -> RoundSum:
    local = LocalRound(config, drops or {}, identities=identities(config), entropy=entropy or fixed_entropy(), tap=tap)
    for client in local.open():
        local.submit(client, vectors[client])
    return local.finish()


class Federation:
    """Real clients and a real server, advanced stage by stage, with every message at hand and alterable."""

    def __init__(self, config: RoundConfig) -> None:
        self.config = config
        entropy = fixed_entropy()
        keys = identities(config)
        self.clients = {
            client: Client(config, client, identity=keys.get(client), entropy=entropy) for client in config.clients
        }
        self.server = Server(config)
        self.peer_keys: Mapping[int, Message] = {}
        self.deliveries: Mapping[int, Message] = {}
        self.requests: Mapping[int, Message] = {}
        self.consents: Mapping[int, Message] = {}
        self.sent: dict[str, dict[int, Message]] = {"shares": {}, "masked": {}, "consent": {}, "reveal": {}}

    def advertise(self) -> Federation:
        for client in self.clients.values():
            self.server.receive(client.greeting)
        self.peer_keys = self.server.deadline()
        return self

    def share(self) -> Federation:
        self._exchange("shares", self.peer_keys)
        self.deliveries = self.server.deadline()
        return self

    def deliver(self) -> Federation:
        for client, message in self.deliveries.items():
            self.clients[client].receive(message)
        return self

    def mask(self, vectors: Mapping[int, NDArray[np.int64]], absent: tuple[int, ...] = ()) -> Federation:
        for client, machine in self.clients.items():
            if client not in absent:
                self.sent["masked"][client] = machine.mask(vectors[client])
                self.server.receive(self.sent["masked"][client])
        self.requests = self.server.deadline()
        return self

    def consent(self) -> Federation:
        """Malicious-server mode only."""
        self._exchange("consent", self.requests)
        self.consents = self.server.deadline()
        return self

    def reveal(self) -> Federation:
        if self.config.malicious and not self.consents:
            self.consent()
        self._exchange("reveal", self.consents if self.config.malicious else self.requests)
        return self

    def _exchange(self, kind: str, incoming: Mapping[int, Message]) -> None:
        for client, message in incoming.items():
            reply = self.clients[client].receive(message)
            assert reply is not None
            self.sent[kind][client] = reply
            self.server.receive(reply)

    def keys(self, client: int | None = None) -> PeerKeys:
        """The keys as shown to one client (default: the first)."""
        message = self.peer_keys[self.config.clients[0] if client is None else client]
        assert isinstance(message, PeerKeys)
        return message

    def delivery(self, client: int) -> Delivery:
        message = self.deliveries[client]
        assert isinstance(message, Delivery)
        return message

    def request(self, client: int, survivors: tuple[int, ...]) -> UnmaskRequest:
        """The list, with the tags that those on it really sent to `client`."""
        return request_for(client, survivors, self.sent["masked"])

    def messages(self) -> list[Message]:
        """One of each type, from a finished round."""
        first = self.config.clients[0]
        sent = [by_client[first] for by_client in self.sent.values() if first in by_client]
        received = [self.peer_keys[first], self.deliveries[first], self.requests[first]]
        received += [self.consents[first]] if self.consents else []
        return [self.clients[first].greeting, *sent, *received]


def request_for(client: int, survivors: tuple[int, ...], masked: Mapping[int, Message]) -> UnmaskRequest:
    """What a server that only passes on shows `client` with this list: the tags for it among the masked vectors."""
    tags = []
    for sender in sorted(masked.keys() & set(survivors)):
        message = masked[sender]
        assert isinstance(message, MaskedVector)
        tags += [Included(sender, item.tag) for item in message.tags if item.peer == client]
    return UnmaskRequest(survivors, tuple(tags))


def altered(keys: PeerKeys, client: int, **change: bytes) -> PeerKeys:
    """The same message with other keys for one client."""
    return replace(keys, entries=tuple(replace(e, **change) if e.client == client else e for e in keys.entries))


def finished_federation(config: RoundConfig, absent: tuple[int, ...] = ()) -> Federation:
    federation = Federation(config).advertise().share().deliver()
    return federation.mask(random_vectors(config), absent).reveal()
