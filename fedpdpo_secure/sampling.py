"""Each client's own check, at the end of a run, that its samples were Poisson as the accounting assumes.

The logs are private to their clients and stay in memory; only the verdicts are counted, and those are local too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fedpdpo_secure.config import Config
from fedpdpo_secure.config.units import sampled
from fedpdpo_secure.task import Client
from fedpdpo_secure.tasks import Task
from privacy.attestation import attest


def sampler_verdicts(task: Task, clients: Sequence[Client], config: Config) -> Counter[str]:
    """How many clients' sampling logs are consistent, rejected, or too short to tell; empty where nothing is sampled.

    After a resume a log holds the steps of this process alone.
    """
    if not sampled(config):
        return Counter()
    logs = ((client, task.sample_logs.get(client.name)) for client in clients)
    return Counter(
        attest(log, len(client.train), config.privacy.sample_rate).verdict for client, log in logs if log is not None
    )
