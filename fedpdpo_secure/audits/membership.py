"""Many-run membership: train again and again with one pair in or out by a sealed coin, and guess from what is released.

The runs are independent, so the statistics of many trials hold exactly (`privacy.audit.bounds`). Refuting the claim
assumes nothing of the mechanism but the claim; the number beside it, where the bound goes through a Gaussian curve,
assumes that the mechanism is one, which the naive scheme is not: `direct_bound` in the details assumes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedpdpo_secure.audits.schemes import PAIRS, ROUNDS, TARGET, Claim, MembershipGame, Play, small_config
from fedpdpo_secure.audits.shadow import shadow
from fedpdpo_secure.config import Config
from privacy.audit.bounds import Counts, count, direct_accuracy_bound, direct_bound, gaussian_bound
from privacy.audit.coins import SealedCoins, seal
from privacy.audit.dirac import dirac_game
from privacy.audit.judge import judge
from privacy.audit.result import AuditResult
from privacy.audit.rule import AuditRule
from privacy.audit.tradeoff import NoiseFamily
from privacy.entropy import Entropy

SHRUNK = (
    f"builtin:tiny of width 16 with one layer and LoRA on down_proj, the built-in data, one client of {PAIRS} pairs, "
    f"{ROUNDS} rounds of one step on all pairs, noise (in float where local) calibrated to the configured budget"
)
_THRESHOLDS = 200
Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Runs:
    """Many plays with their sealed coins; all that the tables and plots of an audit are made of."""

    claim: Claim
    sealed: SealedCoins
    rule: AuditRule
    scores: NDArray[np.float64]  # [runs]
    moves: NDArray[np.float64]  # [runs, rounds], in units of the claimed sensitivity


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Lower bounds on epsilon from the second half of the runs, at thresholds chosen on the first."""

    direct: float  # Clopper-Pearson on both error rates; assumes nothing of the mechanism
    gaussian: float  # through the curve of a Gaussian mechanism; for full-batch releases


def play_runs(
    game: MembershipGame, *, runs: int, confidence: float, entropy: Entropy, note: Note | None = None
) -> Runs:
    """Seal one coin a run, tell its commitment to `note`, then train and score every run."""
    rule = membership_rule(runs=runs, delta=game.config.privacy.delta, confidence=confidence)
    sealed = seal(rule, entropy.child("coins"))
    if note is not None:
        note(f"coins sealed before the runs: {sealed.commitment}")
    plays: list[Play] = []
    for at, coin in enumerate(sealed.coins):
        plays.append(game.play(bool(coin), entropy.child("run", at)))
        if note is not None and (at + 1) % 50 == 0:
            note(f"{at + 1} of {runs} runs")
    scores, moves = np.array([play.score for play in plays]), np.stack([play.moves for play in plays])
    return Runs(game.claim, sealed, rule, scores, moves)


def membership_rule(*, runs: int, delta: float, confidence: float) -> AuditRule:
    """Guess "in" where the likelihood ratio is above 1; the test is of the share of right guesses."""
    return AuditRule(
        test="accuracy", assumes="family", canaries=runs, delta=delta, confidence=confidence, threshold=0.0
    )


def membership_result(runs: Runs, *, scheme: str, rng: np.random.Generator) -> AuditResult:
    """The runs judged against their claim. `rng` simulates the game for its power; nothing secret is drawn from it."""
    rule, coins = runs.rule, runs.sealed.coins
    return judge(
        runs.scores,
        runs.sealed,
        rule,
        name=f"membership of one pair, scheme {scheme}",
        claim=runs.claim.epsilon,
        game=dirac_game(runs.claim.event),
        rng=rng,
        family=NoiseFamily.of([runs.claim.event]),
        details={
            "scheme": scheme,
            "direct_bound": direct_accuracy_bound(count(runs.scores, coins, 0.0), rule.delta, rule.confidence),
            "moved_mean": float(runs.moves.mean()),
            "moved_most": float(runs.moves.max()),
            "target": TARGET,
            "attacked": SHRUNK,
        },
    )


def audit_membership(
    config: Config,
    *,
    runs: int,
    confidence: float,
    entropy: Entropy,
    rng: np.random.Generator,
    note: Note | None = None,
) -> AuditResult:
    """Attack the scheme of `config` on a small model and client made from it (`SHRUNK`), in `runs` trainings.

    With un-noised personal parts under a pair-level claim, the claim is what a naive accountant would print. Raises
    ConfigError where the configuration claims nothing, or shares its noise at pair level.
    """
    small = small_config(config)
    with shadow(small) as copy:
        game = MembershipGame(copy, small)
        played = play_runs(game, runs=runs, confidence=confidence, entropy=entropy, note=note)
    return membership_result(played, scheme=game.scheme, rng=rng)


def held_out(scores: NDArray[np.float64], coins: NDArray[np.bool_], *, delta: float, confidence: float) -> HeldOut:
    """Choose the best thresholds on the first half of independent runs, and bound epsilon on the second.

    float64[runs] and bool[runs], at least 4 of them. Raises ValueError otherwise.
    """
    if len(scores) < 4:
        raise ValueError(f"scores must be of at least 4 runs, got {len(scores)}")
    half = len(scores) // 2
    first, second = (scores[:half], coins[:half]), (scores[half:], coins[half:])

    def bound(of: Callable[[Counts, float, float], float]) -> float:
        thresholds = np.unique(np.quantile(first[0], np.linspace(0.0, 1.0, _THRESHOLDS)))
        chosen = max(thresholds, key=lambda threshold: of(count(*first, float(threshold)), delta, confidence))
        return of(count(*second, float(chosen)), delta, confidence)

    return HeldOut(direct=bound(direct_bound), gaussian=bound(_gaussian))


def _gaussian(counts: Counts, delta: float, confidence: float) -> float:
    return gaussian_bound(counts, delta, confidence)
