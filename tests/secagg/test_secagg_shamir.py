"""Secret sharing: any t of n rebuild, fewer say nothing, and the field is a field."""

import os
from itertools import combinations

import pytest
from secagg_harness import fixed_entropy

from secagg.errors import PeerMisbehaved
from secagg.shamir import PRIME, combine, split


def is_probable_prime(n: int) -> bool:
    """Miller-Rabin with the first 40 primes as bases."""
    if any(n % p == 0 for p in (2, 3, 5, 7, 11, 13)):
        return n in (2, 3, 5, 7, 11, 13)
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    bases = [b for b in range(2, 174) if all(b % d for d in range(2, b))]
    for base in bases:
        x = pow(base, odd, n)
        if x in (1, n - 1):
            continue
        for _ in range(twos - 1):
            x = x * x % n
            if x == n - 1:
                break
        else:
            return False
    return True


def test_the_field_is_of_prime_order_and_it_is_the_first_prime_above_2_to_the_256() -> None:
    assert is_probable_prime(PRIME)
    assert [n for n in range(2**256, PRIME) if is_probable_prime(n)] == []
    assert not is_probable_prime((2**61 - 1) * (2**89 - 1))


def test_split_gives_the_shares_of_a_published_example() -> None:
    # Wikipedia, "Shamir's secret sharing": f(x) = 1234 + 166 x + 94 x^2, before reduction.
    shares = split(
        (1234).to_bytes(32, "big"),
        threshold=3,
        points=[1, 2, 3, 4, 5, 6],
        entropy=lambda size: (94).to_bytes(48, "big") + (166).to_bytes(48, "big"),
    )
    assert shares == [1494, 1942, 2578, 3402, 4414, 5614]
    assert combine({2: 1942, 4: 3402, 5: 4414}) == (1234).to_bytes(32, "big")


def test_any_threshold_of_the_holders_rebuild_the_secret() -> None:
    secret = os.urandom(32)
    points = [1, 2, 4, 7, 11, 300]
    for threshold in range(1, 7):
        shares = dict(zip(points, split(secret, threshold=threshold, points=points, entropy=os.urandom), strict=True))
        for holders in combinations(points, threshold):
            assert combine({point: shares[point] for point in holders}) == secret


@pytest.mark.parametrize("secret", [bytes(32), bytes([255]) * 32, bytes(31) + b"\x01"])
def test_extreme_secrets_survive(secret: bytes) -> None:
    shares = split(secret, threshold=3, points=[1, 2, 3], entropy=os.urandom)
    assert combine(dict(zip([1, 2, 3], shares, strict=True))) == secret


def test_fewer_than_threshold_shares_are_consistent_with_every_secret() -> None:
    """For two shares of a 3-sharing and any other secret, coefficients exist that give the same two shares.

    So over uniform coefficients the two shares have the same distribution whatever the secret.
    """
    x, y = 2, 5
    at_x, at_y, _ = split(os.urandom(32), threshold=3, points=[x, y, 9], entropy=os.urandom)
    for candidate in (0, 1, 2**256 - 1, int.from_bytes(os.urandom(32), "big")):
        # c + a1 x + a2 x^2 = at_x and the same at y: a 2 x 2 system with determinant x y (y - x).
        inverse = pow(x * y * (y - x), -1, PRIME)
        linear = ((at_x - candidate) * y * y - (at_y - candidate) * x * x) * inverse % PRIME
        square = ((at_y - candidate) * x - (at_x - candidate) * y) * inverse % PRIME
        drawn = square.to_bytes(48, "big") + linear.to_bytes(48, "big")
        shares = split(
            candidate.to_bytes(32, "big"), threshold=3, points=[x, y, 9], entropy=lambda size, drawn=drawn: drawn
        )
        assert shares[:2] == [at_x, at_y]


def test_shares_of_one_secret_are_fresh_each_time() -> None:
    secret = bytes(32)
    first = split(secret, threshold=2, points=[1, 2], entropy=os.urandom)
    assert first != split(secret, threshold=2, points=[1, 2], entropy=os.urandom)


def test_a_changed_share_changes_the_secret() -> None:
    secret = fixed_entropy()(32)
    shares = dict(enumerate(split(secret, threshold=3, points=[1, 2, 3], entropy=os.urandom), start=1))
    for point in shares:
        assert combine(shares | {point: (shares[point] + 1) % PRIME}) != secret


def test_a_constant_term_that_is_no_secret_is_refused() -> None:
    with pytest.raises(PeerMisbehaved, match="do not belong to one secret"):
        combine({1: 2**256})


@pytest.mark.parametrize(
    ("secret", "threshold", "points", "text"),
    [
        (bytes(31), 2, [1, 2], "32 bytes"),
        (bytes(32), 0, [1, 2], "threshold"),
        (bytes(32), 3, [1, 2], "threshold"),
        (bytes(32), 2, [0, 1], "not zero"),
        (bytes(32), 2, [1, 1], "distinct"),
        (bytes(32), 2, [1, PRIME], "not zero"),
    ],
)
def test_impossible_sharings_are_refused(secret: bytes, threshold: int, points: list[int], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        split(secret, threshold=threshold, points=points, entropy=os.urandom)
