"""The privacy statement in words, made from its JSON values alone, so that the two cannot differ.

What is claimed and what is not covered stand side by side in one table: the same size, the same weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

CLAIM, GAP = "What is claimed", "What this does not cover"
NOT_PRIVATE = "NOT PRIVATE"


def markdown(values: Mapping[str, Any]) -> str:
    """The whole statement. Raises KeyError for values that `statement` did not make."""
    run = values["run"]
    title = "# Privacy statement" if values["private"] else f"# {NOT_PRIVATE}\n\n## Privacy statement"
    lines = [
        title,
        "",
        f"{_method(run)}, data `{run['data_id']}`; "
        f"{run['rounds_done']} of {run['rounds_planned']} rounds done, {run['state']}"
        + (f" ({run['stopped']})" if run["stopped"] else "")
        + ".",
        "",
        f"| {CLAIM} | {GAP} |",
        "|---|---|",
        *(f"| {_cell(left)} | {_cell(right)} |" for left, right in _boxes(values)),
        "",
    ]
    for heading, rows in _sections(values):
        lines += [f"## {heading}", "", *(f"- {row}" for row in rows if row), ""]
    return "\n".join(lines)


def _method(run: Mapping[str, Any]) -> str:
    if run.get("task", "fedpdpo") != "fedpdpo":
        return f"Task {run['task']}, method {run['method']}"
    return f"Method {run['method']}, personal parts {run['personal']}"


def _boxes(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Rows of both boxes; the shorter list ends in blanks."""
    return list(zip_longest(_claimed(values), values["not_covered"], fillvalue=""))


def _claimed(values: Mapping[str, Any]) -> list[str]:
    if not values["private"]:
        reason = f"**{NOT_PRIVATE}: {values['not_private_because']}**"
        return [reason, "no epsilon, against nobody", f"trusted: {'; '.join(values['dp_model']['trusted'])}"]
    spent, seen, model, adjacency = values["spent"], values["adversaries"], values["dp_model"], values["adjacency"]
    budget = "" if spent["budget"] is None else f" of a budget of {number(spent['budget'])}"
    violated = [f"**VIOLATED by an audit: {values['audits']['words']}**"] if values["audits"]["violated"] else []
    whole = number(spent["whole_plan"])
    lines = [
        *violated,
        f"**epsilon {number(spent['epsilon'])} at delta {spent['delta']:g}**{budget}",
        *([f"if stopping looked at results: epsilon {whole}, the whole plan's"] if whole != "-" else []),
        f"unit: {values['unit']['words']}",
        f"neighbours: {adjacency['relation']}",
        f"against: {model['against']}",
        f"{model['kind']} noise, added by {model['noise_by']}",
        f"trusted: {'; '.join(model['trusted'])}",
    ]
    if model["kind"] == "distributed":
        lines.append(f"if aggregation fails, a client's own share alone: epsilon {number(seen['own_noise_alone'])}")
    lines += [f"covered: {text}" for text in values["covered"]]
    lines.append(f"sampling: {values['accounting']['sampling']}; {values['accounting']['held']}")
    return [*lines, f"arithmetic: {values['implementation']['arithmetic']}"]


def _sections(values: Mapping[str, Any]) -> list[tuple[str, Sequence[str]]]:
    return [
        ("Epsilon by adversary", _adversary_rows(values)),
        ("Epsilon by delta, by person", _curve_rows(values)),
        ("Accounting", _accounting_rows(values)),
        ("Mechanism", _mechanism_rows(values)),
        ("Noise generator and arithmetic", _implementation_rows(values)),
        ("Secure aggregation", _secagg_rows(values["secure_aggregation"])),
        ("Chosen on private data and not charged", values["tuning"]["unaccounted_releases"] or ["nothing declared"]),
        ("Audits", [values["audits"]["words"]]),
        ("Code, configuration, ledgers", _provenance_rows(values["provenance"])),
    ]


def _adversary_rows(values: Mapping[str, Any]) -> list[str]:
    seen = values["adversaries"]
    rows = [
        f"a client's own noise alone (if aggregation fails): {number(seen['own_noise_alone'])}",
        f"the sum of all clients: {number(seen['sum'])}",
    ]
    helpers = seen["colluders"]
    last = "the claim" if not helpers else f"the sum, to someone who knows what {helpers} of the clients added"
    return [*rows, f"{last}: {number(seen['sum_with_colluders'])}"]


