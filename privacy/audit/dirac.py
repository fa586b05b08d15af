"""White-box Dirac canaries against the real `PairDPSGD`: real sampler, real clip, real noise, its own event.

Canary j is one pair whose gradient lies on coordinate j alone and is longer than the clip norm, so that it must be
clipped to exactly that. A canary that is out is a pair whose gradient is zero: the sum is as if it were removed, and
every other pair is sampled as before. Some coordinates belong to no canary. The attacker sees the parameters after each
step, measures each step's noise on those null coordinates, and scores with what was measured: noise that is less than
claimed makes this attack stronger, where a score built on the claimed noise would look away.

Where one unit moves the sum by two clip norms (`plan.moves`), every canary has a row of its own in every step, clipped
to -1 on its coordinate, which turns into +1 where the canary is in and sampled: the worst that one unit can do. What
was seen is brought to the same scale, 0 or 1 with the charged noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from privacy.accounting import epsilon
from privacy.dpsgd import DPStepPlan, PairDPSGD
from privacy.entropy import Entropy
from privacy.errors import PrivacyError
from privacy.events import Event, FullBatchGaussian, PoissonGaussian

from .coins import SealedCoins, seal
from .game import Game, Trial
from .judge import REPEATS, judge
from .noise import NoiseReport, attest_noise
from .result import AuditResult
from .rule import AuditRule
from .scores import poisson_scores, simulate
from .tradeoff import NoiseFamily

NULL_COORDINATES = 400  # in each run: they measure one step's noise to 3.5 percent
_LOUDNESS = 8.0  # length of a canary's gradient in clip norms
_PHYSICAL = 128  # pairs in one backward pass
_LEAST_NOISE = 1e-3  # of the plan's noise; what was measured below it is taken as this
_SIMULATED = 1_000_000  # entries of one simulated array


@dataclass(frozen=True, slots=True, eq=False)
class DiracRun:
    """What the attacker saw, in clip norms on the sum, and what the mechanism says it did."""

    observed: NDArray[np.float64]  # [steps, canaries]
    residuals: NDArray[np.float64]  # [steps, runs, NULL_COORDINATES]
    sealed: SealedCoins
    rule: AuditRule
    event: Event

    def measured_noise(self, plan: DPStepPlan) -> NDArray[np.float64]:
        """The standard deviation that each canary's run showed in each step, as `observed`, kept above 0."""
        found = np.sqrt(np.mean(self.residuals**2, axis=2))
        found = np.maximum(found, _LEAST_NOISE * plan.noise_multiplier)
        return np.repeat(found, self.observed.shape[1] // found.shape[1], axis=1)


def dirac_rule(*, canaries: int, delta: float, confidence: float) -> AuditRule:
    """Guess "in" where the likelihood ratio is above 1: the most right guesses for fair coins, whatever the noise.

    The test is exact: an honest mechanism is called a violation with chance up to 1 - confidence.
    """
    return AuditRule(
        test="accuracy", assumes="family", canaries=canaries, delta=delta, confidence=confidence, threshold=0.0
    )


def dirac_game(event: Event) -> Game:
    """Dirac canaries under the event itself, scored by likelihood. Raises ValueError unless it has real noise."""
    if not isinstance(event, PoissonGaussian | FullBatchGaussian) or event.noise_multiplier == 0.0:
        raise ValueError("event must be a noised release of a real Gaussian")
    rate = event.sample_rate if isinstance(event, PoissonGaussian) else 1.0
    score = partial(poisson_scores, noise=event.noise_multiplier, sample_rate=rate)
    at_a_time = max(1, _SIMULATED // max(event.steps, 1))

    def play(canaries: int, rng: np.random.Generator) -> Trial:
        coins = rng.random(canaries) < 0.5
        parts = (coins[start : start + at_a_time] for start in range(0, canaries, at_a_time))
        return np.concatenate([score(simulate(event, part, rng)) for part in parts]), coins

    return play


def run_dirac(plan: DPStepPlan, *, steps: int, rule: AuditRule, entropy: Entropy, runs: int = 1) -> DiracRun:
    """Seal the coins, train `runs` times on the rule's canaries, shared out evenly, and keep what was released.

    Raises ValueError unless `runs` divides the canaries and steps >= 1; PrivacyError where runs report different
    events.
    """
    if steps < 1 or runs < 1 or rule.canaries % runs:
        raise ValueError("steps and runs must be at least 1, and runs must divide the rule's canaries")
    sealed = seal(rule, entropy.child("coins"))
    parts = np.split(sealed.coins, runs)
    done = [_train(plan, steps, part, entropy.child("run", at)) for at, part in enumerate(parts)]
    events = {event for _, event in done}
    if len(events) != 1:
        raise PrivacyError("runs of one plan report different events")
    size = rule.canaries // runs
    return DiracRun(
        observed=np.concatenate([seen[:, :size] for seen, _ in done], axis=1),
        residuals=np.stack([seen[:, size:] for seen, _ in done], axis=1),
        sealed=sealed,
        rule=rule,
        event=events.pop(),
    )


def audit_dirac(run: DiracRun, plan: DPStepPlan, *, rng: np.random.Generator, repeats: int = REPEATS) -> AuditResult:
    """Score by the likelihood under the measured noise, and judge against the event that the mechanism reported.

    Raises ValueError where that event is `NonPrivate`: then nothing is claimed.
    """
    scores = poisson_scores(run.observed, noise=run.measured_noise(plan), sample_rate=plan.sample_rate)
    return judge(
        scores,
        run.sealed,
        run.rule,
        name="white-box Dirac canaries",
        claim=epsilon([run.event], run.rule.delta).epsilon,
        game=dirac_game(run.event),
        rng=rng,
        family=NoiseFamily.of([run.event]),
        repeats=repeats,
        details={"steps_observed": len(run.observed)},
    )


def dirac_noise(run: DiracRun, plan: DPStepPlan, *, confidence: float) -> NoiseReport:
    """Attest the noise of every step on the null coordinates of all runs."""
    return attest_noise(
        run.residuals.reshape(len(run.residuals), -1), deviation=plan.noise_multiplier, confidence=confidence
    )


class _Coordinates(nn.Module):
    """theta . x for one pair a row, so that the gradient of pair i is x_i."""

    def __init__(self, theta: nn.Parameter) -> None:
        super().__init__()
        self.linear = nn.Linear(theta.shape[1], 1, bias=False)
        self.linear.weight = theta

    def forward(self, x: Tensor) -> Tensor:  # float64[b, coordinates] -> float64[b]
        return torch.squeeze(self.linear(x), dim=-1)


def _train(
    plan: DPStepPlan, steps: int, coins: NDArray[np.bool_], entropy: Entropy
) -> tuple[NDArray[np.float64], Event]:
    """(the noised sums, float64[steps, canaries + null coordinates], the event)."""
    theta = nn.Parameter(torch.zeros(1, len(coins) + NULL_COORDINATES, dtype=torch.float64))
    module = _Coordinates(theta)
    loud = _LOUDNESS * plan.clip_norm
    pairs = torch.zeros(len(coins), theta.shape[1], dtype=torch.float64)
    pairs.diagonal().copy_(torch.from_numpy(coins * loud if plan.moves == 1 else np.full(len(coins), -loud)))
    seen = np.empty((steps, theta.shape[1]))
    # The step moves theta by learning_rate / (expected_batch * clip_norm) times the noised sum.
    unit = plan.expected_batch / plan.learning_rate
    with PairDPSGD(module, [("linear.weight", theta)], plan, entropy) as private:
        for step in range(steps):
            before = theta.detach().clone()
            sampled = private.sample(len(coins))
            if plan.moves == 1:
                chosen = torch.from_numpy(sampled)
                private.step([pairs[rows] for rows in torch.split(chosen, _PHYSICAL) if len(rows)], module)
            else:
                flipped = torch.from_numpy(sampled[coins[sampled]])
                rows = pairs.clone()
                rows[flipped] = -rows[flipped]
                private.step(torch.split(rows, _PHYSICAL), module, rows=len(rows))
            seen[step] = ((before - theta.detach()) * unit).numpy().ravel()
        if plan.moves == 2:
            seen[:, : len(coins)] += 1.0
            seen /= 2.0
        return seen, private.event()
