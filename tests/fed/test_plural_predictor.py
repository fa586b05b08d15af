"""The predictor is the published one: its size, its masks, torch's function; and Opacus sees its rows one by one."""

from __future__ import annotations

import pytest
import torch
from opacus.grad_sample import GradSampleHooks
from torch import Tensor, nn

from fedpdpo_secure.pluralllm.attention import EncoderLayer, load_encoder_weights
from fedpdpo_secure.pluralllm.lora import trainable, with_lora
from fedpdpo_secure.pluralllm.losses import EpisodeLoss, cross_entropy, gaussian, kl
from fedpdpo_secure.pluralllm.predictor import (
    Predictor,
    PredictorShape,
    by_question,
    log_shares,
    make_predictor,
    predict,
)
from privacy.structure import check_structure
from tests.fed.episodes import MIXED, WIDTH, changed, episodes, reordered, rows, small_predictor

NO_CONTEXT = (("target", 3), ("target", 2))
NO_TARGET = (("context", 3), ("context", 2))


def outputs(predictor: Predictor, batch) -> Tensor:
    with torch.no_grad():
        prediction = predictor(batch)
    return torch.stack([prediction.mean, prediction.log_std], -1)


def published_masks(layer: nn.TransformerEncoderLayer, points: Tensor, context: Tensor, padding: Tensor) -> Tensor:
    """Torch's layer with context points first, under the published mask: all rows see the context columns alone."""
    count = int(context[0].sum())
    mask = torch.full((points.shape[1], points.shape[1]), -torch.inf)
    mask[:, :count] = 0.0
    return layer(
        points, src_mask=mask, src_key_padding_mask=torch.zeros(padding.shape).masked_fill(padding, -torch.inf)
    )


def test_the_published_sizes_give_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        predictor = Predictor(PredictorShape(4096))
    counts = [sum(value.numel() for value in part.parameters()) for part in (*predictor.children(), predictor)]
    assert counts == [574_080, 597_504, 16_770, 1_188_354]
    torch_layer = nn.TransformerEncoderLayer(128, 4, 128)
    assert counts[1] == 6 * sum(value.numel() for value in torch_layer.parameters())


def test_a_layer_with_torchs_weights_computes_torchs_function_under_the_published_mask_with_padding() -> None:
    torch.manual_seed(0)
    theirs = nn.TransformerEncoderLayer(32, 4, 48, dropout=0.0, batch_first=True).train()
    with torch.no_grad():
        for value in theirs.parameters():
            value.add_(torch.randn(value.shape) * 0.2)
    ours = EncoderLayer(32, 4, 48)
    load_encoder_weights(ours, theirs)
    points = torch.randn(3, 11, 32)
    first = torch.zeros(3, 11, dtype=torch.bool)
    first[:, :6] = True
    padding = torch.zeros(3, 11, dtype=torch.bool)
    padding[0, 4:6] = padding[0, 9:] = padding[2, 10] = True  # some of the context columns and of the targets
    expected = published_masks(theirs, points, first, padding)
    found = ours(points, first & ~padding)
    torch.testing.assert_close(found[~padding], expected[~padding], atol=1e-5, rtol=0)


def test_only_a_layer_of_the_published_form_is_copied() -> None:
    for theirs in (
        nn.TransformerEncoderLayer(32, 4, 48, norm_first=True),
        nn.TransformerEncoderLayer(32, 4, 48, activation="gelu"),
        nn.TransformerEncoderLayer(32, 2, 48),
    ):
        with pytest.raises(ValueError, match="torch_layer"):
            load_encoder_weights(EncoderLayer(32, 4, 48), theirs)


