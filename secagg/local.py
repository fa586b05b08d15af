"""One round with all parties in this process. Every message goes through its wire bytes, so sizes are real."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from secagg.client import Client
from secagg.config import RoundConfig, Stage
from secagg.identity import SigningKey
from secagg.journal import Journal
from secagg.messages import Message
from secagg.ring import from_ring
from secagg.server import Outgoing, Server
from secagg.shamir import Entropy
from secagg.wire import decode, encode

SERVER = -1
"""The server's address in `tap`; clients have ids from 0."""
Tap = Callable[[int, int, Message, int], None]
"""Called with (source, destination, message, bytes) for every message that arrives."""

_ABSENT_AT = {stage: position for position, stage in enumerate(Stage)}


@dataclass(frozen=True, slots=True)
class RoundSum:
    """The only release of a round, and what it cost.

    vector: int64[dim], the centred lift of the sum over `survivors` modulo 2^bits.
    survivors: the clients whose vectors are in the sum, ascending.
    dropped: (client, stage) of everyone who disappeared; those after the masked vector are survivors as well.
    recovered_mask_keys: mask keys rebuilt from shares, one for each client dropped after sharing.
    recovered_self_masks: self-mask seeds rebuilt of clients that vanished after their masked vector (the
        seeds of the other survivors are rebuilt too, and not counted here).
    misfits: (holder, owner) of each share found wrong, of which either may have lied; empty in an honest run.
    upload_bytes, download_bytes: wire bytes by client. bytes_by_message: by type of message, all clients.
    client_stages: CPU seconds by stage (advertise, share, open, mask, consent, reveal) and client.
    server_stages: CPU seconds by stage (advertise, share, mask, consent, reveal).
    wire_seconds: CPU seconds of encoding and decoding all messages, which the stages leave out.
    """

    vector: NDArray[np.int64] = field(repr=False)
    survivors: tuple[int, ...]
    dropped: tuple[tuple[int, Stage], ...]
    recovered_mask_keys: int
    recovered_self_masks: int
    misfits: tuple[tuple[int, int], ...]
    upload_bytes: Mapping[int, int]
    download_bytes: Mapping[int, int]
    bytes_by_message: Mapping[str, int] = field(default_factory=dict)
    client_stages: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    server_stages: Mapping[str, float] = field(default_factory=dict)
    wire_seconds: float = 0.0

    @property
    def client_seconds(self) -> dict[int, float]:
        """CPU seconds of each client, all stages."""
        total = dict.fromkeys(self.upload_bytes, 0.0)
        for by_client in self.client_stages.values():
            for client, seconds in by_client.items():
                total[client] += seconds
        return total

    @property
    def server_seconds(self) -> float:
        """CPU seconds of the server, all stages."""
        return sum(self.server_stages.values())


