"""What one round of secure aggregation costs at one point, and whether its sum is right.

Seconds are CPU seconds of one process. Every vector is made from a seed just before its client submits it and only
the running plain sum is kept, so memory does not grow with clients x words. The plain sum is also what the secure sum
must equal, and what its cost is compared with. Each point is measured in a process of its own, so that its peak
memory is its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.bench_points import Point
from secagg import LocalRound, Mode, RoundConfig, SigningKey, Stage
from secagg.cost import RoundShape, predict, probe
from secagg.prg import apply_masks
from secagg.rates import lower_bound_now
from secagg.ring import word_dtype

PROBE_SECONDS = 0.6
MASK_TURNS = 9


class PointLost(RuntimeError):
    """The process of a point ended without a result: a missing point is an error, never a zero."""


def isolated(measure: Callable[[Point], dict[str, Any]], point: Point) -> dict[str, Any]:
    """`measure(point)` in a fresh process. Raises what it raises, or PointLost."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(measure, point).result()
        except BrokenProcessPool as error:
            raise PointLost(f"{point}: its process was ended, perhaps for want of memory") from error


def measure(point: Point) -> dict[str, Any]:
    """One row: medians over `repeats` rounds, client figures as medians over the survivors of each."""
    rates = probe(PROBE_SECONDS)
    base = peak_memory_bytes()
    rounds = [one_round(point, repeat) for repeat in range(point.repeats)]
    stages = {party: _medians([one[party] for one in rounds]) for party in ("client_stages", "server_stages")}
    row = _medians([{name: one[name] for name in _COSTS} for one in rounds])
    mask, bound = masking(point)
    cost = predict(_shape(point), rates)
    return {
        "clients": point.clients,
        "neighbors": point.degree,
        "graph": "complete" if point.neighbors is None else "k-regular",
        "threshold": point.threshold,
        "dim": point.dim,
        "dropped": point.dropped,
        "dropped_clients": point.dropped_clients,
        "bits": point.bits,
        "mode": point.mode,
        "repeats": point.repeats,
        "exact": all(one["exact"] for one in rounds),
        **row,
        "rounds": [{name: one[name] for name in _COSTS} for one in rounds],
        "bytes_by_message": rounds[-1]["bytes_by_message"],
        "upload_bytes": int(row["upload_bytes"]),
        "download_bytes": int(row["download_bytes"]),
        "stages": {"client": stages["client_stages"], "server": stages["server_stages"]},
        "mask_cpu_s": mask,
        "lower_bound_s": bound,
        "mask_ratio": mask / bound,
        "client_over_plain": row["client_cpu_s"] / (row["plain_sum_s"] / len(point.survivors)),
        "server_over_plain": row["server_cpu_s"] / row["plain_sum_s"],
        "rates": {"keystream_byte_s": rates.keystream, "add_word_s": rates.words[point.bits].add},
        "predicted_client_s": cost.client_seconds,
        "predicted_mask_s": cost.client_mask_seconds,
        "predicted_server_s": cost.server_seconds,
        "base_memory_bytes": base,
        "peak_memory_bytes": peak_memory_bytes(),
    }


_COSTS = (
    "client_cpu_s",
    "mask_stage_cpu_s",
    "server_cpu_s",
    "wire_cpu_s",
    "plain_sum_s",
    "upload_bytes",
    "download_bytes",
)


def check(point: Point) -> None:
    """Raise ValueError, naming the field and its bound, if there is no such round."""
    value_limit(point)
    _config(point, _identities(point))


