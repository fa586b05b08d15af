"""The scope of a privacy statement, from the configuration: whom one trusts, what is covered, what is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedpdpo_secure.budget import BudgetPlan
from fedpdpo_secure.claims import PUBLIC_DATA, UNITS, adversary, fitted, noise_by
from fedpdpo_secure.config import Config
from fedpdpo_secure.config.masking import graph_parameters
from fedpdpo_secure.methods import choose_method
from fedpdpo_secure.serving import wants_serving
from fedpdpo_secure.shares import distributed

HOLDS_IF = {
    "pair": "no pair is at two clients; a person with several pairs has the epsilons under `person`",
    "question": "no group has answers to more questions (a run that finds more is refused, which tells so); who "
    "answered several questions has the epsilons under `person`",
}


def dp_model(config: Config, budget: BudgetPlan) -> dict[str, Any]:
    """Local, distributed or central noise, by whom, and who is trusted with what."""
    return {"kind": model_kind(config), "noise_by": noise_by(config, budget), "against": adversary(config),
            "trusted": [fitted(config, text) for text in _trusted(config)]}  # fmt: skip


def model_kind(config: Config) -> str:
    """`none`, `central`, `distributed` or `local`."""
    if config.privacy.unit == "none":
        return "none"
    if config.method.name == "centralized":
        return "central"
    return "distributed" if distributed(config) else "local"


def _trusted(config: Config) -> list[str]:
    own = "each client's own machine and this code on it"
    kind, section = model_kind(config), config.secagg
    if kind == "none":
        return ["everyone who receives the adapter: nothing is noised"]
    if kind == "central":
        return ["whoever pools the pairs: it sees them all and adds the noise"]
    if kind == "local":
        return [f"{own}; the server and the other clients need not be trusted for this claim"]
    shares = (
        f"all but {config.privacy.lost} missing and {config.privacy.colluding} colluding clients: to add their share"
    )
    if not section.enabled:
        return [own, shares, "the server: it sees every client's vector (secure aggregation is off)"]
    server = "the server: to follow the protocol" if section.mode == "semi-honest" else "the roster of identity keys"
    return [own, shares, server]


def unit(config: Config) -> dict[str, Any]:
    """What one unit is, and how many a client may hold."""
    return {
        "name": config.privacy.unit,
        "words": UNITS[config.privacy.unit],
        "pairs_per_client": config.data.pairs_per_client,
        "questions_per_group": config.survey.questions_per_group if config.privacy.unit == "question" else None,
        "holds_if": HOLDS_IF.get(config.privacy.unit or "none", "one person's data is at one client"),
    }


def covered(config: Config, rounds: int) -> list[str]:
    """Everything that leaves the clients under the claim."""
    return [fitted(config, text) for text in _covered(config, rounds)]


def _covered(config: Config, rounds: int) -> list[str]:
    if config.method.name == "centralized":
        return [f"the pooled adapter after each of {rounds} rounds", "the final adapter"]
    # A client's vector of a run with noise in shares carries its own share alone: only the sum is under the claim.
    alone = not config.secagg.enabled and not distributed(config)
    seen = "every client's vector and their sum" if alone else "the sum"
    scope = f"{seen} of each of {rounds} rounds, reserved rounds that were cut included"
    if config.data.public:
        return [scope, "the final adapter and whatever is made of it"]
    return [scope, "the final adapter and whatever is made of it", "earlier runs on the same ledgers"]


def not_covered(
    config: Config, budget: BudgetPlan, *, reason: str | None, declared: Sequence[str], runs: int
) -> list[str]:
    """What no epsilon of this run is about, the most likely surprises first.

    `reason` is why nothing is private, if so; `declared` what was chosen on private data, by any run on the ledgers;
    `runs` how many there were.
    """
    lines = [] if reason is None else [f"everything this run released ({reason})"]
    if reason is None and distributed(config) and not config.secagg.enabled:
        lines.append("each client's own vector, which the server sees (secure aggregation is off): its share alone")
    if runs > 1:
        lines.append("noise, rate or rounds of a later run chosen after an earlier one's results: bounds are for plans")
    if reason is None and not config.data.public:
        lines.append("what audits on these data show: it is computed without noise and is the owners' own")
    if not choose_method(config).parts.empty and config.method.name != "centralized":
        lines.append("personal parts: they stay with their owner and protect nobody from whoever gets hold of them")
    if wants_serving(config) and config.method.name != "centralized":
        lines.append("serving copies: trained without noise on their owner's pairs; keep them private")
    lines.append("metrics marked `local, not released` (rounds.csv, rounds.jsonl, metrics.json): un-noised")
    lines += [f"chosen on private data and not charged: {text}" for text in declared]
    if not declared:
        lines.append("learning rate, clip norm, rounds or stopping chosen on private data: nothing was declared")
    if config.privacy.unit == "pair":
        lines.append("a person with several pairs, beyond the numbers given for that; pairs at several clients")
    if config.task == "pluralllm":
        lines += _outside_survey(config)
    else:
        lines.append("the base model's own training data, and public data it was warmed up on")
    lines.append(
        "who took part, the length of texts and the time that rounds take"
        if config.task == "fedpdpo"
        else "which groups took part, which questions there are, and the time that rounds take"
    )
    lines.append("what operating systems, other software and people at the clients leak")
    lines.append("poisoning: a client may send anything that fits its vector")
    if reason is None and not exact_arithmetic(budget):
        lines.append("floating-point attacks on the noise: it is float64, cast after it was added")
    if config.data.public:
        lines.append(PUBLIC_DATA)
    return lines


def _outside_survey(config: Config) -> list[str]:
    lines = []
    if config.privacy.unit == "question":
        lines.append("someone who answered more questions than the numbers given for that, or in several groups")
        lines.append("another survey of the same question under another data.id: it has a budget of its own")
    if config.survey.pretrain:
        lines.append(f"the answers of {', '.join(config.survey.pretrain)}: trained on without noise, declared public")
    if config.predictor.path is not None:
        lines.append("what the predictor of predictor.path was trained on: it is declared public")
    if config.data.public:
        lines.append("scores of groups that do not train: released without noise, as their answers are public")
    return [*lines, "the training data of the model that made the embeddings"]


def exact_arithmetic(budget: BudgetPlan) -> bool:
    """Whether clipped values are integers and noise comes from the exact discrete sampler."""
    return budget.shares is not None or budget.integer is not None


def implementation(config: Config, budget: BudgetPlan) -> dict[str, Any]:
    """The noise generator and the arithmetic."""
    if config.privacy.unit == "none":
        return {"generator": "none", "seeded": False, "arithmetic": "none", "words": "no noise is added"}
    seeded = config.privacy.insecure_seed is not None
    source = "privacy.insecure_seed: repeatable" if seeded else "keys from the operating system"
    exact = exact_arithmetic(budget)
    words = (
        "integers: each unit is rounded and its norm checked, noise is discrete Gaussian from exact tables, and the "
        "samplers' distance from the ideal law is charged to delta"
        if exact
        else "float64 (Box and Muller), cast after it was added: not hardened against attacks on floating-point noise"
    )
    return {
        "generator": f"AES-256 in counter mode, {source}; also of the Poisson sample",
        "seeded": seeded,
        "arithmetic": "integer" if exact else "float",
        "words": words,
    }


def secagg(config: Config) -> dict[str, Any]:
    """The masking protocol: mode, graph, threshold, least survivors, collusion, who signs."""
    section, clients = config.secagg, config.federation.clients
    if not section.enabled or config.method.name in ("local", "centralized"):
        words = "off: the server sees every client's vector" if not section.enabled else "nothing is summed"
        return {"enabled": False, "words": words, "mode": None, "graph": None, "neighbors": None, "threshold": None,
                "min_survivors": None, "bits": None, "collusion": None, "signed_by": None}  # fmt: skip
    graph, malicious = graph_parameters(config), section.mode == "malicious-server"
    most = (clients - 1) // 3 if malicious else (section.threshold or 1) - 1
    return {
        "enabled": True,
        "words": "pairwise masks after Bonawitz et al. 2017 and Bell et al. 2020",
        "mode": section.mode,
        "graph": "complete" if graph.complete else "sparse",
        "neighbors": clients - 1 if graph.complete else graph.neighbors,
        "threshold": section.threshold,
        "min_survivors": config.federation.min_survivors,
        "bits": section.bits,
        "collusion": f"at most {most} of {clients} clients with the server"
        if graph.complete
        else f"at most {section.corrupted:g} of the clients with the server, at most {section.dropped:g} dropped",
        "signed_by": "every client, with its long-term Ed25519 identity of the roster"
        if malicious
        else "nobody: keys and survivors are taken as the server sends them",
    }
