"""One step is the oracle's clipped sum in any physical batches, and is refused where the bound would not hold."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from privacy.dpsgd import DPStepPlan, PairDPSGD, StepReport
from privacy.entropy import Entropy
from privacy.errors import PrivacyError, SilentTrainingError, StructureError

from .builders import Attention, Perceptron, clipped_sum_by_loop, flat, plan, trainable

MODELS = [Perceptron, Attention]


def data(pairs: int = 11) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(4)
    return torch.randn(pairs, 5, 6, generator=source), torch.randn(pairs, generator=source)


def released_sum(
    module: nn.Module, xs: Tensor, ys: Tensor, *, micro: int = 4, steps: DPStepPlan | None = None
) -> tuple[Tensor, StepReport]:
    """(the sum that the step released, float64[D], read back from the moved parameters; its report)."""
    wanted = steps or plan()
    before = flat([p for _, p in trainable(module)])
    with PairDPSGD(module, trainable(module), wanted, Entropy.seeded(9)) as private:
        chosen = torch.from_numpy(private.sample(len(xs)))
        batches = [chosen[start : start + micro] for start in range(0, len(chosen), micro)]
        report = private.step(batches, lambda rows: (module(xs[rows]) - ys[rows]) ** 2)
    moved = before - flat([p for _, p in trainable(module)])
    return moved / wanted.learning_rate * wanted.expected_batch * wanted.clip_norm, report


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


# ---- refusals


def step_once(
    module: nn.Module,
    params: list[tuple[str, nn.Parameter]],
    losses: Callable[[Tensor], Tensor] | None = None,
    steps: DPStepPlan | None = None,
    batches: Callable[[Tensor], list[Tensor]] = lambda rows: [rows],
) -> None:
    xs, _ = data()
    with PairDPSGD(module, params, steps or plan(noise=1.0), Entropy.os()) as private:
        chosen = torch.from_numpy(private.sample(len(xs)))
        private.step(batches(chosen), losses or (lambda rows: module(xs[rows])))


def test_a_trained_tensor_that_is_not_noised_is_refused_by_name() -> None:
    module = Perceptron()
    with pytest.raises(StructureError, match=r"last\.bias: requires a gradient but is not clipped"):
        step_once(module, [(n, p) for n, p in trainable(module) if n != "last.bias"])


def test_a_tensor_of_another_module_is_refused_by_name() -> None:
    module, other = Perceptron(), Perceptron()
    with pytest.raises(StructureError, match=r"ghost: is to be noised but is not"):
        step_once(module, [*trainable(module), ("ghost", other.last.bias)])
    with pytest.raises(StructureError, match="given twice"):
        step_once(module, [*trainable(module), ("again", module.last.bias)])
    with pytest.raises(StructureError, match="no parameter"):
        step_once(module, [])


def test_a_tensor_unfrozen_between_steps_is_refused() -> None:
    module = Attention()
    xs, _ = data()
    with PairDPSGD(module, trainable(module), plan(noise=1.0), Entropy.os()) as private:
        private.sample(len(xs))
        private.step([xs], module)
        module.read_out.weight.requires_grad_(True)
        private.sample(len(xs))
        with pytest.raises(StructureError, match=r"read_out\.weight"):
            private.step([xs], module)


def test_evaluation_mode_low_precision_and_buffers_are_refused() -> None:
    with pytest.raises(StructureError, match="first: is in evaluation mode"):
        step_once(module := Perceptron().eval(), trainable(module))
    with pytest.raises(StructureError, match=r"first\.weight: has type torch\.bfloat16"):
        step_once(module := Perceptron().bfloat16(), trainable(module))
    module = Perceptron()
    module.first.register_buffer("running", torch.zeros(1))
    with pytest.raises(StructureError, match="first: is trained and has buffers"):
        step_once(module, trainable(module))
    mixing = Perceptron()
    mixing.add_module("batch_norm", nn.BatchNorm1d(3, affine=False))
    with pytest.raises(StructureError, match="batch_norm: batch normalisation mixes pairs"):
        step_once(mixing, trainable(mixing))


def test_a_parameter_that_no_gradient_reaches_is_refused_by_name() -> None:
    module = Perceptron()
    module.add_module("unused", nn.Linear(2, 2))
    with pytest.raises(StructureError, match=r"unused\.weight: no gradient per pair"):
        step_once(module, trainable(module))


def test_rows_that_are_not_pairs_are_refused() -> None:
    """Two rows for each pair, folded only in the loss: each would be clipped alone, twice the sensitivity claimed."""
    module, (xs, _) = Perceptron(), data()
    with pytest.raises(StructureError, match=r"shape \(22, .*not \(11, "):
        step_once(module, trainable(module), lambda rows: module(xs[rows].repeat(2, 1, 1)).view(2, -1).sum(0))


@pytest.mark.parametrize("reduce", [torch.mean, torch.sum, lambda losses: losses[:, None], lambda losses: losses[:0]])
def test_a_loss_that_is_not_one_number_per_pair_is_refused(reduce: Callable[[Tensor], Tensor]) -> None:
    module, (xs, _) = Perceptron(), data()
    with pytest.raises(PrivacyError, match="one number per pair"):
        step_once(module, trainable(module), lambda rows: reduce(module(xs[rows])))


@pytest.mark.parametrize("batches", [lambda rows: [rows[1:]], lambda rows: [rows, rows], lambda rows: []])
def test_other_pairs_than_the_sampled_ones_are_refused_before_noise_is_added(
    batches: Callable[[Tensor], list[Tensor]],
) -> None:
    module = Perceptron()
    before = flat(list(module.parameters()))
    with pytest.raises(PrivacyError, match="the sample has 11 pairs"):
        step_once(module, trainable(module), batches=batches)
    assert torch.equal(flat(list(module.parameters())), before)


def test_every_step_needs_a_sample_of_its_own() -> None:
    module, (xs, _) = Perceptron(), data()
    with PairDPSGD(module, trainable(module), plan(noise=1.0), Entropy.os()) as private:
        with pytest.raises(PrivacyError, match="sample of its own"):
            private.step([xs], module)
        private.sample(len(xs))
        private.step([xs], module)
        with pytest.raises(PrivacyError, match="sample of its own"):
            private.step([xs], module)


def test_after_an_error_and_outside_the_block_no_step_is_taken() -> None:
    module, (xs, _) = Perceptron(), data()

    def fail(batch: Tensor) -> Tensor:
        raise KeyError("the caller's own error")

    with PairDPSGD(module, trainable(module), plan(noise=1.0), Entropy.os()) as private:
        private.sample(len(xs))
        with pytest.raises(KeyError):
            private.step([xs], fail)
        private.sample(len(xs))
        with pytest.raises(PrivacyError, match="failed step"):
            private.step([xs], module)
    private.sample(len(xs))
    with pytest.raises(PrivacyError, match="inside the with block"):
        private.step([xs], module)
    assert all(not vars(p) for p in module.parameters())


def test_a_parameter_that_does_not_move_is_reported_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Perceptron()
    apply = torch.optim.SGD.step

    def forgets_one(self: torch.optim.SGD, closure: None = None) -> None:
        kept = module.norm.bias.detach().clone()
        apply(self, closure)
        module.norm.bias.data.copy_(kept)

    monkeypatch.setattr(torch.optim.SGD, "step", forgets_one)
    with pytest.raises(SilentTrainingError, match=r"norm\.bias"):
        step_once(module, trainable(module))


def test_a_parameter_that_rightly_stays_is_no_failure() -> None:
    """With up-projections of zero and no noise the down-projections get no gradient, in the first step at least."""
    module = Attention()
    for layer in module.up.values():
        nn.init.zeros_(layer.weight)
    xs, ys = data()
    _, report = released_sum(module, xs, ys)
    assert report.signal_norm > 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("clip_norm", 0.0),
        ("clip_norm", float("inf")),
        ("noise_multiplier", -1.0),
        ("sample_rate", 0.0),
        ("sample_rate", 1.5),
        ("expected_batch", 0.0),
        ("learning_rate", float("nan")),
    ],
)
def test_a_plan_out_of_range_is_refused_by_field(name: str, value: float) -> None:
    values = {
        "clip_norm": 1.0,
        "noise_multiplier": 1.0,
        "sample_rate": 0.5,
        "expected_batch": 4.0,
        "learning_rate": 0.1,
    }
    with pytest.raises(ValueError, match=name):
        DPStepPlan(**{**values, name: value})
