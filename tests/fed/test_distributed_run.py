"""Whole runs whose noise is the sum of clients' shares: what is charged, what leaves, what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from fedpdpo_secure.checkpoint import GlobalState, load_checkpoint, save_checkpoint
from fedpdpo_secure.config import ConfigError
from fedpdpo_secure.local.plan import LocalUpdate
from fedpdpo_secure.shares import plan_shares
from fedpdpo_secure.vector import ShareVectorPlan
from privacy.ledger import verify_dir
from secagg import TooFewSurvivors
from tests.fed.builders import small_config
from tests.fed.runs import Recorder, run

FEDERATION = {"clients": 6, "rounds": 2, "local_steps": 1}
SECAGG = {"bits": 32, "threshold": 4}


def pair(**change: object) -> dict[str, object]:
    return {"noise": "distributed", "epsilon": 6.0, **change}


def client(**change: object) -> dict[str, object]:
    return {"unit": "client", "noise": "distributed", "epsilon": 20.0, "clip_norm": 0.5, **change}


@pytest.mark.parametrize("privacy", [pair(), client()], ids=["pair", "client"])
@pytest.mark.parametrize("enabled", [True, False], ids=["secure", "plain"])
def test_a_run_spends_its_budget_and_its_ledger_agrees(tmp_path: Path, privacy, enabled: bool) -> None:
    listener = Recorder()
    result = run(
        tmp_path, progress=listener, federation=FEDERATION, privacy=privacy, secagg={**SECAGG, "enabled": enabled}
    )
    assert listener.info is not None
    assert result.private and listener.info.private
    assert (result.unit, result.noise) == (privacy.get("unit", "pair"), "distributed")
    assert 0.99 * privacy["epsilon"] < result.epsilon <= privacy["epsilon"]
    assert listener.info.epsilon_own > result.epsilon  # a share alone protects less
    assert ("trusted" in listener.info.adversary) == (not enabled)
    verified = verify_dir(tmp_path / "ledger")
    assert max(one.epsilon.epsilon for one in verified) == pytest.approx(result.epsilon)
    card = (tmp_path / "shared_adapter" / "README.md").read_text()
    assert "As if a trusted server had added the noise" in card and "if aggregation fails" in card


def test_the_noise_that_is_there_is_shown_beside_the_charge(tmp_path: Path) -> None:
    listener = Recorder()
    privacy = pair(null_coordinates=4000, colluding=0)
    run(tmp_path, progress=listener, federation=FEDERATION, privacy=privacy, secagg=SECAGG)
    for report in listener.reports:  # six shares where five are charged
        assert report.released["noise_over_charge"] == pytest.approx(math.sqrt(6 / 5), rel=0.08)


def test_a_round_with_more_missing_shares_than_stated_makes_no_sum(tmp_path: Path) -> None:
    drop = [{"round": 1, "client": c, "stage": "after_shares"} for c in (1, 2)]
    with pytest.raises(ConfigError, match=r"5 must answer to the end"):
        run(tmp_path, federation={**FEDERATION, "drop": drop}, privacy=pair(lost=1), secagg=SECAGG)
    listener = Recorder()
    run(tmp_path, progress=listener, federation={**FEDERATION, "drop": drop}, privacy=pair(lost=2), secagg=SECAGG)
    assert listener.reports[0].survivors == 4


def test_a_silent_client_beyond_the_stated_number_aborts_the_round(tmp_path: Path, monkeypatch) -> None:
    from fedpdpo_secure import aggregate

    original = aggregate.LocalRound.submit
    silent = {1, 2}

    def submit(self, client, vector):
        if client not in silent:
            original(self, client, vector)

    monkeypatch.setattr(aggregate.LocalRound, "submit", submit)
    with pytest.raises(TooFewSurvivors, match="4 clients sent a masked vector, at least 5 are needed"):
        run(tmp_path, federation=FEDERATION, privacy=pair(lost=1), secagg=SECAGG)
    rows = [json.loads(line) for line in (tmp_path / "ledger").rglob("*.jsonl").__next__().read_text().splitlines()]
    assert any(row["kind"] == "reserve" for row in rows)  # charged all the same


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"privacy": pair(), "federation": {**FEDERATION, "local_steps": 2}}, ["federation.local_steps", "must be 1"]),
        ({"privacy": pair(), "method": {"personal": "joint"}}, ["method.personal", "only frozen"]),
        ({"privacy": {"unit": "client", "epsilon": 8.0}}, ["privacy.noise", "use distributed"]),
        ({"privacy": client(delta=0.2)}, ["privacy.delta", "1/federation.clients"]),
        ({"privacy": pair(lost=4, colluding=1)}, ["privacy.lost", "fewer than 2 honest"]),
        ({"privacy": pair(epsilon=math.inf)}, ["privacy.noise", "clip only"]),
        ({"privacy": pair(), "lora": {"train": "alternating"}}, ["lora.train"]),
    ],
)
def test_an_unsound_combination_is_refused(sections: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        small_config(**{"federation": FEDERATION, "secagg": SECAGG, **sections})
    assert all(word in str(caught.value) for word in words)


def test_a_ring_that_the_pairs_of_all_clients_could_overflow_is_refused() -> None:
    config = small_config(federation=FEDERATION, privacy=pair(), secagg={**SECAGG, "bits": 16})
    with pytest.raises(ConfigError, match=r"secagg\.bits: 16 bits are too few"):
        plan_shares(config, 500)
    plan_shares(small_config(federation=FEDERATION, privacy=pair(), secagg=SECAGG), 500)


def test_the_servers_step_is_minus_the_learning_rate_times_the_mean_gradient() -> None:
    config = small_config(federation=FEDERATION, privacy=pair(), secagg=SECAGG)
    shares = plan_shares(config, 4)
    plan = ShareVectorPlan(shares, expected_batch=10.0, learning_rate=0.5)
    total = np.zeros(plan.dim, np.int64)
    total[0] = 60 * shares.levels  # as if 60 pairs at the clip norm agreed on coordinate 0
    mean = plan.decode(total, 6)
    assert mean.update[0] == pytest.approx(-0.5)
    assert mean.nulls.shape == (config.privacy.null_coordinates,)
    with pytest.raises(ValueError, match="integers of the planned length"):
        plan.encode(LocalUpdate(np.zeros(4), 3, 0.0, 1), np.random.default_rng(0))


def test_momentum_is_kept_across_a_resume(tmp_path: Path) -> None:
    state = GlobalState(3, np.arange(4.0), np.ones(2))
    save_checkpoint(tmp_path, state, "digest")
    back = load_checkpoint(tmp_path, "digest")
    assert np.array_equal(back.velocity, state.velocity) and np.array_equal(back.shared, state.shared)
    save_checkpoint(tmp_path, GlobalState(3, np.arange(4.0)), "digest")
    assert load_checkpoint(tmp_path, "digest").velocity is None


def test_momentum_changes_what_is_learned_and_costs_no_privacy(tmp_path: Path) -> None:
    results = []
    for momentum in (0.0, 0.9):
        folder = tmp_path / str(momentum)
        federation = {**FEDERATION, "rounds": 3, "server_momentum": momentum}
        results.append(run(folder, federation=federation, privacy=pair(), secagg=SECAGG))
    assert results[0].epsilon == results[1].epsilon


def test_a_sampler_that_is_not_poisson_is_noticed_and_amplification_is_given_up(tmp_path: Path, monkeypatch) -> None:
    def first_half(size: int, rate: float, entropy: object) -> np.ndarray:
        return np.arange(int(size * rate), dtype=np.int64)

    federation = {"clients": 4, "rounds": 30, "local_steps": 1}
    kept = {"noise_multiplier": 2.0, "sample_rate": 0.3}
    honest = run(tmp_path / "honest", federation=federation, privacy=kept, evaluation={"every": 30})
    monkeypatch.setattr("privacy.dpsgd.poisson_sample", first_half)
    listener = Recorder()
    lying = run(tmp_path / "lying", progress=listener, federation=federation, privacy=kept, evaluation={"every": 30})
    assert any("were not Poisson" in note for note in listener.notes)
    assert lying.epsilon > 1.5 * honest.epsilon
    counted = json.loads((tmp_path / "honest" / "metrics.json").read_text())["local, not released"]
    assert counted["sampler attestation, clients"].get("rejected", 0) == 0


def test_a_client_whose_training_diverges_counts_as_zero_and_the_round_goes_on(tmp_path: Path, monkeypatch) -> None:
    """At client level training is un-noised: an abort would tell of one client's data outside any epsilon."""
    from fedpdpo_secure.local.plan import NonFiniteError
    from fedpdpo_secure.task import FedPDPO

    original = FedPDPO._plain

    def diverging(self, who, plan, state):
        if who.index == 2:
            raise NonFiniteError("diverged")
        return original(self, who, plan, state)

    monkeypatch.setattr(FedPDPO, "_plain", diverging)
    listener = Recorder()
    result = run(tmp_path, progress=listener, federation=FEDERATION, privacy=client(), secagg=SECAGG)
    assert [report.survivors for report in listener.reports] == [6, 6]
    assert result.private


def test_the_adversary_of_the_claim_holds_as_many_clients_as_were_charged(tmp_path: Path) -> None:
    from fedpdpo_secure.run_info import adversary

    one, none = (
        adversary(small_config(federation=FEDERATION, secagg=SECAGG, privacy=pair(colluding=c))) for c in (1, 0)
    )
    assert "with up to 1 clients" in one and "with up to" not in none
    assert "other clients" not in one + none
    local = adversary(small_config())
    assert "other clients" in local
