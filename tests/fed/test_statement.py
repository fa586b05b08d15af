"""The privacy statement says what the ledgers say, in every mode; what is not covered weighs as much as the claim."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedpdpo_secure.budget import ClientLedgers, plan_budget
from fedpdpo_secure.claims import REJECTED, claim_text
from fedpdpo_secure.config import Config, make_config
from fedpdpo_secure.histories import read_ledgers
from fedpdpo_secure.report import CSV_NAME, read_reports
from fedpdpo_secure.statement import JSON_NAME, TEXT_NAME, RunFacts, rejected_before, restate_audits, statement
from fedpdpo_secure.statement_numbers import gaussian_mu
from fedpdpo_secure.statement_text import CLAIM, GAP, NOT_PRIVATE, markdown
from privacy.accounting import Bound, epsilon, unamplified, worst
from privacy.bounds import gaussian_epsilon
from privacy.ledger import verify_dir
from privacy.ledger_heads import read_head
from privacy.units import person
from tests.fed.runs import FREE, Recorder, run
from tests.fed.test_client_ledgers import federation, ledgers, one_round, pairs

SMALL: dict[str, Any] = {
    "federation": {"clients": 4, "rounds": 2, "local_steps": 1},
    "synthetic": {"pairs": 16, "public_dialogues": 200},
    "tiny": {"warm_start_steps": 5, "hidden_size": 32, "layers": 1},
    "serving": {"epochs": 0},
}
SHARED = {"secagg": {"bits": 32}}
MODES: dict[str, dict[str, Any]] = {
    "pair/local": {"privacy": {"epsilon": 6.0, "unaccounted_releases": ["beta tuned by hand"]}},
    "pair/distributed": {"privacy": {"noise": "distributed", "epsilon": 6.0}, **SHARED},
    "client/distributed": {
        "privacy": {"unit": "client", "noise": "distributed", "epsilon": 20.0, "clip_norm": 0.5},
        **SHARED,
    },
    "none": FREE,
    "centralized": {"method": {"name": "centralized"}, "secagg": {"enabled": False}},
}
FIELDS = {  # of the reference table of statements, and where they stand
    "dp_model": ("kind", "noise_by", "against", "trusted"),
    "unit": ("name", "words", "pairs_per_client", "holds_if", "person"),
    "adjacency": ("relation", "replace_one_epsilon"),
    "spent": ("epsilon", "delta", "budget", "left", "units", "one_over_n", "delta_times_n", "pld", "rdp", "gaussian"),
    "curve": ("points", "gaussian_mu"),
    "adversaries": ("own_noise_alone", "sum", "sum_with_colluders", "colluders"),
    "tuning": ("unaccounted_releases", "answered"),
    "accounting": ("accountant", "version", "notes", "sampling", "held", "rejected", "amplified", "logs_from"),
    "mechanism": ("noise_multiplier", "clip_norm", "sample_rate", "steps_per_round", "rounds_done", "cohort",
                  "least_survivors", "dropped", "rounds"),
    "implementation": ("generator", "seeded", "arithmetic", "words"),
    "secure_aggregation": ("enabled", "mode", "graph", "neighbors", "threshold", "min_survivors", "collusion",
                           "signed_by"),
    "audits": ("ran", "words", "results"),
    "provenance": ("package_version", "git_commit", "versions", "config_sha256", "plan_digest", "ledgers"),
}  # fmt: skip


@pytest.fixture(scope="module")
def run_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a small finished run in a mode; each is trained once."""
    done: dict[str, Path] = {}

    def trained(mode: str) -> Path:
        if mode not in done:
            done[mode] = tmp_path_factory.mktemp("run") / mode.replace("/", "-")
            run(done[mode], **{**SMALL, **MODES[mode]})
        return done[mode]

    return trained


def stated(folder: Path) -> dict[str, Any]:
    return json.loads((folder / JSON_NAME).read_text())


