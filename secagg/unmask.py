"""Removing the masks from a sum: the server's part of stage 3, as functions on values."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, islice

from secagg.config import RoundConfig
from secagg.errors import PeerMisbehaved, TooFewSurvivors
from secagg.graph import Graph
from secagg.keys import KeyPair, pair_mask_key, seed_commitment, self_mask_key
from secagg.messages import Reveal
from secagg.prg import apply_masks
from secagg.ring import RingVector
from secagg.shamir import combine

MAX_ATTEMPTS = 1000
"""Sets of holders tried for one secret; finds any one wrong share among 1000 and any two among 44."""


@dataclass(frozen=True, slots=True)
class SharedClient:
    """What the server keeps of a client of U2: public values only."""

    mask_key: bytes
    commitment: bytes  # to its self-mask seed


def remove_masks(
    config: RoundConfig,
    total: RingVector,  # [dim], sum of the masked vectors of `survivors`; changed in place
    *,
    graph: Graph,
    shared: Mapping[int, SharedClient],  # U2
    survivors: Collection[int],  # U3
    reveals: Mapping[int, Reveal],  # holder -> its shares
) -> tuple[tuple[int, int], ...]:  # (holder, owner) of each share found wrong
    """Remove every survivor's self-mask and every pairwise mask left by those who dropped.

    Masks between two clients that both dropped never entered the sum and are not computed. A rebuilt mask
    secret must give the public key that was advertised, a rebuilt seed the commitment sent with the shares.
    Raises TooFewSurvivors or PeerMisbehaved naming the client whose secret cannot be rebuilt.
    """
    alive, binding = frozenset(survivors), config.binding()
    shares = _shares_by_owner(config, reveals)
    add: list[bytes] = []
    subtract: list[bytes] = []
    misfits: list[tuple[int, int]] = []
    suspects: set[int] = set()  # points of holders with a wrong share so far
    for owner in sorted(shared):
        neighbors = [peer for peer in graph.neighbors(owner) if peer in alive]
        if owner not in alive and not neighbors:
            continue  # none of its masks is in the sum
        secret, excluded = rebuild(
            shares.get(owner, {}),
            threshold=config.threshold,
            fits=_check(config, owner, shared[owner], alive=owner in alive),
            owner=owner,
            suspects=suspects,
        )
        suspects.update(excluded)
        misfits.extend((config.clients[point - 1], owner) for point in excluded)
        if owner in alive:
            subtract.append(self_mask_key(secret, client=owner, digest=binding))
            continue
        own = KeyPair(secret, shared[owner].mask_key)
        for peer in neighbors:
            key = pair_mask_key(own, shared[peer].mask_key, own_id=owner, peer_id=peer, digest=binding)
            # A survivor above the dropped id subtracted the mask, one below added it.
            (add if peer > owner else subtract).append(key)
    apply_masks(total, add=add, subtract=subtract)
    return tuple(misfits)


def _check(config: RoundConfig, owner: int, public: SharedClient, *, alive: bool) -> Callable[[bytes], bool]:
    """Whether a rebuilt secret of `owner` is the one it advertised or committed to."""
    if alive:
        return lambda seed: seed_commitment(seed, client=owner, digest=config.digest()) == public.commitment
    return lambda secret: KeyPair.from_secret(secret).public == public.mask_key


def rebuild(
    shares: Mapping[int, int],  # point -> value
    *,
    threshold: int,
    fits: Callable[[bytes], bool],
    owner: int,
    suspects: Collection[int] = frozenset(),  # points to do without first, if enough others are there
) -> tuple[bytes, tuple[int, ...]]:
    """The secret that `fits`, and the points whose shares were found to be wrong (normally none).

    A wrong share among those that were not needed goes unseen. Whether its holder changed it or the owner dealt it
    so, nobody can say. Raises TooFewSurvivors below `threshold` shares, PeerMisbehaved naming the owner if no set
    of them fits.
    """
    if len(shares) < threshold:
        raise TooFewSurvivors(f"{len(shares)} holders answered for client {owner}, at least {threshold} are needed")
    for excluded in islice(_exclusions(sorted(shares), threshold, suspects), MAX_ATTEMPTS):
        kept = [point for point in sorted(shares) if point not in excluded][:threshold]
        secret = _combined(shares, kept)
        if secret is not None and fits(secret):
            wrong = (point for point in excluded if _combined(shares, [*kept[1:], point]) != secret)
            return secret, tuple(wrong)
    raise PeerMisbehaved(f"{len(shares)} shares do not rebuild the secret that client {owner} committed to")


def _combined(shares: Mapping[int, int], points: list[int]) -> bytes | None:
    try:
        return combine({point: shares[point] for point in points})
    except PeerMisbehaved:  # not a secret's size, so one of them is wrong
        return None


def _exclusions(points: list[int], threshold: int, suspects: Collection[int]) -> Iterator[tuple[int, ...]]:
    known = tuple(point for point in points if point in suspects)
    if known and len(points) - len(known) >= threshold:
        yield known
    for count in range(len(points) - threshold + 1):
        yield from combinations(points, count)


def _shares_by_owner(config: RoundConfig, reveals: Mapping[int, Reveal]) -> dict[int, dict[int, int]]:
    """owner -> point of the holder -> value; the server checked that all holders agree on the kind."""
    shares: dict[int, dict[int, int]] = {}
    for holder, reveal in sorted(reveals.items()):
        point = config.point(holder)
        for share in (*reveal.self_mask_seeds, *reveal.mask_secrets):
            shares.setdefault(share.owner, {})[point] = share.value
    return shares
