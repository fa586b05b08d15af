"""The lines of a run as text: header, per-round privacy table, footer. Pure functions on records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from experiments.tables import count_of, number, plain_lines, size
from experiments.task_columns import TASKS, Column, of_baseline
from fedpdpo_secure.progress import RunInfo
from fedpdpo_secure.report import LOCAL, NOT_PRIVATE, SHARED_ALONE, RoundReport, RunResult

UNIT_WORDS = {
    "pair": "one preference pair",
    "client": "one client",
    "question": "one group's answers to one question",
    "none": "nothing",
}
Line = tuple[str, str | None]  # text and its style on a terminal


_PLAIN_COLUMNS = (Column("rnd", 4), Column("clients", 8), Column("drop", 5), Column("rec", 4), Column("steps", 6))
_EPSILON_COLUMNS = (  # joined where no epsilon holds
    Column("eps +", 7),
    Column("spent", 7),
    Column("left", 7),
    Column("PLD", 7, wide_only=True),
    Column("RDP", 7, wide_only=True),
)
_ADVERSARY_COLUMNS = (  # where noise is shared: other adversaries than the claim's
    Column("own", 7, wide_only=True),
    Column("sum", 7, wide_only=True),
)
_COST_COLUMNS = (Column("noise x", 8, wide_only=True), Column("public", 8), Column("upload", 9))
_TIME_WIDTH = 7  # local too: it depends on sample sizes and lengths of private pairs


def header_lines(info: RunInfo) -> list[Line]:
    """What runs and what is claimed for it."""
    steps = "one pass" if info.local_steps is None else count_of(info.local_steps, "local step")
    lines: list[Line] = [
        (f"{info.task} by method {info.method}{_personal(info)}, on {info.device}", "bold"),
        (f"  model       {info.model}, {info.parameters:,} shared parameters", None),
        (f"  data        {info.dataset}{' (public)' if info.public_data else ''}", None),
        (f"  federation  {info.clients} clients, {count_of(info.rounds, 'round')}, {steps} a round", None),
    ]
    if info.first_round > 1:
        lines.append((f"  resumed     at round {info.first_round}", None))
    if info.private:
        lines += [
            (f"  unit        {UNIT_WORDS[info.unit]}; neighbours: {info.relation}; delta {info.delta:g}", None),
            (f"  adversary   {info.adversary}", None),
            (f"  accountant  {info.accountant}", None),
        ]
    else:
        lines.append((f"  privacy     {NOT_PRIVATE}: {_reason(info)}", "bold red"))
    if info.unit != "none":
        divisor = "" if info.expected_batch is None else f", divisor {info.expected_batch:g} (public)"
        moves = "" if info.moves == 1 else "twice "  # one question turns one clipped gradient into another
        scale = f"{info.noise_multiplier:.4g} times {moves}the clip norm {info.clip_norm:g}"
        lines += [
            (f"  sampler     {info.sampler}{divisor}", None),
            (f"  noise       {scale}, added by {info.noise_by}", None),
        ]
    if info.private and info.epsilon_projected is not None:
        budget = "no budget set" if info.budget is None else f"budget {info.budget:g}"
        projected = f"{number(info.epsilon_projected)} projected after round {info.rounds}"
        lines.append((f"  epsilon     {projected}, {budget}", None))
    if info.private and info.epsilon_own is not None:
        lines.append((f"              {number(info.epsilon_own)} if aggregation fails: a client's own share", None))
    lines.append((f"  secagg      {info.secagg}", None))
    lines.append((f"  upload      {size(info.upload_bytes)} a client and round", None))
    if info.private and info.plan_digest:
        lines.append((f"  plan        plan.json, digest {info.plan_digest[:12]}", None))
    return lines


def _personal(info: RunInfo) -> str:
    return f", personal parts {info.personal}" if info.task == "fedpdpo" else ""


def table_width(info: RunInfo) -> int:
    """Columns of a terminal that shows the whole table of this run."""
    released = _released_columns(info.noise)
    return sum(column.width for column in (*released, *TASKS[info.task].local)) + len(" | ") + _TIME_WIDTH


def narrow_line(info: RunInfo) -> str:
    """What a narrow table leaves out, and where it is."""
    titles = [column.title for column in (*_released_columns(info.noise), *TASKS[info.task].local) if column.wide_only]
    return f"{', '.join(titles)}: in rounds.csv (a terminal of {table_width(info)} columns shows them here)"


def _epsilon_columns(noise: str) -> tuple[Column, ...]:
    return (*_EPSILON_COLUMNS, *(_ADVERSARY_COLUMNS if noise == "distributed" else ()))


def _released_columns(noise: str) -> tuple[Column, ...]:
    return (*_PLAIN_COLUMNS, *_epsilon_columns(noise), *_COST_COLUMNS)


def column_lines(info: RunInfo, *, narrow: bool = False) -> list[str]:
    """The two head lines of the per-round table; `narrow` leaves out the columns that `narrow_line` names."""
    columns = _released_columns(info.noise)
    left = _cells([column.title for column in columns], columns, narrow)
    local = TASKS[info.task].local
    right = _cells([column.title for column in local], local, narrow) + "time".rjust(_TIME_WIDTH)
    claim = f"epsilon of the worst client, delta {info.delta:g}" if info.private else NOT_PRIVATE
    return [f"{f'released ({claim})':^{len(left)}} | {LOCAL:^{len(right)}}".rstrip(), f"{left} | {right}"]


def round_line(report: RoundReport, *, narrow: bool = False) -> str:
    """One line of the per-round table."""
    cells = [
        str(report.round_index),
        f"{report.survivors}/{report.clients}",
        str(len(report.dropped)),
        str(report.recovered),
        str(report.steps),
    ]
    left = _cells(cells, _PLAIN_COLUMNS, narrow)
    columns = _epsilon_columns(report.noise)
    if report.private:
        increase = number(report.epsilon_round)
        epsilons = (
            increase if increase.startswith("<") else f"+{increase}",
            number(report.epsilon),
            number(report.epsilon_left),
            number(report.epsilon_pld),
            number(report.epsilon_rdp),
            number(report.epsilon_own),
            number(report.epsilon_sum),
        )
        left += _cells(epsilons[: len(columns)], columns, narrow)
    else:
        left += NOT_PRIVATE.center(len(_cells([""] * len(columns), columns, narrow)))
    cost = (
        number(report.noise_multiplier),
        number(report.released.get(TASKS[report.task].public)),
        size(report.upload_bytes),
    )
    left += _cells(cost, _COST_COLUMNS, narrow)
    local = TASKS[report.task].local
    right = _cells([_local(report.local, column.metric) for column in local], local, narrow)
    return f"{left} | {right}{f'{report.seconds:.1f}s'.rjust(_TIME_WIDTH)}"


def footer_lines(info: RunInfo, reports: Sequence[RoundReport], result: RunResult) -> list[Line]:
    """Drops, and what the columns of the table mean."""
    lines: list[Line] = [("", None)]
    lines += [(f"  {text}", None) for text in (*_drop_lines(reports), *_secagg_lines(reports))]
    if info.private:
        lines += [
            (
                f"  epsilon: {UNIT_WORDS[info.unit]}, {info.relation}, delta {info.delta:g}, {info.accountant}, "
                f"{result.sampler or info.sampler}, against {info.adversary}",
                None,
            ),
            (
                "  `eps +` is what the round added to `spent`; later rounds add less because composition is "
                "sub-additive",
                None,
            ),
            ("  spent: the least valid bound, of the worst client; PLD and RDP are each valid bounds", None),
        ]
        if info.noise == "distributed":
            lines.append(("  own: if aggregation fails, a client's own share alone; sum: if no client colludes", None))
    elif info.unit != "none":
        lines.append((f"  {NOT_PRIVATE}: {_reason(info)}", "bold red"))
    lines.append((f"  right of the bar: means over clients in this simulation, {LOCAL}", None))
    lines += [(f"  {text}", None) for text in _legend(info.task, reports)]
    if result.public_data:
        lines.append(("  public data: budgets of several runs are not composed", None))
    return lines


def result_lines(result: RunResult) -> list[Line]:
    """The verdict, the metrics by part and where everything lies."""
    final = TASKS[result.task].final
    rows = [
        [name, *(number(values.get(metric)) for _, metric in final)]
        for name, values in (
            (result.served, result.metrics),
            (SHARED_ALONE[result.task], result.shared),
            ("before training", result.untrained),
        )
        if values
    ]
    rows += [
        [name, *(number(result.untrained.get(of_baseline(name, metric))) for _, metric in final)]
        for name in TASKS[result.task].baselines
        if result.untrained
    ]
    lines: list[Line] = [("", None)]
    if rows:
        columns = [f"final, {LOCAL}", *(title for title, _ in final)]
        lines += [(line, "bold" if place == 0 else None) for place, line in enumerate(plain_lines(columns, rows))]
        lines.append(("", None))
    rounds = count_of(result.rounds, "round")
    if result.private and result.epsilon is not None:
        lines.append((f"{rounds}, epsilon {number(result.epsilon)} at delta {result.delta:g}", "bold green"))
    else:
        lines.append((f"{rounds}, {NOT_PRIVATE}", "bold red"))
    lines.append((f"results in {result.output_dir}", "bold"))
    lines += [(f"  {path}", None) for path in result.files]
    if result.statement is not None:
        lines.append((f"privacy statement: {result.statement.with_suffix('.md')}", "bold"))
    return lines


def _legend(task: str, reports: Sequence[RoundReport]) -> list[str]:
    """The columns that do not explain themselves."""
    columns = TASKS[task]
    lines = [*columns.legend, "rec: masks rebuilt from shares; empty: empty samples"]
    if any(number(report.released.get(columns.public)) != "-" for report in reports):
        lines.append(columns.public_legend)
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
    at_clients = sum(report.secagg_predicted_client_seconds for report in reports)
    at_server = sum(report.secagg_predicted_server_seconds for report in reports)
    return [
        f"secagg took {clients:.2f} CPU s at all clients (predicted {at_clients:.2f}) and {server:.2f} at the server "
        f"(predicted {at_server:.2f}), {share:.1f}% of the rounds"
    ]


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


def _cells(cells: Sequence[str], columns: Sequence[Column], narrow: bool) -> str:
    return "".join(
        cell.rjust(column.width)
        for cell, column in zip(cells, columns, strict=True)
        if not (narrow and column.wide_only)
    )