@pytest.mark.parametrize("mode", MODES)
def test_every_field_is_there_in_every_mode_and_the_words_come_from_the_json_alone(run_of, mode: str) -> None:
    folder = run_of(mode)
    values, text = stated(folder), (folder / TEXT_NAME).read_text()
    for section, names in FIELDS.items():
        assert set(names) <= set(values[section]), section
    assert values["not_covered"] and all(line.replace("|", "\\|") in text for line in values["not_covered"])
    assert values["provenance"]["config_sha256"] in text and values["provenance"]["versions"]["opacus"] in text
    assert text == markdown(values)
    assert values["run"]["state"] == "finished" and values["run"]["rounds_done"] == 2


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "none"])
def test_its_numbers_are_those_that_the_ledgers_verify_to(run_of, mode: str) -> None:
    folder = run_of(mode)
    values, found = stated(folder), verify_dir(folder)
    bound = worst([one.epsilon for one in found])
    assert all(one.ok for one in found)
    assert values["private"] and values["spent"]["epsilon"] == bound.epsilon
    assert (values["spent"]["pld"], values["spent"]["rdp"]) == (bound.pld, bound.rdp)
    assert values["adversaries"]["sum_with_colluders"] == bound.epsilon
    heads = {one["client"]: (one["records"], one["head"]) for one in values["provenance"]["ledgers"]}
    assert heads == {(head := read_head(one.path)).client: (head.records, head.head_hash) for one in found}
    at_delta = {point["delta"]: point["epsilon"] for point in values["curve"]["points"]}
    assert at_delta[bound.delta] == bound.epsilon and len(at_delta) >= 4
    assert sorted(at_delta.values()) == [at_delta[delta] for delta in sorted(at_delta, reverse=True)]
    for delta, known in at_delta.items():  # the summary is never below a point of the curve
        assert gaussian_epsilon(values["curve"]["gaussian_mu"] * (1 + 1e-6), delta) >= known * (1 - 1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_claim_and_gaps_are_two_columns_of_one_table(run_of, mode: str) -> None:
    lines = (run_of(mode) / TEXT_NAME).read_text().splitlines()
    top = lines.index(f"| {CLAIM} | {GAP} |")
    rows = [line.split(" | ") for line in lines[top + 2 : lines.index("", top)]]
    assert all(len(row) == 2 for row in rows)
    filled = [sum(row[side].strip("| ") != "" for row in rows) for side in (0, 1)]
    assert filled[1] == len(stated(run_of(mode))["not_covered"]) >= 7
    assert mode == "none" or 0.5 <= filled[0] / filled[1] <= 2


def test_a_run_without_privacy_says_so_first_and_gives_no_epsilon(run_of) -> None:
    values, text = stated(run_of("none")), (run_of("none") / TEXT_NAME).read_text()
    assert text.startswith(f"# {NOT_PRIVATE}\n")
    assert not values["private"] and values["spent"]["epsilon"] is None and values["curve"]["points"] == []
    assert values["covered"] == []
    assert "privacy.unit: none" in values["not_covered"][0]


def test_columns_by_adversary_differ_where_noise_is_shared_and_agree_where_it_is_not(run_of) -> None:
    for mode in ("pair/distributed", "client/distributed"):
        seen = stated(run_of(mode))["adversaries"]
        assert seen["own_noise_alone"] > seen["sum_with_colluders"] > seen["sum"] > 0
        last = read_reports(run_of(mode))[-1]
        assert (last.epsilon_own, last.epsilon_sum) == (seen["own_noise_alone"], seen["sum"])
    last = read_reports(run_of("pair/local"))[-1]
    assert last.epsilon_own == last.epsilon_sum == last.epsilon
    for mode in ("none", "centralized"):
        last = read_reports(run_of(mode))[-1]
        assert last.epsilon_own is None and last.epsilon_sum is None
    assert "epsilon_own,epsilon_sum" in (run_of("pair/local") / CSV_NAME).read_text().splitlines()[0]


def test_what_was_tuned_on_private_data_is_declared_on_both_sides(run_of) -> None:
    values = stated(run_of("pair/local"))
    assert values["tuning"]["unaccounted_releases"] == ["beta tuned by hand"]
    assert any("beta tuned by hand" in line for line in values["not_covered"])
    assert any("nothing was declared" in line for line in stated(run_of("pair/distributed"))["not_covered"])


def test_trust_noise_and_arithmetic_follow_the_mode(run_of) -> None:
    found = {mode: stated(run_of(mode)) for mode in MODES}
    kinds = {mode: values["dp_model"]["kind"] for mode, values in found.items()}
    assert list(kinds.values()) == ["local", "distributed", "distributed", "none", "central"]
    assert "pools" in found["centralized"]["dp_model"]["trusted"][0]
    assert not any("serving copies" in line for line in found["centralized"]["not_covered"])
    for values in found.values():
        exact = values["implementation"]["arithmetic"] == "integer"
        warned = any("floating-point" in line for line in values["not_covered"])
        assert warned != exact or not values["private"]
    assert found["pair/distributed"]["implementation"]["arithmetic"] == "integer"
    rounds = found["pair/distributed"]["mechanism"]["rounds"]
    assert [one["survivors"] for one in rounds] == [4, 4]
    assert rounds[0]["noise_over_charge_expected"] == pytest.approx(math.sqrt(4 / 2))  # of 4 shares 2 are charged


def test_the_card_of_the_adapter_repeats_the_claim_of_the_statement(run_of) -> None:
    for mode in MODES:
        assert stated(run_of(mode))["claim"] in (run_of(mode) / "shared_adapter" / "README.md").read_text()


def test_audits_are_stated_where_there_are_any_and_can_come_later(run_of, tmp_path: Path) -> None:
    folder = run_of("pair/local")
    before = stated(folder)
    assert before["audits"] == {"ran": False, "violated": False, "words": "none was run", "results": []}
    result = {"name": "dirac", "verdict": "consistent", "lower_bound": 1.25, "confidence": 0.999}
    (folder / "audit.json").write_text(json.dumps([result]))
    restate_audits(folder)
    after = stated(folder)
    assert after["audits"]["ran"] and after["audits"]["results"] == [result]
    assert {**after, "audits": None} == {**before, "audits": None}
    assert "dirac: consistent, lower bound 1.25" in (folder / TEXT_NAME).read_text()
    (folder / "audit.json").write_text("{")
    restate_audits(folder)
    assert "cannot be read" in (folder / TEXT_NAME).read_text()
    (folder / "audit.json").unlink()
    restate_audits(folder)
    assert restate_audits(tmp_path) is None


# ---- statements of ledgers alone, without a training


@pytest.fixture
def owned(tmp_path: Path) -> dict[str, Any]:
    """A run of shared noise over data that is not declared public."""
    return {
        "dataset_name": "pairs.jsonl",
        "data": {"id": "owned", "partition": "site", "pairs_per_client": 60},
        "federation": {"clients": 3, "rounds": 2, "local_steps": 1},
        "secagg": {"bits": 32},
        "privacy": {
            "arithmetic": "float",
            "noise_multiplier": 4.0,
            "sample_rate": 0.5,
            "ledger_root": str(tmp_path / "ledgers"),
        },
    }


def facts(config: Config, folder: Path, **change: Any) -> RunFacts:
    made = RunFacts(
        config=config,
        budget=plan_budget(config, 500),
        folder=folder,
        records=read_ledgers(config, folder, ("c0", "c1", "c2")),
        reports=(),
        plan_digest="",
        state="finished",
    )
    return replace(made, **change)


def test_a_rejected_sampler_changes_the_words_and_the_number(owned: dict[str, Any], tmp_path: Path) -> None:
    config = make_config(owned)
    one_round(ledgers(config, tmp_path, pairs(0, 90)), config)
    honest = statement(facts(config, tmp_path, verdicts={"consistent": 3}))
    lying = statement(facts(config, tmp_path, verdicts={"consistent": 2, "rejected": 1}))
    event = facts(config, tmp_path).budget.event
    assert honest["spent"]["epsilon"] == epsilon([event], config.privacy.delta).epsilon
    assert lying["spent"]["epsilon"] == unamplified([event], config.privacy.delta).epsilon
    assert lying["unit"]["person"][0]["epsilon"] > honest["unit"]["person"][0]["epsilon"]
    assert "Poisson" in honest["claim"] and "Poisson" not in lying["claim"]
    for text in (lying["claim"], lying["accounting"]["sampling"], lying["accounting"]["held"]):
        assert REJECTED in text
    assert honest["accounting"]["held"].startswith("not rejected") and not lying["accounting"]["amplified"]


def test_a_person_with_several_pairs_is_stated_by_the_units_and_never_by_multiplying(
    owned: dict[str, Any], tmp_path: Path
) -> None:
    config = make_config(owned)
    one_round(ledgers(config, tmp_path, pairs(0, 90)), config)
    made = facts(config, tmp_path)
    found = {one["pairs"]: one["epsilon"] for one in statement(made)["unit"]["person"]}
    assert found == {k: person([made.budget.event], made.budget.delta, pairs=k).epsilon for k in (2, 5, 10)}


def test_a_second_run_on_the_same_ledgers_raises_every_column_and_keeps_what_was_declared(
    owned: dict[str, Any], tmp_path: Path
) -> None:
    """The own-share epsilon is of the whole history, not of this run's rounds."""
    privacy = {
        **owned["privacy"],
        "arithmetic": "integer",
        "noise": "distributed",
        "noise_multiplier": 3.0,
        "lost": 0,
        "colluding": 1,
    }
    first = make_config({**owned, "privacy": {**privacy, "unaccounted_releases": ["rounds by eye"]}})
    second = make_config({**owned, "privacy": privacy})
    found = []
    for config, name in ((first, "one"), (second, "two")):
        folder = tmp_path / name
        budget = plan_budget(config, 500)
        opened = ClientLedgers(config, budget, folder, federation(pairs(0, 90)))
        for round_index in (1, 2):
            for index, reservation in opened.reserve(round_index, (0, 1, 2)).items():
                opened.commit(reservation, index, budget.event)
        found.append(statement(facts(config, folder)))
    for column in ("own_noise_alone", "sum", "sum_with_colluders"):
        assert found[1]["adversaries"][column] > found[0]["adversaries"][column]
    own = found[1]["adversaries"]["own_noise_alone"]
    assert f"own share alone gives epsilon {own:.4g} over the whole history" in found[1]["claim"]
    assert found[1]["tuning"]["unaccounted_releases"] == ["rounds by eye"]
    assert [one["provenance"]["starts_on_these_ledgers"] for one in found] == [1, 2]


def test_the_summary_of_a_gaussian_is_the_gaussian_itself() -> None:
    for mu in (0.01, 0.7, 5.0):
        assert gaussian_mu(Bound(gaussian_epsilon(mu, 1e-5), 1e-5, "gaussian")) == pytest.approx(mu, rel=1e-4)
    assert gaussian_mu(Bound(math.inf, 1e-5, "none")) is None
    assert gaussian_mu(Bound(0.0, 1e-5, "none")) == 0.0


# ---- ends of a run


def test_a_run_that_was_interrupted_or_stopped_states_what_it_spent_until_then(tmp_path: Path) -> None:
    sections = {**SMALL, **MODES["pair/local"]}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, **sections, progress=Recorder(stop_at=(2, 1)))
    cut = stated(tmp_path)
    assert cut["run"]["state"] == "interrupted" and cut["run"]["rounds_done"] == 1
    verified = worst([one.epsilon for one in verify_dir(tmp_path)]).epsilon
    assert cut["spent"]["epsilon"] == verified  # the cut round is charged
    assert verified > read_reports(tmp_path)[-1].epsilon
    result = run(tmp_path, **sections, resume=True)
    assert result.stopped is not None
    ended = stated(tmp_path)
    assert (ended["run"]["state"], ended["run"]["stopped"]) == ("stopped", result.stopped)
    assert ended["accounting"]["logs_from"] == 2
    assert result.statement == tmp_path / JSON_NAME


