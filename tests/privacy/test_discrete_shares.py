"""Shares: the least admitted sum of honest noise carries the whole variance; ring bounds hold and are not loose."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.discrete import DiscreteGaussian, fits_ring, never_wraps, share_variance, variance_present
from privacy.discrete.shares import LEAST_SHARE, largest_magnitude, likely_magnitude
from privacy.entropy import Entropy
from tests.privacy.discrete_oracle import shape_p_value


@given(
    total=st.integers(10**6, 10**15),
    clients=st.integers(1, 1000),
    lost=st.integers(0, 300),
    colluding=st.integers(0, 300),
)
def test_the_least_honest_survivors_carry_the_total_and_no_share_is_larger_than_needed(
    total: int, clients: int, lost: int, colluding: int
) -> None:
    honest = clients - lost - colluding
    if honest < 1:
        with pytest.raises(ValueError, match="at least 1"):
            share_variance(total, clients=clients, lost=lost, colluding=colluding)
        return
    share = share_variance(total, clients=clients, lost=lost, colluding=colluding)
    for survivors in range(honest, clients - colluding + 1):
        assert variance_present(share, survivors) >= total
    assert (share - 1) * honest < total


def test_the_worst_losses_and_colluders_are_distinct_clients() -> None:
    assert share_variance(1000, clients=10, lost=2, colluding=3) == 200
    assert share_variance(1001, clients=10, lost=2, colluding=3) == 201
    assert share_variance(1000, clients=10, lost=0, colluding=0) == 100


def test_a_share_of_std_below_4_is_refused_and_the_bound_is_named() -> None:
    assert share_variance(160, clients=10, lost=0, colluding=0) == LEAST_SHARE == 4**2
    with pytest.raises(ValueError, match=r"in \[16, 2\^60\], got 15 = 150 / 10 .* at least 4"):
        share_variance(150, clients=10, lost=0, colluding=0)
    with pytest.raises(ValueError, match="at least 16"):
        variance_present(15, 10)
    with pytest.raises(ValueError, match="at least 16"):
        fits_ring(32, clients=10, norm=100, share=15)


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("total_variance", {"total_variance": 0, "clients": 10, "lost": 0, "colluding": 0}),
        ("lost", {"total_variance": 1000, "clients": 10, "lost": -1, "colluding": 0}),
        ("colluding", {"total_variance": 1000, "clients": 10, "lost": 0, "colluding": -1}),
        ("share", {"total_variance": 1 << 62, "clients": 1, "lost": 0, "colluding": 0}),
    ],
)
def test_a_number_out_of_range_is_named(field: str, arguments: dict[str, int]) -> None:
    total = arguments.pop("total_variance")
    with pytest.raises(ValueError, match=field):
        share_variance(total, **arguments)


def test_the_sum_of_the_survivors_shares_is_the_discrete_gaussian_of_the_total() -> None:
    """12 clients, 2 lost, 3 colluding: what the adversary does not know has the law that is charged."""
    total = 7 * 40**2
    share = share_variance(total, clients=12, lost=2, colluding=3)
    entropy, sampler = Entropy.seeded(21), DiscreteGaussian(share)
    present = sum(sampler.sample(300_000, entropy.keystream()) for _ in range(12 - 2 - 3))
    assert shape_p_value(present, total) > 1e-3
    for missing in (1, 2):  # one share fewer is seen
        fewer = sum(sampler.sample(300_000, entropy.keystream()) for _ in range(7 - missing))
        assert shape_p_value(fewer, total) < 1e-6


def test_the_ring_bounds_order_and_the_corner_of_the_reference_table() -> None:
    """1000 clients of norm 2^19, multiplier 5, half of them lost or colluding: 31.98 bits at the samplers' reach."""
    norm = 1 << 19
    share = share_variance((5 * norm) ** 2, clients=1000, lost=250, colluding=250)
    assert never_wraps(32, clients=1000, norm=norm, share=share)
    assert not never_wraps(31, clients=1000, norm=norm, share=share)
    doubled = share_variance((10 * norm) ** 2, clients=1000, lost=250, colluding=250)
    assert not never_wraps(32, clients=1000, norm=2 * norm, share=doubled)
    assert fits_ring(32, clients=1000, norm=2 * norm, share=doubled)


@given(clients=st.integers(1, 1000), norm=st.integers(0, 1 << 24), std=st.integers(4, 1 << 20))
def test_the_likely_bound_is_below_the_hard_one_and_each_decides_at_its_own_power_of_two(
    clients: int, norm: int, std: int
) -> None:
    sizes = {"clients": clients, "norm": norm, "share": std**2}
    likely, largest = likely_magnitude(**sizes), largest_magnitude(**sizes)
    assert clients * norm < likely < largest
    assert likely >= clients * norm + 10.39 * std * clients**0.5
    for magnitude, fits in ((likely, fits_ring), (largest, never_wraps)):
        bits = magnitude.bit_length() + 1
        assert fits(bits, **sizes)
        assert not fits(bits - 1, **sizes)


def test_a_sum_inside_the_hard_bound_survives_the_ring_and_one_outside_wraps() -> None:
    sizes = {"clients": 5, "norm": 1000, "share": 40**2}
    bits = largest_magnitude(**sizes).bit_length() + 1
    extreme = largest_magnitude(**sizes)
    for value in (extreme, -extreme):
        assert (value + (1 << (bits - 1))) % (1 << bits) - (1 << (bits - 1)) == value
        assert (value + (1 << (bits - 2))) % (1 << (bits - 1)) - (1 << (bits - 2)) != value


def test_ring_numbers_out_of_range_are_refused() -> None:
    for arguments in ({"clients": 0, "norm": 1}, {"clients": 1, "norm": -1}):
        with pytest.raises(ValueError, match="must be at least"):
            fits_ring(32, **arguments, share=16)
    for bits in (0, 65):
        with pytest.raises(ValueError, match="bits"):
            never_wraps(bits, clients=1, norm=1, share=16)
