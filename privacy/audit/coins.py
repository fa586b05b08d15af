"""Secret fair coins, and a commitment made before training that fixes coins and rule for whoever checks later."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from privacy.entropy import Entropy

from .rule import AuditRule

_DOMAIN = b"fedpdpo audit coins v1\0"
OPENING_BYTES = 32


@dataclass(frozen=True, slots=True, eq=False)
class SealedCoins:
    """bool[m], True where the canary is in, with the opening of their commitment. Secret until the scores are fixed."""

    coins: NDArray[np.bool_] = field(repr=False)
    opening: bytes = field(repr=False)
    commitment: str  # hex; may be published before training: it hides the coins


def seal(rule: AuditRule, entropy: Entropy) -> SealedCoins:
    """Toss `rule.canaries` fair coins and commit to them and to the rule."""
    keystream = entropy.keystream()
    coins = (keystream.words(rule.canaries) >> np.uint64(63)).astype(np.bool_)
    coins.setflags(write=False)
    opening = keystream.words(OPENING_BYTES // 8).tobytes()
    return SealedCoins(coins, opening, commitment(coins, rule, opening))


def commitment(coins: NDArray[np.bool_], rule: AuditRule, opening: bytes) -> str:
    """SHA-256 over a domain, a random 32-byte opening, the rule and the coins, as hex.

    Hiding because the opening is random and unknown, binding because SHA-256 resists collisions; every part has a
    fixed length or its length before it. Raises ValueError for an opening of another length, or unless there is one
    coin a canary.
    """
    if len(opening) != OPENING_BYTES:
        raise ValueError(f"opening must have {OPENING_BYTES} bytes, got {len(opening)}")
    if coins.shape != (rule.canaries,):
        raise ValueError(f"coins must be a vector of {rule.canaries}, got shape {coins.shape}")
    text = rule.text().encode()
    parts = (_DOMAIN, opening, len(text).to_bytes(8, "big"), text, len(coins).to_bytes(8, "big"))
    return hashlib.sha256(b"".join(parts) + np.packbits(coins.astype(np.bool_)).tobytes()).hexdigest()


def opens(published: str, *, coins: NDArray[np.bool_], rule: AuditRule, opening: bytes) -> bool:
    """Whether these coins and this rule are what was committed to."""
    return hmac.compare_digest(published, commitment(coins, rule, opening))