def test_a_sampler_that_was_rejected_before_a_resume_stays_rejected(tmp_path: Path) -> None:
    sections = {**SMALL, "privacy": {"noise_multiplier": 2.0}}

    class Stopping(Recorder):
        def round(self, report) -> None:
            super().round(report)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, **sections, progress=Stopping())
    values = stated(tmp_path)
    values["accounting"]["rejected"] = True
    (tmp_path / JSON_NAME).write_text(json.dumps(values))
    assert rejected_before(tmp_path) == 1
    listener = Recorder()
    result = run(tmp_path, **sections, resume=True, progress=listener)
    assert result.sampler == REJECTED and listener.info.sampler == REJECTED
    assert stated(tmp_path)["accounting"]["rejected"]
    assert result.epsilon == stated(tmp_path)["spent"]["epsilon"]
    assert result.epsilon == worst([one.epsilon for one in verify_dir(tmp_path)]).epsilon  # ledgers remember it
    assert "Poisson" not in (tmp_path / "shared_adapter" / "README.md").read_text()


def test_the_claim_of_what_is_not_private_is_that(owned: dict[str, Any], tmp_path: Path) -> None:
    config = make_config({**owned, "privacy": {**owned["privacy"], "insecure_seed": 3}})
    one_round(ledgers(config, tmp_path, pairs(0, 90)), config)
    made = facts(config, tmp_path)
    assert claim_text(config, made.budget, None).startswith("NOT PRIVATE")
    assert statement(made)["implementation"]["seeded"] and not statement(made)["private"]