class LocalRound:
    """Drives one round: `open`, then `submit` once for each client that is expected, then `finish`.

    `drops` says where a client disappears; a client that is expected and never submits counts as dropped
    after its shares. `identities` holds each client's long-term key in malicious-server mode. Vectors are taken
    one at a time and not kept. Raises ValueError for a drop outside the roster or a stage that the mode does not
    have; the methods raise SecAggError, after which the round is over. The clients, and with them their secrets,
    are let go when `finish` ends and when `open` fails, whatever the reason.
    """

    def __init__(
        self,
        config: RoundConfig,
        drops: Mapping[int, Stage],
        *,
        identities: Mapping[int, SigningKey] | None = None,
        entropy: Entropy = os.urandom,
        journal: Journal | None = None,
        tap: Tap | None = None,
    ) -> None:
        unknown = sorted(set(drops) - set(config.clients))
        if unknown:
            raise ValueError(f"drops: {unknown} are not clients of this round")
        if Stage.AFTER_CONSENT in drops.values() and not config.malicious:
            raise ValueError(f"drops: nobody consents in {config.mode.value} mode, so nobody drops after it")
        self._config, self._drops, self._entropy, self._tap = config, dict(drops), entropy, tap
        self._identities, self._journal = identities or {}, journal
        self._server = Server(config)
        self._clients: dict[int, Client] = {}
        self._expected: tuple[int, ...] = ()  # without those whose secrets could not be recovered (`server_steps`)
        self._upload = dict.fromkeys(config.clients, 0)
        self._download = dict.fromkeys(config.clients, 0)
        self._bytes: dict[str, int] = defaultdict(int)
        self._seconds: dict[tuple[str, int], float] = defaultdict(float)

    def open(self) -> tuple[int, ...]:
        """Exchange keys and shares; the clients expected to submit. Raises TooFewSurvivors."""
        try:
            for client in self._present(Stage.BEFORE_KEYS):
                with self._timed("advertise", client):
                    self._clients[client] = Client(
                        self._config,
                        client,
                        identity=self._identities.get(client),
                        entropy=self._entropy,
                        journal=self._journal,
                    )
                self._to_server("advertise", client, self._clients[client].greeting)
            self._broadcast("share", self._deadline("advertise"), self._present(Stage.AFTER_KEYS))
            self._broadcast("open", self._deadline("share"), self._present(Stage.AFTER_SHARES))
        except BaseException:
            self._clients.clear()
            raise
        self._expected = tuple(c for c in self._present(Stage.AFTER_SHARES) if self._clients[c].ready)
        return self._expected

    def submit(self, client: int, vector: NDArray[np.int64]) -> None:
        """Mask one client's vector (int64[dim]) and add it. Raises ValueError for a client not expected."""
        if client not in self._clients or client not in self._expected:
            raise ValueError(f"client {client} is not expected to submit a vector")
        with self._timed("mask", client):
            masked = self._clients[client].mask(vector)
        self._to_server("mask", client, masked)

    def finish(self) -> RoundSum:
        """Unmask the sum. Raises TooFewSurvivors if fewer than threshold or min_survivors submitted."""
        try:
            answer = "consent" if self._config.malicious else "reveal"
            self._broadcast(answer, self._deadline("mask"), self._present(Stage.AFTER_MASKED))
            if self._config.malicious:
                self._broadcast("reveal", self._deadline("consent"), self._present(Stage.AFTER_CONSENT))
            self._deadline("reveal")
        finally:
            self._clients.clear()
        total = self._server.total
        stages = [stage for _, stage in total.dropped]
        return RoundSum(
            vector=from_ring(total.vector, self._config.bits),
            survivors=total.survivors,
            dropped=total.dropped,
            recovered_mask_keys=stages.count(Stage.AFTER_SHARES),
            recovered_self_masks=stages.count(Stage.AFTER_MASKED) + stages.count(Stage.AFTER_CONSENT),
            misfits=total.misfits,
            upload_bytes=self._upload,
            download_bytes=self._download,
            bytes_by_message=dict(self._bytes),
            client_stages=self._client_stages(),
            server_stages={
                s: seconds for (s, party), seconds in self._seconds.items() if party == SERVER and s != "wire"
            },
            wire_seconds=self._seconds["wire", SERVER],
        )

    def _client_stages(self) -> dict[str, dict[int, float]]:
        stages: dict[str, dict[int, float]] = defaultdict(dict)
        for (stage, party), seconds in self._seconds.items():
            if party != SERVER:
                stages[stage][party] = seconds
        return dict(stages)

    def _present(self, stage: Stage) -> tuple[int, ...]:
        """The clients that have not disappeared by `stage`."""
        return tuple(
            client
            for client in self._config.clients
            if client not in self._drops or _ABSENT_AT[self._drops[client]] > _ABSENT_AT[stage]
        )

    def _deadline(self, stage: str) -> Outgoing:
        with self._timed(stage, SERVER):
            return self._server.deadline()

    def _broadcast(self, stage: str, outgoing: Outgoing, present: tuple[int, ...]) -> None:
        """Hand each message to its client if it is still there, and its reply to the server."""
        here = set(present) & self._clients.keys()  # none are left after a failure
        for client, message in outgoing.items():
            if client not in here:
                continue
            received = self._carry(SERVER, client, message)
            with self._timed(stage, client):
                reply = self._clients[client].receive(received)
            if reply is not None:
                self._to_server(stage, client, reply)

    def _to_server(self, stage: str, client: int, message: Message) -> None:
        received = self._carry(client, SERVER, message)
        with self._timed(stage, SERVER):
            self._server.receive(received)

    def _carry(self, source: int, destination: int, message: Message) -> Message:
        """What arrives of a message: it travels as bytes, which are counted."""
        with self._timed("wire", SERVER):
            data = encode(message, self._config)
            received = decode(data, self._config)
        if source == SERVER:
            self._download[destination] += len(data)
        else:
            self._upload[source] += len(data)
        self._bytes[type(message).__name__] += len(data)
        if self._tap is not None:
            self._tap(source, destination, received, len(data))
        return received

    @contextmanager
    def _timed(self, stage: str, party: int) -> Iterator[None]:
        start = time.process_time()
        try:
            yield
        finally:
            self._seconds[stage, party] += time.process_time() - start
