"""A server that shows clients different survivor lists, with clients of its own: what it gets of one victim."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from secagg_harness import Federation, identity_of, random_vectors
from secagg_hostile import rebuilt, shares_for, unmask_one

from secagg import RoundConfig, TooFewSurvivors
from secagg.client import TRANSITIONS
from secagg.client_steps import AwaitConsents, AwaitRequest, Self
from secagg.identity import verify
from secagg.messages import Consent, Consents, MaskedVector, Reveal, UnmaskRequest
from secagg.statements import survivors_statement

Survivors = tuple[int, ...]


def verify_each_signature_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real check, with its answers kept: a search over thousands of splits meets the same few signatures."""
    monkeypatch.setattr("secagg.client_steps.verify", cache(verify))


class Collusion:
    """A round in which everyone sent a masked vector, from where a server and its clients try lists on the others.

    The honest clients answer through their own steps, from the states that they were in; nothing is changed by it.
    """

    def __init__(self, config: RoundConfig, corrupted: tuple[int, ...], victim: int) -> None:
        self.config, self.corrupted, self.victim = config, corrupted, victim
        self.honest = tuple(client for client in config.clients if client not in corrupted)
        self.vectors = random_vectors(config)
        federation = Federation(config).advertise().share().deliver()
        self.keys = {client: machine.greeting.mask_key for client, machine in federation.clients.items()}
        federation.mask(self.vectors)
        self.graph = federation.server._state.graph  # type: ignore[union-attr]
        self.masked = federation.sent["masked"][victim]
        self.request = federation.request
        self.states = {client: machine._state for client, machine in federation.clients.items()}
        self._answers: dict[tuple[int, Survivors], tuple[object, object] | None] = {}

    def answer(self, client: int, survivors: Survivors) -> tuple[object, object] | None:
        """The next state and the message of an honest client that is shown this list; None if it refuses."""
        place = client, survivors
        if place not in self._answers:
            step = TRANSITIONS[AwaitRequest, UnmaskRequest]
            try:
                self._answers[place] = step(
                    self.config, self._self(client), self.states[client], self.request(client, survivors)
                )
            except TooFewSurvivors:
                self._answers[place] = None
        return self._answers[place]

    def reveals(self, shown: Mapping[int, Survivors]) -> list[Reveal]:
        """What the honest clients release: the list that each is shown, signed by those shown the same and by the
        corrupted clients, who sign every list."""
        answers = {client: self.answer(client, survivors) for client, survivors in shown.items()}
        if not self.config.malicious:
            return [answer[1] for answer in answers.values() if answer is not None]  # type: ignore[misc]
        released: list[Reveal] = []
        for client, answer in answers.items():
            if answer is None:
                continue
            consents = [
                self._forced(peer, shown[client]) if peer in self.corrupted else answers[peer][1]  # type: ignore[index]
                for peer in self.graph.neighbors(client)
                if peer in shown[client]
                and (peer in self.corrupted or (shown.get(peer) == shown[client] and answers[peer] is not None))
            ]
            step = TRANSITIONS[AwaitConsents, Consents]
            try:
                _, reveal = step(self.config, self._self(client), answer[0], Consents(tuple(consents)))  # type: ignore[arg-type]
            except TooFewSurvivors:
                continue
            released.append(reveal)  # type: ignore[arg-type]
        return released

    def shares(self, shown: Mapping[int, Survivors]) -> tuple[dict[int, int], dict[int, int]]:
        """The victim's shares that the server ends up with, of its seed and of its mask secret: point -> value."""
        seeds, secrets = shares_for(self.victim, self.reveals(shown), self.config)
        for client in self.corrupted:
            state = self.states[client]
            assert isinstance(state, AwaitRequest)
            if self.victim in state.shares:  # a holder, which tells the server both
                seeds[self.config.point(client)] = state.shares[self.victim].self_mask_seed
                secrets[self.config.point(client)] = state.shares[self.victim].mask_secret
        return seeds, secrets

    def vector(self, shown: Mapping[int, Survivors]) -> NDArray[np.int64] | None:
        """The victim's vector, if the server got threshold shares of both kinds."""
        seeds, secrets = self.shares(shown)
        if min(len(seeds), len(secrets)) < self.config.threshold:
            return None
        assert isinstance(self.masked, MaskedVector)
        return unmask_one(
            self.config,
            self.victim,
            self.masked.packed,
            seed=rebuilt(seeds, self.config),
            mask_secret=rebuilt(secrets, self.config),
            peers={peer: self.keys[peer] for peer in self.graph.neighbors(self.victim)},
        )

    def _self(self, client: int) -> Self:
        return Self(client, identity_of(client) if self.config.malicious else None)

    @cache  # noqa: B019
    def _forced(self, client: int, survivors: Survivors) -> Consent:
        statement = survivors_statement(self.config, self.graph.seed, survivors)
        return Consent(client, identity_of(client).sign(statement))