def test_how_much_a_sampler_test_could_see_is_not_stated(owned: dict[str, Any], tmp_path: Path) -> None:
    """It depends on how many pairs a client has."""
    config = make_config(owned)
    one_round(ledgers(config, tmp_path, pairs(0, 90)), config)
    found = [
        statement(facts(config, tmp_path, verdicts={verdict: 3}))["accounting"]
        for verdict in ("consistent", "not enough data")
    ]
    assert found[0] == found[1]


def test_an_end_that_may_have_depended_on_results_states_the_whole_plan(owned: dict[str, Any], tmp_path: Path) -> None:
    config = make_config(owned)
    one_round(ledgers(config, tmp_path, pairs(0, 90)), config)
    event, rounds = facts(config, tmp_path).budget.event, config.federation.rounds
    cut = statement(facts(config, tmp_path, state="interrupted"))
    assert cut["spent"]["whole_plan"] == epsilon([event] * (rounds + 1), config.privacy.delta).epsilon
    assert f"{cut['spent']['whole_plan']:.4g}, the whole plan" in markdown(cut)
    assert statement(facts(config, tmp_path))["spent"]["whole_plan"] is None


RESULT = {"name": "canaries", "verdict": "consistent", "confidence": 0.95, "lower_bound": 0.123, "claim": 2.0}


