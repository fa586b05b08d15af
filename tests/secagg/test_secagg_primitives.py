"""Known answers of the primitives through our own functions, and what derived keys are bound to."""

import copy
import pickle
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from secagg_harness import fixed_entropy

from secagg.channel import SharePair, seal, unseal
from secagg.errors import PeerMisbehaved
from secagg.keys import KeyPair, channel_keys, exchange, hkdf, pair_mask_key, seed_commitment, self_mask_key
from secagg.prg import apply_masks, open_stream

DIGEST, OTHER_DIGEST = bytes(32), bytes([1]) + bytes(31)


def key_pair(seed: bytes) -> KeyPair:
    return KeyPair.from_secret(fixed_entropy(seed)(32))


def mask_words(key: bytes, size: int) -> NDArray[np.uint32]:
    words = np.zeros(size, np.uint32)
    apply_masks(words, add=[key], subtract=[])
    return words


def test_x25519_gives_the_public_keys_and_the_secret_of_rfc_7748_section_6_1() -> None:
    alice = KeyPair.from_secret(bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"))
    bob = KeyPair.from_secret(bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"))
    assert alice.public.hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    assert bob.public.hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    shared = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    assert exchange(alice.secret, bob.public).hex() == shared
    assert exchange(bob.secret, alice.public).hex() == shared


@pytest.mark.parametrize(
    "public",
    [bytes(32), bytes([1]) + bytes(31), bytes([0xEC]) + bytes([0xFF]) * 30 + bytes([0x7F])],
    ids=["zero", "one", "minus one"],
)
def test_a_public_key_of_small_order_is_refused(public: bytes) -> None:
    with pytest.raises(PeerMisbehaved, match="small order"):
        exchange(key_pair(b"a").secret, public)


def test_hkdf_gives_the_output_of_rfc_5869_test_case_1() -> None:
    okm = hkdf(b"\x0b" * 22, salt=bytes(range(13)), info=bytes(range(0xF0, 0xFA)))
    assert okm.hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"


def test_the_stream_is_aes_256_ctr_of_nist_sp_800_38a_f_5_5() -> None:
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    plain = bytes.fromhex(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
        "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
    )
    assert open_stream(key, bytes(range(0xF0, 0x100))).update(plain).hex() == (
        "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
        "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
    )


def test_mask_words_start_at_counter_zero_and_are_little_endian() -> None:
    # AES-256 under the zero key of counter blocks 0, 1, 2: H, the tag of test case 13 and the ciphertext of
    # test case 14 of the GCM specification (McGrew and Viega).
    blocks = "dc95c078a2408989ad48a21492842087530f8afbc74536b9a963b4f1c4cb738bcea7403d4d606b6e074ec5d3baf39d18"
    assert mask_words(bytes(32), 12).tolist() == np.frombuffer(bytes.fromhex(blocks), "<u4").tolist()


@pytest.mark.parametrize("size", [1, 3, 4, 5, 63, 1000, 32768, 32769, 70001])
def test_masks_do_not_depend_on_the_chunk_size(size: int) -> None:
    keys = [fixed_entropy(bytes([i]))(32) for i in range(3)]
    expected = np.arange(size, dtype=np.uint32)
    for key, sign in zip(keys, (1, 1, -1), strict=True):
        stream = np.frombuffer(open_stream(key).update(bytes(4 * size)), "<u4")
        expected = expected + stream if sign == 1 else expected - stream
    for chunk_bytes in (16, 48, 4096, 128 * 1024):
        words = np.arange(size, dtype=np.uint32)
        apply_masks(words, add=keys[:2], subtract=keys[2:], chunk_bytes=chunk_bytes)
        assert np.array_equal(words, expected)


def test_a_mask_added_and_subtracted_leaves_the_vector() -> None:
    words = np.arange(100_000, dtype=np.uint32)
    key = fixed_entropy()(32)
    apply_masks(words, add=[key], subtract=[key])
    assert np.array_equal(words, np.arange(100_000, dtype=np.uint32))


def test_both_ends_derive_the_same_mask_key_and_crossed_channel_keys() -> None:
    a, b = key_pair(b"a"), key_pair(b"b")
    assert pair_mask_key(a, b.public, own_id=1, peer_id=2, digest=DIGEST) == pair_mask_key(
        b, a.public, own_id=2, peer_id=1, digest=DIGEST
    )
    to_b, from_b = channel_keys(a, b.public, own_id=1, peer_id=2, digest=DIGEST)
    assert channel_keys(b, a.public, own_id=2, peer_id=1, digest=DIGEST) == (from_b, to_b)
    assert to_b != from_b


def test_derived_keys_change_with_round_ids_keys_and_purpose() -> None:
    a, b, c = key_pair(b"a"), key_pair(b"b"), key_pair(b"c")
    keys = [
        pair_mask_key(a, b.public, own_id=1, peer_id=2, digest=DIGEST),
        pair_mask_key(a, b.public, own_id=1, peer_id=2, digest=OTHER_DIGEST),
        pair_mask_key(a, b.public, own_id=1, peer_id=3, digest=DIGEST),
        pair_mask_key(a, b.public, own_id=2, peer_id=1, digest=DIGEST),
        pair_mask_key(a, c.public, own_id=1, peer_id=2, digest=DIGEST),
        *channel_keys(a, b.public, own_id=1, peer_id=2, digest=DIGEST),
        *channel_keys(a, b.public, own_id=1, peer_id=2, digest=OTHER_DIGEST),
        *channel_keys(a, b.public, own_id=1, peer_id=3, digest=DIGEST),
        self_mask_key(a.secret, client=1, digest=DIGEST),
        self_mask_key(a.secret, client=2, digest=DIGEST),
        self_mask_key(a.secret, client=1, digest=OTHER_DIGEST),
        seed_commitment(a.secret, client=1, digest=DIGEST),
        seed_commitment(a.secret, client=2, digest=DIGEST),
        seed_commitment(a.secret, client=1, digest=OTHER_DIGEST),
    ]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(("own_id", "peer_id"), [(1, 2), (2, 1)])
def test_both_public_keys_are_bound_into_derived_keys_whatever_the_shared_secret(
    own_id: int, peer_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secagg.keys.exchange", lambda secret, peer_public: bytes(32))
    masks, channels = [], []
    for own, peer in [(b"a", b"b"), (b"c", b"b"), (b"a", b"c"), (b"b", b"a")]:
        pair, peer_public = KeyPair(bytes(32), key_pair(own).public), key_pair(peer).public
        masks.append(pair_mask_key(pair, peer_public, own_id=own_id, peer_id=peer_id, digest=DIGEST))
        channels += channel_keys(pair, peer_public, own_id=own_id, peer_id=peer_id, digest=DIGEST)
    assert len(set(masks)) == 4
    assert len(set(channels)) == 8


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
@pytest.mark.parametrize("secret", [key_pair(b"a"), SharePair(1, 2)], ids=["key pair", "share pair"])
def test_key_pairs_and_share_pairs_can_be_neither_copied_nor_pickled(
    secret: object, duplicate: Callable[[object], object]
) -> None:
    for value in (secret, [secret], {1: secret}):
        if value is not secret and duplicate is copy.copy:
            continue  # a copy of a list holds the same objects
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            duplicate(value)


def test_sealed_shares_open_for_their_round_sender_and_recipient_only() -> None:
    key, pair = fixed_entropy()(32), SharePair(2**256 + 1, 5)
    sealed = seal(key, pair, digest=DIGEST, sender=1, recipient=2)
    opened = unseal(key, sealed, digest=DIGEST, sender=1, recipient=2)
    assert (opened.mask_secret, opened.self_mask_seed) == (2**256 + 1, 5)
    for digest, sender, recipient in [(OTHER_DIGEST, 1, 2), (DIGEST, 2, 1), (DIGEST, 1, 3), (DIGEST, 3, 2)]:
        with pytest.raises(PeerMisbehaved, match=f"from client {sender} to client {recipient}"):
            unseal(key, sealed, digest=digest, sender=sender, recipient=recipient)


def test_every_flipped_bit_of_a_sealed_share_is_noticed() -> None:
    key = fixed_entropy()(32)
    sealed = seal(key, SharePair(7, 8), digest=DIGEST, sender=1, recipient=2)
    for position in range(len(sealed)):
        broken = bytearray(sealed)
        broken[position] ^= 0x10
        with pytest.raises(PeerMisbehaved):
            unseal(key, bytes(broken), digest=DIGEST, sender=1, recipient=2)


def test_a_share_outside_the_field_is_refused_after_opening() -> None:
    key = fixed_entropy()(32)
    sealed = seal(key, SharePair(2**256 + 297, 0), digest=DIGEST, sender=1, recipient=2)
    with pytest.raises(PeerMisbehaved, match="outside the field"):
        unseal(key, sealed, digest=DIGEST, sender=1, recipient=2)


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        open_stream(bytes(16))
