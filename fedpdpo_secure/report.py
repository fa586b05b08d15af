"""The record of one round and of a run: a JSON line and a CSV line per round, on disk before the next round.

`released` holds what leaves the federation (server evaluation on the public split); `local` holds simulation
means over clients, and every place that writes or shows it carries the mark `local, not released`. An infinite
epsilon (clip only, seeded noise, unit none) is None here and null or empty on disk, never a number.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

LOCAL = "local, not released"  # the mark of local metrics; their key in JSON
NOT_PRIVATE = "NOT PRIVATE"
PRIVATE_NOISE = ("local", "distributed", "central")  # by each client, in shares, by the curator of pooled pairs
RELATIONS = {
    "pair": "add or remove one pair",
    "client": "zero out one client",
    "question": "add or remove one group's answers to one question",
    "none": "none",
}
SHARED_ALONE = {"fedpdpo": "shared adapter alone", "pluralllm": "shared predictor"}  # keys by task
JSON_NAME = "rounds.jsonl"
CSV_NAME = "rounds.csv"
RELEASED_METRICS = (
    "accuracy_implicit",
    "rewards/margins",
    "loss",
    "unseen groups/alignment",
    "unseen groups/alignment_worst",
    "unseen groups/fairness",
    "unseen groups, unseen questions/alignment",
)
LOCAL_METRICS = (
    "accuracy_implicit",
    "accuracy_explicit",
    "accuracy_combined",
    "rewards/margins",
    "loss",
    "clip_fraction",
    "snr",
    "empty_batches",
    "worst_accuracy",
    "alignment",
    "alignment_worst",
    "fairness",
    "cov",
    "known questions/alignment",
)
_LOCAL_COLUMN = "local not released: "
_EMPTY: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Drop:
    """A client that left a round, and the protocol stage after which it was silent."""

    client: str
    stage: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundReport:
    """What one finished round cost and showed; epsilons are the worst client's, at `delta`."""

    task: str = "fedpdpo"
    round_index: int  # from 1
    clients: int  # invited
    survivors: int  # whose update is in the sum
    dropped: tuple[Drop, ...] = ()
    recovered: int = 0  # dropped clients whose masks were rebuilt from shares
    steps: int  # local steps of each client
    epsilon_round: float | None  # the increase; None: infinite, not private
    epsilon: float | None  # spent so far
    epsilon_pld: float | None = None
    epsilon_rdp: float | None = None
    epsilon_left: float | None = None  # None: no finite budget
    epsilon_own: float | None = None  # if aggregation fails: against who sees a client's own vectors; None: no such
    epsilon_sum: float | None = None  # against who sees the sums and knows no client's noise
    delta: float | None
    noise_multiplier: float
    sample_rate: float
    clip_norm: float
    unit: str  # pair, client or none
    noise: str  # local, distributed, central, seeded or none
    upload_bytes: int  # all clients, key material included
    secagg_client_seconds: float = 0.0  # all clients
    secagg_server_seconds: float = 0.0
    secagg_predicted_client_seconds: float = 0.0  # by secagg.cost from a probe before the first round, all clients
    secagg_predicted_server_seconds: float = 0.0
    seconds: float
    transcript_head: str | None = None  # SHA-256 of the transcript's last line; None: no transcript
    released: Mapping[str, float] = field(default_factory=lambda: _EMPTY)
    local: Mapping[str, float] = field(default_factory=lambda: _EMPTY)

    @property
    def private(self) -> bool:
        """Whether a finite epsilon holds."""
        return self.unit != "none" and self.noise in PRIVATE_NOISE and finite(self.epsilon) is not None

    @property
    def claim(self) -> str:
        """What the epsilons are about, for records that travel without their header."""
        return RELATIONS[self.unit] if self.private else NOT_PRIVATE


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a finished (or cleanly stopped) run hands back."""

    rounds: int  # completed
    epsilon: float | None  # worst client; None: infinite, not private
    delta: float | None
    unit: str
    noise: str
    output_dir: Path
    metrics: Mapping[str, float]  # simulation means over clients of what is served; JSON keys of `train`
    shared: Mapping[str, float] = field(default_factory=lambda: _EMPTY)  # same keys, the shared adapter alone
    released: Mapping[str, float] = field(default_factory=lambda: _EMPTY)  # server, on the public split
    files: tuple[Path, ...] = ()
    public_data: bool = False
    stopped: str | None = None  # why the run ended before its planned rounds (budget), in one line
    statement: Path | None = None  # the privacy statement, for machines; in words beside it (.md)
    sampler: str = ""  # the sampling that epsilon assumes, after its attestation; empty: as announced
    untrained: Mapping[str, float] = field(default_factory=lambda: _EMPTY)  # before the first round; and baselines
    served: str = "serving copy"  # what `metrics` are of
    task: str = "fedpdpo"
    plan_digest: str = ""  # of the plan published before the first round

    @property
    def private(self) -> bool:
        """Whether a finite epsilon holds."""
        return self.unit != "none" and self.noise in PRIVATE_NOISE and finite(self.epsilon) is not None


def report_values(report: RoundReport, *, local: bool = True) -> dict[str, Any]:
    """`report` as plain JSON values; `local=False` leaves out what no client releases."""
    values: dict[str, Any] = {}
    for item in fields(report):
        value = getattr(report, item.name)
        if item.name == "dropped":
            values["dropped"] = [{"client": drop.client, "stage": drop.stage} for drop in value]
        elif item.name == "released":
            values["released"] = {name: finite(number) for name, number in value.items()}
        elif item.name == "local":
            if local:
                values[LOCAL] = {name: finite(number) for name, number in value.items()}
        elif local or item.name != "seconds":  # wall time depends on sample sizes and lengths of private pairs
            values[item.name] = finite(value)
    values |= {"private": report.private, "claim": report.claim}
    return values


def to_json(report: RoundReport, *, local: bool = True) -> str:
    """`report` as one line of JSON without the newline."""
    return json.dumps(report_values(report, local=local), allow_nan=False)


def from_json(line: str) -> RoundReport:
    """The report that `to_json` wrote; a metric that was not finite comes back as NaN. Raises ValueError."""
    values = json.loads(line)
    if not isinstance(values, dict):
        raise ValueError(f"{JSON_NAME}: a line is no JSON object")
    for derived in ("private", "claim"):
        values.pop(derived, None)
    values["local"] = _numbers(values.pop(LOCAL, {}))
    values["released"] = _numbers(values["released"])
    values["dropped"] = tuple(Drop(drop["client"], drop["stage"]) for drop in values["dropped"])
    known = {item.name for item in fields(RoundReport)}
    if set(values) - known:
        raise ValueError(f"{JSON_NAME}: unknown fields {sorted(set(values) - known)}")
    return RoundReport(**values)


def csv_columns() -> tuple[str, ...]:
    """The columns of rounds.csv, in order; they are the same for every run."""
    plain = [item.name for item in fields(RoundReport) if item.name not in ("released", "local", "dropped")]
    place = plain.index("survivors") + 1
    released = [f"released: {name}" for name in RELEASED_METRICS]
    local = [f"{_LOCAL_COLUMN}{name}" for name in LOCAL_METRICS]
    return (*plain[:place], "dropped", *plain[place:], "private", "claim", *released, *local)


def append_report(folder: Path, report: RoundReport) -> None:
    """Add `report` to rounds.jsonl and rounds.csv in `folder`; both are on the disk when this returns."""
    _append(folder / JSON_NAME, to_json(report) + "\n", "")
    _append(folder / CSV_NAME, _csv_line(_csv_row(report)), _csv_line(csv_columns()))


def write_reports(folder: Path, reports: Iterable[RoundReport]) -> None:
    """Make rounds.jsonl and rounds.csv hold exactly `reports`; a resumed run so drops lines of a cut round."""
    rows = list(reports)
    _replace(folder / JSON_NAME, "".join(to_json(report) + "\n" for report in rows))
    lines = (_csv_line(_csv_row(report)) for report in rows)
    _replace(folder / CSV_NAME, _csv_line(csv_columns()) + "".join(lines))


def read_reports(folder: Path) -> tuple[RoundReport, ...]:
    """The finished rounds of a run folder, without a last line that a crash cut short."""
    path = folder / JSON_NAME
    if not path.exists():
        return ()
    lines = path.read_text(encoding="utf-8").split("\n")
    return tuple(from_json(line) for line in lines[:-1])  # after the last newline: nothing, or a cut line


def finite(value: Any) -> Any:
    """`value`, or None where it is a float that JSON cannot hold."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if number is None else number for name, number in values.items()}


def _csv_row(report: RoundReport) -> list[object]:
    values = report_values(report)
    values["dropped"] = " ".join(f"{drop.client}:{drop.stage}" for drop in report.dropped)
    values |= {f"released: {name}": values["released"].get(name) for name in RELEASED_METRICS}
    values |= {f"{_LOCAL_COLUMN}{name}": values[LOCAL].get(name) for name in LOCAL_METRICS}
    return ["" if values[column] is None else values[column] for column in csv_columns()]


def _csv_line(row: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(row)
    return text.getvalue()


def _append(path: Path, line: str, header: str) -> None:
    if path.exists():
        _cut_torn_tail(path)
    with path.open("a", encoding="utf-8", newline="") as file:
        file.write((header if file.tell() == 0 else "") + line)
        file.flush()
        os.fsync(file.fileno())


def _cut_torn_tail(path: Path) -> None:
    with path.open("r+b") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(path.name + ".new")
    with draft.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
