"""One federation's client with or without one pair, trained by the product's own code: the game that membership plays.

A small model and a small client, made from a configuration, run in one of four schemes. `naive` noises the adapter
while the personal parts train without noise on the same pairs (`method.personal: free` under a pair-level claim);
`frozen`, `joint` and `client` are the sound ones. Every round is released by `FedPDPO.train_locally`, noise included.
The attacker knows every other pair and all code, and sees what each round released. So it computes, at each released
point, what would have been released without noise with and without the pair, un-noised history included.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedpdpo_secure.audits.shadow import Shadow
from fedpdpo_secure.budget import BudgetPlan, plan_budget
from fedpdpo_secure.config import Config, ConfigError, make_config
from fedpdpo_secure.local.plan import LocalPlan, local_plan
from fedpdpo_secure.model.layout import flatten
from fedpdpo_secure.pairs.packing import TokenPair
from fedpdpo_secure.task import Client
from privacy.accounting import epsilon
from privacy.calibration import noise_multiplier
from privacy.distributed import noise_share
from privacy.dpsgd import DPStepPlan
from privacy.entropy import Entropy
from privacy.events import FullBatchGaussian
from privacy.units import replaced

Scheme = Literal["naive", "frozen", "joint", "client"]
SCHEMES: tuple[Scheme, ...] = ("naive", "frozen", "joint", "client")

PAIRS = 16  # of the attacked client, the target included
ROUNDS = 4
_SMALL: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 16, "layers": 1, "warm_start_steps": 60},
    "synthetic": {"pairs": PAIRS, "validation_pairs": 0, "test_pairs": 2, "public_dialogues": 200},
    "federation": {"clients": 3, "rounds": ROUNDS, "local_steps": 1, "min_survivors": 3, "drop": []},
    "lora": {"r": 4, "alpha": 8.0, "target_modules": ["down_proj"]},
    "dpo": {"max_length": 32, "max_prompt_length": None, "batch_size": 2 * PAIRS, "micro_batch": 2 * PAIRS},
    "privacy": {"sample_rate": 1.0, "expected_batch": None, "lost": 0, "colluding": 1, "insecure_seed": None},
    "secagg": {"enabled": False, "mode": "semi-honest", "threshold": None, "identities": None, "bits": 32},
}
TARGET = "the client's first pair again with its answers swapped: a mislabelled contradiction of that pair"


@dataclass(frozen=True, slots=True)
class Claim:
    """What an accountant says of all rounds, for one pair more or less at the client.

    The event is of a full batch and in units of the most that the pair may move a release by: `sensitivity`, in clip
    norms. For the naive scheme this is what an accountant prints who does not know of the un-noised personal parts.
    """

    event: FullBatchGaussian
    epsilon: float
    sensitivity: float  # 1; 2 where the whole update is clipped, because the pair may replace it by any other


@dataclass(frozen=True, slots=True)
class Play:
    """One run: the exact log likelihood ratio of "in" against "out", and what the pair moved in each round."""

    score: float
    moves: NDArray[np.float64]  # [rounds], L2, in units of the claimed sensitivity


def scheme_of(config: Config) -> Scheme:
    """The scheme that `config` trains by. Raises ConfigError for one that this game does not know."""
    if config.task != "fedpdpo":
        raise ConfigError(f"task: {config.task} has no membership attack; it is for fedpdpo")
    if config.privacy.unit == "none":
        raise ConfigError("privacy.unit: none claims nothing, so there is nothing to audit")
    if config.privacy.noise_multiplier == 0 or config.privacy.epsilon == math.inf:
        raise ConfigError("privacy.epsilon: clip only claims nothing, so there is nothing to audit")
    if config.privacy.unit == "client":
        return "client"
    if config.privacy.noise == "distributed":
        raise ConfigError("privacy.noise: membership attacks local noise, or unit client; use --attack noise here")
    return "naive" if config.method.personal == "free" else "joint" if config.method.personal == "joint" else "frozen"


def small_config(config: Config, changes: Mapping[str, Mapping[str, Any]] | None = None) -> Config:
    """`config` on the small model and the small client, with `changes` on top; the budget is spent over ROUNDS rounds.

    Kept: the objective, the learning rates, the personal parts, clip norm, epsilon (or noise multiplier) and delta.
    """
    values = config.model_dump(mode="python")
    values |= {"model_name_or_path": "builtin:tiny", "dataset_name": "builtin:synthetic", "device": "cpu"}
    values |= {"data": {"id": "audit"}, "model": {}}
    small = {name: dict(section) for name, section in _SMALL.items()}
    if config.privacy.unit == "pair":
        small["privacy"]["arithmetic"] = "float"
    for section in (small, changes or {}):
        for name, part in section.items():
            values[name] = {**values[name], **part}
    return make_config(values)


def scheme_config(config: Config, scheme: Scheme) -> Config:
    """The small configuration of another scheme with the budget of `config` for one pair.

    `client` doubles the noise, because a pair may turn the client's update into any other.
    """
    if scheme != "client":
        personal = "free" if scheme == "naive" else scheme
        return small_config(
            config,
            {"method": {"personal": personal, "schedule": None}, "privacy": {"allow_unsound": scheme == "naive"}},
        )
    privacy = config.privacy
    noise = privacy.noise_multiplier or noise_multiplier(
        epsilon=privacy.epsilon or 0.0, delta=privacy.delta, sample_rate=1.0, steps=ROUNDS
    )
    noised = {"unit": "client", "noise": "distributed", "epsilon": None, "noise_multiplier": 2 * noise}
    return small_config(
        config,
        {
            "method": {"personal": "free", "schedule": None},
            "privacy": {**noised, "arithmetic": None},
            "dpo": {"learning_rate": 0.05},
        },
    )


class MembershipGame:
    """The attacked client in a shadow copy, with and without the target pair, ready to be trained many times."""

    def __init__(self, shadow: Shadow, config: Config) -> None:
        """`shadow` was prepared from `config`, a configuration of `small_config`."""
        self.config, self.scheme = config, scheme_of(config)
        self._task, self._initial = shadow.prepared.task, shadow.prepared.initial
        pairs = shadow.client(None).train
        others = [pairs[index] for index in range(PAIRS - 1)]
        self._stores = {
            True: shadow.store("with", [*others, mislabelled(others[0])]),
            False: shadow.store("without", others),
        }
        self._guesses = {member: Client(f"guess-{member}", 0, store) for member, store in self._stores.items()}
        self._budget = plan_budget(config, self._task.layout(1).size)
        self.claim = self._claim()
        self._first: dict[bool, NDArray[np.float64]] = {}

    def play(self, member: bool, entropy: Entropy) -> Play:
        """Train once with the target in or out, and attack what was released. Noise comes from `entropy` alone."""
        task = self._task
        task.sample_logs.clear()
        attacked = Client("attacked", 0, self._stores[member])
        task.states.discard_after(attacked.name, 0)
        for guess in self._guesses.values():  # what follows the first round's public point is the same in every run
            task.states.discard_after(guess.name, 1)
        lora, score, moves = self._initial, 0.0, []
        for round_index in range(1, self.config.federation.rounds + 1):
            seen, update = self._release(lora, attacked, round_index, entropy.child("round", round_index))
            means = self._means(lora, attacked.name, round_index)
            score += log_ratio(seen, means[True], means[False], self._deviation)
            moves.append(float(np.linalg.norm(means[True] - means[False])) / self.claim.sensitivity)
            lora = task.with_update(lora, round_index, update)
        return Play(score, np.array(moves))

    def _claim(self) -> Claim:
        rounds, delta = self.config.federation.rounds, self.config.privacy.delta
        shares = self._budget.shares
        if shares is not None:
            event = shares.event()
            counted = FullBatchGaussian(noise_multiplier=event.noise_multiplier / 2, steps=rounds)
            return Claim(counted, replaced([event] * rounds, delta).epsilon, 2.0)
        counted = FullBatchGaussian(noise_multiplier=self._budget.noise_multiplier, steps=rounds)
        return Claim(counted, epsilon([counted], delta).epsilon, 1.0)

    @property
    def _deviation(self) -> float:
        """The claimed noise of one coordinate of a release, in clip norms."""
        shares = self._budget.shares
        if shares is None:
            return self._budget.noise_multiplier
        return float(np.sqrt(shares.event().variance)) / shares.levels

    def _release(
        self, lora: NDArray[np.float64], client: Client, round_index: int, entropy: Entropy
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(what the adversary sees, in clip norms; the update that the server applies)."""
        shares = self._budget.shares
        plan = _plan(self.config, self._budget, round_index)
        if shares is None:
            return self._noised_sum(lora, client, plan, entropy)
        sent = self._task.train_locally(lora, client, plan, entropy.child("attacked")).integers
        assert sent is not None  # distributed noise
        for other in range(1, shares.clients - shares.colluding):  # the honest others send nothing but their shares
            sent = sent + noise_share(shares, entropy.child("other", other))
        seen = sent[: shares.dim] / shares.levels
        return seen, seen * shares.clip_norm / shares.clients

    def _means(self, lora: NDArray[np.float64], attacked: str, round_index: int) -> dict[bool, NDArray[np.float64]]:
        """What would be seen without noise, with and without the target. The first round's point is public."""
        if round_index == 1 and self._first:
            return self._first
        found = {member: self._mean(lora, guess, attacked, round_index) for member, guess in self._guesses.items()}
        if round_index == 1:
            self._first = found
        return found

    def _mean(self, lora: NDArray[np.float64], guess: Client, attacked: str, round_index: int) -> NDArray[np.float64]:
        plan = _plan(self.config, self._budget, round_index)
        states = self._task.states
        if self.scheme == "joint":  # personal parts are noised as well: the attacker may see them
            states.save(guess.name, round_index - 1, states.load(attacked, round_index - 1))
        if plan.shares is None:
            assert isinstance(plan.dp, DPStepPlan)
            silent = replace(plan, dp=replace(plan.dp, noise_multiplier=0.0))
            return self._noised_sum(lora, guess, silent, Entropy.os())[0]
        clip = plan.shares.clip_norm
        update = self._task.train_locally(lora, guess, replace(plan, shares=None), Entropy.os()).update
        return update / max(clip, float(np.linalg.norm(update)))

    def _noised_sum(
        self, lora: NDArray[np.float64], client: Client, plan: LocalPlan, entropy: Entropy
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(the noised sum in clip norms, read off what moved; the update)."""
        assert isinstance(plan.dp, DPStepPlan)
        own = self._task.personal if self.scheme == "joint" else None
        self._task.load_client(client.name, plan.round_index - 1)
        before = flatten(list(own.named_parameters())) if own is not None else np.zeros(0)
        update = self._task.train_locally(lora, client, plan, entropy).update
        after = flatten(list(own.named_parameters())) if own is not None else np.zeros(0)
        moved = np.concatenate([update, after - before])
        return -moved * (plan.dp.expected_batch / plan.dp.learning_rate), update


def mislabelled(pair: TokenPair) -> TokenPair:
    """The pair with its answers swapped."""
    reference = None if pair.reference is None else pair.reference[::-1].copy()
    return TokenPair(pair.prompt, pair.rejected, pair.chosen, reference)


def log_ratio(
    seen: NDArray[np.float64], inside: NDArray[np.float64], outside: NDArray[np.float64], deviation: float
) -> float:
    """log of N(seen; inside, deviation^2 I) over N(seen; outside, deviation^2 I), vectors of one length."""
    step = inside - outside
    return float(step @ (seen - (inside + outside) / 2) / deviation**2)


def _plan(config: Config, budget: BudgetPlan, round_index: int) -> LocalPlan:
    return local_plan(config, round_index, budget.noise_multiplier, budget.shares)
