"""Many-run membership on the real training: the score is exact, sound schemes keep their bound, naive does not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from fedpdpo_secure.audits.membership import audit_membership, held_out, membership_result, play_runs
from fedpdpo_secure.audits.schemes import MembershipGame, Scheme, log_ratio, scheme_config, scheme_of
from fedpdpo_secure.audits.schemes import small_config as shrunk
from fedpdpo_secure.audits.shadow import shadow
from fedpdpo_secure.config import Config, ConfigError, load_config
from privacy.entropy import Entropy, Keystream
from tests.fed.builders import small_config

NAIVE = Path(__file__).resolve().parents[2] / "experiments" / "configs" / "naive.yaml"
EXACT = 1 + 1e-4  # float32 gradients


@contextmanager
def game_of(scheme: Scheme, *overrides: str) -> Iterator[MembershipGame]:
    config = scheme_config(load_config(NAIVE, overrides), scheme)
    with shadow(config) as copy:
        yield MembershipGame(copy, config)


@pytest.fixture(autouse=True)
def no_cache_of_the_user(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "membership"))


def test_the_score_is_the_log_ratio_of_two_gaussian_densities() -> None:
    rng = np.random.default_rng(3)
    seen, inside, outside = rng.standard_normal((3, 5))
    cov = 0.7**2 * np.eye(5)
    expected = multivariate_normal.logpdf(seen, inside, cov) - multivariate_normal.logpdf(seen, outside, cov)
    assert log_ratio(seen, inside, outside, 0.7) == pytest.approx(expected)


@pytest.mark.parametrize("scheme", ["frozen", "joint", "client"])
def test_a_sound_scheme_never_moves_by_more_than_it_claims(scheme: Scheme) -> None:
    with game_of(scheme) as game:
        moves = np.stack([game.play(member, Entropy.seeded(member)).moves for member in (True, False)])
    assert 0.1 < moves.max() <= EXACT


def test_the_naive_scheme_moves_by_several_times_what_it_claims() -> None:
    with game_of("naive") as game:
        moves = np.stack([game.play(member, Entropy.seeded(member)).moves for member in (True, False)])
    assert moves.max() > 3


@pytest.mark.parametrize("scheme", ["naive", "joint", "client"])
def test_the_attacker_computes_what_is_released_so_that_without_noise_it_is_always_right(scheme: Scheme) -> None:
    """Over several runs: what is left of an earlier run in a client's state would make later guesses wrong."""
    with game_of(scheme, "privacy.epsilon=null", "privacy.noise_multiplier=0.01") as game:
        scores = [game.play(member, Entropy.seeded(at)).score for at, member in enumerate([True, False, True, False])]
    assert min(scores[0], scores[2]) > 50
    assert max(scores[1], scores[3]) < -50


def test_the_claim_is_that_of_the_configured_budget_for_one_pair() -> None:
    for scheme in ("frozen", "client"):
        with game_of(scheme) as game:
            assert game.claim.epsilon == pytest.approx(2.0, rel=0.01)
            assert game.scheme == scheme


def audited(scheme: Scheme, runs: int) -> str:
    with game_of(scheme) as game:
        played = play_runs(game, runs=runs, confidence=0.95, entropy=Entropy.seeded(5))
    return membership_result(played, scheme=scheme, rng=np.random.default_rng(0)).verdict


def test_an_honest_scheme_is_no_violation() -> None:
    assert audited("frozen", 24) != "violation"


def test_a_fifth_of_the_noise_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Keystream.normal

    def weak(self: Keystream, n: int) -> np.ndarray:
        return honest(self, n) / 5

    monkeypatch.setattr(Keystream, "normal", weak)
    assert audited("frozen", 24) == "violation"


@pytest.mark.slow
def test_the_naive_scheme_is_refuted_through_the_configuration_that_ships() -> None:
    told: list[str] = []
    result = audit_membership(
        load_config(NAIVE),
        runs=100,
        confidence=0.95,
        entropy=Entropy.seeded(1),
        rng=np.random.default_rng(0),
        note=told.append,
    )
    assert result.verdict == "violation"
    assert result.coins_commitment is not None and result.coins_commitment in told[0]
    assert result.details["direct_bound"] > result.claim


def test_a_client_level_configuration_is_attacked_at_its_claim_for_a_replaced_client() -> None:
    privacy = {"unit": "client", "noise": "distributed", "epsilon": 3.0, "delta": 1e-3}
    config = shrunk(small_config(privacy=privacy, federation={"clients": 6, "local_steps": 1}, secagg={"bits": 32}))
    with shadow(config) as copy:
        game = MembershipGame(copy, config)
        assert game.play(True, Entropy.seeded(0)).moves.max() <= EXACT
    assert 3.0 < game.claim.epsilon < 12.0


def refused(config: Config) -> str:
    with pytest.raises(ConfigError) as found:
        scheme_of(config)
    return str(found.value)


def test_what_claims_nothing_or_has_another_attack_is_refused_by_name() -> None:
    assert refused(small_config(privacy={"unit": "none"})).startswith("privacy.unit")
    assert refused(small_config(privacy={"noise_multiplier": 0.0})).startswith("privacy.epsilon")
    distributed = {"noise": "distributed", "sample_rate": 0.5}
    shared = small_config(privacy=distributed, federation={"local_steps": 1, "clients": 5}, secagg={"bits": 32})
    assert refused(shared).startswith("privacy.noise")


def test_bounds_on_held_out_runs_are_below_the_truth_and_near_it_for_a_gaussian_mechanism() -> None:
    """mu 1 at delta 1e-3 has epsilon 3.14; 95 % limits fail in at most 5 % of trials, 3 standard errors allowed."""
    rng = np.random.default_rng(1)
    above, found = 0, []
    for _ in range(40):
        coins = rng.random(4000) < 0.5
        bound = held_out(rng.standard_normal(4000) + coins, coins, delta=1e-3, confidence=0.95)
        above += max(bound.direct, bound.gaussian) > 3.14
        found.append(bound.gaussian)
    assert above <= 2 + 3 * (40 * 0.05 * 0.95) ** 0.5
    assert 2.2 < np.median(found) < 3.14


def test_bounds_need_enough_runs() -> None:
    with pytest.raises(ValueError, match="at least 4 runs"):
        held_out(np.zeros(3), np.zeros(3, bool), delta=1e-3, confidence=0.95)