def test_a_failed_audit_stands_first_in_the_claim_and_findings_are_no_consistency(
    owned: dict[str, Any], tmp_path: Path
) -> None:
    config = make_config({**owned, "data": {**owned["data"], "public": True}})
    one_round(ledgers(config, tmp_path, pairs(0, 90)), config)
    (tmp_path / "audit.json").write_text(json.dumps([RESULT, {**RESULT, "details": {"findings": "too little noise"}}]))
    found = statement(facts(config, tmp_path))
    assert found["audits"]["violated"] and found["audits"]["words"].startswith("canaries: violation")
    claim = next(line for line in markdown(found).splitlines() if "VIOLATED" in line)
    assert "too little noise" in claim


def test_of_private_data_a_statement_repeats_an_audits_verdict_and_no_number(
    owned: dict[str, Any], tmp_path: Path
) -> None:
    config = make_config(owned)
    one_round(ledgers(config, tmp_path, pairs(0, 90)), config)
    (tmp_path / "audit.json").write_text(json.dumps({**RESULT, "config_sha256": "another"}))
    found = statement(facts(config, tmp_path))
    assert "0.123" not in json.dumps(found) and "consistent" in found["audits"]["words"]
    assert "of another configuration" in found["audits"]["words"]


def test_with_shares_and_no_masks_a_clients_vector_is_not_under_the_claim(
    owned: dict[str, Any], tmp_path: Path
) -> None:
    privacy = {**owned["privacy"], "noise": "distributed", "noise_multiplier": 3.0, "lost": 0, "colluding": 0}
    privacy.pop("arithmetic", None)
    config = make_config({**owned, "privacy": privacy, "secagg": {"enabled": False, "bits": 32}})
    opened = ClientLedgers(config, plan_budget(config, 500), tmp_path, federation(pairs(0, 90)))
    opened.reserve(1, (0, 1, 2))
    found = statement(facts(config, tmp_path))
    assert not any("every client's vector" in text for text in found["covered"])
    assert any("each client's own vector" in text for text in found["not_covered"])