def _curve_rows(values: Mapping[str, Any]) -> list[str]:
    points, spent = values["curve"]["points"], values["spent"]
    rows = [f"delta {point['delta']:g}: epsilon {number(point['epsilon'])}" for point in points]
    if values["curve"]["gaussian_mu"] is not None:
        rows.append(f"at these deltas a Gaussian release of mu {number(values['curve']['gaussian_mu'])} gives no less")
    rows += [f"{_person(one)}: {_at_this_delta(one['epsilon'])}" for one in values["unit"]["person"]]
    if values["private"]:
        rows.append(f"one unit replaced by another: epsilon {number(values['adjacency']['replace_one_epsilon'])}")
    if spent["delta_times_n"] is not None:
        rows.append(f"delta is {spent['delta_times_n']:.2g} of 1/n, n = {spent['units']:,} declared")
    if values["unit"]["pairs_per_client"] is not None:
        rows.append(f"at most {values['unit']['pairs_per_client']:,} pairs at a client; {values['unit']['holds_if']}")
    if values["unit"].get("questions_per_group") is not None:
        rows.append(
            f"at most {values['unit']['questions_per_group']:,} questions of a group; {values['unit']['holds_if']}"
        )
    return rows or ["none holds"]


def _at_this_delta(epsilon: float | None) -> str:
    return "no bound at the claim's delta" if epsilon is None else f"epsilon {number(epsilon)}"


def _person(one: Mapping[str, Any]) -> str:
    if "pairs" in one:
        return f"a person with {one['pairs']} pairs"
    return f"someone whose answers stand in {one['questions']} of a group's questions"


def _accounting_rows(values: Mapping[str, Any]) -> list[str]:
    found, spent = values["accounting"], values["spent"]
    return [
        f"accountant {found['accountant']}, {found['version']}",
        f"PLD {number(spent['pld'])}, RDP {number(spent['rdp'])}, closed form {number(spent['gaussian'])}",
        f"assumes: {found['sampling']}",
        f"did it hold: {found['held']}",
        f"the samplers' logs begin with round {found['logs_from']}" if found["logs_from"] > 1 else "",
        *found["notes"],
    ]


def _mechanism_rows(values: Mapping[str, Any]) -> list[str]:
    found = values["mechanism"]
    rows = [
        f"noise multiplier {number(found['noise_multiplier'])}, clip norm {found['clip_norm']:g}",
        f"{found['rounds_done']} rounds of {found['steps_per_round'] or 'one pass of'} steps"
        + (f", sample rate {found['sample_rate']:g}" if found["sample_rate"] else "")
        + (f", divisor {found['expected_batch']:g}" if found["expected_batch"] else ""),
        f"{found['cohort']} clients, {found['dropped']} drop-outs, {found['least_survivors']} or more in every sum"
        if found["rounds_done"]
        else f"{found['cohort']} clients",
    ]
    if found["shares_that_may_be_missing"] is None:
        return rows
    rows.append(f"at most {found['shares_that_may_be_missing']} shares of noise may be missing from a sum")
    for one in found["rounds"]:
        measured = number(one["noise_over_charge_measured"])
        rows.append(
            f"round {one['round']}: {one['survivors']} shares, noise {number(one['noise_over_charge_expected'])} of "
            f"the charge, measured {measured}"
        )
    return rows


def _implementation_rows(values: Mapping[str, Any]) -> list[str]:
    return [values["implementation"]["generator"], values["implementation"]["words"]]


def _secagg_rows(found: Mapping[str, Any]) -> list[str]:
    if not found["enabled"]:
        return [found["words"]]
    graph = f"{found['graph']} graph, {found['neighbors']} neighbours"
    return [
        f"{found['words']}; {found['mode']}, {graph}, ring 2^{found['bits']}",
        f"threshold {found['threshold']}: never a sum of fewer than "
        f"{max(found['threshold'] or 0, found['min_survivors'])} clients",
        f"assumes {found['collusion']}",
        f"signed by: {found['signed_by']}",
    ]


def _provenance_rows(found: Mapping[str, Any]) -> list[str]:
    packages = ", ".join(f"{name} {version}" for name, version in found["versions"].items() if version)
    return [
        f"fedpdpo {found['package_version']}, commit {found['git_commit'] or 'unknown'}",
        packages,
        f"configuration {found['config_sha256']}",
        f"plan {found['plan_digest']}" if found["plan_digest"] else "",
        *(f"ledger of {one['client']}: {one['records']} records, head {one['head']}" for one in found["ledgers"]),
    ]


def number(value: float | None) -> str:
    """Four digits; a dash where there is none."""
    return "-" if value is None else f"{value:.4g}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
