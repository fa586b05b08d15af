"""The end of a run: serving copies, final measurements, the files a user keeps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fedpdpo_secure.artefacts import write_metrics
from fedpdpo_secure.budget import BudgetPlan
from fedpdpo_secure.checkpoint import GlobalState
from fedpdpo_secure.claims import claim_text, finite_epsilon, noise_kind, sampler_text
from fedpdpo_secure.progress import Progress
from fedpdpo_secure.report import LOCAL, SHARED_ALONE, RunResult
from fedpdpo_secure.tasks import PreparedTask
from privacy.accounting import Bound


def finish(
    prepared: PreparedTask,
    folder: Path,
    state: GlobalState,
    *,
    budget: BudgetPlan,
    spent: Bound | None,
    stopped: str | None,
    base: str,
    verdicts: Mapping[str, int],
    progress: Progress,
    own: Bound | None = None,
    statement: Path | None = None,
    plan_digest: str = "",
) -> RunResult:
    """Keep the shared part, fit serving copies where asked, measure, write metrics.json.

    `own` is the worst ledger's bound if aggregation fails, `statement` the privacy statement that is already written.
    """
    config = prepared.task.config
    claim = claim_text(config, budget, spent, own=own, verdicts=verdicts)
    kept = prepared.save_shared(folder, state, base=base, claim=claim)
    delta = budget.delta if config.privacy.unit != "none" else None
    found = prepared.final(state, progress)
    values = {
        "rounds": state.round_index,
        "unit": config.privacy.unit,
        "epsilon": finite_epsilon(spent),
        "delta": delta,
        "claim": claim,
        "released": found.released,
        LOCAL: {
            "sampler attestation, clients": dict(verdicts),
            "served": found.served,
            SHARED_ALONE[config.task]: found.shared,
            "untrained": found.untrained,
        },
    }
    return RunResult(
        rounds=state.round_index,
        epsilon=finite_epsilon(spent),
        delta=delta,
        unit=config.privacy.unit,
        noise=noise_kind(config, budget),
        output_dir=folder,
        metrics=found.served,
        shared=found.shared,
        released=found.released,
        files=(kept, folder / "rounds.csv", folder / "rounds.jsonl", write_metrics(folder, values)),
        public_data=config.data.public,
        stopped=stopped,
        statement=statement,
        sampler=sampler_text(config, verdicts),
        untrained=found.untrained,
        served=found.served_as,
        task=config.task,
        plan_digest=plan_digest,
    )
