"""Noise has standard deviation noise_multiplier * clip_norm on the SUM and comes from no torch or numpy generator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from privacy.dpsgd import PairDPSGD
from privacy.entropy import Entropy
from privacy.events import NonPrivate, PoissonGaussian

from .builders import Perceptron, flat, plan, trainable

CLIP, NOISE, BATCH, RATE_OF_LEARNING = 0.7, 1.7, 12.0, 0.03


class Wide(nn.Module):
    """Enough coordinates to measure a standard deviation to one percent."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(100, 200)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).sum(dim=-1)


def noise_on_the_sum(pairs: int, entropy: Entropy, noise: float = NOISE) -> torch.Tensor:
    """What one step added to the sum of clipped gradients, read back from the parameters it moved. float64[20200]."""
    torch.manual_seed(0)
    moves = []
    for multiplier in (0.0, noise):
        module = Wide().double()
        nn.init.zeros_(module.layer.weight)
        nn.init.zeros_(module.layer.bias)
        x = torch.linspace(-1, 1, pairs * 100, dtype=torch.float64).view(pairs, 100)
        steps = plan(clip_norm=CLIP, noise=multiplier, batch=BATCH, lr=RATE_OF_LEARNING)
        with PairDPSGD(module, trainable(module), steps, entropy) as private:
            chosen = private.sample(pairs)
            private.step([x[chosen]] if pairs else [], module)
        moves.append(-flat(list(module.parameters())) / RATE_OF_LEARNING * BATCH * CLIP)
    return moves[1] - moves[0]


def p_value_of_scale(added: np.ndarray, scale: float) -> float:
    """Two-sided chi-square test that these are normals of this standard deviation."""
    law, found = stats.chi2(len(added)), float((added**2).sum()) / scale**2
    return float(2 * min(law.cdf(found), law.sf(found)))


@pytest.mark.parametrize("pairs", [0, 1, 5])
@pytest.mark.parametrize("wrong", [2 / 3, 3 / 2, 1 / BATCH, 1 / CLIP, 0.95])
def test_the_noise_on_the_sum_is_normal_with_the_planned_scale_and_no_other(pairs: int, wrong: float) -> None:
    added = noise_on_the_sum(pairs, Entropy.seeded(21)).numpy()
    planned = NOISE * CLIP
    assert stats.kstest(added / planned, "norm").pvalue > 1e-3
    assert p_value_of_scale(added, planned) > 1e-3
    assert p_value_of_scale(added, planned * wrong) < 1e-6


def test_two_steps_and_two_objects_never_draw_the_same_noise() -> None:
    entropy = Entropy.os()
    first, second = noise_on_the_sum(0, entropy).numpy(), noise_on_the_sum(0, entropy).numpy()
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / len(first) ** 0.5  # 5 standard errors


def refuse(*args: object, **kwargs: object) -> None:
    raise AssertionError("a torch or numpy generator was asked for privacy noise or for the sample")


def test_noise_and_sample_never_touch_a_torch_or_numpy_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Perceptron()
    x = torch.randn(9, 4, 6)
    for name in ("normal", "randn", "rand", "randn_like", "rand_like", "randint", "randperm", "bernoulli", "Generator"):
        monkeypatch.setattr(torch, name, refuse)
    for name in ("normal_", "uniform_", "random_", "bernoulli_"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    for name in ("default_rng", "normal", "rand", "randn", "random", "choice", "RandomState", "Generator", "PCG64"):
        monkeypatch.setattr(np.random, name, refuse)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    with PairDPSGD(module, trainable(module), plan(noise=1.0, rate=0.5), Entropy.os()) as private:
        for _ in range(3):
            chosen = private.sample(9)
            private.step([x[chosen]] if len(chosen) else [], module)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # type: ignore[index]


def test_seeding_torch_and_numpy_does_not_repeat_a_step() -> None:
    def outcome() -> torch.Tensor:
        torch.manual_seed(3)
        np.random.seed(3)
        return noise_on_the_sum(0, Entropy.os())

    assert not torch.equal(outcome(), outcome())


@pytest.mark.parametrize(
    ("entropy", "noise", "private"),
    [(Entropy.os, 1.0, True), (lambda: Entropy.seeded(1), 1.0, False), (Entropy.os, 0.0, False)],
)
def test_the_event_is_made_by_what_adds_the_noise(entropy: Callable[[], Entropy], noise: float, private: bool) -> None:
    module = Perceptron()
    with PairDPSGD(module, trainable(module), plan(noise=noise, rate=0.25), entropy()) as trainer:
        for _ in range(3):
            chosen = trainer.sample(0)
            assert len(chosen) == 0
            trainer.step([], module)
        event = trainer.event()
    if private:
        assert event == PoissonGaussian(noise_multiplier=noise, sample_rate=0.25, steps=3)
    else:
        assert isinstance(event, NonPrivate)


def test_a_seeded_run_repeats_itself() -> None:
    assert torch.equal(noise_on_the_sum(3, Entropy.seeded(5)), noise_on_the_sum(3, Entropy.seeded(5)))
    assert not torch.equal(noise_on_the_sum(3, Entropy.seeded(5)), noise_on_the_sum(3, Entropy.seeded(6)))
