"""The end of a run: serving copies, final measurements, the files a user keeps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fedpdpo_secure.artefacts import save_adapter, write_metrics
from fedpdpo_secure.budget import BudgetPlan
from fedpdpo_secure.checkpoint import GlobalState
from fedpdpo_secure.claims import claim_text, finite_epsilon, noise_kind, sampler_text
from fedpdpo_secure.local.plan import local_plan
from fedpdpo_secure.measurement import client_metrics, keeps_own_parts, public_metrics, with_worst
from fedpdpo_secure.prepare import Prepared
from fedpdpo_secure.progress import Progress
from fedpdpo_secure.report import LOCAL, RunResult
from fedpdpo_secure.serving import evaluate_serving, fit_serving, wants_serving
from privacy.accounting import Bound

HELDOUT = "heldout"


def finish(
    prepared: Prepared,
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
    """Fit serving copies where asked, measure what clients serve and the shared adapter alone, write metrics.json.

    `own` is the worst ledger's bound if aggregation fails, `statement` the privacy statement that is already written.
    """
    task, config = prepared.task, prepared.task.config
    claim = claim_text(config, budget, spent, own=own, verdicts=verdicts)
    adapter = save_adapter(folder, task, state, base=base, claim=claim)
    delta = budget.delta if config.privacy.unit != "none" else None
    split = config.evaluation.final_split
    shared = client_metrics(prepared, state, split, personal=False) if task.method.aggregated else {}
    if wants_serving(config) and not task.method.pooled:
        served = _serve(prepared, state, split, progress)
    else:
        personal = keeps_own_parts(prepared)
        served = {name: client_metrics(prepared, state, name, personal=personal) for name in _splits(split)}
    others = {f"{name}/{key}": value for name in served if name != split for key, value in served[name].items()}
    metrics = {**served[split], **others}
    untrained = client_metrics(prepared, GlobalState(0, prepared.initial), split, personal=False)
    released = public_metrics(prepared, state)
    values = {
        "rounds": state.round_index,
        "unit": config.privacy.unit,
        "epsilon": finite_epsilon(spent),
        "delta": delta,
        "claim": claim,
        "released": released,
        LOCAL: {
            "sampler attestation, clients": dict(verdicts),
            "served": metrics,
            "shared adapter alone": shared,
            "untrained": untrained,
        },
    }
    return RunResult(
        rounds=state.round_index,
        epsilon=finite_epsilon(spent),
        delta=delta,
        unit=config.privacy.unit,
        noise=noise_kind(config, budget),
        output_dir=folder,
        metrics=metrics,
        shared=shared,
        released=released,
        files=(adapter, folder / "rounds.csv", folder / "rounds.jsonl", write_metrics(folder, values)),
        public_data=config.data.public,
        stopped=stopped,
        statement=statement,
        sampler=sampler_text(config, verdicts),
        served="pooled adapter" if task.method.pooled else "serving copy",
        plan_digest=plan_digest,
    )


def _splits(final: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((final, "validation", HELDOUT)))


def _serve(prepared: Prepared, state: GlobalState, split: str, progress: Progress) -> dict[str, dict[str, float]]:
    """Fit and measure every client's serving copy: metrics by split."""
    plan = local_plan(prepared.task.config, max(state.round_index, 1), 0.0)
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in _splits(split)}
    for done, client in enumerate(prepared.clients, start=1):
        fit_serving(prepared.task, state.lora, client, plan)
        for name, found in rows.items():
            found.append(evaluate_serving(prepared.task, client.name, prepared.store(client.name, name)).named())
        progress.serving(done, len(prepared.clients))
    return {name: with_worst(found) for name, found in rows.items()}
