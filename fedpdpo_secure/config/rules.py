"""Rules that join several fields of the configuration, and the values derived from them.

Everything here is decided from public values alone: no row of data and no model has been read yet.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from fedpdpo_secure.config.errors import ConfigError
from fedpdpo_secure.config.masking import graph_parameters
from fedpdpo_secure.config.models import Config
from fedpdpo_secure.config.task_rules import check_task, with_task
from fedpdpo_secure.config.units import declared_size, size_field
from secagg import FixedPoint, Stage, default_threshold
from secagg.solver import GraphParameters

BUILTIN_DATA = "builtin:synthetic"
ARITHMETIC: Literal["float", "integer"] = "integer"  # of local noise, unless chosen: measured in docs/integer-noise.md


def resolve(config: Config) -> Config:
    """`config` with every null that has a derived value filled in; raises ConfigError where a joint rule fails."""
    config = with_task(config)
    config = _with_shares(config)
    _check_federation(config)  # before what is derived from its size
    config = _with_sizes(config)
    config = _with_personal(config)
    config = _with_arithmetic(config)
    for rule in (check_task, _check_privacy, _check_personal, _check_secagg, _check_schedule, _check_method):
        rule(config)
    return config


def releases(config: Config) -> bool:
    """Whether anything leaves a client at all: `local` trains alone."""
    return config.method.name != "local"


def _fill(config: Config, **sections: dict[str, Any]) -> Config:
    return config.model_copy(
        update={name: getattr(config, name).model_copy(update=values) for name, values in sections.items()}
    )


def _with_shares(config: Config) -> Config:
    """With distributed noise: how many shares may be missing, and no sum of fewer."""
    privacy, federation = config.privacy, config.federation
    if privacy.unit == "none" or privacy.noise == "local":
        return config
    lost = max(1, federation.clients // 10) if privacy.lost is None else privacy.lost
    least = max(federation.min_survivors, federation.clients - lost)
    return _fill(config, privacy={"lost": lost}, federation={"min_survivors": least})


def _with_sizes(config: Config) -> Config:
    data: dict[str, Any] = {}
    if config.dataset_name == BUILTIN_DATA:
        if config.data.pairs_per_client not in (None, config.synthetic.pairs):
            raise ConfigError(
                f"data.pairs_per_client: {config.data.pairs_per_client} but the built-in federation makes "
                f"synthetic.pairs = {config.synthetic.pairs}; set only synthetic.pairs"
            )
        for field in ("test", "where", "group_column", "label_column", "public_fraction", "revision"):
            if getattr(config.data, field):
                raise ConfigError(f"data.{field}: has no meaning for the built-in federation; leave it out")
        data = {"pairs_per_client": config.synthetic.pairs, "public": True}
    size = data.get("pairs_per_client", config.data.pairs_per_client)
    privacy: dict[str, Any] = {}
    if config.privacy.unit == "question" and config.privacy.expected_batch is None:
        privacy["expected_batch"] = float(config.episodes.private)
    if config.privacy.unit == "pair" and config.privacy.expected_batch is None and size is not None:
        pooled = config.federation.clients if config.method.name == "centralized" else 1
        privacy["expected_batch"] = config.privacy.sample_rate * size * pooled
    secagg: dict[str, Any] = {}
    summed = releases(config) and config.method.name != "centralized"
    if config.secagg.threshold is None and config.secagg.enabled and summed:
        secagg["threshold"] = _graph(config).threshold
    return _fill(config, data=data, privacy=privacy, secagg=secagg)


def _with_personal(config: Config) -> Config:
    private = config.privacy.unit == "pair"  # a client's own parts never leave it, so a client-level unit frees them
    nothing_personal = private or config.task == "pluralllm"
    personal = config.method.personal or ("frozen" if nothing_personal else "free")
    serving: dict[str, Any] = {}
    if config.serving.epochs is None:
        serving["epochs"] = 5 if personal in ("frozen", "joint") and config.task == "fedpdpo" else 0
    rate = config.dpo.learning_rate or (0.3 if private else 1.0e-3)
    return _fill(config, method={"personal": personal}, serving=serving, dpo={"learning_rate": rate})


def _with_arithmetic(config: Config) -> Config:
    """Real numbers or integers under the noise; clip only has no integer noise, shares have no other."""
    privacy = config.privacy
    if privacy.unit == "none":
        return config
    if privacy.noise == "distributed":
        if privacy.arithmetic == "float":
            raise ConfigError(
                "privacy.arithmetic: float has no meaning with distributed noise, whose shares are integers"
            )
        return _fill(config, privacy={"arithmetic": "integer"})
    clip_only = privacy.noise_multiplier == 0 or privacy.epsilon == math.inf
    if clip_only and privacy.arithmetic == "integer":
        raise ConfigError("privacy.arithmetic: integer adds noise; clip only (epsilon inf) is a run with float")
    return _fill(config, privacy={"arithmetic": privacy.arithmetic or ("float" if clip_only else ARITHMETIC)})


def _check_federation(config: Config) -> None:
    federation = config.federation
    if federation.min_survivors > federation.clients and releases(config) and config.method.name != "centralized":
        raise ConfigError(
            f"federation.clients: {federation.clients} is below federation.min_survivors = {federation.min_survivors}; "
            "a sum of fewer than 3 would show too much"
        )
    stages = [stage.value for stage in Stage]
    for place, drop in enumerate(federation.drop):
        where = f"federation.drop[{place}]"
        if set(drop) != {"round", "client", "stage"}:
            raise ConfigError(f"{where}: needs exactly the keys round, client, stage; has {sorted(drop)}")
        if drop["stage"] not in stages:
            raise ConfigError(f"{where}.stage: {drop['stage']!r} is not one of {', '.join(stages)}")
        for key, top in (("round", federation.rounds), ("client", federation.clients)):
            low = 1 if key == "round" else 0
            value = drop[key]
            if not isinstance(value, int) or not low <= value < top + low:
                raise ConfigError(f"{where}.{key}: {value!r} is outside {low}..{top + low - 1}")


def _check_privacy(config: Config) -> None:
    privacy = config.privacy
    if config.federation.server_momentum and config.lora.train == "alternating":
        raise ConfigError("federation.server_momentum: lora.train alternating sums other coordinates every round")
    if config.method.name == "local" and privacy.unit != "none":
        raise ConfigError("method.name: local releases nothing, so there is nothing to noise; use privacy.unit: none")
    if privacy.unit == "none":
        for field in ("epsilon", "noise_multiplier"):
            if getattr(privacy, field) is not None:
                raise ConfigError(
                    f"privacy.{field}: given although privacy.unit is none, which is NOT PRIVATE; set it to null"
                )
        return
    if privacy.noise == "distributed":
        _check_distributed(config)
    elif privacy.unit == "client":
        raise ConfigError(
            "privacy.noise: local has no meaning with privacy.unit client (a client would drown its own update); use "
            "distributed"
        )
    if (privacy.epsilon is None) == (privacy.noise_multiplier is None):
        raise ConfigError("privacy: give exactly one of epsilon and noise_multiplier")
    if privacy.epsilon is not None and not privacy.epsilon > 0:
        raise ConfigError(f"privacy.epsilon: {privacy.epsilon} must be above 0 (inf means clip only)")
    if privacy.noise_multiplier is not None and not math.isfinite(privacy.noise_multiplier):
        raise ConfigError("privacy.noise_multiplier: must be finite")
    if config.data.public_fraction and not config.data.public:
        raise ConfigError(
            "data.public_fraction: rows of data that is not public cannot be made public; use another file"
        )
    if privacy.unit == "client":
        if privacy.delta >= 1 / config.federation.clients:
            raise ConfigError(
                f"privacy.delta: {privacy.delta:g} must be below 1/federation.clients = "
                f"{1 / config.federation.clients:g} where a client is the unit"
            )
        return
    size = declared_size(config)
    if size is None:
        raise ConfigError(
            "data.pairs_per_client: missing; a private run needs the declared public bound on a client's pairs"
        )
    if privacy.delta >= 1 / size:
        raise ConfigError(
            f"privacy.delta: {privacy.delta:g} must be below 1/n = {1 / size:g}, n = {size} being the declared public "
            f"size {size_field(config)}"
        )
    if config.method.name == "centralized" and privacy.delta >= 1 / (size * config.federation.clients):
        raise ConfigError(
            f"privacy.delta: {privacy.delta:g} must be below 1/n = {1 / (size * config.federation.clients):g}, n being "
            f"all pairs that centralized pools"
        )
    if config.federation.local_steps is None:
        raise ConfigError(
            "federation.local_steps: a private run needs a public number of steps, not one pass over private data"
        )


def _check_distributed(config: Config) -> None:
    privacy, federation = config.privacy, config.federation
    lost = privacy.lost or 0
    if federation.clients - lost - privacy.colluding < 2:
        raise ConfigError(
            f"privacy.lost, privacy.colluding: {lost} and {privacy.colluding} of {federation.clients} clients leave "
            "fewer than 2 honest survivors"
        )
    if not releases(config) or config.method.name == "centralized":
        raise ConfigError(f"method.name: {config.method.name} sums nothing, so no noise can be shared")
    if config.lora.train == "alternating":
        raise ConfigError("lora.train: alternating changes the length of the vector; distributed noise needs B or AB")
    if privacy.noise_multiplier == 0 or privacy.epsilon == math.inf:
        raise ConfigError("privacy.noise: distributed adds noise; clip only is a run with privacy.noise local")
    if privacy.unit == "client":
        return
    if federation.local_steps != 1:
        raise ConfigError(
            f"federation.local_steps: {federation.local_steps} must be 1 with privacy.noise distributed: one step per "
            "round over the whole federation"
        )
    if config.task == "fedpdpo" and config.method.personal not in (None, "frozen"):
        raise ConfigError(
            "method.personal: only frozen with privacy.noise distributed: personal parts are never summed, so they "
            "would carry a share of the noise alone"
        )


def _check_personal(config: Config) -> None:
    if config.privacy.unit != "pair" or not releases(config):
        return
    if config.method.personal == "free" and not config.privacy.allow_unsound:
        raise ConfigError(
            "method.personal: free is unsound with privacy.unit pair (un-noised personal parts carry one pair into "
            "every other pair's gradient); use frozen or joint, or privacy.allow_unsound: true (epsilon infinite)"
        )
    if config.method.personal == "joint" and config.method.lm_head == "full":
        raise ConfigError("method.lm_head: full cannot be trained jointly under noise; use low_rank or none")
    if config.method.schedule == "alternating" and config.method.personal != "free":
        raise ConfigError(
            "method.schedule: alternating needs method.personal: free; frozen and joint take one step for all parts"
        )
    if config.method.name == "fedprox":
        raise ConfigError("method.name: fedprox adds a term that is no pair's; use it with privacy.unit: none")


def _check_schedule(config: Config) -> None:
    """A scheduled drop-out that leaves too few clients is refused before anything is trained or charged."""
    federation, secagg = config.federation, config.secagg
    quorum = max(federation.min_survivors, (secagg.threshold or 0) if secagg.enabled else 0)
    for round_index in {drop["round"] for drop in federation.drop}:
        gone = {drop["client"] for drop in federation.drop if drop["round"] == round_index}
        if federation.clients - len(gone) < quorum:
            raise ConfigError(
                f"federation.drop: round {round_index} loses {len(gone)} of {federation.clients} clients; "
                f"{quorum} must answer to the end (secagg.threshold, federation.min_survivors)"
            )


def _check_secagg(config: Config) -> None:
    clients = config.federation.clients
    if not releases(config) or config.method.name == "centralized":
        return
    if config.secagg.enabled:
        _check_graph(config)
    if config.privacy.unit != "none" and config.privacy.noise == "distributed":
        return  # integers of the noise's own grid, checked when the vector's length is known
    try:
        FixedPoint(bits=config.secagg.bits, value_range=config.secagg.value_range, max_clients=clients)
    except ValueError as error:
        raise ConfigError(f"secagg.bits: {error}") from error


def _graph(config: Config) -> GraphParameters:
    try:
        return graph_parameters(config)
    except ValueError as error:
        raise ConfigError(f"secagg.corrupted, secagg.dropped: no sparse graph is safe: {error}") from error


def _check_graph(config: Config) -> None:
    clients, threshold, graph = config.federation.clients, config.secagg.threshold, _graph(config)
    malicious = config.secagg.mode == "malicious-server"
    least = default_threshold(clients) if malicious else clients // 2 + 1
    if graph.complete and (threshold is None or not least <= threshold <= clients):
        bound = "two thirds" if malicious else "half"
        raise ConfigError(
            f"secagg.threshold: {threshold} must be above {bound} and at most all of federation.clients = {clients}: "
            f"{least}..{clients}"
        )
    if not graph.complete and threshold != graph.threshold:
        raise ConfigError(
            f"secagg.threshold: {threshold} is not the {graph.threshold} that {graph.neighbors} neighbours need; in a "
            "sparse graph it follows from secagg.corrupted and secagg.dropped, leave it out"
        )
    most = min(graph.honest_part, graph.threshold)  # what a part has, and what a client sees signed
    if not graph.complete and malicious and config.federation.min_survivors > most:
        raise ConfigError(
            f"federation.min_survivors: {config.federation.min_survivors} is above {most}: in a sparse graph a server "
            "that lies about who dropped can open sums of so few honest clients; use secagg.graph: complete"
        )
    if malicious and config.secagg.identities is None:
        raise ConfigError(
            "secagg.identities: malicious-server mode needs long-term keys; make them with "
            f"fedpdpo keys make DIR --clients {clients} and set secagg.identities to DIR"
        )


def _check_method(config: Config) -> None:
    if config.data.partition == "dirichlet" and config.data.label_column is None:
        raise ConfigError("data.label_column: needed by data.partition: dirichlet")
    if config.dataset_name == BUILTIN_DATA and config.data.partition not in ("client_id", "round_robin"):
        raise ConfigError("data.partition: the built-in federation knows client_id and round_robin")
