"""What a run may spend and has spent: the calibrated noise, and one ledger per client.

Charged before anything is trained, for every client that is told the plan; the federation's epsilon is the largest
client's, because clients hold disjoint pairs.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedpdpo_secure.charged_rows import ChargedRows
from fedpdpo_secure.config import Config, ConfigError, config_digest
from fedpdpo_secure.config.units import sampled
from fedpdpo_secure.known_heads import KnownHeads
from fedpdpo_secure.methods import Method
from fedpdpo_secure.owners import Owners
from fedpdpo_secure.partition_identity import check_partition, record_partition
from fedpdpo_secure.shares import distributed, integer_locally, plan_integer_steps, plan_shares
from privacy.accounting import Bound, epsilon, unamplified, worst
from privacy.calibration import noise_multiplier
from privacy.distributed import SharePlan
from privacy.errors import CommitMismatch, LedgerError
from privacy.events import Event, NonPrivate, gaussian_event
from privacy.integer_sgd import IntegerStepPlan
from privacy.ledger import Ledger, Reservation, default_root, ledger_path
from privacy.ledger_heads import Head
from privacy.ledger_record import UNITS, Reserve
from privacy.ledger_signing import owner_key
from privacy.ledger_view import charged_events, export
from privacy.planned import plan_digest

NOISE_TAIL = 1.1e-17  # mass that the normal transform leaves beyond 8.57 standard deviations, per coordinate and draw


@dataclass(frozen=True, slots=True)
class BudgetPlan:
    """Public privacy plan of a run."""

    budget: float  # epsilon that may be spent; inf: no finite budget
    delta: float
    noise_multiplier: float
    event: Event  # of one client in one round
    shares: SharePlan | None = None  # distributed noise
    integer: IntegerStepPlan | None = None  # local noise in integers

    def projected(self, rounds: int) -> Bound:
        """The bound after `rounds` rounds of this plan alone."""
        return epsilon([self.event] * rounds, self.delta)


def needs_dim(config: Config) -> bool:
    """Whether the noise can be planned only when the number of noised coordinates is known: integer noise."""
    return distributed(config) or integer_locally(config)


def plan_budget(config: Config, dim: int | None = None) -> BudgetPlan:
    """Calibrate the noise to the budget over all planned rounds; without DP the event is `NonPrivate`.

    `dim`, the noised coordinates (`FedPDPO.noised_size`), is needed for integer noise (`needs_dim`): rounding widens a
    unit with it. Raises ConfigError when no noise reaches the budget.
    """
    privacy, federation = config.privacy, config.federation
    if privacy.unit == "none":
        return BudgetPlan(math.inf, privacy.delta, 0.0, NonPrivate("privacy.unit: none"))
    budget = math.inf if privacy.epsilon is None else privacy.epsilon
    if needs_dim(config):
        if dim is None:
            raise ConfigError("privacy: integer noise is planned when the number of noised coordinates is known")
        return _integer_budget(config, dim, budget)
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
    event = gaussian_event(
        noise_multiplier=sigma,
        sample_rate=privacy.sample_rate,
        steps=federation.local_steps,
        unit="question" if privacy.unit == "question" else "pair",
    )
    return BudgetPlan(budget, privacy.delta, sigma, _not_private(config, sigma) or event)


def _integer_budget(config: Config, dim: int, budget: float) -> BudgetPlan:
    if distributed(config):
        shares = plan_shares(config, dim)
        event, integer = shares.event(), None
    else:
        shares, integer = None, plan_integer_steps(config, dim)
        assert config.federation.local_steps is not None
        event = integer.event(config.federation.local_steps)
    charged = _not_private(config, event.noise_multiplier) or event
    return BudgetPlan(budget, config.privacy.delta, event.noise_multiplier, charged, shares, integer)


def check_delta(config: Config, coordinates: int) -> None:
    """Refuse a delta so small that the tail the generator of real noise lacks would show in it. Raises ConfigError.

    Integer noise needs no such check: its distance from the ideal law is part of its event.
    """
    steps = config.federation.rounds * (config.federation.local_steps or 1)
    missing = NOISE_TAIL * coordinates * steps
    if sampled(config) and not needs_dim(config) and missing > 1e-3 * config.privacy.delta:
        raise ConfigError(
            f"privacy.delta: {config.privacy.delta:g} must be above {1e3 * missing:.2g} for {coordinates} coordinates "
            f"and {steps} steps (the noise ends at 8.57 standard deviations)"
        )


def keeps_ledgers(config: Config, method: Method) -> bool:
    """Whether the run's releases are recorded: all that is private, and all that data not declared public releases."""
    releases = method.aggregated or method.pooled
    return releases and (config.privacy.unit != "none" or not config.data.public)


def _not_private(config: Config, sigma: float) -> NonPrivate | None:
    """Why a round of this run costs more than any epsilon, if it does."""
    if config.privacy.insecure_seed is not None:
        return NonPrivate("seeded noise")
    if config.privacy.unit == "pair" and config.method.personal == "free":
        return NonPrivate("un-noised personal parts in the loop (privacy.allow_unsound)")
    return NonPrivate("clip only") if sigma == 0 else None


