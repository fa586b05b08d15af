"""The ring: reduction, centred lift and packed words, exact in each width."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg import BadMessage, from_ring, to_ring
from secagg.ring import add_packed, pack, packed_size, word_dtype

BITS = [16, 24, 32]
SIZES = [1, 2, 3, 7, 32768, 32769, 32770, 65537, 100_003]


@pytest.mark.parametrize("bits", BITS)
def test_the_centred_lift_inverts_reduction_exactly_on_the_half_open_range(bits: int) -> None:
    half = 2 ** (bits - 1)
    inside = np.array([-half, -half + 1, -1, 0, 1, half - 1], np.int64)
    assert np.array_equal(from_ring(to_ring(inside, bits), bits), inside)
    outside = np.array([-half - 1, half], np.int64)
    assert from_ring(to_ring(outside, bits), bits).tolist() == [half - 1, -half]


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=30), st.sampled_from(BITS))
def test_reduction_is_modulo_two_to_the_bits_for_every_int64(values: list[int], bits: int) -> None:
    words = to_ring(np.array(values, np.int64), bits)
    assert words.dtype == word_dtype(bits)
    assert words.tolist() == [value % 2**bits for value in values]


def test_only_the_16_bit_ring_computes_in_16_bits() -> None:
    assert [word_dtype(bits) for bits in BITS] == [np.uint16, np.uint32, np.uint32]


@given(st.lists(st.integers(0, 2**32 - 1), max_size=30), st.sampled_from(BITS))
def test_the_centred_lift_ignores_what_lies_above_the_ring(values: list[int], bits: int) -> None:
    words = np.array(values, np.uint64).astype(word_dtype(bits))
    modulus = 2**bits
    expected = [(value + modulus // 2) % modulus - modulus // 2 for value in values]
    assert from_ring(words, bits).dtype == np.int64
    assert from_ring(words, bits).tolist() == expected


@given(st.lists(st.integers(0, 2**32 - 1), max_size=40), st.sampled_from(BITS))
def test_packed_words_are_the_low_bytes_of_each_in_little_endian_order(values: list[int], bits: int) -> None:
    words = np.array(values, np.uint64).astype(word_dtype(bits))
    expected = b"".join((value % 2**bits).to_bytes(bits // 8, "little") for value in values)
    assert pack(words, bits) == expected
    assert len(expected) == packed_size(len(values), bits)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("size", SIZES)
def test_packed_words_add_up_to_what_was_packed(bits: int, size: int) -> None:
    rng = np.random.default_rng(size)
    dtype = word_dtype(bits)
    words = rng.integers(0, 2**32, size).astype(dtype)
    packed = pack(words, bits)
    assert len(packed) == size * bits // 8
    start = rng.integers(0, 2**32, size).astype(dtype)
    total = start.copy()
    add_packed(total, packed, bits)
    assert np.array_equal(total - start, words & dtype.type(2**bits - 1))


@pytest.mark.parametrize("bits", BITS)
def test_a_strided_view_packs_like_its_copy(bits: int) -> None:
    words = np.arange(100_000).astype(word_dtype(bits))[::3]
    assert pack(words, bits) == pack(words.copy(), bits)


def test_a_24_bit_word_is_three_little_endian_bytes() -> None:
    assert pack(np.array([0x01020304, 0xFFFFFE], np.uint32), 24) == bytes([4, 3, 2, 0xFE, 0xFF, 0xFF])


@pytest.mark.parametrize("bits", BITS)
def test_a_packed_vector_of_another_length_leaves_the_accumulator_alone(bits: int) -> None:
    total = np.ones(4, word_dtype(bits))
    size = packed_size(4, bits)
    for length in (0, size - 1, size + 1, 2 * size):
        with pytest.raises(BadMessage, match=f"4 words of {bits} bits"):
            add_packed(total, bytes([9]) * length, bits)
    assert total.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(("bits", "wrong"), [(16, np.uint32), (24, np.uint16), (32, np.uint16), (32, np.int32)])
def test_words_of_another_type_are_refused(bits: int, wrong: type) -> None:
    words = np.ones(4, wrong)
    with pytest.raises(ValueError, match=f"{bits}-bit ring must be"):
        pack(words, bits)
    with pytest.raises(ValueError, match=f"{bits}-bit ring must be"):
        from_ring(words, bits)
    with pytest.raises(ValueError, match=f"{bits}-bit ring must be"):
        add_packed(words, bytes(packed_size(4, bits)), bits)
    assert words.tolist() == [1, 1, 1, 1]
