"""The server of one round: collects what clients send, and moves on when its caller says that time is up.

A message that is refused leaves the round as it was. That includes public keys over which all clients would
abort: repeated ones, those of small order and badly signed ones. What the server cannot see into can still stop
the round: shares of one client that do not open at their recipients, or do not rebuild its secret. Running short
of clients ends it for good.
"""

from __future__ import annotations

from dataclasses import replace

from secagg.config import RoundConfig
from secagg.errors import WrongPhase
from secagg.messages import Message
from secagg.server_steps import (
    DEADLINE,
    RECEIVE,
    CollectConsents,
    CollectKeys,
    CollectReveals,
    CollectShares,
    CollectVectors,
    Done,
    Failed,
    Outgoing,
    State,
    Total,
)

__all__ = [
    "DEADLINE",
    "RECEIVE",
    "CollectConsents",
    "CollectKeys",
    "CollectReveals",
    "CollectShares",
    "CollectVectors",
    "Done",
    "Failed",
    "Outgoing",
    "Server",
    "Total",
]


class Server:
    """One round: `receive` messages, call `deadline` when no more are expected in this stage.

    Four deadlines in semi-honest mode, five in malicious-server mode; then `total` is there.
    """

    def __init__(self, config: RoundConfig) -> None:
        self._config = config
        self._state: State = CollectKeys({}, set())

    def bind(self, model: bytes) -> None:
        """The hash (32 bytes) of a model that became known after the keys. Raises WrongPhase once vectors came in."""
        state = self._state
        if not isinstance(state, CollectKeys | CollectShares | CollectVectors) or (
            isinstance(state, CollectVectors) and state.submitted
        ):
            raise WrongPhase(f"the server in state {type(state).__name__} takes no other model")
        self._config = replace(self._config, model=model)

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
        close = DEADLINE.get(type(self._state))
        if close is None:  # nothing is lost by it: a sum that is there stays
            raise WrongPhase(f"the server in state {type(self._state).__name__} has no deadline")
        state, self._state = self._state, Failed()  # stays so unless the stage ends well
        self._state, outgoing = close(self._config, state)
        return outgoing

    @property
    def preparing(self) -> bool:
        """Whether keys or shares are still being exchanged."""
        return isinstance(self._state, CollectKeys | CollectShares)

    @property
    def finished(self) -> bool:
        """Whether the sum is there."""
        return isinstance(self._state, Done)

    @property
    def total(self) -> Total:
        """The result. Raises WrongPhase before the last deadline and after a failure."""
        if not isinstance(self._state, Done):
            raise WrongPhase(f"the server in state {type(self._state).__name__} has no sum")
        return self._state.total
