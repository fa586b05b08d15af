"""DP-SGD in integers: rounded clipped gradients are summed, noise has the charged variance, steps are on the grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from privacy.accounting import epsilon
from privacy.discrete import DiscreteGaussian
from privacy.dpsgd import PairDPSGD, StepReport
from privacy.entropy import Entropy
from privacy.errors import PrivacyError, SilentTrainingError, StructureError
from privacy.events import IntegerGaussian, NonPrivate
from privacy.integer_sgd import IntegerStepPlan

from .builders import Attention, Perceptron, clipped_sum_by_loop, data, flat, trainable
from .test_noise import Wide, p_value_of_scale

MODELS = [Perceptron, Attention]


def make_plan(**change: object) -> IntegerStepPlan:
    plan = IntegerStepPlan(
        clip_norm=0.5, levels=4096, dim=200, variance=10**6, sample_rate=1.0, expected_batch=8.0, learning_rate=0.25
    )
    return replace(plan, **change)  # type: ignore[arg-type]


def released_integers(
    module: nn.Module,
    xs: Tensor,
    ys: Tensor,
    plan: IntegerStepPlan,
    *,
    entropy: Entropy | None = None,
    micro: int = 1,
) -> tuple[NDArray[np.float64], StepReport]:
    """(what one step moved the float64 parameters by, in grid units of the sum, float64[dim]; its report)."""
    before = flat([p for _, p in trainable(module)])
    with PairDPSGD(module, trainable(module), plan, entropy or Entropy.os()) as private:
        chosen = torch.from_numpy(private.sample(len(xs)))
        batches = chosen.split(micro) if len(chosen) else ()
        report = private.step(batches, lambda rows: (module(xs[rows]) - ys[rows]) ** 2)
    moved = before - flat([p for _, p in trainable(module)])
    unit = plan.learning_rate / (plan.expected_batch * plan.clip_norm) * plan.grid
    return (moved / unit).numpy(), report


def doubles(pairs: int = 11) -> tuple[Tensor, Tensor]:
    xs, ys = data(pairs)
    return xs.double(), ys.double()


def made(model: Callable[[], nn.Module], seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return model().double()


@pytest.fixture
def no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DiscreteGaussian, "sample", lambda self, n, keystream: np.zeros(n, np.int64))


@pytest.mark.usefixtures("no_noise")
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("micro", [1, 4, 11])
def test_without_noise_the_sum_is_the_loop_over_single_pairs_rounded_row_by_row(
    model: Callable[[], nn.Module], micro: int
) -> None:
    plan, (xs, ys) = make_plan(), doubles()
    oracle = flat(clipped_sum_by_loop(made(model), xs, ys, plan.clip_norm)).numpy() / plan.grid
    found, report = released_integers(made(model), xs, ys, plan, micro=micro)
    error = found - oracle
    assert np.abs(error).max() < len(xs)  # each of 11 rows is rounded by less than 1
    # A row's rounding has variance at most 1/4; 1.5 is above 5 standard errors of the norm for these sizes.
    assert 0.05 < np.linalg.norm(error) / np.sqrt(len(xs) * len(error) / 4) < 1.5
    assert (report.pairs, report.noise_norm) == (11, 0.0)
    assert report.signal_norm == pytest.approx(np.linalg.norm(found) * plan.grid)


@pytest.mark.usefixtures("no_noise")
def test_rounding_leaves_the_mean_of_the_sum_where_it_is() -> None:
    plan, (xs, ys) = make_plan(levels=16), doubles()
    oracle = flat(clipped_sum_by_loop(made(Perceptron), xs, ys, plan.clip_norm)).numpy() / plan.grid
    found = [released_integers(made(Perceptron), xs, ys, plan)[0] for _ in range(60)]
    error = np.mean(found, axis=0) - oracle
    # Mean over 60 steps of 11 roundings of variance at most 1/4: standard error below 0.22; 6 of them.
    assert np.abs(error).max() < 6 * np.sqrt(11 / 4 / 60)


@pytest.mark.parametrize("model", MODELS)
def test_parameters_move_by_whole_grid_units_of_the_sum(model: Callable[[], nn.Module]) -> None:
    plan, (xs, ys) = make_plan(), doubles()
    found, _ = released_integers(made(model), xs, ys, plan)
    assert np.abs(found - np.rint(found)).max() < 1e-6  # float64 parameters near 1, steps of 1e-5
    assert len(np.unique(np.rint(found))) > len(found) // 2


def test_float32_parameters_move_on_the_grid_up_to_their_own_rounding() -> None:
    torch.manual_seed(1)
    plan, module, (xs, ys) = make_plan(learning_rate=1e4), Perceptron(), data()
    found, _ = released_integers(module, xs, ys, plan)
    assert np.abs(found - np.rint(found)).max() < 1e-6 * np.abs(found).max()


@pytest.mark.parametrize("model", MODELS)
def test_one_pair_more_moves_the_integers_by_at_most_the_charged_norm(model: Callable[[], nn.Module]) -> None:
    """Neighbours under the same coins and noise: the streams are seeded, and the last pair is rounded alone."""
    for seed in range(10):
        plan, (xs, ys) = make_plan(levels=16 if seed % 2 else 4096), doubles()
        ys[-1] = 10.0**seed  # from quiet to loud; the gradient's direction stays
        sums = [
            released_integers(made(model, seed), xs[:pairs], ys[:pairs], plan, entropy=Entropy.seeded(seed))[0]
            for pairs in (10, 11)
        ]
        moved = np.rint(sums[1] - sums[0])
        assert moved @ moved <= plan.norm_squared
        assert seed < 2 or moved @ moved > 0.9 * plan.levels**2  # and a loud pair does use its bound


def test_a_pair_that_is_not_finite_counts_as_zero() -> None:
    plan, (xs, ys) = make_plan(), doubles()
    xs[-1, 2, 1] = float("nan")
    entropy = Entropy.seeded(3)
    whole, report = released_integers(made(Perceptron), xs, ys, plan, entropy=entropy)
    rest, _ = released_integers(made(Perceptron), xs[:-1], ys[:-1], plan, entropy=Entropy.seeded(3))
    assert np.allclose(whole, rest, atol=1e-6)
    assert (report.pairs, report.non_finite) == (11, 1)


def noise_on_the_sum(plan: IntegerStepPlan, pairs: int, entropy: Entropy) -> NDArray[np.float64]:
    """What one step of zero gradients added to the sum, in grid units, float64[20200]."""
    module = Wide().double()
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    xs = torch.zeros(pairs, 100, dtype=torch.float64)
    with PairDPSGD(module, trainable(module), plan, entropy) as private:
        chosen = private.sample(pairs)
        private.step([xs[chosen]] if pairs else [], lambda rows: 0.0 * module(rows))
    moved = -flat(list(module.parameters())).numpy()
    return np.asarray(moved / (plan.learning_rate / (plan.expected_batch * plan.clip_norm) * plan.grid))


@pytest.mark.parametrize("pairs", [0, 5])
@pytest.mark.parametrize("moves", [1, 2])
def test_the_noise_of_a_step_has_the_charged_variance_and_no_other(pairs: int, moves: int) -> None:
    plan = make_plan(dim=20_200, moves=moves)
    added = noise_on_the_sum(plan, pairs, Entropy.seeded(21))
    assert p_value_of_scale(added, plan.variance**0.5) > 1e-3
    for wrong in (0.9, 1.1):
        assert p_value_of_scale(added, (wrong * plan.variance) ** 0.5) < 1e-6


def test_two_steps_and_two_objects_never_draw_the_same_noise() -> None:
    plan = make_plan(dim=20_200)
    first, second = (noise_on_the_sum(plan, 0, Entropy.os()) for _ in range(2))
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / len(first) ** 0.5  # 5 standard errors


def test_the_event_is_the_plans_and_counts_every_step_empty_ones_too() -> None:
    plan, module = make_plan(sample_rate=0.5), Perceptron()
    with PairDPSGD(module, trainable(module), plan, Entropy.os()) as private:
        for _ in range(3):
            private.sample(0)
            private.step([], module)
        event = private.event()
    assert event == plan.event(3)
    assert isinstance(event, IntegerGaussian)
    assert (event.steps, event.unit, event.sample_rate) == (3, "pair", 0.5)
    assert (event.own_variance, event.colluding_variance) == (plan.variance, 0)
    assert event.norm_squared > plan.levels**2  # rounding widens a row
    assert 2.0**event.distance_log2 == pytest.approx(3 * plan.dim * 2.0**-118, rel=1e-6)  # every draw of every step
    with PairDPSGD(module, trainable(module), plan, Entropy.seeded(1)) as private:
        assert isinstance(private.event(), NonPrivate)


def test_a_unit_that_moves_twice_the_clip_norm_is_charged_for_twice_of_it() -> None:
    one, two = make_plan(), make_plan(moves=2, unit="question")
    assert two.norm_squared == 4 * one.norm_squared
    assert two.row_squared == one.row_squared
    assert two.noise_multiplier == pytest.approx(one.noise_multiplier / 2)
    assert (two.event(1).unit, two.event(1).norm_squared) == ("question", two.norm_squared)
    same = replace(two, variance=4 * (one.variance - 9) + 9)
    assert epsilon([same.event(9)], 1e-5).epsilon == pytest.approx(epsilon([one.event(9)], 1e-5).epsilon)


@pytest.mark.usefixtures("no_noise")
def test_replacing_one_row_moves_the_integers_by_at_most_the_norm_charged_for_two() -> None:
    plan, (xs, ys) = make_plan(moves=2, unit="question"), doubles()
    sums = []
    for answer in (1e4, -1e4):  # the same direction, the other way
        ys[-1] = answer
        sums.append(released_integers(made(Perceptron), xs, ys, plan, entropy=Entropy.seeded(2))[0])
    moved = np.rint(sums[1] - sums[0])
    assert 3.9 * plan.levels**2 < moved @ moved <= plan.norm_squared


def test_more_coordinates_than_planned_are_refused_and_fewer_are_covered() -> None:
    module, (xs, ys) = made(Perceptron), doubles()
    size = sum(p.numel() for _, p in trainable(module))
    with pytest.raises(StructureError, match=f"at most {size - 1} coordinates, the parameters have {size}"):
        released_integers(module, xs, ys, make_plan(dim=size - 1))
    released_integers(module, xs, ys, make_plan(dim=size))
    wider = make_plan(dim=10 * size)
    assert wider.event(1).noise_multiplier < make_plan(dim=size).event(1).noise_multiplier


def test_the_refusals_of_the_step_hold_in_integers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    xs, ys = doubles()
    module = made(Perceptron)
    with pytest.raises(StructureError, match=r"last\.bias: requires a gradient but is not clipped"):
        PairDPSGD(module, trainable(module)[:-1], make_plan(), Entropy.os()).__enter__()
    with PairDPSGD(module, trainable(module), make_plan(), Entropy.os()) as private:
        private.sample(11)
        with pytest.raises(PrivacyError, match="the sample has 11 pairs but the step was given 10"):
            private.step([xs[:10]], module)
    with PairDPSGD(module, trainable(module), make_plan(), Entropy.os()) as private:
        private.sample(11)
        with pytest.raises(StructureError, match=r"shape \(22, .*not \(11, "):
            private.step([xs], lambda rows: module(rows.repeat(2, 1, 1)).view(2, -1).sum(0))
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self, closure=None: None)
    with pytest.raises(SilentTrainingError):
        released_integers(module, xs, ys, make_plan())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("clip_norm", 0.0),
        ("levels", 8),
        ("levels", 2**25),
        ("dim", 0),
        ("variance", 15),
        ("sample_rate", 0.0),
        ("expected_batch", float("inf")),
        ("learning_rate", -1.0),
        ("moves", 3),
        ("unit", "word"),
    ],
)
def test_a_plan_out_of_range_is_refused_by_field(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        make_plan(**{name: value})