def ledger_root(config: Config, output_dir: Path) -> Path:
    """Where clients' ledgers are: in the run folder for public data, else in the owner's state folder."""
    if config.data.public:
        return output_dir / "ledger"
    return Path(config.privacy.ledger_root) if config.privacy.ledger_root else default_root()


class ClientLedgers:
    """The ledgers of all clients of a run; each is opened, locked, for one operation at a time.

    The federation keeps the last head of each (`known_heads`), so that one that was cut or put back is refused, and of
    data not declared public the tags of the rows charged (`charged_rows`). Ledgers are signed where their folder holds
    an owner's key (`fedpdpo ledger key`).
    """

    def __init__(self, config: Config, plan: BudgetPlan, output_dir: Path, owners: Owners) -> None:
        """Raises ConfigError, LedgerMismatch or LedgerBroken where the ledgers cannot serve this run."""
        self._config, self._plan = config, plan
        self._root, self._output = ledger_root(config, output_dir), output_dir
        self._clients = tuple(owners.clients)
        try:
            self._key = owner_key(self._root)
        except LedgerError as error:
            raise ConfigError(f"privacy.ledger_root: {error}") from error
        self._run_id = f"{output_dir.name}-{secrets.token_hex(4)}"
        self._context = {
            "config": config_digest(config),
            "clip_norm": config.privacy.clip_norm,
            "expected_batch": config.privacy.expected_batch or 0.0,
            "plan": plan_digest([plan.event] * config.federation.rounds),
            "unaccounted_releases": "; ".join(config.privacy.unaccounted_releases),
        }
        self._heads = KnownHeads(self._folder(self._root), self._folder(self._output / "ledger"))
        check_partition(config, self._root, self._clients)
        self._rows = None if config.data.public else ChargedRows(self._root, config.data.id, owners.rows())
        record_partition(config, self._root, self._clients)
        for client in self._clients:  # a ledger that cannot serve this run is refused before anything is made
            self._open(client).close()

    def _folder(self, root: Path) -> Path:
        return ledger_path(root, self._config.data.id, self._clients[0]).parent

    def _open(self, client: str) -> Ledger:
        # An infinite event is only allowed where no finite budget is promised.
        finite = not isinstance(self._plan.event, NonPrivate)
        return Ledger.open(
            ledger_path(self._root, self._config.data.id, client),
            budget_epsilon=self._plan.budget if finite else math.inf,
            delta=self._plan.delta,
            data_id=self._config.data.id,
            client=client,
            unit=self._config.privacy.unit if self._config.privacy.unit in UNITS else None,
            reason=self._config.privacy.raise_budget_reason,
            key=self._key,
            heads=self._heads.of(self._config.data.id, client),
        )

    def reserve(self, round_index: int, participants: Sequence[int]) -> dict[int, Reservation]:
        """Charge the round to every participant, or raise BudgetExceeded before any is charged."""
        for index in participants:
            with self._open(self._clients[index]) as ledger:
                ledger.check(self._plan.event)
        if self._rows is not None:
            self._rows.charge()
        reservations, heads = {}, []
        for index in participants:
            with self._open(self._clients[index]) as ledger:
                reservations[index] = ledger.reserve(self._plan.event, self._run_id, round_index, self._context)
                heads.append(ledger.head())
        self._heads.keep(heads)
        return reservations

    def commit(self, reservation: Reservation, index: int, event: Event) -> None:
        """Record what one client did. Raises CommitMismatch, after charging it, if it was more than the plan."""
        with self._open(self._clients[index]) as ledger:
            try:
                ledger.commit(reservation, event)
            except CommitMismatch:
                self._heads.keep([ledger.head()])  # a commit charges nothing, this did
                raise

    def reject_samples(self) -> None:
        """Record in every ledger that this run's samples were not Poisson, those before a resume too; its events then
        count unamplified."""
        heads, name, config = [], self._output.name, self._context["config"]
        for client in self._clients:
            with self._open(client) as ledger:
                made = [one.body for one in ledger.records if isinstance(one.body, Reserve)]
                mine = {one.run_id for one in made if one.context.get("config") == config}
                for run_id in sorted(one for one in mine if one.rpartition("-")[0] == name):
                    ledger.reject_samples(run_id)
                heads.append(ledger.head())
        self._heads.keep(heads)

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
        bound, heads = self._worst(0)
        self._heads.keep(heads)
        return bound

    def without_sampling(self) -> Bound:
        """The largest client's bound if the adversary knew every sample: what is left of a rejected sampler."""
        bounds = []
        for client in self._clients:
            with self._open(client) as ledger:
                bounds.append(unamplified(charged_events(ledger.records), self._plan.delta))
        return worst(bounds)

    def projected(self, rounds: int) -> Bound:
        """The largest client's bound if `rounds` more rounds were charged."""
        return self._worst(rounds)[0]

    def _worst(self, rounds: int) -> tuple[Bound, list[Head]]:
        bounds, heads = [], []
        for client in self._clients:
            with self._open(client) as ledger:
                events = [*charged_events(ledger.records), *[self._plan.event] * rounds]
                heads.append(ledger.head())
            bounds.append(epsilon(events, self._plan.delta))
        return worst(bounds), heads
