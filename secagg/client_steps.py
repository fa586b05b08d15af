"""The steps of a client, as functions from a frozen state and a message to the next state and the reply.

The algebra (Bonawitz et al. 2017, section 4 and figure 4; Bell et al. 2020, section 3). Client u holds a mask pair
(s_u, S_u) and a seed b_u, and sends
    y_u = x_u + PRG(b_u) + sum over v > u of PRG(k_uv) - sum over v < u of PRG(k_uv)   (mod 2^bits)
over its neighbours v in U2, with k_uv = HKDF(X25519(s_u, S_v)). It gives every holder one share of b_u and one of
s_u. At the end it releases, for each neighbour in U2, the share of b_v if v's vector is in the sum (v in U3) and of
s_v if not. In malicious-server mode it first signs U3, and releases nothing until `threshold` of those who hold
its own shares have signed the same U3; and it signs only where each neighbour v in U3 says, in a tag that the server
cannot make, that y_v holds PRG(k_uv). Else a server that withholds u's shares from v could take v's vector out of
the sum with those few of its neighbours whose shares it did deliver (`solver.GraphParameters.honest_part`).

Each state holds only what its phase needs, so secrets go when their phase ends (Python does not promise that their
memory is overwritten).
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg.channel import SharePair, seal, unseal
from secagg.config import RoundConfig
from secagg.errors import PeerMisbehaved, TooFewSurvivors
from secagg.graph import HASH_BYTES, Graph, roster_hash
from secagg.identity import SigningKey, verify
from secagg.keys import (
    KeyPair,
    channel_keys,
    channel_keys_and_tags,
    pair_mask_key,
    seed_commitment,
    self_mask_key,
)
from secagg.messages import (
    Advertise,
    Consent,
    Consents,
    Delivery,
    Included,
    MaskedVector,
    Message,
    PeerKeys,
    Reveal,
    Sealed,
    Share,
    Shares,
    UnmaskRequest,
)
from secagg.prg import apply_masks
from secagg.ring import pack, to_ring
from secagg.shamir import Entropy, split
from secagg.statements import keys_statement, survivors_statement


@dataclass(frozen=True, slots=True)
class Self:
    """Who this client is, for every step of its round."""

    client: int
    identity: SigningKey | None  # malicious-server mode


@dataclass(frozen=True, slots=True, repr=False)
class AwaitPeerKeys:
    greeting: Advertise
    channel: KeyPair
    mask: KeyPair
    entropy: Entropy  # last state that draws anything


@dataclass(frozen=True, slots=True, repr=False)
class AwaitDelivery:
    mask: KeyPair
    seed: bytes
    own_shares: SharePair | None  # None where a client holds no share of its own
    mask_keys: Mapping[int, bytes]  # public keys of the neighbours in U1
    opening_keys: Mapping[int, bytes]  # channel keys for what they send
    tags: Mapping[int, tuple[bytes, bytes]]  # to and from each of them; none in semi-honest mode
    graph: Graph


@dataclass(frozen=True, slots=True, repr=False)
class AwaitVector:
    mask: KeyPair
    seed: bytes
    mask_keys: Mapping[int, bytes]  # public keys of the neighbours in U2
    tags: Mapping[int, tuple[bytes, bytes]]  # to and from each of them; none in semi-honest mode
    shares: Mapping[int, SharePair]  # one pair for each of them, own included in the complete graph
    graph: Graph


@dataclass(frozen=True, slots=True, repr=False)
class AwaitRequest:
    shares: Mapping[int, SharePair]
    tags: Mapping[int, bytes]  # what each neighbour in U2 says if its vector holds their common mask
    graph: Graph


@dataclass(frozen=True, slots=True, repr=False)
class AwaitConsents:
    shares: Mapping[int, SharePair]
    graph: Graph
    survivors: tuple[int, ...]  # the list that was signed, and no other


@dataclass(frozen=True, slots=True, repr=False)
class Done:
    pass


@dataclass(frozen=True, slots=True, repr=False)
class Failed:
    pass


State = AwaitPeerKeys | AwaitDelivery | AwaitVector | AwaitRequest | AwaitConsents | Done | Failed


@dataclass(frozen=True, slots=True, repr=False)
class OwnVector:
    """The client's own input, treated as a message so that one table holds every transition."""

    vector: NDArray[np.int64]  # int64[dim]


def advertise(config: RoundConfig, me: Self, entropy: Entropy) -> AwaitPeerKeys:
    """Stage 0: two fresh key pairs, signed in malicious-server mode."""
    channel, mask = KeyPair.from_secret(entropy(32)), KeyPair.from_secret(entropy(32))
    signature = b""
    if me.identity is not None:
        signature = me.identity.sign(keys_statement(config, me.client, channel.public, mask.public))
    return AwaitPeerKeys(Advertise(me.client, channel.public, mask.public, signature), channel, mask, entropy)


