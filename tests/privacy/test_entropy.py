"""The keystream is AES-256-CTR, its normals are normal, and nothing repeats or can be copied."""

from __future__ import annotations

import copy
import os
import pickle

import numpy as np
import pytest
from scipy import stats

from privacy.entropy import Entropy, Keystream, poisson_sample

# NIST SP 800-38A, F.5.5 (CTR-AES256.Encrypt): the key, and below the first counter block and its output block.
NIST_KEY = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")


def test_words_are_the_block_cipher_of_a_counter_that_starts_at_zero() -> None:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    ecb = Cipher(algorithms.AES(NIST_KEY), modes.ECB()).encryptor()
    assert ecb.update(bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")).hex() == "0bdf7df1591716335e9a8b15c860c502"
    blocks = b"".join(ecb.update(counter.to_bytes(16, "big")) for counter in range(8))
    assert Keystream(NIST_KEY).words(16).tobytes() == blocks


def test_words_asked_for_in_parts_are_the_words_asked_for_at_once() -> None:
    whole, parts = Keystream(NIST_KEY), Keystream(NIST_KEY)
    assert np.array_equal(whole.words(1000), np.concatenate([parts.words(n) for n in (1, 0, 3, 996)]))


def test_uniform_never_reaches_its_ends() -> None:
    class Extremes(Keystream):
        def words(self, n: int) -> np.ndarray:
            return np.array([0, 2**64 - 1], dtype=np.uint64)

    low, high = Extremes(NIST_KEY).uniform(2)
    assert low == 2.0**-53
    assert high == 1 - 2.0**-53


@pytest.mark.parametrize("scale", [2 / 3, 3 / 2, 0.97])
def test_the_normality_test_has_the_power_to_reject_a_wrong_scale(scale: float) -> None:
    drawn = Entropy.seeded(1).keystream().normal(200_001)
    assert stats.kstest(drawn, "norm").pvalue > 1e-3
    assert stats.kstest(drawn * scale, "norm").pvalue < 1e-6


def test_both_halves_of_the_transform_are_independent_normals() -> None:
    drawn = Entropy.seeded(2).keystream().normal(1 << 16)
    cosines, sines = drawn[: 1 << 14], drawn[1 << 14 : 1 << 15]  # of one pass
    assert stats.kstest(cosines, "norm").pvalue > 1e-3
    assert stats.kstest(sines, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(cosines, sines)[0, 1]) < 4 / 128  # 4 standard errors
    assert abs(np.corrcoef(cosines**2, sines**2)[0, 1]) < 4 / 128  # sin^2 + cos^2 = 1 would show here


@pytest.mark.parametrize("n", [0, 1, 2, 3, (1 << 15) - 1, (1 << 15) + 1])
def test_normal_gives_as_many_numbers_as_asked(n: int) -> None:
    drawn = Entropy.seeded(3).keystream().normal(n)
    assert drawn.shape == (n,)
    assert drawn.dtype == np.float64
    assert np.isfinite(drawn).all()


def test_os_keystreams_never_repeat() -> None:
    entropy = Entropy.os()
    drawn = {entropy.keystream().words(2).tobytes() for _ in range(100)}
    drawn |= {entropy.child("client", 1).keystream().words(2).tobytes() for _ in range(100)}
    assert len(drawn) == 200
    assert not entropy.is_seeded
    assert not entropy.child("client").is_seeded


def test_seeded_keystreams_repeat_with_the_seed_and_differ_from_one_another() -> None:
    def take(entropy: Entropy) -> list[bytes]:
        children = [entropy.child("noise", 1), entropy.child("noise", 12), entropy.child("noise1", 2)]
        return [source.keystream().words(2).tobytes() for source in (entropy, entropy, *children)]

    assert take(Entropy.seeded(7)) == take(Entropy.seeded(7))
    assert (
        len(set(take(Entropy.seeded(7)) + take(Entropy.seeded(7 + 2**32)))) == 10
    )  # more than 32 bits of the seed count
    assert Entropy.seeded(7).is_seeded
    assert Entropy.seeded(7).child("noise").is_seeded


def test_child_labels_of_other_types_or_cuts_are_other_children() -> None:
    labels = [("a", "b"), ("ab",), ("a", "b", ""), ("1",), (1,), ()]
    keys = {Entropy.seeded(0).child(*label).keystream().words(2).tobytes() for label in labels}
    assert len(keys) == len(labels)


def test_a_keystream_cannot_be_copied_or_pickled() -> None:
    keystream = Entropy.os().keystream()
    for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="repeat its noise"):
            duplicate(keystream)


def test_a_keystream_does_not_survive_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    keystream = Entropy.os().keystream()
    keystream.words(1)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(RuntimeError, match="fork"):
        keystream.words(1)


def test_the_secret_is_not_shown() -> None:
    assert repr(Entropy.seeded(12345)) == "Entropy.seeded(...)"
    assert NIST_KEY.hex() not in repr(Keystream(NIST_KEY))


def test_the_threshold_is_exact_at_the_smallest_and_largest_rates() -> None:
    assert poisson_sample(1000, 1.0, Entropy.os()).tolist() == list(range(1000))
    assert poisson_sample(0, 0.5, Entropy.os()).tolist() == []
    assert len(poisson_sample(1000, 2.0**-65, Entropy.os())) == 0
    assert len(poisson_sample(1000, float(np.nextafter(1.0, 0.0)), Entropy.os())) == 1000


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, float("nan")])
def test_a_rate_that_is_no_probability_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="sample_rate"):
        poisson_sample(10, rate, Entropy.os())
