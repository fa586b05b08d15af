"""One round with all parties in this process. Every message goes through its wire bytes, so sizes are real."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from secagg.client import Client
from secagg.config import RoundConfig, Stage
from secagg.messages import Message
from secagg.ring import from_ring
from secagg.server import Outgoing, Server
from secagg.shamir import Entropy
from secagg.wire import decode, encode

SERVER = -1
"""The server's address in `tap`; clients have ids from 0."""
Tap = Callable[[int, int, Message], None]
"""Called with (source, destination, message) for every message that arrives."""

_ABSENT_AT = {stage: position for position, stage in enumerate(Stage)}


@dataclass(frozen=True, slots=True)
class RoundSum:
    """The only release of a round, and what it cost.

    vector: int64[dim], the centred lift of the sum over `survivors` modulo 2^bits.
    survivors: the clients whose vectors are in the sum, ascending.
    dropped: (client, stage) of everyone who disappeared; AFTER_MASKED clients are survivors as well.
    recovered_mask_keys: mask keys rebuilt from shares, one for each client dropped after sharing.
    recovered_self_masks: self-mask seeds rebuilt of clients that vanished after their masked vector (the
        seeds of the other survivors are rebuilt too, and not counted here).
    misfits: (holder, owner) of each share that was left out because it did not fit; empty in an honest run.
    upload_bytes, download_bytes: wire bytes by client.
    client_seconds, server_seconds: CPU time of this thread, serialisation left out.
    """

    vector: NDArray[np.int64] = field(repr=False)
    survivors: tuple[int, ...]
    dropped: tuple[tuple[int, Stage], ...]
    recovered_mask_keys: int
    recovered_self_masks: int
    misfits: tuple[tuple[int, int], ...]
    upload_bytes: Mapping[int, int]
    download_bytes: Mapping[int, int]
    client_seconds: Mapping[int, float]
    server_seconds: float


class LocalRound:
    """Drives one round: `open`, then `submit` once for each client that is expected, then `finish`.

    `drops` says where a client disappears; a client that is expected and never submits counts as dropped
    after its shares. Vectors are taken one at a time and not kept. Raises ValueError for a drop outside the
    roster; the methods raise SecAggError, after which the round is over. The clients, and with them their
    secrets, are let go when `finish` ends and when `open` fails, whatever the reason.
    """

    def __init__(
        self,
        config: RoundConfig,
        drops: Mapping[int, Stage],
        *,
        entropy: Entropy = os.urandom,
        tap: Tap | None = None,
    ) -> None:
        unknown = sorted(set(drops) - set(config.clients))
        if unknown:
            raise ValueError(f"drops: {unknown} are not clients of this round")
        self._config, self._drops, self._entropy, self._tap = config, dict(drops), entropy, tap
        self._server = Server(config)
        self._clients: dict[int, Client] = {}
        self._upload = dict.fromkeys(config.clients, 0)
        self._download = dict.fromkeys(config.clients, 0)
        self._seconds = dict.fromkeys((SERVER, *config.clients), 0.0)

    def open(self) -> tuple[int, ...]:
        """Exchange keys and shares; the clients expected to submit. Raises TooFewSurvivors."""
        try:
            for client in self._present(Stage.BEFORE_KEYS):
                with self._timed(client):
                    self._clients[client] = Client(self._config, client, entropy=self._entropy)
                self._to_server(client, self._clients[client].greeting)
            self._broadcast(self._deadline(), self._present(Stage.AFTER_KEYS))
            self._broadcast(self._deadline(), self._present(Stage.AFTER_SHARES))
        except BaseException:
            self._clients.clear()
            raise
        return self._present(Stage.AFTER_SHARES)

    def submit(self, client: int, vector: NDArray[np.int64]) -> None:
        """Mask one client's vector (int64[dim]) and add it. Raises ValueError for a client not expected."""
        if client not in self._clients or client not in self._present(Stage.AFTER_SHARES):
            raise ValueError(f"client {client} is not expected to submit a vector")
        with self._timed(client):
            masked = self._clients[client].mask(vector)
        self._to_server(client, masked)

    def finish(self) -> RoundSum:
        """Unmask the sum. Raises TooFewSurvivors if fewer than threshold or min_survivors submitted."""
        try:
            self._broadcast(self._deadline(), self._present(Stage.AFTER_MASKED))
            self._deadline()
        finally:
            self._clients.clear()
        total = self._server.total
        stages = [stage for _, stage in total.dropped]
        return RoundSum(
            vector=from_ring(total.vector, self._config.bits),
            survivors=total.survivors,
            dropped=total.dropped,
            recovered_mask_keys=stages.count(Stage.AFTER_SHARES),
            recovered_self_masks=stages.count(Stage.AFTER_MASKED),
            misfits=total.misfits,
            upload_bytes=self._upload,
            download_bytes=self._download,
            client_seconds={client: self._seconds[client] for client in self._config.clients},
            server_seconds=self._seconds[SERVER],
        )

    def _present(self, stage: Stage) -> tuple[int, ...]:
        """The clients that have not disappeared by `stage`."""
        return tuple(
            client
            for client in self._config.clients
            if client not in self._drops or _ABSENT_AT[self._drops[client]] > _ABSENT_AT[stage]
        )

    def _deadline(self) -> Outgoing:
        with self._timed(SERVER):
            return self._server.deadline()

    def _broadcast(self, outgoing: Outgoing, present: tuple[int, ...]) -> None:
        """Hand each message to its client if it is still there, and its reply to the server."""
        for client, message in outgoing.items():
            if client not in present or client not in self._clients:  # none are left after a failure
                continue
            data = encode(message, self._config)
            self._download[client] += len(data)
            received = self._arrive(SERVER, client, data)
            with self._timed(client):
                reply = self._clients[client].receive(received)
            if reply is not None:
                self._to_server(client, reply)

    def _to_server(self, client: int, message: Message) -> None:
        data = encode(message, self._config)
        self._upload[client] += len(data)
        received = self._arrive(client, SERVER, data)
        with self._timed(SERVER):
            self._server.receive(received)

    def _arrive(self, source: int, destination: int, data: bytes) -> Message:
        message = decode(data, self._config)
        if self._tap is not None:
            self._tap(source, destination, message)
        return message

    @contextmanager
    def _timed(self, party: int) -> Iterator[None]:
        start = time.thread_time()
        try:
            yield
        finally:
            self._seconds[party] += time.thread_time() - start
