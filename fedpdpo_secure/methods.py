"""Methods as values: which parts are personal, what is averaged, in which order parts train.

FedPDPO and its baselines differ in this record alone; there is one training loop.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from fedpdpo_secure.config import Config
from fedpdpo_secure.model.personal import PersonalPlan

Schedule = Literal["alternating", "joint"]


@dataclass(frozen=True, slots=True)
class Method:
    """One way to train a federation."""

    name: str
    parts: PersonalPlan
    schedule: Schedule  # alternating: personal phase, then shared phase; joint: one step for both
    aggregated: bool = True  # False: every client keeps its own LoRA and nothing is sent
    pooled: bool = False  # True: all pairs in one place (the upper reference, no federation)
    proximal_mu: float = 0.0  # weight of ||theta - theta_global||^2 / 2 (FedProx)

    @property
    def scores_explicitly(self) -> bool:
        """Whether the method's own scoring rule is the combined score."""
        return self.parts.reward_head


NO_PARTS = PersonalPlan(bottleneck=False, lm_head="none", reward_head=False)
ALL_PARTS = PersonalPlan(bottleneck=True, lm_head="low_rank", reward_head=True)
HEAD_ONLY = PersonalPlan(bottleneck=False, lm_head="low_rank", reward_head=False)

METHODS: dict[str, Method] = {
    "fedpdpo": Method("fedpdpo", ALL_PARTS, "alternating"),
    "fedavg": Method("fedavg", NO_PARTS, "joint"),
    "fedprox": Method("fedprox", NO_PARTS, "joint", proximal_mu=0.01),
    "fedper": Method("fedper", HEAD_ONLY, "joint"),
    "fedrep": Method("fedrep", HEAD_ONLY, "alternating"),
    "local": Method("local", ALL_PARTS, "alternating", aggregated=False),
    "centralized": Method("centralized", NO_PARTS, "joint", aggregated=False, pooled=True),
}


def choose_method(config: Config) -> Method:
    """The configured method: its value with the configured changes (the ablations)."""
    section, base = config.method, METHODS[config.method.name]
    parts = PersonalPlan(
        bottleneck=base.parts.bottleneck if section.bottleneck is None else section.bottleneck,
        lm_head=section.lm_head or base.parts.lm_head,
        reward_head=base.parts.reward_head if section.reward_head is None else section.reward_head,
        bottleneck_size=section.bottleneck_size,
        head_rank=section.head_rank,
    )
    schedule = section.schedule or base.schedule
    if config.privacy.unit == "pair" and section.personal != "free" and base.aggregated:
        schedule = "joint"  # frozen: only LoRA trains; joint: one per-pair gradient over everything
    mu = section.proximal_mu if base.proximal_mu else 0.0
    return replace(base, parts=parts, schedule=schedule, proximal_mu=mu)
