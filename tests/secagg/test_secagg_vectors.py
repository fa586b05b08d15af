"""Published vectors and second implementations of X25519, HKDF and AES-CTR through secagg's own functions."""

from __future__ import annotations

import numpy as np
import pytest
import secagg_oracles as oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.errors import PeerMisbehaved
from secagg.keys import KeyPair, channel_keys, exchange, has_small_order, hkdf, pair_mask_key
from secagg.prg import apply_masks, open_stream

X25519, WYCHEPROOF = oracle.vectors("x25519_rfc7748"), oracle.vectors("x25519_wycheproof")
HKDF, CTR = oracle.vectors("hkdf_sha256_rfc5869"), oracle.vectors("aes256_ctr_sp800_38a")
P = 2**255 - 19
keys_32 = st.binary(min_size=32, max_size=32)
oracle_settings = settings(deadline=None, max_examples=40, derandomize=True)


def h(text: str) -> bytes:
    return bytes.fromhex(text)


def u_bytes(u: int, *, high_bit: bool = False) -> bytes:
    return (u | high_bit << 255).to_bytes(32, "little")


def test_every_file_of_vectors_is_used_and_named_in_their_readme() -> None:
    readme = (oracle.VECTORS / "README.md").read_text(encoding="utf-8")
    names = {path.name for path in oracle.VECTORS.iterdir()} - {"README.md"}
    assert len(names) == 7
    assert all(f"`{name}`" in readme for name in names)


# X25519


@pytest.mark.parametrize("vector", X25519["multiplication"])
def test_x25519_multiplies_as_in_rfc_7748_section_5_2(vector: dict[str, str]) -> None:
    assert exchange(h(vector["scalar"]), h(vector["u"])) == h(vector["result"])
    assert oracle.x25519(h(vector["scalar"]), h(vector["u"])) == h(vector["result"])


def test_x25519_iterated_gives_the_values_of_rfc_7748_section_5_2() -> None:
    scalar = u = h(X25519["iterations"]["start"])
    for done in range(1, 1001):
        scalar, u = exchange(scalar, u), scalar
        if done in (1, 1000):
            assert scalar.hex() == X25519["iterations"]["after"][str(done)]


def test_x25519_agrees_as_in_rfc_7748_section_6_1() -> None:
    vector = X25519["diffie_hellman"]
    alice, bob = (KeyPair.from_secret(h(vector[f"{name}_secret"])) for name in ("alice", "bob"))
    assert [alice.public.hex(), bob.public.hex()] == [vector["alice_public"], vector["bob_public"]]
    assert {exchange(alice.secret, bob.public), exchange(bob.secret, alice.public)} == {h(vector["shared"])}


@pytest.mark.parametrize("vector", WYCHEPROOF["tests"], ids=lambda vector: f"{vector['tcId']} {vector['case']}")
def test_x25519_computes_on_the_twist_as_on_the_curve(vector: dict[str, str]) -> None:
    secret, public = h(vector["secret"]), h(vector["public"])
    assert exchange(secret, public) == oracle.x25519(secret, public) == h(vector["shared"])
    assert oracle.is_on_twist(int.from_bytes(public, "little") % 2**255) == ("twist" in vector["case"])
    assert not has_small_order(public)


small_order = pytest.mark.parametrize("vector", X25519["small_order"]["points"], ids=lambda vector: vector["name"])


@small_order
def test_every_encoding_of_a_point_of_small_order_is_refused_by_every_secret(vector: dict[str, str]) -> None:
    public = h(vector["u"])
    assert oracle.ladder(8, int.from_bytes(public, "little") % 2**255)[1] == 0  # 8P is the neutral element
    assert has_small_order(public)
    for secret in (bytes(32), bytes([255]) * 32, *(oracle.fixed_bytes(f"secret {i}") for i in range(8))):
        with pytest.raises(PeerMisbehaved, match="small order"):
            exchange(secret, public)


@small_order
def test_no_key_is_derived_with_a_point_of_small_order(vector: dict[str, str]) -> None:
    own = KeyPair.from_secret(oracle.fixed_bytes("own"))
    for derive in (pair_mask_key, channel_keys):
        with pytest.raises(PeerMisbehaved, match="small order"):
            derive(own, h(vector["u"]), own_id=1, peer_id=2, digest=bytes(32))


