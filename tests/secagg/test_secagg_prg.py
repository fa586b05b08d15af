"""Masks: a known answer, one value whatever the chunks, threads and width, and nothing left in the scratch buffer."""

from __future__ import annotations

import ast
import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chi2

from secagg import prg
from secagg.prg import aligned_bytes, apply_masks, open_stream

NIST_KEY = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
NIST_PLAIN = bytes.fromhex(
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
)
NIST_CIPHER = bytes.fromhex(
    "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
    "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
)
WIDTHS = [np.uint16, np.uint32]


def key_of(number: int) -> bytes:
    return hashlib.sha256(b"mask key %d" % number).digest()


def keystream(key: bytes, dtype: Any, size: int) -> list[int]:
    """The oracle: the stream from its start, in one piece, cut into little-endian words."""
    width = np.dtype(dtype).itemsize
    octets = open_stream(key).update(bytes(width * size))
    return [int.from_bytes(octets[i : i + width], "little") for i in range(0, width * size, width)]


def masked(vector: NDArray[Any], add: list[bytes], subtract: list[bytes]) -> list[int]:
    modulus = 2 ** (8 * vector.itemsize)
    words = [int(word) for word in vector]
    for keys, sign in ((add, 1), (subtract, -1)):
        for key in keys:
            words = [w + sign * m for w, m in zip(words, keystream(key, vector.dtype, len(words)), strict=True)]
    return [word % modulus for word in words]


def test_the_stream_is_that_of_nist_sp_800_38a_f_5_5_from_any_of_its_blocks() -> None:
    counter = int.from_bytes(bytes(range(0xF0, 0x100)), "big")
    for block in range(4):
        stream = open_stream(NIST_KEY, (counter + block).to_bytes(16, "big"))
        assert stream.update(NIST_PLAIN[16 * block :]) == NIST_CIPHER[16 * block :]


@settings(deadline=None)
@given(
    size=st.integers(0, 3000),
    dtype=st.sampled_from(WIDTHS),
    added=st.integers(0, 3),
    subtracted=st.integers(0, 3),
    blocks=st.integers(1, 70),
    threads=st.sampled_from([1, 2, 3, 5]),
    skipped=st.integers(0, 9),
)
def test_masks_are_the_keystreams_whatever_the_chunks_threads_width_and_place_in_memory(
    size: int, dtype: Any, added: int, subtracted: int, blocks: int, threads: int, skipped: int
) -> None:
    add, subtract = [key_of(i) for i in range(added)], [key_of(-i - 1) for i in range(subtracted)]
    room = np.arange(size + skipped).astype(dtype)
    vector = room[skipped:]
    expected = masked(vector, add, subtract)
    apply_masks(vector, add=add, subtract=subtract, chunk_bytes=16 * blocks, threads=threads)
    assert vector.tolist() == expected
    assert room[:skipped].tolist() == list(range(skipped))


@pytest.mark.parametrize("dtype", WIDTHS)
@pytest.mark.parametrize("size", [65_535, 65_537, 200_003])
def test_long_vectors_are_masked_alike_by_any_number_of_threads(dtype: Any, size: int) -> None:
    keys = [key_of(i) for i in range(3)]
    expected = np.zeros(size, dtype)
    for key, combine in zip(keys, (np.add, np.add, np.subtract), strict=True):
        stream = np.frombuffer(open_stream(key).update(bytes(expected.nbytes)), expected.dtype.newbyteorder("<"))
        combine(expected, stream, out=expected)
    for threads in (None, 1, 2, 3, 5, 64):
        vector = np.zeros(size, dtype)
        apply_masks(vector, add=keys[:2], subtract=keys[2:], threads=threads)
        assert np.array_equal(vector, expected)


def test_more_keys_than_streams_that_are_open_at_once_are_all_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prg, "OPEN_STREAMS", 4)
    add, subtract = [key_of(i) for i in range(9)], [key_of(i) for i in range(20, 25)]
    vector = np.zeros(300, np.uint32)
    expected = masked(vector, add, subtract)
    apply_masks(vector, add=add, subtract=subtract, chunk_bytes=256)
    assert vector.tolist() == expected


@pytest.mark.parametrize("dtype", WIDTHS)
def test_what_one_end_adds_the_other_subtracts(dtype: Any) -> None:
    one, other = np.arange(10_000).astype(dtype), np.arange(10_000)[::-1].astype(dtype)
    total = one + other
    apply_masks(one, add=[key_of(1), key_of(2)], subtract=[key_of(3)], threads=2)
    apply_masks(other, add=[key_of(3)], subtract=[key_of(2), key_of(1)], chunk_bytes=48)
    assert np.array_equal(one + other, total)
    assert not np.array_equal(one, np.arange(10_000).astype(dtype))


