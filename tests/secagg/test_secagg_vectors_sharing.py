"""Published vectors and second implementations of AES-GCM, of derived keys and of Shamir sharing."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from math import gcd
from typing import Any

import pytest
import secagg_oracles as oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.channel import SEALED_BYTES, SharePair, seal, unseal
from secagg.config import PROTOCOL
from secagg.errors import PeerMisbehaved
from secagg.keys import (
    KeyPair,
    channel_keys,
    channel_keys_and_tags,
    pair_mask_key,
    seed_commitment,
    self_mask_key,
)
from secagg.prg import open_stream
from secagg.shamir import PRIME, SHARE_BYTES, combine, split

GCM, CERTIFICATE, DERIVED = (oracle.vectors(name) for name in ("aes256_gcm", "prime_certificate", "derived"))
keys_32 = st.binary(min_size=32, max_size=32)
ids_32 = st.integers(0, 2**32 - 1)
elements = st.integers(0, PRIME - 1)
oracle_settings = settings(deadline=None, max_examples=40, derandomize=True)


def h(text: str) -> bytes:
    return bytes.fromhex(text)


# AES-256-GCM

SEALING_KEY, SEALING_DIGEST = oracle.fixed_bytes("sealing key"), oracle.fixed_bytes("sealing digest")
SEALED = seal(SEALING_KEY, SharePair(PRIME - 1, 77), digest=SEALING_DIGEST, sender=3, recipient=2**32 - 1)


def opens(sealed: bytes, *, key: bytes = SEALING_KEY, header: bytes = b"") -> bool:
    """Whether `unseal` opens it; anything but PeerMisbehaved comes through. `header`: digest, sender, recipient."""
    header = header or oracle.share_header(SEALING_DIGEST, 3, 2**32 - 1)[-40:]
    sender, recipient = (int.from_bytes(header[i : i + 4], "big") for i in (32, 36))
    try:
        pair = unseal(key, sealed, digest=header[:32], sender=sender, recipient=recipient)
    except PeerMisbehaved as error:
        assert f"from client {sender} to client {recipient} do not open" in str(error)
        return False
    return (pair.mask_secret, pair.self_mask_seed) == (PRIME - 1, 77)


def flipped(data: bytes, bit: int) -> bytes:
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


@pytest.mark.parametrize("vector", GCM["tests"], ids=lambda vector: vector["case"])
def test_the_second_gcm_gives_published_ciphertexts_and_tags(vector: dict[str, str]) -> None:
    key, nonce, plain, associated = (h(vector[name]) for name in ("key", "nonce", "plain", "associated"))
    assert oracle.gcm_seal(key, nonce, plain, associated).hex() == vector["cipher"] + vector["tag"]


@oracle_settings
@given(key=keys_32, digest=keys_32, ids=st.tuples(ids_32, ids_32), values=st.tuples(elements, elements))
def test_sealed_shares_equal_the_second_gcm_and_open_again(
    key: bytes, digest: bytes, ids: tuple[int, int], values: tuple[int, int]
) -> None:
    sender, recipient = ids
    sealed = seal(key, SharePair(*values), digest=digest, sender=sender, recipient=recipient)
    assert sealed == oracle.sealed_shares(key, values, digest, sender, recipient)
    opened = unseal(key, sealed, digest=digest, sender=sender, recipient=recipient)
    assert (opened.mask_secret, opened.self_mask_seed) == values


def test_every_flipped_bit_of_ciphertext_tag_key_and_associated_data_is_refused() -> None:
    header = oracle.share_header(SEALING_DIGEST, 3, 2**32 - 1)[-40:]
    assert opens(SEALED)
    assert not any(opens(flipped(SEALED, bit)) for bit in range(8 * SEALED_BYTES))
    assert not any(opens(SEALED, key=flipped(SEALING_KEY, bit)) for bit in range(256))
    assert not any(opens(SEALED, header=flipped(header, bit)) for bit in range(8 * 40))


def test_every_shorter_or_longer_ciphertext_is_refused() -> None:
    cuts = [SEALED[:end] for end in range(SEALED_BYTES)] + [SEALED[start:] for start in range(1, SEALED_BYTES)]
    tags_cut = [SEALED[: 2 * SHARE_BYTES] + SEALED[2 * SHARE_BYTES :][:size] for size in range(16)]
    longer = [SEALED + b"\x00", b"\x00" + SEALED, SEALED + SEALED, SEALED + SEALED[-16:]]
    assert not any(opens(sealed) for sealed in cuts + tags_cut + longer)


@pytest.mark.parametrize("tag", [bytes(16), b"\xff" * 16, SEALED[-16:][::-1], SEALED[:16]])
def test_another_tag_is_refused(tag: bytes) -> None:
    assert not opens(SEALED[:-16] + tag)


@pytest.mark.parametrize("size", [0, 1, 33, 65, 67, 132])
def test_well_sealed_bytes_of_another_length_are_refused_after_opening(size: int) -> None:
    header = oracle.share_header(bytes(32), 1, 2)
    sealed = oracle.gcm_seal(SEALING_KEY, bytes(12), bytes(size), header)
    with pytest.raises(PeerMisbehaved, match="client 1"):
        unseal(SEALING_KEY, sealed, digest=bytes(32), sender=1, recipient=2)


@pytest.mark.parametrize("values", [(PRIME, 0), (0, PRIME), (2**264 - 1, 2**264 - 1)])
def test_well_sealed_values_outside_the_field_are_refused_after_opening(values: tuple[int, int]) -> None:
    sealed = oracle.sealed_shares(SEALING_KEY, values, bytes(32), 1, 2)
    with pytest.raises(PeerMisbehaved, match="client 1 sent shares outside the field"):
        unseal(SEALING_KEY, sealed, digest=bytes(32), sender=1, recipient=2)


# Commitments and derived keys: no document fixes them, so a second implementation and a file of answers do


def test_the_derived_vectors_belong_to_this_version_of_the_protocol() -> None:
    assert PROTOCOL.decode() == DERIVED["protocol"], "the protocol's tag changed: see vectors/README.md"
    assert oracle.derived() == DERIVED


def test_derived_keys_commitments_and_sealed_shares_have_their_known_values() -> None:
    digest, seed = oracle.fixed_bytes("digest"), oracle.fixed_bytes("seed")
    own = KeyPair.from_secret(oracle.fixed_bytes("secret"))
    peer = KeyPair.from_secret(oracle.fixed_bytes("peer secret"))
    mask_key = pair_mask_key(own, peer.public, own_id=10, peer_id=13, digest=digest)
    to_peer, _, tag, _ = channel_keys_and_tags(own, peer.public, own_id=10, peer_id=13, digest=digest)
    pair = SharePair(PRIME - 1, int.from_bytes(oracle.fixed_bytes("share"), "big"))
    assert {
        "pair_mask_key": mask_key.hex(),
        "pair_mask_keystream": open_stream(mask_key).update(bytes(80)).hex(),
        "channel_key_to_peer": to_peer.hex(),
        "included_tag_to_peer": tag.hex(),
        "self_mask_key": self_mask_key(seed, client=10, digest=digest).hex(),
        "seed_commitment": seed_commitment(seed, client=10, digest=digest).hex(),
        "sealed_shares": seal(to_peer, pair, digest=digest, sender=10, recipient=13).hex(),
    } == {name: value for name, value in DERIVED.items() if name not in ("protocol", "shamir")}


@oracle_settings
@given(secrets=st.tuples(keys_32, keys_32), ids=st.sets(ids_32, min_size=2, max_size=2), digest=keys_32)
def test_derived_keys_equal_a_second_implementation(secrets: tuple[bytes, bytes], ids: set[int], digest: bytes) -> None:
    own, peer = map(KeyPair.from_secret, secrets)
    own_id, peer_id = ids
    expected = oracle.pair_mask_key(own.secret, own_id, peer_id, peer.public, digest)
    assert pair_mask_key(own, peer.public, own_id=own_id, peer_id=peer_id, digest=digest) == expected
    assert channel_keys(own, peer.public, own_id=own_id, peer_id=peer_id, digest=digest) == (
        oracle.channel_key(own.secret, own_id, peer_id, peer.public, digest),
        oracle.channel_key(peer.secret, peer_id, own_id, own.public, digest),
    )
    assert channel_keys_and_tags(own, peer.public, own_id=own_id, peer_id=peer_id, digest=digest)[2:] == (
        oracle.included_tag(own.secret, own_id, peer_id, peer.public, digest),
        oracle.included_tag(peer.secret, peer_id, own_id, own.public, digest),
    )


@oracle_settings
@given(seed=keys_32, client=ids_32, digest=keys_32)
def test_a_commitment_is_the_hash_of_tag_digest_client_and_seed(seed: bytes, client: int, digest: bytes) -> None:
    data = oracle.PROTOCOL + b"commit" + digest + client.to_bytes(4, "big") + seed
    assert seed_commitment(seed, client=client, digest=digest) == hashlib.sha256(data).digest()
    assert self_mask_key(seed, client=client, digest=digest) == oracle.self_mask_key(seed, client, digest)


# Shamir


def test_a_textbook_polynomial_has_its_shares_and_its_secret() -> None:
    """By hand: f(x) = 5 + 3x + 2x^2 has f(1) = 10, f(2) = 19, f(3) = 32, f(7) = 124."""
    drawn = (2).to_bytes(48, "big") + (3).to_bytes(48, "big")
    secret = (5).to_bytes(32, "big")
    assert split(secret, threshold=3, points=[1, 2, 3, 7], entropy=lambda size: drawn[:size]) == [10, 19, 32, 124]
    assert combine({1: 10, 2: 19, 3: 32}) == combine({2: 19, 3: 32, 7: 124}) == secret
    assert oracle.interpolate({1: 10, 3: 32, 7: 124}, 1009) == [5, 3, 2]


def test_a_textbook_line_needs_the_inverse_of_two() -> None:
    """By hand: through (1, 0) and (3, 1) goes (x - 1) / 2, whose f(0) = -1/2 is (p - 1) / 2 in the field."""
    assert combine({1: 0, 3: 1}) == ((PRIME - 1) // 2).to_bytes(32, "big")
    assert oracle.interpolate({1: 0, 3: 1}, 7) == [3, 4]


@pytest.mark.parametrize("vector", DERIVED["shamir"], ids=lambda vector: vector["name"])
def test_shares_have_their_known_values_and_rebuild_the_secret(vector: dict[str, Any]) -> None:
    name, threshold, points = vector["name"], vector["threshold"], vector["points"]
    secret = oracle.fixed_bytes(f"secret {name}")
    drawn = oracle.fixed_bytes(f"coefficients {name}", 48 * (threshold - 1))
    shares = split(secret, threshold=threshold, points=points, entropy=lambda size: drawn[:size])
    assert [f"{share:066x}" for share in shares] == vector["shares"]
    first = dict(list(zip(points, shares, strict=True))[-threshold:])
    assert combine(first) == secret


@oracle_settings
@given(
    secret=keys_32,
    points=st.lists(st.integers(1, PRIME - 1), min_size=1, max_size=9, unique=True),
    drawn=st.binary(min_size=48 * 8, max_size=48 * 8),
    data=st.data(),
)
def test_sharing_and_rebuilding_equal_gaussian_elimination(
    secret: bytes, points: list[int], drawn: bytes, data: st.DataObject
) -> None:
    threshold = data.draw(st.integers(1, len(points)))
    drawn = drawn[: 48 * (threshold - 1)]
    shares = split(secret, threshold=threshold, points=points, entropy=lambda size: drawn[:size])
    assert shares == oracle.shamir_shares(secret, threshold, points, drawn)
    holders = data.draw(st.permutations(list(zip(points, shares, strict=True))))[:threshold]
    coefficients = oracle.interpolate(dict(holders), PRIME)
    assert combine(dict(holders)) == coefficients[0].to_bytes(32, "big") == secret


@oracle_settings
@given(values=st.dictionaries(st.integers(1, 40), elements, min_size=1, max_size=8))
def test_any_values_give_the_constant_term_or_are_refused(values: dict[int, int]) -> None:
    constant = oracle.interpolate(values, PRIME)[0]
    if constant < 2**256:
        assert combine(values) == constant.to_bytes(32, "big")
    else:
        with pytest.raises(PeerMisbehaved):
            combine(values)


@pytest.mark.parametrize("constant", [0, 1, 2**256 - 1, 2**256, PRIME - 1])
def test_a_constant_term_is_a_secret_up_to_32_bytes_and_refused_above(constant: int) -> None:
    shares = {x: (constant + 7 * x) % PRIME for x in (1, 5, 9)}
    if constant < 2**256:
        assert combine(shares) == constant.to_bytes(32, "big")
    else:
        with pytest.raises(PeerMisbehaved, match="do not belong to one secret"):
            combine(shares)


def test_the_order_of_the_field_is_proved_prime() -> None:
    """Pocklington's theorem down to a q for which strong tests with the first 13 primes are a proof."""
    steps = [(int(step["n"]), int(step["q"]), step["a"]) for step in CERTIFICATE["chain"]]
    assert steps[0][0] == PRIME
    assert all(above[1] == below[0] for above, below in pairwise(steps))
    for n, q, a in steps:
        assert q * q > n
        assert (n - 1) % q == 0
        assert pow(a, n - 1, n) == 1
        assert gcd(pow(a, (n - 1) // q, n) - 1, n) == 1
    last = steps[-1][1]
    assert last < 3_317_044_064_679_887_385_961_981  # Sorenson and Webster
    assert all(is_strong_probable_prime(last, a) for a in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41))


def is_strong_probable_prime(n: int, base: int) -> bool:
    twos = (n - 1 & 1 - n).bit_length() - 1
    x = pow(base, (n - 1) >> twos, n)
    return x in (1, n - 1) or any(pow(x, 2**k, n) == n - 1 for k in range(1, twos))


def test_no_number_between_2_to_the_256_and_the_order_is_prime() -> None:
    """Fermat: for a prime n, 3^(n-1) = 1 modulo n. So each of these is composite (2^256 + 1 would pass with 2)."""
    assert [n for n in range(2**256 + 1, PRIME, 2) if pow(3, n - 1, n) == 1] == []
