"""A client of one round: frozen states inside, a small one-shot shell outside.

The algebra (Bonawitz et al. 2017, section 4 and figure 4; semi-honest, complete graph). Client u holds a mask
pair (s_u, S_u) and a seed b_u, and sends
    y_u = x_u + PRG(b_u) + sum over v > u of PRG(k_uv) - sum over v < u of PRG(k_uv)   (mod 2^bits, v in U2)
with k_uv = HKDF(X25519(s_u, S_v)). It gives every other client one share of b_u and one of s_u. At the end it
releases, for each client of U2, the share of b_u if u's vector is in the sum (u in U3) and of s_u if not.

No sockets, no clocks, no training: messages in, messages out. Each state holds only what its phase needs, so
secrets go when their phase ends (Python does not promise that their memory is overwritten).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from secagg.channel import SharePair, seal, unseal
from secagg.config import RoundConfig
from secagg.errors import PeerMisbehaved, TooFewSurvivors, WrongPhase
from secagg.keys import KeyPair, channel_keys, pair_mask_key, seed_commitment, self_mask_key
from secagg.messages import (
    Advertise,
    Delivery,
    MaskedVector,
    Message,
    Reveal,
    Roster,
    Sealed,
    Share,
    Shares,
    UnmaskRequest,
)
from secagg.prg import apply_masks
from secagg.ring import pack, to_ring
from secagg.shamir import Entropy, split


@dataclass(frozen=True, slots=True, repr=False)
class AwaitRoster:
    greeting: Advertise
    channel: KeyPair
    mask: KeyPair
    entropy: Entropy  # last state that draws anything


@dataclass(frozen=True, slots=True, repr=False)
class AwaitDelivery:
    mask: KeyPair
    seed: bytes
    own_shares: SharePair
    mask_keys: Mapping[int, bytes]  # public keys of the others of U1
    opening_keys: Mapping[int, bytes]  # channel keys for what they send


@dataclass(frozen=True, slots=True, repr=False)
class AwaitVector:
    add: tuple[bytes, ...]  # mask keys: of higher ids, and the self-mask
    subtract: tuple[bytes, ...]  # mask keys of lower ids
    shares: Mapping[int, SharePair]  # one pair for each client of U2, own included


@dataclass(frozen=True, slots=True, repr=False)
class AwaitRequest:
    shares: Mapping[int, SharePair]


@dataclass(frozen=True, slots=True, repr=False)
class Done:
    pass


@dataclass(frozen=True, slots=True, repr=False)
class Failed:
    pass


State = AwaitRoster | AwaitDelivery | AwaitVector | AwaitRequest | Done | Failed


@dataclass(frozen=True, slots=True, repr=False)
class OwnVector:
    """The client's own input, treated as a message so that one table holds every transition."""

    vector: NDArray[np.int64]  # int64[dim]


def share_secrets(config: RoundConfig, me: int, state: AwaitRoster, roster: Roster) -> tuple[AwaitDelivery, Shares]:
    """Stage 1: draw the seed, share both secrets, seal each peer's pair of shares."""
    _check_roster(config, me, state, roster)
    digest = config.digest()
    seed = state.entropy(32)
    points = [config.point(entry.client) for entry in roster.entries]
    mask_shares = split(state.mask.secret, threshold=config.threshold, points=points, entropy=state.entropy)
    seed_shares = split(seed, threshold=config.threshold, points=points, entropy=state.entropy)
    pairs = {
        entry.client: SharePair(*values)
        for entry, *values in zip(roster.entries, mask_shares, seed_shares, strict=True)
    }
    peers = {entry.client: entry for entry in roster.entries if entry.client != me}
    sealed, opening_keys = [], {}
    for peer, entry in peers.items():
        sealing_key, opening_keys[peer] = channel_keys(
            state.channel, entry.channel_key, own_id=me, peer_id=peer, digest=digest
        )
        sealed.append(Sealed(peer, seal(sealing_key, pairs[peer], digest=digest, sender=me, recipient=peer)))
    reply = Shares(me, seed_commitment(seed, client=me, digest=digest), tuple(sealed))
    mask_keys = {peer: entry.mask_key for peer, entry in peers.items()}
    return AwaitDelivery(state.mask, seed, pairs[me], mask_keys, opening_keys), reply


