"""The sampler draws the law it states, within the distance it states; the same checks reject laws that are near."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from privacy.discrete import DiscreteGaussian
from privacy.discrete.gaussian import MOST_VARIANCE
from privacy.entropy import Entropy, Keystream
from tests.privacy.discrete_oracle import residue_p_value, shape_p_value

N = 1_000_000
LEAST_P = 1e-4  # each check alone; the seeds are fixed
STDS = (4, 10, 100, 512, 513, 3000, 10**5, 10**7)


def sample(variance: int, n: int = N, seed: int = 1) -> NDArray[np.int64]:
    return DiscreteGaussian(variance).sample(n, Entropy.seeded(seed).child("test", variance).keystream())


@pytest.mark.parametrize("std", STDS)
def test_the_law_is_the_discrete_gaussian(std: int) -> None:
    drawn = sample(std**2)
    assert shape_p_value(drawn, std**2) > LEAST_P
    assert abs((drawn.astype(np.float64) ** 2).mean() / std**2 - 1) < 4.5 * (2 / N) ** 0.5  # 4.5 standard errors
    assert abs(drawn.mean() / std) < 4.5 / N**0.5
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 4.5 / N**0.5
    for modulus in (2, 16, 256):
        if std > 4 * modulus:
            assert residue_p_value(drawn, modulus) > LEAST_P


@pytest.mark.slow
@pytest.mark.parametrize("std", [1, 3, 33, 511, 700, 6554, 28836, 65536, 2_600_000, 2**30])
def test_the_law_is_the_discrete_gaussian_at_more_widths_and_draws(std: int) -> None:
    drawn = sample(std**2, 4_000_000, seed=2)
    assert shape_p_value(drawn, std**2, bins=600) > LEAST_P
    for modulus in (2, 16, 256, 65536):
        if std > 4 * modulus:
            assert residue_p_value(drawn, modulus) > LEAST_P


@pytest.mark.parametrize("std", STDS)
@pytest.mark.parametrize("factor", [0.98, 1.02])
def test_a_variance_off_by_two_percent_is_rejected(std: int, factor: float) -> None:
    if std == 4:
        drawn = sample(16, seed=3)  # no integer is off by 2 percent: so test against another law instead
        assert shape_p_value(drawn, 16 * factor) < 1e-6
    else:
        assert shape_p_value(sample(round(factor * std**2), seed=3), std**2) < 1e-6


def combs() -> dict[str, Callable[[], NDArray[np.int64]]]:
    """Laws of std 3000 whose shape is right and whose residues modulo 16 are not."""
    total, scale = 3000**2, 16

    def narrow_part_too_narrow() -> NDArray[np.int64]:
        narrow = (scale // 2) ** 2
        return sample(narrow, seed=4) + scale * sample((total - narrow) // scale**2, seed=5)

    return {
        "no narrow part": lambda: scale * sample(total // scale**2, seed=4),
        "std b / 2 under b X2": narrow_part_too_narrow,
        "low bit stuck": lambda: sample(total, seed=4) & ~1,
    }


@pytest.mark.parametrize("name", combs())
def test_a_comb_is_rejected(name: str) -> None:
    drawn = combs()[name]()
    assert residue_p_value(drawn, 16) < 1e-6


@pytest.mark.parametrize("std", [1, 2])
def test_rounding_a_float_normal_is_rejected_where_it_can_be_seen(std: int) -> None:
    rounded = np.rint(std * Entropy.seeded(6).keystream().normal(2 * N)).astype(np.int64)
    assert shape_p_value(rounded, std**2) < 1e-6
    assert shape_p_value(sample(std**2, 2 * N, seed=6), std**2) > LEAST_P


def test_rounding_a_float_normal_of_std_4_is_seen_by_its_second_moment() -> None:
    """Rounding adds a variance of 1/12, half a percent here; wider than this no such sample shows it."""
    n = 4 * N
    rounded = np.rint(4 * Entropy.seeded(7).keystream().normal(n))
    errors = [((x.astype(np.float64) ** 2).mean() / 16 - 1) / (2 / n) ** 0.5 for x in (rounded, sample(16, n, seed=7))]
    assert errors[0] > 5 > 4 > abs(errors[1])


@pytest.mark.parametrize("variance", [1, 2, 16, 17, 512**2, 512**2 + 1, 10**8, 10**14, MOST_VARIANCE])
def test_the_distance_and_the_reach_are_stated_for_every_width(variance: int) -> None:
    sampler = DiscreteGaussian(variance)
    assert -122.01 < sampler.distance_log2 < -119.9  # one to four cuts of 2^-122; all else is far smaller
    assert 13 * variance**0.5 - 1 <= sampler.reach <= 14 * variance**0.5 + 1
    assert abs(sampler.sample(10_000, Entropy.seeded(8).keystream())).max() <= sampler.reach < 2**62


def test_the_extreme_entries_of_the_tables_give_the_reach_of_either_sign() -> None:
    class LowestWords(Keystream):
        def words(self, n: int) -> NDArray[np.uint64]:
            return np.zeros(n, dtype=np.uint64)

    for variance in (100, 10**10):
        sampler = DiscreteGaussian(variance)
        ends = [int(sampler.sample(1, LowestWords(bytes(32)))[0])]
        for shift, level in sampler._levels:  # what an index of 0 and the last index stand for
            ends.append(level.reach << shift)
        assert abs(ends[0]) <= sampler.reach == sum(ends[1:])


@pytest.mark.parametrize("n", [0, 1, 2, (1 << 15) - 1, 1 << 15, (1 << 15) + 1])
def test_as_many_draws_come_as_asked(n: int) -> None:
    drawn = sample(10**8, n)
    assert drawn.shape == (n,)
    assert drawn.dtype == np.int64


def test_the_draws_of_a_key_are_fixed_on_every_machine() -> None:
    """Whoever takes noise off again from its seed needs the same tables; a change here changes the protocol."""
    digest = hashlib.sha256()
    for std in (4, 100, 3000, 10**6):
        digest.update(sample(std**2, 50_000).astype("<i8").tobytes())
    assert digest.hexdigest() == "2d97eaf1f2feb7fef4588b87384ef91484de129a56e6f58ce1f12a8561241c15"


def test_chunks_and_keystreams_are_independent() -> None:
    drawn = sample(100, 1 << 16)
    assert abs(np.corrcoef(drawn[: 1 << 15], drawn[1 << 15 :])[0, 1]) < 4.5 / 2**7.5
    entropy = Entropy.os()
    first, second = (DiscreteGaussian(10**6).sample(1000, entropy.keystream()) for _ in range(2))
    assert not np.array_equal(first, second)
    assert stats.pearsonr(first, second).pvalue > 1e-9


def test_numbers_that_make_no_sampler_are_refused() -> None:
    for variance in (0, -5, MOST_VARIANCE + 1):
        with pytest.raises(ValueError, match="variance must be in"):
            DiscreteGaussian(variance)
    with pytest.raises(TypeError):
        DiscreteGaussian(16.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n must be at least 0"):
        DiscreteGaussian(16).sample(-1, Entropy.os().keystream())
