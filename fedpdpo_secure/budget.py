"""What a run may spend and has spent: the calibrated noise, and one ledger per client.

Charged before anything is trained, for every client that is told the plan; the federation's epsilon is the largest
client's, because clients hold disjoint pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedpdpo_secure.config import Config, ConfigError
from privacy.accounting import Bound, epsilon
from privacy.calibration import noise_multiplier
from privacy.events import Event, NonPrivate, gaussian_event
from privacy.ledger import Ledger, Reservation, default_root, ledger_path
from privacy.ledger_view import export


@dataclass(frozen=True, slots=True)
class BudgetPlan:
    """Public privacy plan of a run with `privacy.unit: pair`."""

    budget: float  # epsilon that may be spent; inf: no finite budget
    delta: float
    noise_multiplier: float
    event: Event  # of one client in one round

    def projected(self, rounds: int) -> Bound:
        """The bound after `rounds` rounds."""
        return epsilon([self.event] * rounds, self.delta)


def plan_budget(config: Config) -> BudgetPlan:
    """Calibrate the noise to the budget over all planned rounds. Raises ConfigError when that is impossible."""
    privacy, federation = config.privacy, config.federation
    assert federation.local_steps is not None
    sigma = privacy.noise_multiplier
    if sigma is None:
        assert privacy.epsilon is not None
        try:
            steps = federation.rounds * federation.local_steps
            sigma = noise_multiplier(
                epsilon=privacy.epsilon, delta=privacy.delta, sample_rate=privacy.sample_rate, steps=steps
            )
        except ValueError as error:
            raise ConfigError(f"privacy.epsilon: {error}") from error
    budget = math.inf if privacy.epsilon is None else privacy.epsilon
    return BudgetPlan(budget, privacy.delta, sigma, _round_event(config, sigma))


def _round_event(config: Config, sigma: float) -> Event:
    privacy = config.privacy
    if privacy.insecure_seed is not None:
        return NonPrivate("seeded noise")
    if config.method.personal == "free":
        return NonPrivate("un-noised personal parts in the loop (privacy.allow_unsound)")
    if sigma == 0:
        return NonPrivate("clip only")
    assert config.federation.local_steps is not None
    return gaussian_event(noise_multiplier=sigma, sample_rate=privacy.sample_rate, steps=config.federation.local_steps)


def ledger_root(config: Config, output_dir: Path) -> Path:
    """Where clients' ledgers are: in the run folder for public data, else in the owner's state folder."""
    if config.data.public:
        return output_dir / "ledger"
    return Path(config.privacy.ledger_root) if config.privacy.ledger_root else default_root()


class ClientLedgers:
    """The ledgers of all clients of a run; each is opened, locked, for one operation at a time."""

    def __init__(self, config: Config, plan: BudgetPlan, output_dir: Path, clients: Sequence[str]) -> None:
        self._config, self._plan = config, plan
        self._root, self._output = ledger_root(config, output_dir), output_dir
        self._clients = tuple(clients)
        self._run_id = output_dir.name

    def _open(self, client: str) -> Ledger:
        # An infinite event is only allowed where no finite budget is promised.
        finite = not isinstance(self._plan.event, NonPrivate)
        return Ledger.open(
            ledger_path(self._root, self._config.data.id, client),
            budget_epsilon=self._plan.budget if finite else math.inf,
            delta=self._plan.delta,
            data_id=self._config.data.id,
            client=client,
            reason=self._config.privacy.raise_budget_reason,
        )

    def reserve(self, round_index: int, participants: Sequence[int]) -> dict[int, Reservation]:
        """Charge the round to every participant, or raise BudgetExceeded before any is charged."""
        for index in participants:
            with self._open(self._clients[index]) as ledger:
                ledger.check(self._plan.event)
        reservations = {}
        for index in participants:
            with self._open(self._clients[index]) as ledger:
                reservations[index] = ledger.reserve(self._plan.event, run_id=self._run_id, round_index=round_index)
        return reservations

    def commit(self, reservations: dict[int, Reservation], event: Event) -> None:
        """Record that the round's release happened as planned."""
        for index, reservation in reservations.items():
            with self._open(self._clients[index]) as ledger:
                ledger.commit(reservation, event)

    def export(self) -> None:
        """Copy the ledgers into the run folder where they live elsewhere (data not declared public)."""
        if self._config.data.public:
            return
        for client in self._clients:
            copy = ledger_path(self._output / "ledger", self._config.data.id, client)
            copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            export(ledger_path(self._root, self._config.data.id, client), copy)

    def spent(self) -> Bound:
        """The largest client's bound."""
        bounds = []
        for client in self._clients:
            with self._open(client) as ledger:
                bounds.append(ledger.epsilon())
        return max(bounds, key=lambda bound: bound.epsilon)
