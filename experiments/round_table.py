"""The lines of a run as text: header, per-round privacy table, footer. Pure functions on records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from experiments.tables import number, plain_lines, size
from fedpdpo_secure.progress import RunInfo
from fedpdpo_secure.report import LOCAL, NOT_PRIVATE, RoundReport, RunResult

Line = tuple[str, str | None]  # text and its style on a terminal

# title, width; the four epsilon columns are joined where no epsilon holds
_PLAIN_COLUMNS = (("rnd", 4), ("clients", 8), ("drop", 5), ("rec", 4), ("steps", 6))
_EPSILON_COLUMNS = (("eps +", 7), ("spent", 7), ("left", 7), ("PLD", 7), ("RDP", 7))
_COST_COLUMNS = (("noise x", 8), ("public", 8), ("upload", 9))
_LOCAL_COLUMNS = (
    ("impl", "accuracy_implicit", 6),
    ("expl", "accuracy_explicit", 6),
    ("comb", "accuracy_combined", 6),
    ("worst", "worst_accuracy", 6),
    ("margin", "rewards/margins", 8),
    ("clip%", "clip_fraction", 6),
    ("snr", "snr", 7),
    ("empty", "empty_batches", 6),
)
_TIME_WIDTH = 7  # local too: it depends on sample sizes and lengths of private pairs
_PARTS = ("accuracy_implicit", "accuracy_explicit", "accuracy_combined", "rewards/margins")


def header_lines(info: RunInfo) -> list[Line]:
    """What runs and what is claimed for it."""
    steps = "one pass" if info.local_steps is None else f"{info.local_steps} local steps"
    lines: list[Line] = [
        (f"{info.task} by method {info.method}, personal parts {info.personal}, on {info.device}", "bold"),
        (f"  model       {info.model}, {info.parameters:,} shared parameters", None),
        (f"  data        {info.dataset}{' (public)' if info.public_data else ''}", None),
        (f"  federation  {info.clients} clients, {info.rounds} rounds, {steps} a round", None),
    ]
    if info.first_round > 1:
        lines.append((f"  resumed     at round {info.first_round}", None))
    if info.private:
        lines += [
            (f"  unit        one preference {info.unit}; neighbours: {info.relation}; delta {info.delta:g}", None),
            (f"  adversary   {info.adversary}", None),
            (f"  accountant  {info.accountant}", None),
        ]
    else:
        lines.append((f"  privacy     {NOT_PRIVATE}: {_reason(info)}", "bold red"))
    if info.unit != "none":
        divisor = "" if info.expected_batch is None else f", divisor {info.expected_batch:g} (public)"
        scale = f"{info.noise_multiplier:.4g} times the clip norm {info.clip_norm:g}"
        lines += [
            (f"  sampler     {info.sampler}{divisor}", None),
            (f"  noise       {scale}, added by every client", None),
        ]
    if info.private and info.epsilon_projected is not None:
        budget = "no budget set" if info.budget is None else f"budget {info.budget:g}"
        projected = f"{info.epsilon_projected:.3f} projected after round {info.rounds}"
        lines.append((f"  epsilon     {projected}, {budget}", None))
    lines.append((f"  secagg      {info.secagg}", None))
    lines.append((f"  upload      {size(info.upload_bytes)} a client and round", None))
    return lines


def column_lines(info: RunInfo) -> list[str]:
    """The two head lines of the per-round table."""
    columns = [*_PLAIN_COLUMNS, *_EPSILON_COLUMNS, *_COST_COLUMNS]
    left = "".join(title.rjust(width) for title, width in columns)
    right = "".join(title.rjust(width) for title, _, width in _LOCAL_COLUMNS) + "time".rjust(_TIME_WIDTH)
    claim = f"epsilon of the worst client, delta {info.delta:g}" if info.private else NOT_PRIVATE
    return [f"{f'released ({claim})':^{len(left)}} | {LOCAL:^{len(right)}}".rstrip(), f"{left} | {right}"]


def round_line(report: RoundReport) -> str:
    """One line of the per-round table."""
    cells = [
        str(report.round_index),
        f"{report.survivors}/{report.clients}",
        str(len(report.dropped)),
        str(report.recovered),
        str(report.steps),
    ]
    left = _cells(cells, [width for _, width in _PLAIN_COLUMNS])
    if report.private:
        epsilons = (
            f"+{number(report.epsilon_round)}",
            number(report.epsilon),
            number(report.epsilon_left),
            number(report.epsilon_pld),
            number(report.epsilon_rdp),
        )
        left += _cells(epsilons, [width for _, width in _EPSILON_COLUMNS])
    else:
        left += NOT_PRIVATE.center(sum(width for _, width in _EPSILON_COLUMNS))
    cost = (
        number(report.noise_multiplier),
        number(report.released.get("accuracy_implicit")),
        size(report.upload_bytes),
    )
    left += _cells(cost, [width for _, width in _COST_COLUMNS])
    right = _cells(
        [_local(report.local, name) for _, name, _ in _LOCAL_COLUMNS], [width for *_, width in _LOCAL_COLUMNS]
    )
    return f"{left} | {right}{f'{report.seconds:.1f}s'.rjust(_TIME_WIDTH)}"


def footer_lines(info: RunInfo, reports: Sequence[RoundReport], result: RunResult) -> list[Line]:
    """Drops, and what the columns of the table mean."""
    lines: list[Line] = [("", None)]
    if result.stopped is not None:
        lines.append((f"stop: {result.stopped}", "bold yellow"))
    lines += [(f"  {text}", None) for text in (*_drop_lines(reports), *_secagg_lines(reports))]
    if info.private:
        lines += [
            (
                f"  epsilon: one preference {info.unit}, {info.relation}, delta {info.delta:g}, {info.accountant}, "
                f"{info.sampler}, against {info.adversary}",
                None,
            ),
            ("  epsilon rows do not add up: composition is sub-additive, `eps +` is the increase", None),
        ]
    elif info.unit != "none":
        lines.append((f"  {NOT_PRIVATE}: {_reason(info)}", "bold red"))
    lines.append((f"  right of the bar: means over clients in this simulation, {LOCAL}", None))
    lines.append(("  public: implicit accuracy of the shared adapter on the public split, by the server", None))
    if result.public_data:
        lines.append(("  public data: budgets of several runs are not composed", None))
    return lines


def result_lines(result: RunResult) -> list[Line]:
    """The verdict, the metrics by part and where everything lies."""
    rows = [
        [name, *(number(values.get(part)) for part in _PARTS)]
        for name, values in (("serving copy", result.metrics), ("shared adapter alone", result.shared))
        if values
    ]
    lines: list[Line] = [("", None)]
    if rows:
        columns = [f"final, {LOCAL}", "implicit", "explicit", "combined", "margin"]
        lines += [(line, "bold" if place == 0 else None) for place, line in enumerate(plain_lines(columns, rows))]
        lines.append(("", None))
    if result.private and result.epsilon is not None:
        lines.append((f"{result.rounds} rounds, epsilon {result.epsilon:.3f} at delta {result.delta:g}", "bold green"))
    else:
        lines.append((f"{result.rounds} rounds, {NOT_PRIVATE}", "bold red"))
    lines.append((f"results in {result.output_dir}", "bold"))
    lines += [(f"  {path}", None) for path in result.files]
    return lines


def _drop_lines(reports: Sequence[RoundReport]) -> list[str]:
    lines = []
    for report in reports:
        if not report.dropped:
            continue
        who = ", ".join(f"{drop.client} ({drop.stage})" for drop in report.dropped)
        rebuilt = f"masks of {report.recovered} rebuilt from shares" if report.recovered else "no mask to rebuild"
        charged = "; charged all the same" if report.private else ""
        lines.append(f"round {report.round_index}: dropped {who}; {rebuilt}{charged}")
    return lines


def _secagg_lines(reports: Sequence[RoundReport]) -> list[str]:
    clients = sum(report.secagg_client_seconds for report in reports)
    server = sum(report.secagg_server_seconds for report in reports)
    whole = sum(report.seconds for report in reports)
    if not clients + server:
        return []
    share = 100 * (clients + server) / whole
    return [f"secagg took {clients:.2f} s at all clients and {server:.2f} s at the server, {share:.1f}% of the rounds"]


def _reason(info: RunInfo) -> str:
    if info.unit == "none":
        return "privacy.unit is none, nothing is clipped or noised"
    if info.noise == "seeded":
        return "noise and sample come from privacy.insecure_seed, epsilon is infinite"
    if info.noise == "none":
        return "gradients are clipped but no noise is added, epsilon is infinite"
    return "personal parts train freely beside the noised ones, epsilon is infinite"


def _local(values: Mapping[str, float], name: str) -> str:
    value = values.get(name)
    if name == "clip_fraction" and value is not None and value == value:
        return f"{100 * value:.0f}%"
    return number(value)


def _cells(cells: Iterable[str], widths: Iterable[int]) -> str:
    return "".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
