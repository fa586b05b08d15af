"""Any order of messages, drops, repeats, delays and deadlines: a sum is the sum over its survivors, or there is none.

A hypothesis state machine over a network that delivers what it likes, with real clients and a real server. The model
beside it is a dictionary: whose vector the server took in.
"""

import pickle
from collections import Counter
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from secagg_harness import centred_sum, fixed_entropy, identities, make_config

from secagg import Client, Mode, RoundConfig, SecAggError, Server, Stage, WrongPhase, from_ring
from secagg.local import SERVER
from secagg.messages import Consent, MaskedVector, Message, Reveal

MALICIOUS = Mode.MALICIOUS_SERVER
KINDS = {
    "complete": {"n": 7, "threshold": 5},
    "complete, all must answer": {"n": 4, "threshold": 4, "min_survivors": 4},
    "complete, malicious server": {"n": 7, "threshold": 5, "mode": MALICIOUS},
    "6-regular": {"n": 9, "neighbors": 6, "threshold": 4},
    "6-regular, malicious server": {"n": 9, "neighbors": 6, "threshold": 4, "mode": MALICIOUS},
}
Where = st.integers(0, 10**6)  # a place in a list, modulo its length


class Network(RuleBasedStateMachine):
    """One round whose messages lie in `flight` until a rule does something with them."""

    kind: ClassVar[str]
    ends: ClassVar[Counter[str]]

    def __init__(self) -> None:
        super().__init__()
        self.over = True  # until there is a round
        self.flight: list[tuple[int, int, Message]] = []
        self.history: list[Message] = []

    @initialize(bits=st.sampled_from([16, 24, 32]), seed=st.integers(0, 2**16))
    def start(self, bits: int, seed: int) -> None:
        self.config: RoundConfig = make_config(dim=3, bits=bits, **KINDS[self.kind])  # type: ignore[arg-type]
        keys, entropy = identities(self.config), fixed_entropy(b"%d" % seed)
        self.clients = {c: Client(self.config, c, identity=keys.get(c), entropy=entropy) for c in self.config.clients}
        self.here = set(self.config.clients)
        self.server = Server(self.config)
        rng = np.random.default_rng(seed)
        half = 2 ** (bits - 1)
        self.vectors = {c: rng.integers(-half, half, 3) for c in self.config.clients}
        self.taken: dict[int, np.ndarray] = {}  # the model: what the server must sum
        self.said: Counter[tuple[int, type]] = Counter()  # of each client, how often
        self.revealed: dict[tuple[int, int], set[str]] = {}  # (client, owner) -> kinds of share
        self.ungreeted = list(self.config.clients)
        self.over = False
        self.why = ""

    # What the network does

    @precondition(lambda self: not self.over and self.ungreeted)
    @rule(where=Where)
    def advertise(self, where: int) -> None:
        client = self.ungreeted.pop(where % len(self.ungreeted))
        self.post(client, SERVER, self.clients[client].greeting)

    @precondition(lambda self: not self.over and self.flight)
    @rule(where=Where)
    def deliver_in_any_order(self, where: int) -> None:
        self.deliver(*self.flight.pop(where % len(self.flight)))

    @precondition(lambda self: not self.over and self.flight)
    @rule()
    def deliver_everything(self) -> None:
        while self.flight:
            self.deliver(*self.flight.pop(0))

    @precondition(lambda self: not self.over and self.flight)
    @rule(where=Where)
    def lose_a_message(self, where: int) -> None:
        self.flight.pop(where % len(self.flight))

    @precondition(lambda self: not self.over and self.flight)
    @rule(where=Where)
    def repeat_a_message(self, where: int) -> None:
        self.flight.append(self.flight[where % len(self.flight)])

    @precondition(lambda self: not self.over and self.history)
    @rule(where=Where)
    def give_the_server_something_old(self, where: int) -> None:
        self.deliver(SERVER, SERVER, self.history[where % len(self.history)])

    @precondition(lambda self: not self.over and self.history and self.here)
    @rule(where=Where, who=Where)
    def give_a_client_something_old(self, where: int, who: int) -> None:
        client = sorted(self.here)[who % len(self.here)]
        self.deliver(SERVER, client, self.history[where % len(self.history)])

    @precondition(lambda self: not self.over and self.here)
    @rule(who=Where)
    def vanish(self, who: int) -> None:
        self.here.discard(sorted(self.here)[who % len(self.here)])

    # What the callers do

    @precondition(lambda self: not self.over and any(self.clients[c].ready for c in self.here))
    @rule(who=Where)
    def submit(self, who: int) -> None:
        ready = [client for client in sorted(self.here) if self.clients[client].ready]
        self.mask(ready[who % len(ready)])

    @precondition(lambda self: not self.over and self.here)
    @rule(who=Where)
    def submit_at_any_time(self, who: int) -> None:
        self.mask(sorted(self.here)[who % len(self.here)])

    @precondition(lambda self: not self.over)
    @rule(patience=st.integers(0, 3))
    def a_deadline_at_any_time(self, patience: int) -> None:
        if patience == 0:  # a stage that ends before everyone has spoken often ends the round
            self.deadline()

    def deadline(self) -> None:
        try:
            outgoing: Mapping[int, Message] = self.server.deadline()
        except SecAggError as error:
            self.end(type(error).__name__)
            return
        for client, message in outgoing.items():
            self.post(SERVER, client, message)
        if self.server.finished:
            self.end("a sum")

    @precondition(lambda self: not self.over)
    @rule()
    def a_stage_in_good_order(self) -> None:
        while self.ungreeted:
            self.advertise(0)
        self.deliver_everything()
        for client in sorted(self.here):
            if self.clients[client].ready:
                self.mask(client)
        self.deliver_everything()
        self.deadline()

    @precondition(lambda self: self.over)
    @rule(where=Where)
    def knock_after_the_end(self, where: int) -> None:
        for message in self.history[where % (len(self.history) + 1) :][:1]:
            with pytest.raises(WrongPhase):
                self.server.receive(message)

    def teardown(self) -> None:
        while not self.over:
            self.a_stage_in_good_order()
            self.the_sum_is_that_of_the_survivors()

    # How it is done

    def post(self, source: int, destination: int, message: Message) -> None:
        self.flight.append((source, destination, message))
        self.history.append(message)
        if source == SERVER:
            return
        self.said[source, type(message)] += 1
        if isinstance(message, Reveal):
            for kind, shares in (("seed", message.self_mask_seeds), ("secret", message.mask_secrets)):
                for share in shares:
                    self.revealed.setdefault((source, share.owner), set()).add(kind)

    def deliver(self, source: int, destination: int, message: Message) -> None:
        if destination != SERVER:
            if destination in self.here:
                try:
                    reply = self.clients[destination].receive(message)
                except SecAggError:
                    return
                if reply is not None:
                    self.post(destination, SERVER, reply)
            return
        before = pickle.dumps(self.server._state)
        try:
            self.server.receive(message)
        except SecAggError:
            assert pickle.dumps(self.server._state) == before  # a refusal leaves the round as it was
            return
        if isinstance(message, MaskedVector):
            assert message.client not in self.taken
            self.taken[message.client] = self.vectors[message.client]

    def mask(self, client: int) -> None:
        was_ready = self.clients[client].ready
        try:
            masked = self.clients[client].mask(self.vectors[client])
        except SecAggError:
            assert not was_ready
            return
        assert was_ready
        self.post(client, SERVER, masked)

    def end(self, why: str) -> None:
        self.over, self.why = True, why
        self.ends[why] += 1

    # What must hold

    @invariant()
    def the_sum_is_that_of_the_survivors(self) -> None:
        if not self.over or not self.history or not self.server.finished:
            return
        total = self.server.total
        assert set(total.survivors) == set(self.taken)
        assert len(total.survivors) >= self.config.quorum
        expected = centred_sum([self.taken[client] for client in total.survivors], self.config)
        assert np.array_equal(from_ring(total.vector, self.config.bits), expected)
        left = {c for c, stage in total.dropped if stage not in (Stage.AFTER_MASKED, Stage.AFTER_CONSENT)}
        assert left == set(self.config.clients) - set(total.survivors)
        assert total.misfits == ()

    @invariant()
    def no_client_reveals_both_kinds_for_one_owner_or_anything_twice(self) -> None:
        if not self.history:
            return
        assert all(len(kinds) == 1 for kinds in self.revealed.values())
        assert all(count == 1 for count in self.said.values())
        if self.config.malicious:  # nobody reveals who did not consent first
            revealed = {client for client, kind in self.said if kind is Reveal}
            assert revealed <= {client for client, kind in self.said if kind is Consent}


def explore(kind: str, examples: int, steps: int) -> Counter[str]:
    """How the rounds ended."""
    machine = type("Network", (Network,), {"kind": kind, "ends": Counter()})
    chosen = settings(max_examples=examples, stateful_step_count=steps, deadline=None, derandomize=True)
    run_state_machine_as_test(machine, settings=chosen)
    return machine.ends


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_the_network_does_a_sum_is_exact_or_absent(kind: str) -> None:
    ends = explore(kind, 20, 20)
    assert ends.keys() == {"a sum", "TooFewSurvivors"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_the_network_does_for_long_a_sum_is_exact_or_absent(kind: str) -> None:
    ends = explore(kind, 200, 40)
    assert ends.keys() == {"a sum", "TooFewSurvivors"}