def one_round(point: Point, repeat: int = 0) -> dict[str, Any]:
    """Run one round and check its sum; costs per client are medians over the survivors."""
    identities = _identities(point)
    expected = point.survivors
    drops = {client: Stage.AFTER_SHARES for client in range(point.clients) if client not in expected}
    aggregation = LocalRound(_config(point, identities), drops, identities=identities)
    plain, plain_seconds = np.full(point.dim, 0, np.int64), 0.0  # filled: no page first touched while timed
    for client in aggregation.open():
        vector = client_vector(point, client, repeat)
        aggregation.submit(client, vector)
        start = time.process_time()
        plain += vector
        plain_seconds += time.process_time() - start
    total = aggregation.finish()
    stages = {name: median(by[client] for client in expected) for name, by in total.client_stages.items()}
    return {
        "exact": total.survivors == expected and bool(np.array_equal(total.vector, plain)),
        "client_cpu_s": median(total.client_seconds[client] for client in expected),
        "mask_stage_cpu_s": stages["mask"],
        "server_cpu_s": total.server_seconds,
        "wire_cpu_s": total.wire_seconds,
        "plain_sum_s": plain_seconds,
        "upload_bytes": median(total.upload_bytes[client] for client in expected),
        "download_bytes": median(total.download_bytes[client] for client in expected),
        "bytes_by_message": dict(total.bytes_by_message),
        "client_stages": stages,
        "server_stages": dict(total.server_stages),
    }


def masking(point: Point) -> tuple[float, float]:
    """CPU seconds of one client's masks alone on one core, and their lower bound: medians of turns, one by one.

    The stage of the round that masks (`mask_stage_cpu_s`) also agrees on keys, reduces and packs. Taking turns
    keeps the ratio from depending on what else the machine does.
    """
    keys = [os.urandom(32) for _ in range(point.degree + 1)]
    words = np.zeros(point.dim, word_dtype(point.bits))
    taken, bounds = [], []
    for _ in range(MASK_TURNS):
        bounds.append(lower_bound_now(point.degree, point.dim, point.bits))
        start = time.process_time()
        apply_masks(words, add=keys[::2], subtract=keys[1::2], threads=1)
        taken.append(time.process_time() - start)
    return median(taken), median(bounds)


def value_limit(point: Point) -> int:
    """The largest absolute value with which no sum over all clients can wrap. Raises ValueError if that is 0."""
    limit = (2 ** (point.bits - 1) - 1) // point.clients
    if limit < 1:
        raise ValueError(f"bits: {point.clients} clients need a ring of more than {point.bits} bits")
    return limit


def client_vector(point: Point, client: int, repeat: int = 0) -> NDArray[np.int64]:
    """int64[dim], uniform in +-`value_limit`; the same for the same arguments."""
    limit = value_limit(point)
    return np.random.default_rng([repeat, client]).integers(-limit, limit, point.dim, endpoint=True)


def peak_memory_bytes() -> int:
    """Peak resident memory of this process since it began.

    Linux keeps the parent's peak in ru_maxrss of a spawned process, so its own count is read there instead.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    import resource
    import sys

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _identities(point: Point) -> dict[int, SigningKey] | None:
    if Mode(point.mode) is Mode.SEMI_HONEST:
        return None
    return {client: SigningKey.generate() for client in range(point.clients)}


def _config(point: Point, identities: Mapping[int, SigningKey] | None) -> RoundConfig:
    return RoundConfig(
        session=os.urandom(16),
        round_index=0,
        clients=tuple(range(point.clients)),
        threshold=point.threshold,
        min_survivors=3,
        bits=point.bits,
        dim=point.dim,
        context=bytes(32),
        neighbors=point.neighbors,
        least_present=None if point.neighbors is None else point.clients,  # whoever drops has advertised
        mode=Mode(point.mode),
        identities=tuple(key.public for key in identities.values()) if identities else (),
    )


def _shape(point: Point) -> RoundShape:
    return RoundShape(
        clients=point.clients,
        neighbors=point.neighbors,
        threshold=point.threshold,
        bits=point.bits,
        dim=point.dim,
        dropped=point.dropped_clients / point.clients,
        malicious=Mode(point.mode) is Mode.MALICIOUS_SERVER,
    )


def _medians(records: list[dict[str, float]]) -> dict[str, float]:
    """The median of each key; every record has every key."""
    return {name: median(record[name] for record in records) for name in records[0]}
