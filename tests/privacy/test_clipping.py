"""The clipped sum is a function whose sensitivity is what it says, whatever the pairs hold."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from privacy.clipping import clip_and_sum

from .builders import flat

SHAPES = [(3, 4), (5,), ()]
numbers = st.one_of(st.floats(width=32), st.sampled_from([0.0, 1e-38, 1e38, math.inf, -math.inf, math.nan]))


def grad_samples(rows: list[list[float]]) -> list[Tensor]:
    """One tensor per shape, from rows of 18 numbers."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(len(rows), 18)
    return [table[:, :12].reshape(-1, 3, 4), table[:, 12:17], table[:, 17]]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(numbers, min_size=18, max_size=18), min_size=1, max_size=6), st.floats(0.01, 100.0))
def test_adding_or_removing_any_pair_moves_the_sum_by_at_most_the_sensitivity(
    rows: list[list[float]], clip_norm: float
) -> None:
    whole = clip_and_sum(grad_samples(rows), clip_norm)
    without = clip_and_sum(grad_samples(rows[:-1]), clip_norm)
    assert whole.sensitivity == clip_norm
    assert float(whole.clipped_norms.max()) <= clip_norm
    moved = float((flat(whole.sums) - flat(without.sums)).norm())
    assert moved <= clip_norm * (1 + 1e-12) + 1e-12


def test_one_norm_is_taken_over_all_parameters_together() -> None:
    result = clip_and_sum([torch.full((1, 2), 3.0), torch.full((1, 2), 4.0)], 1.0)
    assert float(result.norms[0]) == pytest.approx(50**0.5)
    assert float(flat(result.sums).norm()) == pytest.approx(1.0)


def test_a_pair_below_the_bound_is_not_changed() -> None:
    small = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)) / 100
    assert torch.equal(clip_and_sum([small], 1.0).sums[0], torch.ones(4, dtype=torch.float64) @ small.double())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", [0, 1])
def test_a_pair_that_is_not_finite_anywhere_is_zero_everywhere(bad: float, where: int) -> None:
    parts = [torch.randn(3, 2, generator=torch.Generator().manual_seed(i)) for i in (1, 2)]
    others = clip_and_sum([part[[0, 2]] for part in parts], 1.0)
    parts[where][1, 1] = bad
    result = clip_and_sum(parts, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(result.sums, others.sums, strict=True))
    assert result.non_finite == 1


def test_no_pair_gives_zeros() -> None:
    result = clip_and_sum([torch.zeros(0, *shape) for shape in SHAPES], 1.0)
    assert [tuple(part.shape) for part in result.sums] == SHAPES
    assert float(flat(result.sums).abs().sum()) == 0.0


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="same pairs"):
        clip_and_sum([torch.zeros(2, 3), torch.zeros(3, 3)], 1.0)
    with pytest.raises(ValueError, match="clip_norm"):
        clip_and_sum([torch.zeros(2, 3)], 0.0)
