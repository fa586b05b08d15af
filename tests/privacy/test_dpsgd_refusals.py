"""What would void the bound is refused: tensors, shapes, modes, losses and samples that are not as they must be."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from privacy.dpsgd import DPStepPlan, PairDPSGD
from privacy.entropy import Entropy
from privacy.errors import PrivacyError, SilentTrainingError, StructureError

from .builders import Attention, Perceptron, data, flat, plan, released_sum, trainable


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