def share_secrets(config: RoundConfig, me: Self, state: AwaitPeerKeys, keys: PeerKeys) -> tuple[AwaitDelivery, Shares]:
    """Stage 1: draw the seed, share both secrets among the holders, seal each neighbour's pair of shares."""
    graph = _check_keys(config, me, state.greeting, keys)
    digest, seed = config.digest(), state.entropy(32)
    holders = graph.holders(me.client)
    points = [config.point(holder) for holder in holders]
    mask_shares = split(state.mask.secret, threshold=config.threshold, points=points, entropy=state.entropy)
    seed_shares = split(seed, threshold=config.threshold, points=points, entropy=state.entropy)
    pairs = {holder: SharePair(*both) for holder, *both in zip(holders, mask_shares, seed_shares, strict=True)}
    peers = {entry.client: entry for entry in keys.entries if entry.client != me.client}
    sealed, opening_keys, tags = [], {}, {}
    for peer, entry in peers.items():
        ends = {"own_id": me.client, "peer_id": peer}
        if config.malicious:
            sealing_key, opening_keys[peer], to, from_ = channel_keys_and_tags(
                state.channel, entry.channel_key, digest=digest, **ends
            )
            tags[peer] = (to, from_)
        else:
            sealing_key, opening_keys[peer] = channel_keys(state.channel, entry.channel_key, digest=digest, **ends)
        ciphertext = seal(sealing_key, pairs[peer], digest=digest, sender=me.client, recipient=peer)
        sealed.append(Sealed(peer, ciphertext))
    reply = Shares(me.client, seed_commitment(seed, client=me.client, digest=digest), tuple(sealed))
    mask_keys = {peer: entry.mask_key for peer, entry in peers.items()}
    return AwaitDelivery(state.mask, seed, pairs.get(me.client), mask_keys, opening_keys, tags, graph), reply


def open_shares(config: RoundConfig, me: Self, state: AwaitDelivery, delivery: Delivery) -> tuple[AwaitVector, None]:
    """End of stage 1: open what the neighbours in U2 sent."""
    senders = [item.peer for item in delivery.sealed]
    if not set(senders) <= state.opening_keys.keys():
        raise PeerMisbehaved("the server delivers shares of clients that are no neighbours, or of the client itself")
    shares = {} if state.own_shares is None else {me.client: state.own_shares}
    needed = config.quorum if config.complete else config.threshold
    _require(needed, "(itself and neighbours) shared their secrets", len(shares) + len(senders))
    for item in delivery.sealed:
        shares[item.peer] = unseal(
            state.opening_keys[item.peer],
            item.ciphertext,
            digest=config.digest(),
            sender=item.peer,
            recipient=me.client,
        )
    mask_keys = {peer: state.mask_keys[peer] for peer in senders}
    tags = {peer: state.tags[peer] for peer in senders if peer in state.tags}
    return AwaitVector(state.mask, state.seed, mask_keys, tags, shares, state.graph), None


def mask_vector(config: RoundConfig, me: Self, state: AwaitVector, own: OwnVector) -> tuple[AwaitRequest, MaskedVector]:
    """Stage 2: the one vector of this round, masked. The mask keys are gone afterwards."""
    words = to_ring(own.vector, config.bits)
    add, subtract = mask_keys_of(config, me.client, state)
    apply_masks(words, add=add, subtract=subtract)
    sent = tuple(Included(peer, to) for peer, (to, _) in state.tags.items())
    expected = {peer: from_ for peer, (_, from_) in state.tags.items()}
    return AwaitRequest(state.shares, expected, state.graph), MaskedVector(me.client, pack(words, config.bits), sent)


def mask_keys_of(config: RoundConfig, me: int, state: AwaitVector) -> tuple[list[bytes], list[bytes]]:
    """The keys of the masks to add (the self-mask first, then those with higher ids) and to subtract."""
    binding = config.binding()
    keys = {
        peer: pair_mask_key(state.mask, public, own_id=me, peer_id=peer, digest=binding)
        for peer, public in state.mask_keys.items()
    }
    own = self_mask_key(state.seed, client=me, digest=binding)
    return [own, *(k for peer, k in keys.items() if peer > me)], [k for peer, k in keys.items() if peer < me]


def answer_request(
    config: RoundConfig, me: Self, state: AwaitRequest, request: UnmaskRequest
) -> tuple[AwaitConsents | Done, Consent | Reveal]:
    """Stage 3: the shares; in malicious-server mode first a signature under the one list that it will answer for."""
    _check_survivors(config, me.client, state, request.survivors)
    _check_included(me.client, state, request)
    if me.identity is None:
        return Done(), _reveal(me.client, state.shares, request.survivors)
    statement = survivors_statement(config, state.graph.seed, request.survivors)
    following = AwaitConsents(state.shares, state.graph, request.survivors)
    return following, Consent(me.client, me.identity.sign(statement))


def reveal_shares(config: RoundConfig, me: Self, state: AwaitConsents, message: Consents) -> tuple[Done, Reveal]:
    """Last stage of malicious-server mode: the shares, once enough holders signed the same list.

    Bonawitz et al. 2017, figure 4, round 3 (consistency check). The client's own signature counts where it
    holds a share of its own.
    """
    statement = survivors_statement(config, state.graph.seed, state.survivors)
    holders = set(state.graph.holders(me.client))
    expected = (holders - {me.client}) & set(state.survivors)
    for consent in message.consents:
        if consent.client not in expected:
            raise PeerMisbehaved(
                f"the server shows a signature of client {consent.client}, which is no neighbour in U3"
            )
        verify(
            config.identity(consent.client), consent.signature, statement, signer=consent.client, what="survivor list"
        )
    signed = len(message.consents) + (me.client in holders)
    _require(config.threshold, "(itself and neighbours) signed this survivor list", signed)
    return Done(), _reveal(me.client, state.shares, state.survivors)


