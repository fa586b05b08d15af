"""Reading one noised sum of known gradients: unbiased, as sharp as it says, sharper than an inner product."""

from __future__ import annotations

import numpy as np
import pytest

from fedpdpo_secure.audits.canaries import most_distinct, random_pairs
from fedpdpo_secure.audits.decode import read_step

PAIRS, DIM, NOISE = 40, 400, 1.5


def gradients(rng: np.random.Generator) -> np.ndarray:
    """float64[PAIRS, DIM] of norm 1 with a large common part, so that they overlap."""
    rows = rng.standard_normal((PAIRS, DIM)) / DIM**0.5 + 1.5 * rng.standard_normal(DIM) / DIM**0.5
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def readings(noise: float, repeats: int = 600) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """(errors [repeats, PAIRS], the deviation claimed for them, errors of the plain inner product, measured noise)."""
    rng = np.random.default_rng(5)
    rows = gradients(rng)
    chance = np.where(np.arange(PAIRS) < 30, 0.25, 0.5)
    errors, inner, claimed, measured = [], [], [], []
    for _ in range(repeats):
        x = rng.random(PAIRS) < chance
        step = x @ rows + noise * rng.standard_normal(DIM)
        found = read_step(step, rows, mean=chance, variance=chance * (1 - chance), noise=NOISE)
        errors.append(found.observed - x)
        claimed.append(found.deviation)
        measured.append(found.noise)
        inner.append(rows @ (step - chance @ rows) + chance - x)
    return np.array(errors), np.mean(claimed, axis=0), np.array(inner), float(np.mean(measured))


def test_a_reading_is_unbiased_and_as_sharp_as_it_says() -> None:
    errors, claimed, inner, measured = readings(NOISE)
    spread = errors.std(axis=0)
    assert np.abs(errors.mean(axis=0) / spread).max() < 4.5 / len(errors) ** 0.5
    assert spread / claimed == pytest.approx(np.ones(PAIRS), rel=0.15)
    assert np.median(spread) < 0.97 * np.median(inner.std(axis=0))
    assert measured == pytest.approx(NOISE, rel=0.02)


def test_less_noise_than_claimed_is_measured_and_sharpens_the_reading() -> None:
    errors, claimed, _, measured = readings(NOISE / 10)
    assert measured == pytest.approx(NOISE / 10, rel=0.02)
    assert errors.std(axis=0) / claimed == pytest.approx(np.ones(PAIRS), rel=0.15)
    assert np.median(claimed) < 0.3  # the common direction shortens what is a row's own


def test_a_zero_gradient_says_nothing_and_disturbs_no_other() -> None:
    rng = np.random.default_rng(2)
    rows = gradients(rng)
    chance = np.full(PAIRS, 0.25)
    step = rows[:5].sum(axis=0) + rng.standard_normal(DIM)
    plain = read_step(step, rows[1:], mean=chance[1:], variance=chance[1:] * 0.75, noise=1.0)
    rows[0] = 0.0
    found = read_step(step, rows, mean=chance, variance=chance * 0.75, noise=1.0)
    assert found.deviation[0] > 1e3
    assert found.observed[1:] == pytest.approx(plain.observed, abs=1e-6)


def test_without_coordinates_free_of_signal_the_noise_is_as_claimed() -> None:
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((50, 20))
    half = np.full(50, 0.5)
    assert read_step(rng.standard_normal(20), rows, mean=half, variance=half / 2, noise=3.0).noise == 3.0
    with pytest.raises(ValueError, match="noise"):
        read_step(rng.standard_normal(20), rows, mean=half, variance=half / 2, noise=0.0)


def test_the_most_distinct_rows_are_the_independent_ones() -> None:
    rng = np.random.default_rng(4)
    axes = np.eye(6)
    rows = np.concatenate([np.tile(axes[:1], (5, 1)) + 1e-3 * rng.standard_normal((5, 6)), 0.5 * axes[1:]])
    chosen = most_distinct(rows, 6)
    assert len({int(row) for row in chosen} & set(range(5))) == 1
    assert set(range(5, 10)) <= {int(row) for row in chosen}


def test_rows_that_span_too_little_are_all_used_in_order() -> None:
    assert most_distinct(np.ones((4, 3)), 3).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="count"):
        most_distinct(np.ones((4, 3)), 5)


def test_canary_pairs_are_short_and_hold_tokens_of_the_vocabulary_alone() -> None:
    pairs = random_pairs(200, vocabulary=11, rng=np.random.default_rng(0))
    assert {len(pair) for pair in pairs} == {6}
    seen = np.concatenate([np.concatenate([pair.prompt, pair.chosen, pair.rejected]) for pair in pairs])
    assert set(seen.tolist()) == set(range(11))
