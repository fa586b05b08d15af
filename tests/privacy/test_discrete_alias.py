"""An alias table gives every index exactly its mass: as an integer identity, and on ties of all 44 leading bits."""

from __future__ import annotations

import random
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from privacy.discrete.alias import ALIAS_BITS, LEAD_BITS, REST_BITS, AliasTable, alias_table, normalised
from privacy.discrete.weights import gaussian_weights
from privacy.entropy import Entropy, Keystream

TOTAL_BITS = LEAD_BITS + REST_BITS


class Scripted(Keystream):
    """A keystream that gives the words it was told to give."""

    __slots__ = ("calls",)

    def __init__(self, *calls: list[int]) -> None:
        super().__init__(bytes(32))
        self.calls = [np.array(call, dtype=np.uint64) for call in calls]

    def words(self, n: int) -> NDArray[np.uint64]:
        words = self.calls.pop(0)
        assert len(words) == n
        return words


def thresholds(table: AliasTable) -> list[tuple[int, int]]:
    """(threshold, alias) of each bucket, read from the packed words."""
    field = table.lead_bits - table.bucket_bits
    read = []
    for bucket, hot in enumerate(table.hot.tolist()):
        assert hot >> (64 - table.bucket_bits) == bucket
        top = (hot >> (64 - table.lead_bits)) & ((1 << field) - 1)
        high, low = (int(word) for word in table.rest[:, bucket])
        read.append((top << REST_BITS | high << 64 | low, hot & ((1 << ALIAS_BITS) - 1)))
    return read


def masses_of(table: AliasTable) -> list[int]:
    """The mass of each index, rebuilt from the packed words alone."""
    capacity = 1 << (table.lead_bits + REST_BITS - table.bucket_bits)
    masses = [0] * (1 << table.bucket_bits)
    for bucket, (threshold, alias) in enumerate(thresholds(table)):
        assert 0 <= threshold < capacity
        masses[bucket] += threshold
        masses[alias] += capacity - threshold
    return masses


def gaussian_masses(variance: int | Fraction, lead_bits: int = LEAD_BITS) -> list[int]:
    weights = gaussian_weights(Fraction(variance))
    return normalised(weights.values, centre=weights.reach, lead_bits=lead_bits)


def random_masses(count: int, seed: int) -> list[int]:
    rng = random.Random(seed)
    cuts = sorted(rng.randrange(1 << TOTAL_BITS) for _ in range(count - 1))
    return [b - a for a, b in zip([0, *cuts], [*cuts, 1 << TOTAL_BITS], strict=True)]


MASSES = {
    **{f"gaussian {v}": gaussian_masses(v) for v in (1, 16, 1000, 5 * 16**2, Fraction(513**2, 256) - 5)},
    **{f"random {n}": random_masses(n, seed=n) for n in (2, 3, 4, 5, 63, 64, 65, 1000)},
    "one index": [1 << TOTAL_BITS],
    "uniform": [1 << (TOTAL_BITS - 3)] * 8,
    "one unit against the rest": [1, (1 << TOTAL_BITS) - 1, 0],
    "one unit below even": [(1 << (TOTAL_BITS - 1)) - 1, (1 << (TOTAL_BITS - 1)) + 1],
}


@pytest.mark.parametrize("name", MASSES)
def test_the_packed_words_hold_every_mass_exactly(name: str) -> None:
    masses = MASSES[name]
    rebuilt = masses_of(alias_table(masses))
    assert rebuilt[: len(masses)] == masses
    assert not any(rebuilt[len(masses) :])


@pytest.mark.slow
def test_the_widest_table_holds_every_mass_exactly() -> None:
    masses = gaussian_masses(5 * 256**2)
    assert masses_of(alias_table(masses))[: len(masses)] == masses


