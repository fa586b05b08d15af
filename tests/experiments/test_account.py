"""`account` and `calibrate` give the numbers of the accountant under the promised keys."""

from __future__ import annotations

import json

import pytest

from experiments.cli import main
from privacy.accounting import epsilon
from privacy.events import PoissonGaussian


def values(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, object]]:
    code = main([*arguments, "--json", "--quiet"])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


def test_account_reports_the_bound_that_the_ledger_would(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--noise_multiplier", "1.1", "--sample_rate", "0.25", "--steps", "8", "--delta", "1e-5")
    code, found = values(capsys, "account", *arguments)
    truth = epsilon([PoissonGaussian(noise_multiplier=1.1, sample_rate=0.25, steps=8)], 1e-5)
    assert code == 0
    assert (found["epsilon"], found["pld"], found["rdp"]) == (truth.epsilon, truth.pld, truth.rdp)
    assert (found["delta"], found["sampling"], found["private"]) == (1e-5, "poisson", True)


def test_a_known_sample_costs_more_and_full_batch_is_that_case(capsys: pytest.CaptureFixture[str]) -> None:
    noise = ("--noise_multiplier", "1.1", "--steps", "8", "--delta", "1e-5")
    sampled = values(capsys, "account", *noise, "--sample_rate", "0.25")[1]
    whole = values(capsys, "account", *noise, "--sampling", "full_batch")[1]
    assert sampled["epsilon"] < sampled["unamplified"] == whole["epsilon"]
    assert whole["sampling"] == "full_batch"


def test_full_batch_refuses_a_sample_rate_and_poisson_needs_one(capsys: pytest.CaptureFixture[str]) -> None:
    noise = ("--noise_multiplier", "1.1", "--steps", "8", "--delta", "1e-5")
    code, found = values(capsys, "account", *noise, "--sampling", "full_batch", "--sample_rate", "0.25")
    assert code == 2
    assert "--sample_rate" in str(found["error"])
    code, found = values(capsys, "account", *noise)
    assert code == 2
    assert "--sample_rate" in str(found["error"])


@pytest.mark.parametrize("noise", ["inf", "nan", "-1"])
def test_a_noise_multiplier_that_is_no_number_is_a_usage_error(noise: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--noise_multiplier", noise, "--sample_rate", "0.5", "--steps", "2", "--delta", "1e-5")
    assert values(capsys, "account", *arguments)[0] == 2


def test_no_noise_is_null_beside_private_false(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--noise_multiplier", "0", "--sample_rate", "0.5", "--steps", "2", "--delta", "1e-5")
    code, found = values(capsys, "account", *arguments)
    assert code == 0
    assert (found["epsilon"], found["private"]) == (None, False)


def test_calibrated_noise_stays_under_the_target_and_close_to_it(capsys: pytest.CaptureFixture[str]) -> None:
    common = ("--sample_rate", "0.5", "--steps", "12", "--delta", "1e-5")
    code, found = values(capsys, "calibrate", "--epsilon", "8", *common)
    assert code == 0
    assert 7.9 < found["epsilon"] <= 8
    back = values(capsys, "account", "--noise_multiplier", repr(found["noise_multiplier"]), *common)[1]
    assert back["epsilon"] == found["epsilon"]


def test_an_epsilon_that_no_noise_reaches_is_an_impossible_plan(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--epsilon", "1e-9", "--sample_rate", "1", "--steps", "100000", "--delta", "1e-12")
    assert values(capsys, "calibrate", *arguments)[0] == 3


def test_a_replaced_pair_and_a_person_cost_more_under_the_same_keys(capsys: pytest.CaptureFixture[str]) -> None:
    common = ("--noise_multiplier", "1", "--sample_rate", "0.01", "--steps", "1000", "--delta", "1e-5")
    one = values(capsys, "account", *common)[1]
    other = values(capsys, "account", *common, "--relation", "replace_one")[1]
    group = values(capsys, "account", *common, "--person_pairs", "3")[1]
    assert (one["relation"], one["person_pairs"]) == ("add or remove one pair", 1)
    assert one["epsilon"] == pytest.approx(1.828, abs=1e-3)
    assert other["epsilon"] == pytest.approx(2.843, abs=1e-3)
    assert other["relation"] == "replace one pair"
    assert group["epsilon"] > one["epsilon"]
    assert group["relation"] == "add or remove all 3 pairs of one person"
    assert one.keys() == other.keys() == group.keys()


def test_integer_noise_is_a_gaussian_of_nine_less(capsys: pytest.CaptureFixture[str]) -> None:
    common = ("--sample_rate", "0.1", "--steps", "20", "--delta", "1e-5")
    code, whole = values(capsys, "account", "--integer_variance", "40009", "--norm_squared", "10000", *common)
    assert code == 0
    assert whole["epsilon"] == pytest.approx(
        values(capsys, "account", "--noise_multiplier", "2", *common)[1]["epsilon"]
    )


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((), "--noise_multiplier"),
        (("--integer_variance", "100"), "--norm_squared"),
        (("--integer_variance", "100", "--norm_squared", "10", "--noise_multiplier", "1"), "--noise_multiplier"),
        (("--integer_variance", "15", "--norm_squared", "10"), "--integer_variance"),
        (("--noise_multiplier", "1", "--relation", "replace_one", "--person_pairs", "2"), "--person_pairs"),
    ],
)
def test_options_that_do_not_fit_together_are_usage_errors(
    arguments: tuple[str, ...], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = values(capsys, "account", *arguments, "--sample_rate", "0.5", "--steps", "2", "--delta", "1e-5")
    assert code == 2
    assert named in str(found["error"])