def open_shares(config: RoundConfig, me: int, state: AwaitDelivery, delivery: Delivery) -> tuple[AwaitVector, None]:
    """End of stage 1: open what the others of U2 sent, and derive the masks that go with them."""
    senders = [item.peer for item in delivery.sealed]
    if not set(senders) <= state.opening_keys.keys():
        raise PeerMisbehaved("the server delivers shares of clients outside the roster, or of the client itself")
    _check_quorum(config, "shared their secrets", 1 + len(senders))
    digest = config.digest()
    shares = {me: state.own_shares}
    keys = {}
    for item in delivery.sealed:
        shares[item.peer] = unseal(
            state.opening_keys[item.peer], item.ciphertext, digest=digest, sender=item.peer, recipient=me
        )
        keys[item.peer] = pair_mask_key(
            state.mask, state.mask_keys[item.peer], own_id=me, peer_id=item.peer, digest=digest
        )
    own_key = self_mask_key(state.seed, client=me, digest=digest)
    add = (own_key, *(key for peer, key in keys.items() if peer > me))
    subtract = tuple(key for peer, key in keys.items() if peer < me)
    return AwaitVector(add, subtract, shares), None


def mask_vector(config: RoundConfig, me: int, state: AwaitVector, own: OwnVector) -> tuple[AwaitRequest, MaskedVector]:
    """Stage 2: the one vector of this round, masked. The mask keys are gone afterwards."""
    words = to_ring(own.vector, config.bits)
    apply_masks(words, add=state.add, subtract=state.subtract)
    return AwaitRequest(state.shares), MaskedVector(me, pack(words, config.bits))


def reveal_shares(config: RoundConfig, me: int, state: AwaitRequest, request: UnmaskRequest) -> tuple[Done, Reveal]:
    """Stage 3: for each client of U2 one share, of one kind; the list of drops is computed here."""
    survivors = set(request.survivors)
    if not survivors <= state.shares.keys():
        raise PeerMisbehaved("the server counts survivors that never shared their secrets")
    if me not in survivors:
        raise PeerMisbehaved("the server asks a client to unmask whose vector is not in the sum")
    _check_quorum(config, "sent a masked vector", len(survivors))
    held = sorted(state.shares.items())
    return Done(), Reveal(
        me,
        tuple(Share(owner, pair.self_mask_seed) for owner, pair in held if owner in survivors),
        tuple(Share(owner, pair.mask_secret) for owner, pair in held if owner not in survivors),
    )


Transition = Callable[[RoundConfig, int, Any, Any], tuple[State, Message | None]]
TRANSITIONS: Mapping[tuple[type, type], Transition] = MappingProxyType(
    {
        (AwaitRoster, Roster): share_secrets,
        (AwaitDelivery, Delivery): open_shares,
        (AwaitVector, OwnVector): mask_vector,
        (AwaitRequest, UnmaskRequest): reveal_shares,
    }
)


class Client:
    """One client, one round, one vector. Whatever raises leaves it failed for good.

    `greeting` is its first message; `receive` takes the server's messages, `mask` the vector. Raises
    ValueError for a client outside the roster.
    """

    def __init__(self, config: RoundConfig, client: int, *, entropy: Entropy = os.urandom) -> None:
        if client not in config.clients:
            raise ValueError(f"client {client} is not among the clients of this round")
        channel, mask = KeyPair.from_secret(entropy(32)), KeyPair.from_secret(entropy(32))
        self.client = client
        self.greeting = Advertise(client, channel.public, mask.public)
        self._config = config
        self._state: State = AwaitRoster(self.greeting, channel, mask, entropy)

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
        state, self._state = self._state, Failed()  # stays so unless the transition returns
        transition = TRANSITIONS.get((type(state), type(event)))
        if transition is None:
            name = f"client {self.client} in state {type(state).__name__}"
            raise WrongPhase(f"{name} accepts no {type(event).__name__}")
        self._state, reply = transition(self._config, self.client, state, event)
        return reply

    def __repr__(self) -> str:
        return f"Client({self.client}, {type(self._state).__name__})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secagg client holds one-time secrets and cannot be copied or pickled")


def _check_roster(config: RoundConfig, me: int, state: AwaitRoster, roster: Roster) -> None:
    clients = [entry.client for entry in roster.entries]
    if not set(clients) <= set(config.clients):
        raise PeerMisbehaved("the roster names a client that is not in the round")
    if state.greeting not in roster.entries:
        raise PeerMisbehaved(f"the roster lacks or alters the keys of client {me}")
    keys = [key for entry in roster.entries for key in (entry.channel_key, entry.mask_key)]
    if len(set(keys)) != len(keys):
        raise PeerMisbehaved("the roster repeats a public key")
    _check_quorum(config, "advertised keys", len(clients))


def _check_quorum(config: RoundConfig, what: str, present: int) -> None:
    if present < config.quorum:
        raise TooFewSurvivors(f"{present} clients {what}, at least {config.quorum} are needed")
