"""One-run canary pairs against the real DPO training of one client (Steinke, Nasr and Jagielski, NeurIPS 2023).

Pairs of random tokens, each in or out by its own sealed coin, join the client's pairs in a shadow copy. The attacker is
the one that the local claim allows: it knows every pair, sees the adapter after every step, chooses what it broadcasts
(here: the client's own update, handed back), and knows neither coins nor samples nor noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from fedpdpo_secure.audits.canaries import most_distinct, random_pairs
from fedpdpo_secure.audits.observe import Observation, known_gradients, observe
from fedpdpo_secure.audits.shadow import Shadow, shadow
from fedpdpo_secure.budget import BudgetPlan, plan_budget
from fedpdpo_secure.config import Config, ConfigError
from fedpdpo_secure.local.plan import local_plan
from fedpdpo_secure.pairs.packing import TokenPair
from fedpdpo_secure.shares import distributed
from fedpdpo_secure.task import Client
from privacy.accounting import epsilon
from privacy.audit.coins import SealedCoins, seal
from privacy.audit.dirac import dirac_game
from privacy.audit.game import plan_guesses
from privacy.audit.judge import judge
from privacy.audit.one_run import Guesses, one_run_bound, one_run_gaussian_bound
from privacy.audit.result import AuditResult
from privacy.audit.rule import AuditRule, evidence
from privacy.audit.scores import poisson_scores
from privacy.audit.tradeoff import NoiseFamily
from privacy.entropy import Entropy
from privacy.events import Event, NonPrivate, gaussian_event

Note = Callable[[str], None]
_LARGEST = 2**27  # numbers in one array of gradients: 1 GiB
_MARGIN = 1.05  # between the Gaussian curve, used for planning, and the family's
_POOL = 4  # random pairs made for each canary: measured, see docs/audits.md


def audit_one_run(
    config: Config,
    *,
    canaries: int,
    confidence: float,
    client: str | None,
    entropy: Entropy,
    rng: np.random.Generator,
    note: Note,
) -> AuditResult:
    """Train the shadow copy of `client` (the first if None) with canaries for all steps of `config`, and judge.

    `rng` makes the canaries and simulates the game; it is public and draws no coin. `note` is told the commitment to
    coins and rule before training. Raises ConfigError where the configuration claims nothing that this attacks.
    """
    check_attackable(config)
    with shadow(config) as copy:
        task, victim = copy.prepared.task, copy.client(client)
        budget = plan_budget(config, task.noised_size())
        event = whole([budget.event] * config.federation.rounds)
        rule = plan_rule(event, canaries=canaries, delta=budget.delta, confidence=confidence, rng=rng)
        made = make_canaries(copy, victim, canaries, budget, rng)
        sealed = seal(rule, entropy.child("coins"))
        note(f"coins and rule sealed before training: {sealed.commitment}")
        own = [victim.train[row] for row in range(len(victim.train))]
        known = copy.store("known", [*made, *own])
        members = [known[int(row)] for row in np.flatnonzero(sealed.coins)]
        trained = replace(victim, train=copy.store("trained", [*members, *own]))
        seen = observe(
            task,
            trained,
            known,
            canaries=canaries,
            budget=budget,
            entropy=entropy.child("train"),
        )
    return judge_one_run(seen, sealed, rule, sample_rate=config.privacy.sample_rate, rng=rng)


def check_attackable(config: Config) -> None:
    """Raise ConfigError, naming the field, where there is no claim of local pair-level noise to attack."""
    privacy = config.privacy
    if privacy.unit != "pair" or distributed(config):
        raise ConfigError(
            f"privacy.unit, privacy.noise: one-run attacks unit pair with local noise, not {privacy.unit} with "
            f"{privacy.noise}"
        )
    if config.method.name in ("local", "centralized"):
        raise ConfigError(f"method.name: one-run attacks a client of a federation, which {config.method.name} has not")
    if privacy.insecure_seed is not None or privacy.noise_multiplier == 0 or privacy.epsilon == math.inf:
        raise ConfigError("privacy: this run claims no finite epsilon, so there is nothing to audit")
    if config.method.personal == "free":
        raise ConfigError("method.personal: free with unit pair claims nothing; --attack membership shows why")


def make_canaries(
    copy: Shadow, victim: Client, count: int, budget: BudgetPlan, rng: np.random.Generator
) -> list[TokenPair]:
    """The `count` of several times as many random pairs that are easiest to tell apart at the initial adapter.

    Nothing private is looked at. Raises ConfigError where the gradients do not fit into memory.
    """
    task = copy.prepared.task
    size = task.layout(1).size
    most = _LARGEST // size - len(victim.train)
    if count > most:
        raise ConfigError(f"--canaries: {count} gradients of {size} coordinates do not fit; at most {max(most, 0)}")
    vocabulary = task.backbone.model.get_input_embeddings().num_embeddings
    pairs = random_pairs(min(_POOL * count, most), vocabulary=vocabulary, rng=rng)
    plan = local_plan(task.config, 1, budget.noise_multiplier, integer=budget.integer)
    gradients = known_gradients(task, victim, copy.store("pool", pairs), copy.prepared.initial, plan)
    return [pairs[row] for row in most_distinct(gradients, count)]


def whole(events: Sequence[Event]) -> Event:
    """Equal events as one with all their steps. Raises ValueError where they differ, or claim nothing."""
    first = events[0]
    if any(event != first for event in events) or isinstance(first, NonPrivate):
        raise ValueError("events must be equal releases of one mechanism, with noise that cannot be repeated")
    return gaussian_event(
        noise_multiplier=first.noise_multiplier,
        sample_rate=getattr(first, "sample_rate", 1.0),
        steps=sum(event.steps for event in events if not isinstance(event, NonPrivate)),
    )


def plan_rule(event: Event, *, canaries: int, delta: float, confidence: float, rng: np.random.Generator) -> AuditRule:
    """The rule, before any coin is tossed: as many guesses as do best against the claimed mechanism itself.

    Numbers of guesses so small that all of them being right would not refute the claim are passed over, if there are
    others. The verdict is that of the f-DP test (Mahloujifar, Melis and Chaudhuri 2024) within the claimed family.
    """
    claim = epsilon([event], delta).epsilon

    def goal(guesses: Guesses) -> float:  # a Gaussian curve ranks numbers of guesses as the family does, and is quick
        perfect = Guesses(guesses.made, guesses.made, guesses.canaries)
        could = one_run_gaussian_bound(perfect, delta, confidence) > _MARGIN * claim
        return one_run_gaussian_bound(guesses, delta, confidence) + (claim if could else 0.0)

    guess_in, guess_out = plan_guesses(dirac_game(event), canaries=canaries, goal=goal, rng=rng)
    return AuditRule(
        test="one-run",
        assumes="family",
        canaries=canaries,
        delta=delta,
        confidence=confidence,
        guess_in=guess_in,
        guess_out=guess_out,
    )


def judge_one_run(
    seen: Observation, sealed: SealedCoins, rule: AuditRule, *, sample_rate: float, rng: np.random.Generator
) -> AuditResult:
    """Score by likelihood, judge by the f-DP test against the events that the mechanism reported.

    The bound that assumes nothing of the mechanism (Steinke et al., Theorem 5.2) stands in the details.
    """
    scores = poisson_scores(seen.observed, noise=seen.deviation, sample_rate=sample_rate)
    found = evidence(rule, scores, sealed.coins)
    assert isinstance(found, Guesses)
    event = whole(seen.events)
    return judge(
        scores,
        sealed,
        rule,
        name="one-run canary pairs",
        claim=epsilon(seen.events, rule.delta).epsilon,
        game=dirac_game(event),
        rng=rng,
        family=NoiseFamily.of([event]),
        details={
            "steps_observed": len(seen.observed),
            "guesses": found.made,
            "right": found.right,
            "assuming_nothing": one_run_bound(found, rule.delta, rule.confidence),
            "median_deviation": float(np.median(seen.deviation)),
            "noise_measured": float(np.sqrt(np.mean(seen.noise**2))),
        },
    )
