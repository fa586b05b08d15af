"""`fedpdpo account` and `fedpdpo calibrate`: from noise to epsilon and back, without data or model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from experiments.output import EXIT_IMPOSSIBLE, CommandError, Output, output_options
from experiments.tables import number, print_table

if TYPE_CHECKING:
    from privacy.accounting import Bound
    from privacy.events import Event

RELATION = "add or remove one pair"
ADVERSARY = "honest-but-curious server, other clients, readers of the adapter"

_STEPS = click.option("--steps", type=click.IntRange(1), required=True, help="Noisy steps in all rounds together.")
_DELTA = click.option(
    "--delta", type=click.FloatRange(0, 1, min_open=True, max_open=True), required=True, help="Target delta."
)
_RATE = click.FloatRange(0, 1, min_open=True)


@click.command()
@click.option(
    "--noise_multiplier",
    type=click.FloatRange(0),
    required=True,
    help="Standard deviation of the noise over the clip norm.",
)
@click.option("--sample_rate", type=_RATE, help="Chance of each pair to be in a step (poisson only).")
@_STEPS
@_DELTA
@click.option(
    "--sampling",
    type=click.Choice(["poisson", "full_batch"]),
    default="poisson",
    show_default=True,
    help="How a step's pairs are drawn.",
)
@output_options
def account(
    noise_multiplier: float, sample_rate: float | None, steps: int, delta: float, sampling: str, output: Output
) -> None:
    """Show the epsilon of given noise, by every accountant.

    The least valid bound is the reported one.
    """
    from privacy.accounting import epsilon, unamplified

    event = _event(noise_multiplier, sample_rate, steps, sampling)
    bound = epsilon([event], delta)
    known = unamplified([event], delta)
    if not output.quiet:
        rate = "all pairs in every step" if sample_rate is None else f"rate {sample_rate:g}"
        _say_claim(output, f"{sampling}, {rate}; {steps} steps; noise multiplier {noise_multiplier:g}", delta)
        rows = [
            ["reported", number(bound.epsilon, 4), f"the least valid bound, {bound.accountant}"],
            ["pld", number(bound.pld, 4), "privacy loss distribution"],
            ["rdp", number(bound.rdp, 4), "Renyi"],
            ["gaussian", number(bound.gaussian, 4), "exact, without sampling only"],
            ["unamplified", number(known.epsilon, 4), "if the sample were known"],
        ]
        print_table(["accountant", "epsilon", ""], rows)
        if bound.epsilon == float("inf"):
            output.warn("NOT PRIVATE: epsilon is infinite")
        for note in bound.notes:
            output.say(f"note: {note}")
    output.finish({**bound_values(bound), "sampling": sampling, "unamplified": known.epsilon})


@click.command()
@click.option(
    "--epsilon", "target", type=click.FloatRange(0, min_open=True), required=True, help="Epsilon to stay under."
)
@click.option("--sample_rate", type=_RATE, required=True, help="Chance of each pair to be in a step.")
@_STEPS
@_DELTA
@output_options
def calibrate(target: float, sample_rate: float, steps: int, delta: float, output: Output) -> None:
    """Show the least noise multiplier for a chosen epsilon.

    Its epsilon is recomputed and never above the target. Exit 3 if no multiplier reaches it.
    """
    from privacy.accounting import epsilon
    from privacy.calibration import noise_multiplier
    from privacy.events import gaussian_event

    try:
        sigma = noise_multiplier(epsilon=target, delta=delta, sample_rate=sample_rate, steps=steps)
    except ValueError as error:
        raise CommandError(str(error), EXIT_IMPOSSIBLE) from error
    bound = epsilon([gaussian_event(noise_multiplier=sigma, sample_rate=sample_rate, steps=steps)], delta)
    if not output.quiet:
        _say_claim(output, f"poisson, rate {sample_rate:g}; {steps} steps", delta)
        row = [repr(sigma), number(bound.epsilon, 6), bound.accountant]
        print_table(["noise_multiplier", "epsilon", "accountant"], [row])
    output.finish({"noise_multiplier": sigma, **bound_values(bound)})


def bound_values(bound: Bound) -> dict[str, Any]:
    """A bound under its JSON names; what is infinite becomes null beside `private: false`."""
    return {
        "epsilon": bound.epsilon,
        "private": bound.epsilon != float("inf"),
        "pld": bound.pld,
        "rdp": bound.rdp,
        "gaussian": bound.gaussian,
        "delta": bound.delta,
        "accountant": bound.accountant,
        "unit": "pair",
        "relation": RELATION,
    }


def _event(noise_multiplier: float, sample_rate: float | None, steps: int, sampling: str) -> Event:
    from privacy.events import gaussian_event

    if sampling == "full_batch":
        if sample_rate is not None:
            raise click.UsageError("--sample_rate: given although --sampling full_batch takes every pair in every step")
        sample_rate = 1.0
    if sample_rate is None:
        raise click.UsageError("--sample_rate: missing; --sampling poisson needs it")
    try:
        return gaussian_event(noise_multiplier=noise_multiplier, sample_rate=sample_rate, steps=steps)
    except ValueError as error:  # NaN and infinity pass click's range check
        raise click.UsageError(str(error)) from error


def _say_claim(output: Output, sampler: str, delta: float) -> None:
    output.say(f"unit: one preference pair; neighbours: {RELATION}; delta {delta:g}")
    output.say(f"against: {ADVERSARY}")
    output.say(f"sampler: {sampler}")