Transition = Callable[[RoundConfig, Self, Any, Any], tuple[State, Message | None]]
TRANSITIONS: Mapping[tuple[type, type], Transition] = MappingProxyType(
    {
        (AwaitPeerKeys, PeerKeys): share_secrets,
        (AwaitDelivery, Delivery): open_shares,
        (AwaitVector, OwnVector): mask_vector,
        (AwaitRequest, UnmaskRequest): answer_request,
        (AwaitConsents, Consents): reveal_shares,
    }
)


def _check_keys(config: RoundConfig, me: Self, greeting: Advertise, keys: PeerKeys) -> Graph:
    """Refuse keys over which the round must not go on; the graph that follows from them."""
    if not set(keys.present) <= set(config.clients):
        raise PeerMisbehaved("the server names a client that is not in the roster")
    if me.client not in keys.present or greeting not in keys.entries:
        raise PeerMisbehaved(f"the server lacks or alters the keys of client {me.client}")
    _require(config.least_advertised, "advertised keys", len(keys.present))
    graph = _graph(config, keys)
    if {entry.client for entry in keys.entries} != {me.client, *graph.neighbors(me.client)}:
        raise PeerMisbehaved(f"the server does not show client {me.client} the keys of exactly its neighbours")
    public = [key for entry in keys.entries for key in (entry.channel_key, entry.mask_key)]
    if len(set(public)) != len(public):
        raise PeerMisbehaved("the server repeats a public key")
    _require(config.threshold, "hold a share of its secrets", len(graph.holders(me.client)))
    if config.malicious:
        for entry in keys.entries:
            if entry.client != me.client:
                statement = keys_statement(config, entry.client, entry.channel_key, entry.mask_key)
                identity = config.identity(entry.client)
                verify(identity, entry.signature, statement, signer=entry.client, what="public keys")
    return graph


def _graph(config: RoundConfig, keys: PeerKeys) -> Graph:
    if config.complete:
        hashes = b"".join(entry.key_hash() for entry in keys.entries)
        return Graph.build(config, keys.present, roster_hash(config, keys.present, hashes))
    if len(keys.hashes) != HASH_BYTES * len(keys.present):
        raise PeerMisbehaved("the server does not show a hash of everyone's keys")
    listed = {client: keys.hashes[HASH_BYTES * i : HASH_BYTES * (i + 1)] for i, client in enumerate(keys.present)}
    for entry in keys.entries:
        if listed.get(entry.client) != entry.key_hash():
            raise PeerMisbehaved(f"the keys of client {entry.client} do not fit their hash")
    return Graph.build(config, keys.present, roster_hash(config, keys.present, keys.hashes))


def _check_survivors(config: RoundConfig, me: int, state: AwaitRequest, survivors: tuple[int, ...]) -> None:
    listed, neighbors = set(survivors), set(state.graph.neighbors(me))
    if not listed <= set(state.graph.clients) or not (listed & neighbors) <= state.shares.keys():
        raise PeerMisbehaved("the server counts survivors that never shared their secrets")
    if me not in listed:
        raise PeerMisbehaved("the server asks a client to unmask whose vector is not in the sum")
    _require(config.quorum, "sent a masked vector", len(listed))
    holders = listed & set(state.graph.holders(me))
    _require(config.threshold, "of those who hold its shares sent a masked vector", len(holders))


def _check_included(me: int, state: AwaitRequest, request: UnmaskRequest) -> None:
    """Every neighbour's vector in the sum holds its mask with this client; nothing to check in semi-honest mode."""
    listed, shown = set(request.survivors), {item.peer: item.tag for item in request.tags}
    expected = {peer: tag for peer, tag in state.tags.items() if peer in listed}
    for peer, tag in expected.items():
        if not hmac.compare_digest(shown.get(peer, b""), tag):
            raise PeerMisbehaved(
                f"nothing shows that the vector of client {peer} holds its mask with client {me}: the server withheld "
                "its tag or their shares, or that client lies"
            )
    if shown.keys() != expected.keys():
        raise PeerMisbehaved("the server shows tags of clients that are no neighbours in U3")


def _reveal(me: int, shares: Mapping[int, SharePair], survivors: tuple[int, ...]) -> Reveal:
    held, listed = sorted(shares.items()), set(survivors)
    return Reveal(
        me,
        tuple(Share(owner, pair.self_mask_seed) for owner, pair in held if owner in listed),
        tuple(Share(owner, pair.mask_secret) for owner, pair in held if owner not in listed),
    )


def _require(needed: int, what: str, present: int) -> None:
    if present < needed:
        raise TooFewSurvivors(f"{present} clients {what}, at least {needed} are needed")