def test_a_vector_without_keys_and_an_empty_one_stay_as_they_are() -> None:
    words = np.arange(1000, dtype=np.uint16)
    apply_masks(words, add=(), subtract=())
    assert words.tolist() == list(range(1000))
    apply_masks(words[:0], add=[key_of(1)], subtract=[], threads=3)


def byte_chi_square(words: NDArray[Any]) -> float:
    """The probability of bytes at least as unevenly spread as these, if they were uniform."""
    counts = np.bincount(words.view(np.uint8), minlength=256)
    expected = counts.sum() / 256
    return float(chi2.sf(((counts - expected) ** 2 / expected).sum(), 255))


@pytest.mark.parametrize("dtype", WIDTHS)
def test_mask_bytes_are_uniform_and_the_test_notices_one_wrong_byte_in_a_hundred(dtype: Any) -> None:
    words = np.zeros(2**19, dtype)
    apply_masks(words, add=[key_of(7)], subtract=[])
    assert byte_chi_square(words) > 1e-4
    assert byte_chi_square(np.diff(words)) > 1e-4  # differences of neighbouring words are uniform too
    biased = words.copy()
    biased.view(np.uint8)[::100] = 0
    assert byte_chi_square(biased) < 1e-12
    half = words.copy()
    half.view(np.uint8)[::40] &= 0x7F  # the top bit is lost now and then
    assert byte_chi_square(half) < 1e-12


@pytest.fixture
def scratches(monkeypatch: pytest.MonkeyPatch) -> list[NDArray[np.uint8]]:
    """Every scratch buffer that is taken."""
    taken: list[NDArray[np.uint8]] = []

    def remembered(size: int) -> NDArray[np.uint8]:
        scratch = aligned_bytes(size)
        scratch[:] = 9
        taken.append(scratch)
        return scratch

    monkeypatch.setattr(prg, "aligned_bytes", remembered)
    return taken


@pytest.mark.parametrize("threads", [1, 3])
def test_no_keystream_is_left_in_a_scratch_buffer(scratches: list[NDArray[np.uint8]], threads: int) -> None:
    apply_masks(np.zeros(5000, np.uint32), add=[key_of(1)], subtract=[key_of(2)], chunk_bytes=1024, threads=threads)
    assert len(scratches) == threads
    assert all(scratch.size > 0 and not scratch.any() for scratch in scratches)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_key_of_another_length_is_refused_by_every_thread_and_leaves_no_keystream(
    scratches: list[NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    monkeypatch.setattr(prg, "OPEN_STREAMS", 1)  # so that a mask has been made when the bad key comes
    with pytest.raises(ValueError, match="32 bytes, not 16"):
        apply_masks(np.zeros(5000, np.uint32), add=[key_of(1), bytes(16)], subtract=[], threads=threads)
    assert len(scratches) == threads
    assert not any(scratch.any() for scratch in scratches)


def test_small_work_starts_no_thread_and_large_work_takes_no_more_than_there_are_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[int] = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, threads: int) -> None:
            started.append(threads)
            super().__init__(threads)

    monkeypatch.setattr("concurrent.futures.ThreadPoolExecutor", Pool)
    monkeypatch.setattr(prg, "BYTES_PER_THREAD", 1000)
    vector = np.zeros(400, np.uint32)
    for cores, keys, expected in [(4, 1, []), (1, 9, []), (4, 9, [4]), (64, 9, [prg.MAX_THREADS])]:
        monkeypatch.setattr(prg, "_usable_cores", lambda cores=cores: cores)
        apply_masks(vector, add=[key_of(1)] * keys, subtract=[])
        assert started == expected
        started.clear()


@pytest.mark.parametrize(
    ("vector", "arguments", "text"),
    [
        (np.zeros(4, np.int64), {}, "uint16.D. or uint32.D., not int64.4."),
        (np.zeros((2, 2), np.uint32), {}, "not uint32.2, 2."),
        (np.zeros(4, np.uint32), {"chunk_bytes": 0}, "chunk_bytes must be a positive multiple of 16"),
        (np.zeros(4, np.uint32), {"chunk_bytes": 100}, "chunk_bytes must be a positive multiple of 16"),
        (np.zeros(4, np.uint32), {"threads": 0}, "threads must be at least 1"),
    ],
)
def test_what_cannot_be_masked_is_refused(vector: Any, arguments: dict[str, int], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        apply_masks(vector, add=[key_of(1)], subtract=[], **arguments)
    assert not vector.any()


def test_the_module_of_masks_knows_no_other_generator_than_the_cipher() -> None:
    tree = ast.parse(Path(prg.__file__).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name for name in imported if name and name.split(".")[0] not in {"__future__", "collections"}} == {
        "concurrent.futures",
        "cryptography.hazmat.primitives.ciphers",
        "itertools",
        "numpy.typing",
        "secagg.ring",
    }
    assert "random" not in {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
