"""Rounds in a chain: the keys and shares of the next round travel inside the messages of this one.

    client                                              server
    MaskedVector of r    + Advertise of r+1      ----->
                                                 <----- UnmaskRequest of r + PeerKeys of r+1
    Consent or Reveal of r + Shares of r+1       ----->
                                                 <----- Consents of r      + Delivery of r+1
    Reveal of r                                  ----->     in malicious-server mode only

Two messages from each client per round, three in malicious-server mode, against four and five. Keys are fresh in
every round. Nothing new is said: a folded party runs two ordinary machines side by side, so each round keeps its own
checks, and the only rule added here is which of them may move. The first round is opened with messages that have no
current part; a client that missed a round comes back the same way.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from secagg.client import Client
from secagg.config import RoundConfig
from secagg.errors import BadMessage, SecAggError, TooFewSurvivors, WrongPhase
from secagg.identity import SigningKey
from secagg.journal import Journal
from secagg.messages import FROM_CLIENTS, Message
from secagg.server import Server, Total
from secagg.shamir import Entropy
from secagg.wire import decode, encode


@dataclass(frozen=True, slots=True)
class Folded:
    """What goes between a client and the server at once: a part of this round and one of the next, never neither."""

    current: Message | None
    following: Message | None

    def __post_init__(self) -> None:
        if self.current is None and self.following is None:
            raise BadMessage("a folded message has a part of this round or of the next")
        parts = (self.current, self.following)
        senders = {part.client for part in parts if isinstance(part, FROM_CLIENTS)}
        if len(senders) > 1:
            raise BadMessage(f"the parts of a folded message are of clients {sorted(senders)}, not of one")


def next_round(config: RoundConfig) -> RoundConfig:
    """The configuration of the round after `config`; its model is not known yet."""
    return replace(config, round_index=config.round_index + 1, model=bytes(32))


def encode_folded(message: Folded, current: RoundConfig | None, following: RoundConfig) -> bytes:
    """Length of the first part (4 bytes), then both parts as `wire.encode` writes them; an absent part is empty.

    Raises BadMessage for a part of a current round where there is none.
    """
    if message.current is not None and current is None:
        raise BadMessage("there is no current round that this message could be a part of")
    first = b"" if message.current is None or current is None else encode(message.current, current)
    second = b"" if message.following is None else encode(message.following, following)
    return len(first).to_bytes(4, "big") + first + second


def decode_folded(data: bytes, current: RoundConfig | None, following: RoundConfig) -> Folded:
    """Inverse of `encode_folded`. Raises BadMessage."""
    size = int.from_bytes(data[:4], "big")
    if len(data) < 4 + size:
        raise BadMessage(f"a folded message of {len(data)} bytes ends before its first part of {size}")
    first, second = data[4 : 4 + size], data[4 + size :]
    if first and current is None:
        raise BadMessage("there is no current round that this message could be a part of")
    return Folded(
        decode(first, current) if first and current is not None else None,
        decode(second, following) if second else None,
    )


class FoldedClient:
    """One client over many rounds, one vector in each.

    What raises in `receive`, or after a vector began to be masked, leaves it failed for good, without the secrets of
    either round. A call that is refused before that (no round prepared, a round joined before, a vector of another
    shape, a model that is no hash) spends nothing and changes nothing.

    `join` opens the next round; `submit` masks this round's vector and opens the next; `receive` takes the server's
    folded messages. `config` is the round that `join` opens. Arguments as for `Client`.
    """

    def __init__(
        self,
        config: RoundConfig,
        client: int,
        *,
        identity: SigningKey | None = None,
        entropy: Entropy = os.urandom,
        journal: Journal | None = None,
    ) -> None:
        self.client = client
        self._identity, self._entropy, self._journal = identity, entropy, journal
        self._next_config = config
        self._current: Client | None = None
        self._following: Client | None = None
        self._failed = False

    @property
    def ready(self) -> bool:
        """Whether keys and shares are in place for `submit`."""
        return not self._failed and self._following is not None and self._following.ready

    def join(self, round_index: int) -> Folded:
        """Ask to be in the round that is being prepared; what was left of an earlier one is forgotten.

        Raises WrongPhase for a round that this client was in already: it would mask a second vector.
        """
        if self._failed or round_index < self._next_config.round_index:
            raise WrongPhase(f"client {self.client} does not join round {round_index} (again)")
        following = replace(self._next_config, round_index=round_index)
        self._current = self._following = None
        self._next_config = following
        try:
            return Folded(None, self._open_next())
        except BaseException:
            self._fail()
            raise

    def submit(self, vector: NDArray[np.int64], model: bytes) -> Folded:
        """The masked `vector` (int64[dim]) of the round prepared last, bound to `model`, and keys for the next.

        An earlier round that the server left unfinished is forgotten, its secrets unrevealed. Raises WrongPhase
        if no round is prepared and ValueError for another shape or type, both with nothing spent.
        """
        following = self._following
        if not self.ready or following is None:
            raise WrongPhase(f"client {self.client} has no round prepared to submit to")
        try:
            following.bind(model)
            masked = following.mask(vector)
            self._current, self._following = following, None
            return Folded(masked, self._open_next())
        except BaseException:
            if not following.ready:
                self._fail()
                following = None  # the traceback holds this frame
            raise

    def receive(self, message: Folded) -> Folded | None:
        """The reply to the server, or None. A message without a part of the next round gives up preparing it.

        Raises SecAggError, and neither round goes on.
        """
        if self._failed:
            raise WrongPhase(f"client {self.client} failed")
        try:
            return self._receive(message)
        except BaseException:
            self._fail()
            raise

    def _receive(self, message: Folded) -> Folded | None:
        current = following = None
        if message.following is None and self._following is not None and not self._following.ready:
            self._following = None
        if message.following is not None:
            if self._following is None:
                raise WrongPhase(
                    f"client {self.client} prepares no round that {type(message.following).__name__} is for"
                )
            following = self._following.receive(message.following)
        if message.current is not None:
            if self._current is None:
                raise WrongPhase(f"client {self.client} is in no round that {type(message.current).__name__} is for")
            current = self._current.receive(message.current)
            if self._current.done:
                self._current = None
        return None if current is None and following is None else Folded(current, following)

    def _fail(self) -> None:
        self._failed, self._current, self._following = True, None, None

    def _open_next(self) -> Message:
        config = self._next_config
        self._following = Client(
            config, self.client, identity=self._identity, entropy=self._entropy, journal=self._journal
        )
        self._next_config = next_round(config)
        return self._following.greeting

    def __reduce__(self) -> NoReturn:
        raise TypeError("a folded secagg client holds one-time secrets and cannot be copied or pickled")


class FoldedServer:
    """The server of a chain of rounds: `receive` and `deadline` as for `Server`, and `begin` at each new model.

    Until the first `begin` it prepares the round `config`. A next round for which too few clients are there is given
    up (`prepared` is then False) and the current one goes on; everything else that raises ends the chain.
    """

    def __init__(self, config: RoundConfig) -> None:
        self._next_config = config
        self._current: Server | None = None
        self._following: Server | None = Server(config)

    @property
    def prepared(self) -> bool:
        """Whether the next round has its keys and shares."""
        return self._following is not None and not self._following.preparing

    def begin(self, model: bytes) -> None:
        """Start the prepared round with the hash of its model. Raises WrongPhase if the last one has no sum yet."""
        if self._current is not None and not self._current.finished:
            raise WrongPhase("the round before has no sum yet")
        if not self.prepared or self._following is None:
            raise WrongPhase("no round is prepared: too few clients exchanged keys and shares")
        self._current = self._following
        self._current.bind(model)
        self._next_config = next_round(self._next_config)
        self._following = Server(self._next_config)

    def reopen(self) -> None:
        """Prepare the next round anew after one was given up; under another round index, since keys were seen."""
        if self._following is not None:
            raise WrongPhase("a round is being prepared already")
        self._next_config = next_round(self._next_config)
        self._following = Server(self._next_config)

    def receive(self, message: Folded) -> None:
        """Take in both parts, each on its own: one that is refused does not hold up the other.

        Raises the SecAggError of the refused part, after the other one was taken in. As with `Server`, a transport
        must compare the message's client with its authenticated sender first.
        """
        refused: list[SecAggError] = []
        for server, part in ((self._current, message.current), (self._following, message.following)):
            if part is None:
                continue
            try:
                if server is None:
                    raise WrongPhase(f"no round is open that {type(part).__name__} is for")
                server.receive(part)
            except SecAggError as error:
                refused.append(error)
        if refused:
            raise refused[0]

    def deadline(self) -> Mapping[int, Folded]:
        """End the stage of both rounds; what to send, by client. Raises SecAggError if the current round ends short."""
        following: Mapping[int, Message] = {}
        if self._following is not None and self._following.preparing:
            try:
                following = self._following.deadline()
            except TooFewSurvivors:
                self._following = None  # given up; `prepared` says so
        current: Mapping[int, Message] = {}
        if self._current is not None and not self._current.finished:
            current = self._current.deadline()
        clients = sorted(current.keys() | following.keys())
        return {client: Folded(current.get(client), following.get(client)) for client in clients}

    @property
    def total(self) -> Total:
        """The sum of the current round. Raises WrongPhase before its last deadline."""
        if self._current is None:
            raise WrongPhase("no round has begun")
        return self._current.total