def test_normalised_masses_sum_to_the_power_of_two_and_lose_less_than_a_unit_each() -> None:
    values, centre = gaussian_weights(Fraction(100)).values, 130
    masses = normalised(values, centre)
    assert sum(masses) == 1 << TOTAL_BITS
    for i, (mass, value) in enumerate(zip(masses, values, strict=True)):
        gap = Fraction(value << TOTAL_BITS, sum(values)) - mass
        assert (0 <= gap < 1) if i != centre else (-len(values) < gap <= 0)


def test_a_tie_of_the_leading_bits_is_decided_by_fresh_bits_alone() -> None:
    """Every bucket, the low bits of the word at both extremes, fresh bits below, at and above the threshold."""
    table = alias_table(gaussian_masses(100))
    low_mask = (1 << (64 - LEAD_BITS)) - 1
    checked = 0
    for bucket, (threshold, alias) in enumerate(thresholds(table)):
        rest = threshold & ((1 << REST_BITS) - 1)
        for fresh in {0, max(rest - 1, 0), rest, min(rest + 1, (1 << REST_BITS) - 1), (1 << REST_BITS) - 1}:
            for garbage in (0, low_mask):
                word = (int(table.hot[bucket]) & ~low_mask) | garbage
                stream = Scripted([word], [fresh >> 64, fresh & ((1 << 64) - 1)])
                assert table.draw(1, stream).tolist() == [bucket if fresh < rest else alias]
                assert not stream.calls  # the fresh words were drawn
                checked += 1
    assert checked > 2000


def test_off_a_tie_the_leading_bits_decide_and_no_fresh_word_is_drawn() -> None:
    table = alias_table(gaussian_masses(100))
    step = 1 << (64 - LEAD_BITS)
    for bucket, (threshold, alias) in enumerate(thresholds(table)):
        leading = int(table.hot[bucket]) & ~(step - 1)
        if threshold >> REST_BITS:
            assert table.draw(1, Scripted([leading - 1])).tolist() == [bucket]
        assert table.draw(1, Scripted([leading + step])).tolist() == [alias]


def test_ties_among_other_draws_land_where_they_belong() -> None:
    table = alias_table(gaussian_masses(100))
    read, step = thresholds(table), 1 << (64 - LEAD_BITS)
    buckets = [b for b, (threshold, alias) in enumerate(read) if threshold & ((1 << REST_BITS) - 1) and alias != b][:3]
    tied = [int(table.hot[b]) for b in buckets]
    words = [tied[0], int(table.hot[0]) | (step - 1) + step, tied[1], tied[2]]
    words[1] = (int(table.hot[buckets[0]]) & ~(step - 1)) + step  # no tie: above
    most = (1 << 64) - 1
    drawn = table.draw(4, Scripted(words, [0, most, 0, 0, most, 0]))  # high words of the three ties, then low words
    assert drawn.tolist() == [buckets[0], read[buckets[0]][1], read[buckets[1]][1], buckets[2]]


@pytest.mark.parametrize("lead_bits", [10, 12, 16])
def test_the_law_is_right_when_ties_are_frequent(lead_bits: int) -> None:
    masses = gaussian_masses(100, lead_bits)  # 512 buckets: with 10 bits a tie in every second draw
    table = alias_table(masses, lead_bits)
    assert masses_of(table)[: len(masses)] == masses
    n = 400_000
    drawn = table.draw(n, Entropy.seeded(lead_bits).keystream())
    expected = np.array([mass / (1 << (lead_bits + REST_BITS)) for mass in masses]) * n
    counts, kept = np.bincount(drawn, minlength=len(masses)), expected >= 10
    assert stats.chisquare(counts[kept], expected[kept], sum_check=False).pvalue > 1e-3


def test_masses_that_are_no_law_are_refused() -> None:
    for masses in ([1, 2], [-1, (1 << TOTAL_BITS) + 1]):
        with pytest.raises(ValueError, match="nonnegative with sum"):
            alias_table(masses)
    with pytest.raises(ValueError, match="at most 2\\^3"):
        alias_table([1 << (3 + REST_BITS)] + [0] * 8, lead_bits=3)
