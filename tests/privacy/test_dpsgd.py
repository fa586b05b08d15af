"""One step is the oracle's clipped sum in any physical batches, and is refused where the bound would not hold."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from privacy.dpsgd import PairDPSGD, StepReport
from privacy.entropy import Entropy

from .builders import Attention, Perceptron, clipped_sum_by_loop, data, flat, plan, released_sum, trainable

MODELS = [Perceptron, Attention]


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("clip_norm", [0.05, 0.5, 50.0])
def test_the_released_sum_is_the_loop_over_single_pairs(model: Callable[[], nn.Module], clip_norm: float) -> None:
    torch.manual_seed(1)
    module = model().double()
    xs, ys = (part.double() for part in data())
    oracle = flat(clipped_sum_by_loop(module, xs, ys, clip_norm))
    found, report = released_sum(module, xs, ys, steps=plan(clip_norm=clip_norm))
    assert relative(found, oracle) < 1e-6
    assert report.pairs == len(xs)
    assert (report.clip_fraction > 0.0) == (clip_norm < 50.0)


@pytest.mark.parametrize("model", MODELS)
def test_float32_parameters_release_the_same_sum(model: Callable[[], nn.Module]) -> None:
    torch.manual_seed(1)
    module = model()
    xs, ys = data()
    oracle = flat(clipped_sum_by_loop(module, xs, ys, 0.5))
    found, _ = released_sum(module, xs, ys, steps=plan(lr=100.0))  # moves far, so reading it back loses no digits
    assert relative(found, oracle) < 1e-5


@pytest.mark.parametrize("micro", [1, 2, 5, 11])
def test_physical_batches_do_not_matter(micro: int) -> None:
    torch.manual_seed(2)
    module = Attention().double()
    xs, ys = (part.double() for part in data())
    oracle = flat(clipped_sum_by_loop(module, xs, ys, 0.5))
    found, _ = released_sum(module, xs, ys, micro=micro)
    assert relative(found, oracle) < 1e-6


@pytest.mark.parametrize("model", MODELS)
def test_one_more_pair_moves_the_released_sum_by_at_most_the_clip_norm(model: Callable[[], nn.Module]) -> None:
    xs, ys = (part.double() for part in data())
    xs[-1] *= 1e4  # an outlier as the extra pair
    sums = []
    for pairs in (10, 11):
        torch.manual_seed(3)
        sums.append(released_sum(model().double(), xs[:pairs], ys[:pairs])[0])
    moved = float((sums[1] - sums[0]).norm())
    assert moved <= 0.5 * (1 + 1e-6)
    assert moved > 0.4  # and the outlier does use its bound


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_pair_with_a_non_finite_gradient_counts_as_zero_and_others_are_as_without_it(bad: float) -> None:
    xs, ys = (part.double() for part in data())
    xs[4, 2, 1] = bad
    rest = torch.tensor([i for i in range(len(xs)) if i != 4])
    torch.manual_seed(5)
    found, report = released_sum(Attention().double(), xs, ys)
    torch.manual_seed(5)
    wanted, clean = released_sum(Attention().double(), xs[rest], ys[rest])
    assert torch.equal(found, wanted) or relative(found, wanted) < 1e-9
    assert (report.pairs, report.non_finite) == (11, 1)
    assert (clean.pairs, clean.non_finite) == (10, 0)
    assert report.mean_norm == pytest.approx(clean.mean_norm)


def test_an_empty_sample_is_a_step_of_noise_alone_without_a_forward_pass() -> None:
    module = Perceptron()

    def never(batch: Tensor) -> Tensor:
        raise AssertionError("no forward pass on an empty sample")

    before = flat(list(module.parameters()))
    with PairDPSGD(module, trainable(module), plan(noise=1.0, rate=0.5), Entropy.os()) as private:
        private.sample(0)
        report = private.step(iter(()), never)
        assert private.event().steps == 1  # type: ignore[union-attr]
    assert report == StepReport(0, 0.0, 0, 0.0, 0.0, report.noise_norm)
    assert report.noise_norm > 0.0
    assert (flat(list(module.parameters())) != before).float().mean() > 0.99


def test_the_step_is_plain_sgd_on_the_clip_normalised_mean_over_the_public_batch() -> None:
    torch.manual_seed(6)
    xs, ys = (part.double() for part in data())
    moves = {}
    for clip_norm, batch, lr in [(0.5, 10.0, 0.1), (0.5, 40.0, 0.1), (0.5, 10.0, 0.3)]:
        torch.manual_seed(6)
        module = Perceptron().double()
        before = flat(list(module.parameters()))
        released_sum(module, xs, ys, steps=plan(clip_norm=clip_norm, batch=batch, lr=lr))
        moves[batch, lr] = before - flat(list(module.parameters()))
    assert relative(moves[40.0, 0.1] * 4, moves[10.0, 0.1]) < 1e-9
    assert relative(moves[10.0, 0.3] / 3, moves[10.0, 0.1]) < 1e-9


@pytest.mark.parametrize("model", MODELS)
def test_nothing_is_left_on_the_module(model: Callable[[], nn.Module]) -> None:
    module = model()
    before = traces(module)
    released_sum(module, *data())
    assert traces(module) == before
    released_sum(module, *data())  # and it can be used again


def traces(module: nn.Module) -> list[tuple[str, list[str], int]]:
    layers = [
        (name, sorted(vars(layer)), len(layer._forward_hooks) + len(layer._backward_hooks))
        for name, layer in module.named_modules()
    ]
    return [*layers, *((name, sorted(vars(p)), p.grad is not None) for name, p in module.named_parameters())]
