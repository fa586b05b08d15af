"""`fedpdpo account` and `fedpdpo calibrate`: from noise to epsilon and back, without data or model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from experiments.output import EXIT_IMPOSSIBLE, CommandError, Output, output_options
from experiments.tables import number, print_table

if TYPE_CHECKING:
    from privacy.accounting import Bound
    from privacy.events import Event
    from privacy.pld import Neighbors

RELATION = "add or remove one pair"
ADVERSARY = "honest-but-curious server, other clients, readers of the adapter"

_STEPS = click.option("--steps", type=click.IntRange(1), required=True, help="Noisy steps in all rounds together.")
_DELTA = click.option(
    "--delta", type=click.FloatRange(0, 1, min_open=True, max_open=True), required=True, help="Target delta."
)
_RATE = click.FloatRange(0, 1, min_open=True)


@click.command()
@click.option(
    "--noise_multiplier", type=click.FloatRange(0), help="Standard deviation of the noise over the clip norm."
)
@click.option(
    "--integer_variance",
    type=click.IntRange(1),
    help="Instead: variance of the discrete Gaussian noise that counts in the sum; needs --norm_squared.",
)
@click.option("--norm_squared", type=click.IntRange(1), help="Squared norm bound of one pair's integer vector.")
@click.option(
    "--distance_log2",
    type=float,
    default=-80.0,
    show_default=True,
    help="log2 of the integer samplers' total statistical distance, charged to delta.",
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
@click.option(
    "--person_pairs", type=click.IntRange(1), default=1, show_default=True, help="Pairs of the person to protect."
)
@click.option(
    "--relation",
    type=click.Choice(["add_remove", "replace_one"]),
    default="add_remove",
    show_default=True,
    help="How neighbouring data sets differ.",
)
@output_options
def account(
    noise_multiplier: float | None,
    integer_variance: int | None,
    norm_squared: int | None,
    distance_log2: float,
    sample_rate: float | None,
    steps: int,
    delta: float,
    sampling: str,
    person_pairs: int,
    relation: str,
    output: Output,
) -> None:
    """Show the epsilon of given noise, by every accountant.

    The least valid bound is the reported one.
    """
    from privacy.accounting import epsilon, unamplified

    rate = _rate(sample_rate, sampling)
    event = (
        _event(noise_multiplier, rate, steps)
        if integer_variance is None and norm_squared is None
        else _integer_event(noise_multiplier, integer_variance, norm_squared, distance_log2, rate, steps)
    )
    neighbors = _neighbors(person_pairs, relation)
    bound = epsilon([event], delta, neighbors=neighbors)
    known = unamplified([event], delta, neighbors=neighbors)
    words = _relation_words(person_pairs, relation)
    if not output.quiet:
        drawn = "all pairs in every step" if sample_rate is None else f"rate {sample_rate:g}"
        noise = (
            f"noise multiplier {noise_multiplier:g}"
            if noise_multiplier is not None
            else f"discrete Gaussian noise of variance {integer_variance}, squared norm {norm_squared}"
        )
        _say_claim(output, f"{sampling}, {drawn}; {steps} steps; {noise}", delta, words)
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
    values = {"sampling": sampling, "unamplified": known.epsilon, "person_pairs": person_pairs, "relation": words}
    output.finish({**bound_values(bound), **values})


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


def _rate(sample_rate: float | None, sampling: str) -> float:
    if sampling == "full_batch":
        if sample_rate is not None:
            raise click.UsageError("--sample_rate: given although --sampling full_batch takes every pair in every step")
        return 1.0
    if sample_rate is None:
        raise click.UsageError("--sample_rate: missing; --sampling poisson needs it")
    return sample_rate


def _event(noise_multiplier: float | None, sample_rate: float, steps: int) -> Event:
    from privacy.events import gaussian_event

    if noise_multiplier is None:
        raise click.UsageError("--noise_multiplier: missing; give it, or --integer_variance with --norm_squared")
    try:
        return gaussian_event(noise_multiplier=noise_multiplier, sample_rate=sample_rate, steps=steps)
    except ValueError as error:  # NaN and infinity pass click's range check
        raise click.UsageError(str(error)) from error


def _integer_event(
    noise_multiplier: float | None,
    variance: int | None,
    norm_squared: int | None,
    distance_log2: float,
    sample_rate: float,
    steps: int,
) -> Event:
    from privacy.events import IntegerGaussian

    if noise_multiplier is not None:
        raise click.UsageError("--noise_multiplier: given beside --integer_variance or --norm_squared; choose one")
    if variance is None or norm_squared is None:
        raise click.UsageError("--integer_variance and --norm_squared: each needs the other")
    try:
        return IntegerGaussian(
            variance=variance,
            own_variance=variance,
            colluding_variance=0,
            norm_squared=norm_squared,
            sample_rate=sample_rate,
            steps=steps,
            distance_log2=distance_log2,
            unit="pair",
        )
    except ValueError as error:
        raise click.UsageError(str(error).replace("own_variance", "--integer_variance")) from error


def _neighbors(person_pairs: int, relation: str) -> Neighbors:
    from privacy.pld import Neighbors

    if relation == "replace_one":
        if person_pairs != 1:
            raise click.UsageError("--person_pairs: must be 1 with --relation replace_one")
        return Neighbors("replace_one")
    return Neighbors(pairs=person_pairs)


def _relation_words(person_pairs: int, relation: str) -> str:
    if relation == "replace_one":
        return "replace one pair"
    return RELATION if person_pairs == 1 else f"add or remove all {person_pairs} pairs of one person"


def _say_claim(output: Output, sampler: str, delta: float, relation: str = RELATION) -> None:
    unit = "one preference pair" if relation in (RELATION, "replace one pair") else "one person"
    output.say(f"unit: {unit}; neighbours: {relation}; delta {delta:g}")
    output.say(f"against: {ADVERSARY}")
    output.say(f"sampler: {sampler}")
