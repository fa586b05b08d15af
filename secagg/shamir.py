"""Shamir secret sharing of 32-byte secrets over the prime field of order 2^256 + 297.

Own code on purpose: the pure Python library available for it works in GF(2^128) polynomials and was measured
about 500 times slower, which made share recovery the cost of the whole protocol. Python's integers are fast
enough here because the Lagrange coefficients of a set of holders are computed once and kept. It does not run
in constant time; the secrets live for one round.

Source: Shamir, "How to share a secret", CACM 22(11), 1979.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate

from secagg.errors import PeerMisbehaved

Entropy = Callable[[int], bytes]
"""`entropy(n)` gives n fresh uniform bytes: `os.urandom`, or a fixed source in tests."""

PRIME = 2**256 + 297
"""The smallest prime above 2^256: every 32-byte secret is an element."""
SECRET_BYTES = 32
SHARE_BYTES = 33


def split(secret: bytes, *, threshold: int, points: Sequence[int], entropy: Entropy) -> list[int]:
    """One share for each x coordinate in `points`; any `threshold` of them give the secret, fewer say nothing.

    Points are distinct and not zero. Coefficients are 48 random bytes modulo PRIME (bias below 2^-126).
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a shared secret has {SECRET_BYTES} bytes, not {len(secret)}")
    if len(set(points)) != len(points) or any(not 0 < x < PRIME for x in points):
        raise ValueError("share points must be distinct and not zero")
    if not 1 <= threshold <= len(points):
        raise ValueError(f"threshold must lie in 1..{len(points)}, not {threshold}")
    drawn = entropy(48 * (threshold - 1))
    coefficients = [int.from_bytes(drawn[i : i + 48], "big") % PRIME for i in range(0, len(drawn), 48)]
    coefficients.append(int.from_bytes(secret, "big"))  # highest power first, the secret last
    return [_evaluate(coefficients, x) for x in points]


def combine(shares: Mapping[int, int]) -> bytes:
    """The secret from exactly `threshold` shares, given as point -> value.

    Raises PeerMisbehaved if the polynomial's constant term is no 32-byte value, which proves a wrong share.
    """
    points = tuple(sorted(shares))
    terms = zip(_lagrange_at_zero(points), points, strict=True)
    value = sum(coefficient * shares[x] for coefficient, x in terms) % PRIME
    if value >= 2**256:
        raise PeerMisbehaved("shares do not belong to one secret")
    return value.to_bytes(SECRET_BYTES, "big")


def _evaluate(coefficients: Sequence[int], x: int) -> int:
    value = 0
    for coefficient in coefficients:
        value = (value * x + coefficient) % PRIME
    return value


@lru_cache(maxsize=256)
def _lagrange_at_zero(points: tuple[int, ...]) -> tuple[int, ...]:
    """Coefficients c_i with f(0) = sum c_i f(x_i) for every f of degree below len(points).

    c_i is the product of the other points over the product of their differences to x_i, here the product of all
    points over x_i times those differences; one inversion serves all i (Montgomery's trick), and products of small
    integers are reduced once.
    """
    below = [math.prod(other - x for other in points if other != x) * x % PRIME for x in points]
    before = [1, *accumulate(below, lambda product, factor: product * factor % PRIME)]
    inverse = pow(before.pop(), -1, PRIME)
    everything = math.prod(points) % PRIME
    result = []
    for product, factor in zip(reversed(before), reversed(below), strict=True):
        result.append(everything * inverse * product % PRIME)
        inverse = inverse * factor % PRIME
    return tuple(reversed(result))