def test_the_order_of_context_and_targets_moves_predictions_with_their_points_only() -> None:
    predictor, batch = small_predictor(), episodes(MIXED)
    order = torch.randperm(batch.answers.shape[1], generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(
        outputs(predictor, reordered(batch, order)), outputs(predictor, batch)[:, order], atol=1e-5, rtol=0
    )


def test_what_stands_at_another_target_changes_no_prediction_and_at_a_context_point_it_does() -> None:
    predictor, batch = small_predictor(), episodes(MIXED)
    before = outputs(predictor, batch)
    for row in range(len(batch)):
        moved = batch.embeddings.clone()
        other = int(batch.target[row].nonzero()[0])
        moved[row, other] += 3.0
        after = outputs(predictor, changed(batch, embeddings=moved))
        kept = torch.arange(before.shape[1]) != other
        torch.testing.assert_close(after[row, kept], before[row, kept], atol=1e-5, rtol=0)
        assert (after[row, other] - before[row, other]).abs().max() > 1e-3
        moved = batch.embeddings.clone()
        moved[row, int(batch.context[row].nonzero()[0])] += 3.0
        after = outputs(predictor, changed(batch, embeddings=moved))
        assert (after[row][batch.target[row]] - before[row][batch.target[row]]).abs().max() > 1e-3


def test_a_targets_answer_is_never_seen_and_a_context_answer_is() -> None:
    predictor, batch = small_predictor(), episodes(MIXED)
    before = outputs(predictor, batch)
    hidden = torch.where(batch.target, batch.answers + 5, batch.answers)
    assert torch.equal(outputs(predictor, changed(batch, answers=hidden)), before)
    shown = torch.where(batch.context, 1 - batch.answers, batch.answers)
    after = outputs(predictor, changed(batch, answers=shown))
    assert (after[batch.target] - before[batch.target]).abs().max() > 1e-3


def test_padding_and_the_other_rows_of_a_batch_change_no_prediction() -> None:
    predictor, batch = small_predictor(), episodes(MIXED)
    padded, count = episodes(MIXED, padding=7), batch.answers.shape[1]
    present = batch.context | batch.target
    torch.testing.assert_close(
        outputs(predictor, padded)[:, :count][present], outputs(predictor, batch)[present], atol=1e-5, rtol=0
    )
    dirty = padded.embeddings.masked_fill(~(padded.context | padded.target)[..., None], 9.0)
    after = outputs(predictor, changed(padded, embeddings=dirty))
    torch.testing.assert_close(after[:, :count][present], outputs(predictor, batch)[present], atol=1e-5, rtol=0)
    for row in range(len(batch)):
        alone = outputs(predictor, rows(batch, slice(row, row + 1)))
        torch.testing.assert_close(alone[0], outputs(predictor, batch)[row], atol=1e-5, rtol=0)


def test_an_episode_without_context_has_finite_predictions_of_the_point_alone() -> None:
    predictor, batch = small_predictor(), episodes([NO_CONTEXT, *MIXED])
    found = outputs(predictor, batch)
    assert torch.isfinite(found).all()
    moved = batch.embeddings.clone()
    moved[0, 1] += 3.0
    after = outputs(predictor, changed(batch, embeddings=moved))
    kept = torch.arange(found.shape[1]) != 1
    torch.testing.assert_close(after[0, kept], found[0, kept], atol=1e-5, rtol=0)


def test_predicted_shares_are_the_softmax_of_each_target_question() -> None:
    batch = episodes(MIXED, padding=2)
    mean = torch.randn(batch.answers.shape, generator=torch.Generator().manual_seed(4))
    shares = predict(mean, batch)
    assert not shares[~batch.target].any()
    found = by_question(shares, batch)
    for row, plan in enumerate(MIXED):
        start = 0
        assert set(found[row]) == {number for number, (role, _) in enumerate(plan) if role == "target"}
        for number, (role, options) in enumerate(plan):
            if role == "target":
                expected = mean[row, start : start + options].softmax(0).double().numpy()
                assert found[row][number] == pytest.approx(expected, abs=1e-6)
            start += options
    assert torch.isfinite(log_shares(mean, batch.question)).all()


def test_a_predictor_is_drawn_from_its_generator_alone() -> None:
    shape = PredictorShape(WIDTH, d_model=16, layers=2)
    state = torch.random.get_rng_state()
    one, same, other = (make_predictor(shape, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.embed[0].weight, other.embed[0].weight)
    assert {value.dtype for value in one.parameters()} == {torch.float32}


def test_a_new_predictor_has_torchs_initial_laws() -> None:
    torch.manual_seed(0)
    predictor = make_predictor(PredictorShape(64), torch.Generator().manual_seed(0))
    theirs = nn.TransformerEncoder(nn.TransformerEncoderLayer(128, 4, 128, batch_first=True), 6)
    predictor.requires_grad_(False)
    for ours, layer in zip(predictor.body, theirs.layers, strict=True):
        copied = EncoderLayer(128, 4, 128)
        load_encoder_weights(copied.requires_grad_(False), layer)
        for (name, value), expected in zip(ours.named_parameters(), copied.parameters(), strict=True):
            if value.ndim == 2:  # 16,384 or more uniform values: the standard deviation is known to 0.4 %
                assert float(value.std()) == pytest.approx(float(expected.std()), rel=0.03), name
                assert abs(float(value.mean())) < 0.003, name
            elif expected.std():  # 128 values, known to 4 %
                assert float(value.std()) == pytest.approx(float(expected.std()), rel=0.25), name
            else:
                assert torch.equal(value, expected), name
    assert torch.equal(predictor.body[0].widen.weight, predictor.body[5].widen.weight)  # clones, as in torch
    assert torch.equal(theirs.layers[0].linear1.weight, theirs.layers[5].linear1.weight)
    fresh = nn.Linear(65, 128).requires_grad_(False)
    assert float(predictor.embed[0].weight.std()) == pytest.approx(float(fresh.weight.std()), rel=0.05)


def row_gradients(predictor: Predictor, batch, loss: EpisodeLoss) -> dict[str, Tensor]:
    """Gradient of each row's loss by ordinary autograd, one row at a time."""
    names, values = zip(*trainable(predictor), strict=True)
    found = []
    for row in range(len(batch)):
        one = rows(batch, slice(row, row + 1))
        gradients = torch.autograd.grad(loss(predictor(one), one).sum(), values, allow_unused=True)
        found.append([torch.zeros_like(v) if g is None else g for v, g in zip(values, gradients, strict=True)])
    return dict(zip(names, (torch.stack(parts) for parts in zip(*found, strict=True)), strict=True))


def hooked_gradients(predictor: Predictor, batch, loss: EpisodeLoss) -> dict[str, Tensor]:
    hooks = GradSampleHooks(predictor, loss_reduction="sum", strict=False)
    try:
        loss(predictor(batch), batch).sum().backward()
        return {name: value.grad_sample.clone() for name, value in trainable(predictor)}
    finally:
        hooks.cleanup()


@pytest.mark.parametrize("adapted", [False, True], ids=["whole", "lora"])
@pytest.mark.parametrize("loss", [gaussian, cross_entropy, kl])
def test_opacus_gradients_per_episode_equal_autograd_row_by_row(loss: EpisodeLoss, adapted: bool) -> None:
    predictor = small_predictor()
    if adapted:
        with_lora(predictor, rank=2, alpha=4, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            for _, value in trainable(predictor):
                value.normal_(std=0.1, generator=torch.Generator().manual_seed(3))
    batch = episodes([*MIXED, NO_CONTEXT, NO_TARGET])
    check_structure(predictor, trainable(predictor))
    expected, found = row_gradients(predictor, batch, loss), hooked_gradients(predictor, batch, loss)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-5, msg=lambda text, name=name: name + text)
        assert not found[name][3:].any(), name  # no context, or no target: exactly no gradient
    assert all(sum(float(value[row].abs().sum()) for value in found.values()) > 0 for row in range(3))


def test_lora_starts_at_the_frozen_predictor_and_trains_b_alone_on_a_fixed_orthonormal_a() -> None:
    batch = episodes(MIXED)
    plain = outputs(small_predictor(), batch)
    state = torch.random.get_rng_state()
    predictor = with_lora(small_predictor(), rank=3, alpha=6, generator=torch.Generator().manual_seed(1))
    same = with_lora(small_predictor(), rank=3, alpha=6, generator=torch.Generator().manual_seed(1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(outputs(predictor, batch), plain)
    names = [name for name, _ in trainable(predictor)]
    linear = sum(isinstance(module, nn.Linear) for module in small_predictor().modules())
    assert names == sorted(names) and len(names) == linear and all("lora_B" in name for name in names)
    for (name, value), (_, again) in zip(predictor.named_parameters(), same.named_parameters(), strict=True):
        assert torch.equal(value, again)
        if "lora_A" in name:
            torch.testing.assert_close(value @ value.T, torch.eye(3) / 3, atol=1e-6, rtol=0)


def test_lora_of_an_impossible_rank_or_a_second_one_is_refused() -> None:
    generator = torch.Generator()
    for rank in (0, 14):
        with pytest.raises(ValueError, match="rank"):
            with_lora(small_predictor(), rank=rank, alpha=4, generator=generator)
    adapted = with_lora(small_predictor(), rank=2, alpha=4, generator=generator)
    with pytest.raises(ValueError, match="already"):
        with_lora(adapted, rank=2, alpha=4, generator=generator)


def test_sizes_that_cannot_be_are_named() -> None:
    with pytest.raises(ValueError, match="d_model"):
        PredictorShape(8, d_model=30)
    with pytest.raises(ValueError, match="layers"):
        PredictorShape(8, layers=0)
