"""FedPDPO as a task of the round: local training of one client against the shared adapter, and its evaluation.

One backbone and one set of personal parts are in memory; the client at work has its state written into them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedpdpo_secure.config import Config
from fedpdpo_secure.evaluate import Metrics, measure
from fedpdpo_secure.local.fit import fit
from fedpdpo_secure.local.plain import Phase
from fedpdpo_secure.local.plan import LocalPlan, LocalUpdate, NonFiniteError, objective_plan
from fedpdpo_secure.local.private import integer_step, train_private
from fedpdpo_secure.local.state import ClientState, StateFolder, read_tensors, write_tensors
from fedpdpo_secure.methods import Method
from fedpdpo_secure.model.backbone import Backbone
from fedpdpo_secure.model.layout import Named, ParamLayout, assign, flatten
from fedpdpo_secure.model.lora import lora_parameters, shared_parameters
from fedpdpo_secure.model.personal import PersonalParts
from fedpdpo_secure.model.policy import Policy
from fedpdpo_secure.pairs.store import PairStore
from privacy.distributed import SharePlan, noised_unit
from privacy.entropy import Entropy
from privacy.sample_log import SampleLog

POOLED = "pooled"


@dataclass(frozen=True)
class Client:
    """One participant: its name, its place in the roster, and the units it trains on."""

    name: str
    index: int
    train: PairStore  # PluralLLM: int64[n], its questions


class FedPDPO:
    """The task: what is shared, how one client trains it, how a client is measured."""

    def __init__(self, config: Config, method: Method, backbone: Backbone, root: Path) -> None:
        self.config, self.method, self.backbone = config, method, backbone
        self.states = StateFolder(root)
        self.sample_logs: dict[str, SampleLog] = {}  # of each client's private samples, for its own attestation
        self.personal = None
        if not method.parts.empty:
            rng = np.random.default_rng([config.seed, 0x9E])
            self.personal = PersonalParts(method.parts, backbone.head, rng).to(backbone.device)
        self._initial = read_tensors(self.personal) if self.personal is not None else {}

    # ---- the shared vector ---------------------------------------------------------------------------------------

    def lora(self) -> NDArray[np.float64]:
        """float64[F]: the whole adapter as it stands in the model."""
        return flatten(lora_parameters(self.backbone.model))

    def set_lora(self, vector: NDArray[np.float64]) -> None:
        """Write a whole adapter into the model."""
        assign(lora_parameters(self.backbone.model), vector)

    def shared(self, round_index: int) -> Named:
        """(name, parameter) of what trains and is summed in a round."""
        return shared_parameters(self.backbone.model, self.config.lora.train, round_index)

    def layout(self, round_index: int) -> ParamLayout:
        """Names and shapes of the round's update vector."""
        return ParamLayout.of(self.shared(round_index))

    def noised_size(self) -> int:
        """Most coordinates that a private step noises: the round's shared ones, and personal parts trained jointly.

        The larger of two alternating rounds. A public number of the model's shape.
        """
        shared = max(self.layout(round_index).size for round_index in (1, 2))
        if self.personal is None or self.config.method.personal != "joint" or self.config.privacy.unit != "pair":
            return shared
        return shared + sum(value.numel() for value in self.personal.parameters())

    def weight_bound(self, clients: Sequence[Client]) -> int:
        """Public bound on a client's pairs; undeclared, the largest client's number becomes public."""
        return self.config.data.pairs_per_client or max(len(client.train) for client in clients)

    def with_update(
        self, lora: NDArray[np.float64], round_index: int, update: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """float64[F]: `lora` plus `update` on the coordinates that this round trains."""
        trained = {name for name, _ in self.shared(round_index)}
        result, at, used = lora.copy(), 0, 0
        for name, value in lora_parameters(self.backbone.model):
            if name in trained:
                result[at : at + value.numel()] += update[used : used + value.numel()]
                used += value.numel()
            at += value.numel()
        return result

    # ---- one client ----------------------------------------------------------------------------------------------

    def in_loop(self) -> bool:
        """Whether personal parts take part in the federation's own rounds (not `frozen`)."""
        return self.personal is not None and self.config.method.personal != "frozen"

    def load_client(self, client: str, round_index: int) -> ClientState:
        """Write the client's state after `round_index` into the personal parts; returns it."""
        state = self.states.load(client, round_index)
        if self.personal is not None:
            write_tensors(self.personal, state.personal or self._initial)
        return state

    def train_locally(
        self, lora: NDArray[np.float64], client: Client, plan: LocalPlan, entropy: Entropy
    ) -> LocalUpdate:
        """Train `client` from the shared `lora`; keeps its personal state on disk and returns its update.

        Raises NonFiniteError naming client, round and step.
        """
        state = self.load_client(client.name, plan.round_index - 1)
        self.set_lora(state_lora(state, lora))
        if plan.shares is not None and plan.shares.unit == "pair":
            return self._distributed_step(client, plan, plan.shares, entropy)
        if plan.shares is not None:
            return self._noised_client(lora, client, plan, plan.shares, entropy)
        return self._trained(client, plan, entropy, state)

    def _noised_client(
        self, lora: NDArray[np.float64], client: Client, plan: LocalPlan, shares: SharePlan, entropy: Entropy
    ) -> LocalUpdate:
        """The whole update as one unit. Training that diverged counts as zero: an abort would tell of it un-noised."""
        state = self.load_client(client.name, plan.round_index - 1)
        try:
            update = self._trained(client, plan, entropy, state)
        except NonFiniteError:
            state = self.load_client(client.name, plan.round_index - 1)
            self.set_lora(state_lora(state, lora))
            self._keep(client, plan.round_index, state.moments)
            update = LocalUpdate(np.zeros(shares.dim), len(client.train), float("nan"), plan.steps or 0)
        integers, event = noised_unit(update.update, shares, entropy)
        local = {"update_norm": float(np.linalg.norm(update.update))}
        return replace(update, event=event, local=local, integers=integers)

    def _trained(self, client: Client, plan: LocalPlan, entropy: Entropy, state: ClientState) -> LocalUpdate:
        before = flatten(self.shared(plan.round_index))
        update = self._private(client, plan, entropy, state) if plan.dp else self._plain(client, plan, state)
        after = flatten(self.shared(plan.round_index))
        if not np.isfinite(after).all():
            raise NonFiniteError(
                f"client {client.name}, round {plan.round_index}, step {update.steps}: non-finite parameters"
            )
        return LocalUpdate(after - before, update.pairs, update.loss, update.steps, update.event, update.local)

    def _distributed_step(self, client: Client, plan: LocalPlan, shares: SharePlan, entropy: Entropy) -> LocalUpdate:
        """One step's integer sum of clipped gradients and a share of noise; nothing of the client's own trains."""
        policy = Policy(self.backbone, None)
        names = {id(value): name for name, value in policy.named_parameters()}
        values = [(names[id(value)], value) for _, value in self.shared(plan.round_index)]
        log = self.sample_logs.setdefault(client.name, SampleLog())
        summed, loss, local = integer_step(policy, values, client.train, plan, shares, entropy=entropy, log=log)
        return LocalUpdate(np.zeros(0), len(client.train), loss, 1, summed.event, local, summed.vector)

    def _plain(self, client: Client, plan: LocalPlan, state: ClientState) -> LocalUpdate:
        loss, moments = self.fit(client, [plan], self.shared(plan.round_index), state.moments, phases=self._phases())
        self._keep(client, plan.round_index, moments)
        steps = plan.steps or -(-len(client.train) // min(plan.batch_size, len(client.train)))
        return LocalUpdate(np.zeros(0), len(client.train), loss, steps)

    def fit(
        self,
        client: Client,
        passes: Sequence[LocalPlan],
        shared: Named,
        moments: dict[str, torch.Tensor],
        *,
        phases: Sequence[Phase],
    ) -> tuple[float, dict[str, torch.Tensor]]:
        """Un-noised training in place of `shared` and the personal parts: (last loss, personal moments)."""
        return fit(
            Policy(self.backbone, self.personal),
            shared,
            client.train,
            passes,
            phases,
            moments=moments,
            proximal_mu=self.method.proximal_mu,
            client_seed=client.index,
        )

    def _phases(self) -> tuple[Phase, ...]:
        if self.personal is None:
            return ("shared",)
        return ("personal", "shared") if self.method.schedule == "alternating" else ("joint",)

    def _private(self, client: Client, plan: LocalPlan, entropy: Entropy, state: ClientState) -> LocalUpdate:
        joint = self.config.method.personal == "joint" and self.personal is not None
        unsound = self.config.method.personal == "free" and self.personal is not None
        moments: dict[str, torch.Tensor] = {}
        if unsound:
            moments = self.fit(client, [plan], self.shared(plan.round_index), state.moments, phases=("personal",))[1]
        policy = Policy(self.backbone, self.personal if joint or unsound else None)
        names = {id(value): name for name, value in policy.named_parameters()}
        values = [value for _, value in self.shared(plan.round_index)]
        if joint and self.personal is not None:
            values += list(self.personal.parameters())
        event, loss, local = train_private(
            policy,
            [(names[id(value)], value) for value in values],
            client.train,
            plan,
            with_reward=joint and self.method.parts.reward_head,
            entropy=entropy,
            log=self.sample_logs.setdefault(client.name, SampleLog()),
        )
        if joint or unsound:
            self._keep(client, plan.round_index, moments)
        assert plan.steps is not None
        return LocalUpdate(np.zeros(0), len(client.train), loss, plan.steps, event, local)

    def _keep(self, client: Client, round_index: int, moments: dict[str, torch.Tensor]) -> None:
        personal = read_tensors(self.personal) if self.personal is not None else {}
        alone = not self.method.aggregated and not self.method.pooled
        lora = {"vector": torch.from_numpy(self.lora())} if alone else {}
        if personal or lora:
            self.states.save(client.name, round_index, ClientState(personal, moments, lora))

    # ---- measurement ---------------------------------------------------------------------------------------------

    def evaluate(self, lora: NDArray[np.float64], client: str | None, round_index: int, store: PairStore) -> Metrics:
        """Metrics of `store` under the adapter and, if `client` is given, its personal state and own adapter."""
        policy = Policy(self.backbone, self.personal if client is not None else None)
        if client is not None:
            lora = state_lora(self.load_client(client, round_index), lora)
        self.set_lora(lora)
        objective = objective_plan(self.config, self.config.federation.rounds + self.config.dpo.gamma_warmup_rounds + 1)
        return measure(policy, store, objective, micro_batch=max(16, self.config.dpo.micro_batch))


def state_lora(state: ClientState, lora: NDArray[np.float64]) -> NDArray[np.float64]:
    """The client's own adapter if it keeps one, else the shared one."""
    return state.lora["vector"].numpy() if state.lora else lora