def test_the_points_of_small_order_are_all_there() -> None:
    """The curve's torsion is cyclic of order 8, the twist's of order 4: u in {0, 1, two of order 8} and {0, -1}."""
    encodings = {h(vector["u"]) for vector in X25519["small_order"]["points"]}
    values = {int.from_bytes(encoding, "little") % 2**255 % P for encoding in encodings}
    assert len(values) == 5
    order_8 = values - {0, 1, P - 1}  # doubling them gives (1, y): (u^2 - 1)^2 = 4u(u^2 + Au + 1)
    assert all((u * u - 1) ** 2 % P == 4 * u * (u * u + 486662 * u + 1) % P for u in order_8)
    every = {
        u_bytes(value + k * P, high_bit=bit)
        for value in values
        for k in (0, 1)
        for bit in (False, True)
        if value + k * P < 2**255
    }
    assert encodings == every


@pytest.mark.parametrize("u", range(2, 19))
def test_a_second_encoding_counts_as_the_u_it_stands_for(u: int) -> None:
    secret = oracle.fixed_bytes("secret")
    expected = oracle.x25519(secret, u_bytes(u))
    for encoding in (u_bytes(u), u_bytes(u + P), u_bytes(u, high_bit=True), u_bytes(u + P, high_bit=True)):
        assert exchange(secret, encoding) == expected
        assert not has_small_order(encoding)


@pytest.mark.parametrize("neighbour", [-1, 1])
def test_the_neighbours_of_points_of_small_order_are_no_such_points(neighbour: int) -> None:
    values = {int.from_bytes(h(vector["u"]), "little") % 2**255 % P for vector in X25519["small_order"]["points"]}
    others = {(value + neighbour) % P for value in values} - values
    assert len(others) >= 3
    assert not any(has_small_order(u_bytes(value)) for value in others)


@pytest.mark.parametrize("size", [0, 1, 31, 33, 64])
def test_public_keys_of_another_length_are_refused_with_an_error_of_the_package(size: int) -> None:
    with pytest.raises(PeerMisbehaved):
        exchange(oracle.fixed_bytes("secret"), oracle.fixed_bytes("public", size))


@oracle_settings
@given(secret=keys_32, public=keys_32)
def test_x25519_equals_a_second_implementation(secret: bytes, public: bytes) -> None:
    expected = oracle.x25519(secret, public)
    assert has_small_order(public) == (expected == bytes(32))
    if expected != bytes(32):
        assert exchange(secret, public) == expected


# HKDF-SHA256


@pytest.mark.parametrize("vector", HKDF["tests"], ids=lambda vector: vector["section"])
def test_hkdf_gives_the_first_32_bytes_of_rfc_5869_appendix_a(vector: dict[str, str]) -> None:
    secret, salt, info, output = (h(vector[name]) for name in ("secret", "salt", "info", "output"))
    assert hkdf(secret, salt=salt, info=info) == output[:32]
    assert oracle.hkdf_extract(secret, salt) == h(vector["key"])
    assert oracle.hkdf(secret, salt, info, len(output)) == output


@oracle_settings
@given(secret=st.binary(max_size=200), salt=st.binary(max_size=200), info=st.binary(max_size=200))
def test_hkdf_equals_a_second_implementation(secret: bytes, salt: bytes, info: bytes) -> None:
    assert hkdf(secret, salt=salt, info=info) == oracle.hkdf(secret, salt, info)


# AES-256-CTR


@pytest.mark.parametrize("step", [1, 5, 16, 17, 64])
def test_the_stream_is_that_of_sp_800_38a_f_5_5_however_it_is_cut(step: int) -> None:
    stream = open_stream(h(CTR["key"]), h(CTR["counter"]))
    plain = h("".join(CTR["plain"]))
    cipher = b"".join(stream.update(plain[start : start + step]) for start in range(0, len(plain), step))
    assert cipher == h("".join(CTR["cipher"]))
    assert oracle.ctr_keystream(h(CTR["key"]), int(CTR["counter"], 16), 4) == h("".join(CTR["output"]))


@pytest.mark.parametrize("wrap", [8, 16, 32, 64, 96, 128])
def test_the_counter_carries_across_every_width(wrap: int) -> None:
    key, start = h(CTR["key"]), (2**wrap - 3) % 2**128
    stream = open_stream(key, start.to_bytes(16, "big")).update(bytes(6 * 16))
    assert stream == oracle.ctr_keystream(key, start, 6)


@oracle_settings
@given(key=keys_32, size=st.integers(1, 400))
def test_mask_words_equal_block_encryptions_of_the_counter(key: bytes, size: int) -> None:
    words = np.zeros(size, np.uint32)
    apply_masks(words, add=[key], subtract=[])
    assert words.tolist() == np.frombuffer(oracle.ctr_keystream(key, 0, -(-size // 4)), "<u4")[:size].tolist()


@pytest.mark.parametrize("size", [0, 16, 24, 31, 33, 64])
def test_a_stream_of_another_key_length_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"32 bytes, not {size}"):
        open_stream(bytes(size))
