"""A client of one round: a one-shot shell around the frozen states and steps of `client_steps.py`.

No sockets, no clocks, no training: messages in, messages out.
"""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from traceback import clear_frames
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from secagg.client_steps import (
    TRANSITIONS,
    AwaitConsents,
    AwaitDelivery,
    AwaitPeerKeys,
    AwaitRequest,
    AwaitVector,
    Done,
    Failed,
    OwnVector,
    Self,
    State,
    advertise,
)
from secagg.config import RoundConfig
from secagg.errors import WrongPhase
from secagg.identity import SigningKey
from secagg.journal import Journal, entry
from secagg.messages import MaskedVector, Message, UnmaskRequest
from secagg.shamir import Entropy

__all__ = [
    "TRANSITIONS",
    "AwaitConsents",
    "AwaitDelivery",
    "AwaitPeerKeys",
    "AwaitRequest",
    "AwaitVector",
    "Client",
    "Done",
    "Failed",
    "OwnVector",
]

_ONCE: dict[type, bytes] = {OwnVector: b"mask", UnmaskRequest: b"answer"}
"""What a client does at most once in a round, also across a restart."""


class Client:
    """One client, one round, one vector. Whatever raises in a step leaves it failed for good, its secrets dropped.

    `greeting` is its first message; `receive` takes the server's messages, `mask` the vector. `identity` is its
    long-term key, needed in malicious-server mode and there only. With a `journal`, masking and answering for a
    survivor list are recorded durably before the message exists, so that a process that restarts cannot do
    either again in the same session and round, whatever else its configuration says then. Several threads may call
    it: one step runs at a time. Raises ValueError for a client outside the roster and for an
    identity that is not the roster's.
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
        if client not in config.clients:
            raise ValueError(f"client {client} is not among the clients of this round")
        if config.malicious != (identity is not None):
            raise ValueError(
                f"identity: a client signs in malicious-server mode and only there, this is {config.mode.value}"
            )
        if identity is not None and identity.public != config.identity(client):
            raise ValueError(f"identity: the roster has another public key for client {client}")
        self.client = client
        self._config, self._self, self._journal = config, Self(client, identity), journal
        self._lock = threading.Lock()
        first = advertise(config, self._self, entropy)
        self.greeting = first.greeting
        self._state: State = first

    def bind(self, model: bytes) -> None:
        """The hash (32 bytes) of a model that became known after the keys; at the latest before the vector.

        Raises WrongPhase once the vector is masked: masks and answers belong to one model.
        """
        if not isinstance(self._state, AwaitPeerKeys | AwaitDelivery | AwaitVector):
            raise WrongPhase(f"client {self.client} in state {type(self._state).__name__} takes no other model")
        self._config = replace(self._config, model=model)

    @property
    def ready(self) -> bool:
        """Whether the client has its keys and shares and waits for the vector."""
        return isinstance(self._state, AwaitVector)

    @property
    def done(self) -> bool:
        """Whether the client has said all that it says in this round."""
        return isinstance(self._state, Done)

    def receive(self, message: Message) -> Message | None:
        """The reply to one message of the server, or None. Raises SecAggError."""
        return self._step(message)

    def mask(self, vector: NDArray[np.int64]) -> MaskedVector:
        """The masked form of `vector` (int64[dim], reduced modulo 2^bits). Works once.

        Raises ValueError for another shape or type, WrongPhase at any other time and on a second call: two
        vectors under the same masks give away their difference.
        """
        if vector.shape != (self._config.dim,) or vector.dtype != np.int64:
            expected = f"int64[{self._config.dim}]"
            raise ValueError(f"vector must be {expected}, not {vector.dtype}{list(vector.shape)}")
        reply = self._step(OwnVector(vector))
        assert isinstance(reply, MaskedVector)
        return reply

    def _step(self, event: Message | OwnVector) -> Message | None:
        with self._lock:
            try:
                return self._advance(event)
            except BaseException as error:
                _forget_locals(error)
                raise

    def _advance(self, event: Message | OwnVector) -> Message | None:
        state, self._state = self._state, Failed()  # stays so unless the transition returns
        transition = TRANSITIONS.get((type(state), type(event)))
        if transition is None:
            name = f"client {self.client} in state {type(state).__name__}"
            raise WrongPhase(f"{name} accepts no {type(event).__name__}")
        following, reply = transition(self._config, self._self, state, event)
        if self._journal is not None and type(event) in _ONCE:
            act = _ONCE[type(event)]
            self._journal.once(entry(self._config.session, self._config.round_index, self.client, act))
        self._state = following
        return reply

    def __repr__(self) -> str:
        return f"Client({self.client}, {type(self._state).__name__})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secagg client holds one-time secrets and cannot be copied or pickled")


def _forget_locals(error: BaseException) -> None:
    """Clear the local variables of the frames that `error` and its causes passed, which hold the state of the step."""
    following: BaseException | None = error
    while following is not None:
        clear_frames(following.__traceback__)
        following = following.__cause__ or following.__context__
