"""Removing the masks from a sum: the server's part of stage 3, as functions on values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, islice

from secagg.config import RoundConfig
from secagg.errors import PeerMisbehaved
from secagg.keys import KeyPair, pair_mask_key, seed_commitment, self_mask_key
from secagg.messages import Reveal
from secagg.prg import apply_masks
from secagg.ring import RingVector
from secagg.shamir import combine

MAX_ATTEMPTS = 1000
"""Sets of holders tried for one secret; finds any one wrong holder among 1000 and any two among 44."""


@dataclass(frozen=True, slots=True)
class SharedClient:
    """What the server keeps of a client of U2: public values only."""

    mask_key: bytes
    commitment: bytes  # to its self-mask seed


def remove_masks(
    config: RoundConfig,
    total: RingVector,  # uint32[dim], sum of the masked vectors of `survivors`; changed in place
    *,
    shared: Mapping[int, SharedClient],  # U2
    survivors: frozenset[int],  # U3
    reveals: Mapping[int, Reveal],  # holder -> its shares, at least `threshold` of them
) -> tuple[tuple[int, int], ...]:  # (holder, owner) of each share that did not fit
    """Remove every survivor's self-mask and every pairwise mask left by those who dropped.

    Masks between two clients that both dropped never entered the sum and are not computed. A rebuilt mask
    secret must give the public key that was advertised, a rebuilt seed the commitment sent with the shares.
    Raises PeerMisbehaved naming the client whose secret cannot be rebuilt.
    """
    digest = config.digest()
    misfits: list[tuple[int, int]] = []

    def rebuilt(owner: int) -> bytes:
        def fits(secret: bytes) -> bool:
            if owner in survivors:
                return seed_commitment(secret, client=owner, digest=digest) == shared[owner].commitment
            return KeyPair.from_secret(secret).public == shared[owner].mask_key

        shares = _shares_of(config, owner, reveals, survivors)
        secret, excluded = rebuild(shares, threshold=config.threshold, fits=fits, owner=owner)
        misfits.extend((config.clients[point - 1], owner) for point in excluded)
        return secret

    self_keys = [self_mask_key(rebuilt(owner), client=owner, digest=digest) for owner in sorted(survivors)]
    apply_masks(total, add=(), subtract=self_keys)
    for owner in sorted(shared.keys() - survivors):
        own = KeyPair(rebuilt(owner), shared[owner].mask_key)
        keys = {
            peer: pair_mask_key(own, shared[peer].mask_key, own_id=owner, peer_id=peer, digest=digest)
            for peer in survivors
        }
        # A survivor above the dropped id subtracted the mask, one below added it.
        apply_masks(
            total,
            add=[key for peer, key in keys.items() if peer > owner],
            subtract=[key for peer, key in keys.items() if peer < owner],
        )
    return tuple(misfits)


def rebuild(
    shares: Mapping[int, int],  # point -> value
    *,
    threshold: int,
    fits: Callable[[bytes], bool],
    owner: int,
) -> tuple[bytes, tuple[int, ...]]:
    """The secret that `fits`, and the points that had to be left out to find it (normally none)."""
    for excluded in islice(_exclusions(sorted(shares), threshold), MAX_ATTEMPTS):
        kept = [point for point in sorted(shares) if point not in excluded][:threshold]
        try:
            secret = combine({point: shares[point] for point in kept})
        except PeerMisbehaved:
            continue
        if fits(secret):
            return secret, excluded
    raise PeerMisbehaved(f"{len(shares)} shares do not rebuild the secret that client {owner} committed to")


def _exclusions(points: list[int], threshold: int) -> Iterator[tuple[int, ...]]:
    for count in range(len(points) - threshold + 1):
        yield from combinations(points, count)


def _shares_of(
    config: RoundConfig, owner: int, reveals: Mapping[int, Reveal], survivors: frozenset[int]
) -> dict[int, int]:
    shares = {}
    for holder, reveal in reveals.items():
        kind = reveal.self_mask_seeds if owner in survivors else reveal.mask_secrets
        shares[config.point(holder)] = next(share.value for share in kind if share.owner == owner)
    return shares
