"""The privacy statement of a run: every field that such statements owe their readers, made from ledgers, configuration
and run facts, never typed in.

Fields after Ponomareva et al., "How to DP-fy ML" (JAIR 2023), section 5.3, NIST SP 800-226, and Gomez et al.,
arXiv:2503.10945 (report a curve, not one point). Epsilon comes from the ledgers' whole history, recomputed from their
events. `privacy_statement.json` is for machines (keys are only ever added), `privacy_statement.md` says the same.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fedpdpo_secure.budget import BudgetPlan
from fedpdpo_secure.claims import claim_text, finite_epsilon, why_not_private
from fedpdpo_secure.config import Config, config_digest
from fedpdpo_secure.histories import (
    Histories,
    Records,
    charged,
    columns,
    declared,
    distinct,
    known_samples,
    runs_recorded,
)
from fedpdpo_secure.provenance import git_commit, versions
from fedpdpo_secure.report import RELATIONS, RoundReport
from fedpdpo_secure.statement_audits import audits
from fedpdpo_secure.statement_numbers import (
    accounting,
    adversaries,
    curve,
    mechanism,
    person_bounds,
    replaced_epsilon,
    spending,
)
from fedpdpo_secure.statement_scope import covered, dp_model, implementation, not_covered, secagg, unit
from fedpdpo_secure.statement_text import markdown
from privacy.accounting import epsilon, worst
from privacy.views import Views

JSON_NAME = "privacy_statement.json"
TEXT_NAME = "privacy_statement.md"
VERSION = 1
State = Literal["running", "finished", "stopped", "interrupted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What a statement is made from, beside what lies in the run folder."""

    config: Config
    budget: BudgetPlan
    folder: Path
    records: Records  # of every client's ledger; empty where none is kept
    reports: tuple[RoundReport, ...]  # of the finished rounds
    plan_digest: str
    state: State
    stopped: str | None = None  # why the run ended before its planned rounds
    verdicts: Mapping[str, int] | None = None  # clients by their samplers' verdict; None: not tested yet
    logs_from: int = 1  # the first round of this process: the samplers' logs begin there

    @property
    def rejected(self) -> bool:
        """Whether some client's sampler was rejected."""
        return bool(self.verdicts and self.verdicts.get("rejected", 0))

    @property
    def histories(self) -> Histories:
        """What the clients were charged; as if samples were known where a sampler was rejected."""
        found = charged(self.records)
        return known_samples(found) if self.rejected else found


def ledger_views(facts: RunFacts) -> Views | None:
    """The worst client's bounds by adversary; None where no ledger is kept."""
    return columns(facts.histories, facts.budget.delta) if facts.records else None


def statement(facts: RunFacts) -> dict[str, Any]:
    """The statement as plain JSON values; an infinite epsilon is None, and then `private` is false."""
    config, budget = facts.config, facts.budget
    seen, done = ledger_views(facts), len(facts.reports)
    spent = None if seen is None else seen.with_colluders
    reason = why_not_private(budget, spent)
    histories = facts.histories if reason is None else {}
    releases = list(dict.fromkeys([*config.privacy.unaccounted_releases, *declared(facts.records)]))
    return {
        "version": VERSION,
        "private": reason is None,
        "not_private_because": reason,
        "claim": claim_text(config, budget, spent, own=None if seen is None else seen.own, verdicts=facts.verdicts),
        "run": {
            "state": facts.state,
            "stopped": facts.stopped,
            "rounds_done": done,
            "rounds_planned": config.federation.rounds,
            "method": config.method.name,
            "task": config.task,
            "personal": config.method.personal if config.task == "fedpdpo" else None,
            "data_id": config.data.id,
            "public_data": config.data.public,
        },
        "dp_model": dp_model(config, budget),
        "unit": {**unit(config), "person": person_bounds(config, histories, budget.delta) if histories else []},
        "adjacency": {
            "relation": RELATIONS[config.privacy.unit],
            "replace_one_epsilon": replaced_epsilon(histories, budget.delta) if histories else None,
        },
        "spent": {**spending(config, budget, spent), "whole_plan": whole_plan(facts, histories)},
        "curve": curve(histories, budget.delta) if histories else {"points": [], "gaussian_mu": None},
        "adversaries": adversaries(config, budget, seen),
        "covered": covered(config, done) if reason is None else [],
        "not_covered": not_covered(config, budget, reason=reason, declared=releases, runs=runs_recorded(facts.records)),
        "tuning": {"unaccounted_releases": releases, "answered": bool(releases)},
        "accounting": accounting(config, spent, facts.verdicts, logs_from=facts.logs_from),
        "mechanism": mechanism(config, budget, facts.reports),
        "implementation": implementation(config, budget),
        "secure_aggregation": secagg(config),
        "audits": audits(facts.folder, public=config.data.public, config_digest=config_digest(config)),
        "provenance": _provenance(facts),
    }


def whole_plan(facts: RunFacts, histories: Histories) -> float | None:
    """Epsilon if every planned round were charged: the bound where the end may have depended on what was released
    (`privacy.planned`). None where the run went to its end or nothing is promised."""
    left = facts.config.federation.rounds - len(facts.reports)
    if not histories or left <= 0 or facts.state == "finished":
        return None
    more = (facts.budget.event,) * left
    bounds = [epsilon([*events, *more], facts.budget.delta) for events in distinct(histories)]
    return finite_epsilon(worst(bounds))


def write_statement(facts: RunFacts) -> Path:
    """Replace both files in the run folder; returns the JSON one's path."""
    return _write(facts.folder, statement(facts))


def restate_audits(folder: Path) -> Path | None:
    """Put what `audit.json` now holds into the statement of a run that ended before it was attacked; the JSON file's
    path, None where there is no statement."""
    path = folder / JSON_NAME
    if not path.exists():
        return None
    values = json.loads(path.read_bytes())
    found = audits(folder, public=values["run"]["public_data"], config_digest=values["provenance"]["config_sha256"])
    return _write(folder, {**values, "audits": found})


def rejected_before(folder: Path) -> int:
    """1 where the statement in `folder` reports a rejected sampler, else 0: a resume does not forget it."""
    path = folder / JSON_NAME
    if not path.exists():
        return 0
    return int(bool(json.loads(path.read_bytes())["accounting"]["rejected"]))


def _provenance(facts: RunFacts) -> dict[str, Any]:
    """Code, configuration and the heads of the ledgers: what a reader needs to check the rest."""
    return {
        "package_version": versions()["fedpdpo"],
        "git_commit": git_commit(),
        "versions": versions(),
        "config_sha256": config_digest(facts.config),
        "plan_digest": facts.plan_digest,
        "starts_on_these_ledgers": runs_recorded(facts.records),
        "ledgers": [
            {"client": client, "data_id": facts.config.data.id, "records": len(rows), "head": rows[-1].hash}
            for client, rows in facts.records.items()
        ],
    }


def _write(folder: Path, values: Mapping[str, Any]) -> Path:
    _replace(folder / TEXT_NAME, markdown(values))
    _replace(folder / JSON_NAME, json.dumps(values, indent=1, allow_nan=False) + "\n")
    return folder / JSON_NAME


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
