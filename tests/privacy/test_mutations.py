"""Every mutation that the privacy of this project must notice, by name, with the tests that show it is noticed.

Each test named here breaks the real code in one way, shows that a detector catches it, and that the same detector
passes the honest code, in that test or beside it. The cheap ones stand below, the others with their subject.
"""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from privacy.accounting import epsilon, unamplified
from privacy.attestation import Attestation, attest, attested_bound
from privacy.dpsgd import DPStepPlan, PairDPSGD
from privacy.entropy import Entropy
from privacy.errors import AdaptiveParameters, CommitMismatch, PrivacyError, StructureError
from privacy.events import PoissonGaussian
from privacy.ledger import verify
from privacy.planned import require_planned

from .builders import Perceptron, data, plan, released_sum, trainable
from .ledger_builders import opened
from .mutated_mechanisms import clips_the_first_tensor_alone, shuffled

ROOT = Path(__file__).resolve().parents[2]
HERE, NOISE = "tests/privacy/test_mutations.py", "tests/privacy/test_mutated_noise.py"
DIRAC = "tests/privacy/test_audit_dirac.py"

CAUGHT_BY = {
    "noise halved": [
        f"{DIRAC}::test_half_of_the_noise_is_caught_twice",
        f"{NOISE}::test_wrong_noise_is_seen_where_no_pair_has_a_signal",
    ],
    "noise omitted in one step": [
        f"{DIRAC}::test_one_step_without_noise_is_caught_by_the_attestation",
        f"{NOISE}::test_wrong_noise_is_seen_where_no_pair_has_a_signal",
    ],
    "clip on the batch mean": [f"{DIRAC}::test_a_clip_of_the_batch_mean_is_caught"],
    "rows counted as 2B": [
        f"{DIRAC}::test_two_rows_for_a_pair_are_refused_before_any_noise_is_added",
        f"{DIRAC}::test_each_response_clipped_alone_is_caught",
        f"{HERE}::test_two_rows_for_each_pair_are_refused_and_one_row_is_not",
    ],
    "one client's share missing": [f"{NOISE}::test_one_clients_missing_share_is_seen_on_the_null_coordinates"],
    "shuffled reported as Poisson": [
        f"{DIRAC}::test_shuffled_batches_reported_as_poisson_are_caught",
        f"{HERE}::test_shuffled_batches_are_rejected_by_the_mechanisms_own_log_and_lose_their_amplification",
    ],
    "the same seed at two clients": [
        f"{NOISE}::test_the_same_keys_at_two_clients_are_seen_on_the_null_coordinates",
        f"{NOISE}::test_a_seed_shared_on_purpose_has_no_finite_epsilon",
    ],
    "sigma applied to the mean": [
        f"{DIRAC}::test_noise_for_the_mean_instead_of_the_sum_is_caught",
        f"{NOISE}::test_wrong_noise_is_seen_where_no_pair_has_a_signal",
    ],
    "ledger counting epochs instead of steps": [
        f"{DIRAC}::test_a_ledger_that_counts_epochs_is_caught",
        f"{HERE}::test_epochs_reserved_for_steps_are_a_commit_mismatch_and_charged",
        f"{HERE}::test_epochs_planned_for_steps_are_refused",
    ],
    "personal parts left out of the clip": [
        f"{HERE}::test_a_tensor_left_out_of_the_clip_breaks_the_sensitivity",
        f"{HERE}::test_a_personal_part_trained_beside_the_clipped_ones_is_refused",
        "tests/fed/test_dp_step.py::test_the_naive_scheme_with_unnoised_personal_parts_breaks_the_bound",
    ],
    "the client's sum rounded instead of each pair": [
        f"{NOISE}::test_a_rounded_sum_moves_by_more_than_one_pairs_integer_norm",
        "tests/privacy/test_discrete_rounding.py::test_rounding_the_clients_sum_breaks_the_bound_of_one_unit",
    ],
    "a seeded sample": [
        f"{DIRAC}::test_a_sample_that_the_adversary_can_repeat_is_caught",
        "tests/privacy/test_attestation.py::test_a_seed_that_repeats_every_round_is_noticed",
        f"{NOISE}::test_a_seed_shared_on_purpose_has_no_finite_epsilon",
    ],
}


@pytest.mark.parametrize("mutation", CAUGHT_BY)
def test_the_tests_that_catch_each_mutation_are_there(mutation: str) -> None:
    assert CAUGHT_BY[mutation]
    for node in CAUGHT_BY[mutation]:
        path, name = node.split("::")
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert name in {part.name for part in tree.body if isinstance(part, ast.FunctionDef)}, node


# ---- the sample


