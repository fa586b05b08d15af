"""`fedpdpo plan`: what a run will cost in privacy, bytes and memory, before anything is read or trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from experiments.output import EXIT_IMPOSSIBLE, CommandError, Output, output_options
from experiments.tables import count_of, number, print_table, size

if TYPE_CHECKING:
    from fedpdpo_secure.config import Config

SHOWN_ROUNDS = 12  # of a longer run, as many rounds evenly spaced: each costs tenths of a second to account


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Override one value of CONFIG.")
@click.option("--clients", type=click.IntRange(3), help="Plan for so many clients, up to a million on paper.")
@click.option("--dim", type=click.IntRange(1), help="Plan for vectors of this length instead of the model's adapter.")
@click.option("--dropped", type=click.FloatRange(0, 0.9), default=0.0, help="Fraction lost when vectors are due.")
@output_options
def plan(
    config: Path,
    overrides: tuple[str, ...],
    clients: int | None,
    dim: int | None,
    dropped: float,
    output: Output,
) -> None:
    """Show what a run would cost in privacy, bytes, seconds and memory.

    Calibrates the noise for CONFIG and shows epsilon per round, the proof that the sum cannot overflow its ring, and
    what secure aggregation costs by a one-second probe of this machine. Reads no data and trains nothing. Exit 3 if
    the plan is impossible, such as an epsilon that no noise reaches.
    """
    from experiments.plan_model import model_values
    from fedpdpo_secure.budget import needs_dim
    from fedpdpo_secure.config import load_config

    if clients is not None:
        overrides = (*overrides, f"federation.clients={clients}", "federation.drop=[]")
    chosen = load_config(config, overrides)
    early = None if needs_dim(chosen) else _privacy(chosen, None)  # refused before the model's shape is read
    model, noised = model_values(chosen), dim
    dim = dim or model["parameters"]
    noised = model["noised"] if noised is None else noised
    if early is None and noised is None and chosen.task == "pluralllm":
        raise CommandError(f"{model['model_unread']}: how much is noised is not known; give --dim", EXIT_IMPOSSIBLE)
    privacy = early or _privacy(chosen, noised)
    values = {"private": privacy["epsilon"] is not None, **privacy, **_secagg(chosen, privacy), **model}
    values["secagg_costs"] = _costs(chosen, dim, dropped)
    if not output.quiet:
        _show(output, chosen, values)
    output.finish(values)


def _privacy(config: Config, dim: int | None) -> dict[str, Any]:
    """Noise, epsilon after each round, and what is left of it if the sample were known."""
    base = {"unit": config.privacy.unit, "rounds": config.federation.rounds, "clients": config.federation.clients}
    if config.privacy.unit == "none":
        return {**base, "epsilon": None, "delta": None, "noise_multiplier": 0.0, "plan_digest": None,
                "per_round": []}  # fmt: skip
    from fedpdpo_secure.budget import plan_budget
    from fedpdpo_secure.claims import noise_by, own_epsilon
    from fedpdpo_secure.config import ConfigError
    from fedpdpo_secure.report import RELATIONS
    from privacy.accounting import unamplified
    from privacy.planned import plan_digest

    try:
        budget = plan_budget(config, dim)
    except ConfigError as error:
        raise CommandError(str(error), EXIT_IMPOSSIBLE) from error
    bounds = {done: budget.projected(done) for done in _shown_rounds(config.federation.rounds)}
    rows = [
        {"round": done, "epsilon": _finite(bound.epsilon), "pld": _finite(bound.pld), "rdp": _finite(bound.rdp)}
        for done, bound in bounds.items()
    ]
    steps = (config.federation.local_steps or 1) * config.federation.rounds
    known = unamplified([budget.event] * config.federation.rounds, budget.delta).epsilon
    own = own_epsilon(config, budget)
    last = bounds[config.federation.rounds]
    return {
        **base,
        "epsilon": _finite(last.epsilon),
        "delta": budget.delta,
        "budget": _finite(budget.budget),
        "noise_multiplier": budget.noise_multiplier,
        "clip_norm": config.privacy.clip_norm,
        "sample_rate": config.privacy.sample_rate,
        "expected_batch": config.privacy.expected_batch,
        "steps": steps,
        "accountant": last.accountant,
        "relation": RELATIONS[config.privacy.unit],
        "noise_by": noise_by(config, budget),
        "epsilon_own": _finite(own),
        "share_stddev": None if budget.shares is None else budget.shares.share**0.5,
        "unamplified": _finite(known),
        "plan_digest": plan_digest([budget.event] * config.federation.rounds),
        "per_round": rows,
    }


def _shown_rounds(rounds: int) -> list[int]:
    step = -(-rounds // SHOWN_ROUNDS)
    return sorted({1, *range(step, rounds, step), rounds})


def _secagg(config: Config, privacy: dict[str, Any]) -> dict[str, Any]:
    from fedpdpo_secure.config.masking import graph_parameters
    from secagg import FixedPoint

    section, clients = config.secagg, config.federation.clients
    if privacy.get("share_stddev"):
        proof = (
            f"{clients} shares of standard deviation {privacy['share_stddev']:.4g} and their pairs: chance below 2^-40"
        )
    else:
        proof = FixedPoint(bits=section.bits, value_range=section.value_range, max_clients=clients).proof()
    graph = graph_parameters(config) if section.enabled and section.threshold is not None else None
    return {
        "secagg": section.enabled,
        "mode": section.mode,
        "threshold": section.threshold if section.enabled else None,
        "neighbors": graph.neighbors if graph is not None else None,
        "complete": graph.complete if graph is not None else None,
        "bits": section.bits,
        "ring_proof": proof,
    }


def _costs(config: Config, dim: int | None, dropped: float) -> dict[str, Any] | None:
    """Predicted costs of one round; None where nothing is masked or the model cannot be read."""
    if dim is None or not config.secagg.enabled or config.secagg.threshold is None:
        return None
    from fedpdpo_secure.masking_cost import machine_rates, round_shape
    from secagg.cost import predict

    clients = config.federation.clients
    costs = predict(round_shape(config, dim, lost=int(dropped * clients)), machine_rates())
    return {
        "dim": dim,
        "clients": clients,
        "dropped": int(dropped * clients),
        "client_seconds": costs.client_seconds,
        "client_mask_seconds": costs.client_mask_seconds,
        "server_seconds": costs.server_seconds,
        "upload_bytes": costs.upload_bytes,
        "download_bytes": costs.download_bytes,
        "client_memory_bytes": costs.client_memory_bytes,
        "server_memory_bytes": costs.server_memory_bytes,
    }


def _show(output: Output, config: Config, values: dict[str, Any]) -> None:
    if values["unit"] == "none":
        output.warn("NOT PRIVATE: privacy.unit is none, nothing is clipped or noised")
    else:
        _show_privacy(output, config, values)
    if values["threshold"] is None and config.secagg.enabled:
        state = f"no sum: method {config.method.name} sends nothing to a server"
    elif config.secagg.enabled:
        from fedpdpo_secure.run_info import graph_line

        state = f"{config.secagg.mode}, {graph_line(config)}, {config.secagg.bits} bits"
    else:
        state = "OFF: the server sees every client's update"
    output.say(f"secagg      {state}")
    certain = "" if values.get("share_stddev") else ": no sum can wrap"
    output.say(f"ring        {values['ring_proof']}{certain}")
    if values["secagg_costs"] is not None:
        _show_costs(output, values["secagg_costs"])
    if values["parameters"] is None:
        output.say(f"model       its shape cannot be read here ({values['model_unread']}): no bytes, no memory")
        return
    whole, shared = values["model_parameters"], values["parameters"]
    part = "of them" if config.task == "pluralllm" and config.predictor.lora_r is None else "of the adapter"
    output.say(f"model       {whole:,} parameters, {shared:,} {part} shared")
    output.say(f"upload      {size(values['upload_bytes'])} a client and round, keys and shares aside")
    memory = values["memory_bytes"]
    if memory is None:
        return
    output.say(
        f"memory      roughly {size(memory['float32'])} in float32, {size(memory['bfloat16'])} in bfloat16, "
        f"micro-batch {config.dpo.micro_batch}, longest pairs"
    )


def _show_costs(output: Output, costs: dict[str, Any]) -> None:
    """One round of secure aggregation on this machine, by its probe."""
    output.say(
        f"masking     a round of {costs['clients']:,} clients, {costs['dropped']:,} dropped, {costs['dim']:,} "
        "coordinates should cost, in CPU time of this machine:"
    )
    output.say(
        f"            client {number(costs['client_seconds'])} s, {size(costs['upload_bytes'])} up, "
        f"{size(costs['download_bytes'])} down, {size(costs['client_memory_bytes'])} of memory"
    )
    output.say(
        f"            server {number(costs['server_seconds'])} s, {size(costs['server_memory_bytes'])} of memory, "
        f"{size(costs['clients'] * costs['upload_bytes'])} in, {size(costs['clients'] * costs['download_bytes'])} out"
    )


def _show_privacy(output: Output, config: Config, values: dict[str, Any]) -> None:
    from experiments.round_table import UNIT_WORDS
    from fedpdpo_secure.claims import adversary
    from fedpdpo_secure.config.units import moves, sampled

    private = values["epsilon"] is not None
    if private:
        output.say(
            f"unit        {UNIT_WORDS[values['unit']]}; neighbours: {values['relation']}; delta {values['delta']:g}"
        )
        output.say(f"against     {adversary(config)}")
    else:
        output.warn("NOT PRIVATE: epsilon is infinite")
    poisson = f"Poisson, rate {values['sample_rate']:g}, divisor {values['expected_batch'] or 1:g} (public)"
    sampler = poisson if sampled(config) else "every client in every round"
    output.say(
        f"sampler     {sampler}; {count_of(config.federation.local_steps or 1, 'step')} a round, "
        f"{count_of(values['rounds'], 'round')}"
    )
    origin = "calibrated" if config.privacy.noise_multiplier is None else "given"
    of = "" if moves(config) == 1 else " of twice the clip norm (one question turns one gradient into another)"
    output.say(
        f"noise       multiplier {values['noise_multiplier']:.6g} ({origin}){of}, clip norm {values['clip_norm']:g}"
    )
    output.say(f"            added by {values['noise_by']}")
    if private:
        _show_epsilon(output, config, values)


def _show_epsilon(output: Output, config: Config, values: dict[str, Any]) -> None:
    budget = "" if values["budget"] is None else f" of budget {values['budget']:g}"
    output.say(f"epsilon     {number(values['epsilon'], 4)}{budget} after the last round, by {values['accountant']}")
    if values["unit"] in ("pair", "question"):
        output.say(f"            {number(values['unamplified'])} if the sample were known (no amplification)")
    if values["epsilon_own"] is not None:
        output.say(f"            {number(values['epsilon_own'])} if aggregation fails: a client's own share alone")
    if not config.data.public:
        output.say("            as if nothing had been spent before; see fedpdpo ledger show")
    output.say(f"plan        digest {values['plan_digest'][:12]}, the one that a run publishes in plan.json")
    output.say()
    rows = values["per_round"]
    cells = [[str(row["round"]), number(row["epsilon"]), number(row["pld"]), number(row["rdp"])] for row in rows]
    print_table(["after round", "epsilon", "PLD", "RDP"], cells)
    output.say()


def _finite(value: float | None) -> float | None:
    return None if value is None or value == float("inf") else value