def attested_log(steps: int, local: DPStepPlan, size: int = 100) -> Attestation:
    module = Perceptron()
    with PairDPSGD(module, trainable(module), local, Entropy.seeded(1)) as private:
        for _ in range(steps):
            private.sample(size)
        return attest(private.log, size, local.sample_rate)


def test_shuffled_batches_are_rejected_by_the_mechanisms_own_log_and_lose_their_amplification(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    local, steps = plan(noise=2.0, rate=0.1), 60
    claimed = [PoissonGaussian(noise_multiplier=2.0, sample_rate=0.1, steps=steps)]
    honest = attested_log(steps, local)
    assert honest.verdict == "consistent"
    assert attested_bound(claimed, 1e-5, honest) == epsilon(claimed, 1e-5)
    monkeypatch.setattr("privacy.dpsgd.poisson_sample", shuffled(np.random.default_rng(2)))
    lying = attested_log(steps, local)
    assert lying.verdict == "rejected"
    assert attested_bound(claimed, 1e-5, lying) == unamplified(claimed, 1e-5)


# ---- the clip and what it covers


def largest_move(pairs: int = 9) -> float:
    """Over every pair: how far the released sum moves in L2 if it is left out. Noise 0, full batch."""
    torch.manual_seed(3)
    module = Perceptron()
    xs, ys = data(pairs)
    start = {name: value.clone() for name, value in module.state_dict().items()}

    def released(keep: list[int]) -> Tensor:
        module.load_state_dict(start)
        return released_sum(module, xs[keep], ys[keep])[0]

    everyone = list(range(pairs))
    whole = released(everyone)
    return max(float((whole - released([i for i in everyone if i != out])).norm()) for out in everyone)


def test_a_tensor_left_out_of_the_clip_breaks_the_sensitivity(monkeypatch: pytest.MonkeyPatch) -> None:
    clip_norm = plan().clip_norm
    assert largest_move() <= clip_norm * (1 + 1e-4)
    monkeypatch.setattr("privacy.step_noise.clip_and_sum", clips_the_first_tensor_alone)
    assert largest_move() > 1.5 * clip_norm


def test_a_personal_part_trained_beside_the_clipped_ones_is_refused() -> None:
    module = Perceptron()
    shared = [(name, value) for name, value in trainable(module) if not name.startswith("last")]
    with pytest.raises(StructureError, match=r"last\.weight: requires a gradient but is not clipped and noised"):
        PairDPSGD(module, shared, plan(noise=1.0), Entropy.os()).__enter__()
    module.last.requires_grad_(False)  # frozen: nothing un-noised is trained
    with PairDPSGD(module, shared, plan(noise=1.0), Entropy.os()) as private:
        private.sample(5)


@pytest.mark.parametrize("rows_per_pair", [1, 2])
def test_two_rows_for_each_pair_are_refused_and_one_row_is_not(rows_per_pair: int) -> None:
    module, (xs, ys) = Perceptron(), data(6)
    with PairDPSGD(module, trainable(module), plan(noise=1.0), Entropy.os()) as private:
        rows = torch.from_numpy(private.sample(len(xs))).repeat_interleave(rows_per_pair)
        if rows_per_pair == 1:
            assert private.step([rows], lambda batch: (module(xs[batch]) - ys[batch]) ** 2).pairs == len(xs)
            return
        with pytest.raises(PrivacyError, match="the sample has 6 pairs but the step was given 12"):
            private.step([rows], lambda batch: (module(xs[batch]) - ys[batch]) ** 2)


# ---- what is charged

STEPS = PoissonGaussian(noise_multiplier=2.0, sample_rate=0.25, steps=40)
EPOCHS = PoissonGaussian(noise_multiplier=2.0, sample_rate=0.25, steps=10)


@pytest.mark.parametrize("reserved", [STEPS, EPOCHS], ids=["steps", "epochs"])
def test_epochs_reserved_for_steps_are_a_commit_mismatch_and_charged(tmp_path: Path, reserved: PoissonGaussian) -> None:
    path = tmp_path / "ledger.jsonl"
    with opened(path, budget=20.0) as ledger:
        reservation = ledger.reserve(reserved, "run", 1)
        if reserved is STEPS:
            ledger.commit(reservation, STEPS)
        else:
            with pytest.raises(CommitMismatch, match="both are charged"):
                ledger.commit(reservation, STEPS)
    checked = verify(path)
    assert checked.ok == (reserved is STEPS)
    assert checked.epsilon.epsilon >= epsilon([STEPS], checked.delta).epsilon


def test_epochs_planned_for_steps_are_refused() -> None:
    require_planned([STEPS], [STEPS])
    with pytest.raises(AdaptiveParameters, match="round 1: planned"):
        require_planned([EPOCHS], [STEPS])
