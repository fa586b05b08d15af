"""One verb for both ways to sum: secure aggregation, or plain addition of the same integers.

Both take one client's integers at a time and keep one accumulator, so the server's memory does not grow with clients.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedpdpo_secure.config import Config, config_digest
from fedpdpo_secure.config.masking import graph_parameters, mode_of
from fedpdpo_secure.identities import Identities, load_identities
from secagg import LocalRound, RoundConfig, RoundSum, SecAggError, SigningKey, Stage, TooFewSurvivors
from secagg.transcript import Recorder, transcript_path, write_transcript

SILENT_BEFORE_VECTOR = (Stage.BEFORE_KEYS, Stage.AFTER_KEYS, Stage.AFTER_SHARES)


class Aggregation(Protocol):
    """One round of summing."""

    def open(self) -> tuple[int, ...]:
        """Key and share exchange; the clients whose vectors are awaited."""

    def submit(self, client: int, vector: NDArray[np.int64]) -> None:
        """Add one client's vector int64[dim]."""

    def finish(self) -> RoundSum:
        """The sum over survivors. Raises secagg.TooFewSurvivors, and then no sum exists."""


class PlainRound:
    """FedAvg's sum under the same schedule of drop-outs; the server sees every vector.

    It needs no threshold: nothing has to be rebuilt from shares, so `min_survivors` alone decides.
    """

    def __init__(self, clients: int, dim: int, min_survivors: int, bits: int, drops: Mapping[int, Stage]) -> None:
        self._drops, self._min, self._bytes = dict(drops), min_survivors, bits // 8 * dim
        self._awaited = tuple(c for c in range(clients) if drops.get(c) not in SILENT_BEFORE_VECTOR)
        self._total = np.zeros(dim, np.int64)
        self._seen: set[int] = set()

    def open(self) -> tuple[int, ...]:
        return self._awaited

    def submit(self, client: int, vector: NDArray[np.int64]) -> None:
        if client not in self._awaited or client in self._seen:
            raise ValueError(f"client {client} is not expected to submit a vector")
        if vector.shape != self._total.shape or vector.dtype != np.int64:
            raise ValueError(f"client {client}: vector must be int64{list(self._total.shape)}")
        self._total += vector
        self._seen.add(client)

    def finish(self) -> RoundSum:
        if len(self._seen) < self._min:
            raise TooFewSurvivors(f"{len(self._seen)} survivors, federation.min_survivors is {self._min}")
        silent = {client: Stage.AFTER_SHARES for client in self._awaited if client not in self._seen}
        return RoundSum(
            vector=self._total.copy(),
            survivors=tuple(sorted(self._seen)),
            dropped=tuple(sorted({**silent, **self._drops}.items())),
            recovered_mask_keys=0,
            recovered_self_masks=0,
            misfits=(),
            upload_bytes=dict.fromkeys(self._seen, self._bytes),
            download_bytes={},
        )


class RecordedRound:
    """A secure round that writes its transcript (`secagg.transcript`) to `path`, also when it is aborted."""

    def __init__(
        self, config: RoundConfig, drops: Mapping[int, Stage], keys: Mapping[int, SigningKey] | None, path: Path
    ) -> None:
        self._recorder, self._path = Recorder(config), path
        self._round = LocalRound(config, drops, identities=keys, tap=self._recorder)

    def open(self) -> tuple[int, ...]:
        with self._abort_recorded():
            return self._round.open()

    def submit(self, client: int, vector: NDArray[np.int64]) -> None:
        with self._abort_recorded():
            self._round.submit(client, vector)

    def finish(self) -> RoundSum:
        with self._abort_recorded():
            total = self._round.finish()
        write_transcript(self._path, self._recorder.finish(total))
        return total

    @contextmanager
    def _abort_recorded(self) -> Iterator[None]:
        try:
            yield
        except SecAggError as error:
            write_transcript(self._path, self._recorder.abort(type(error).__name__))
            raise


def open_aggregation(
    config: Config, round_index: int, dim: int, lora: NDArray[np.float64], transcripts: Path | None = None
) -> Aggregation:
    """The aggregation of round `round_index`, bound to the configuration and to the broadcast adapter.

    With `transcripts`, a folder, the round's transcript is written there, also when the round is aborted.
    """
    drops = scheduled_drops(config, round_index)
    clients, secagg = config.federation.clients, config.secagg
    if not secagg.enabled:
        return PlainRound(clients, dim, config.federation.min_survivors, secagg.bits, drops)
    identities = load_identities(config)
    chosen = round_config(config, round_index, dim, lora, identities)
    keys = identities.keys if identities is not None else None
    if transcripts is None:
        return LocalRound(chosen, drops, identities=keys)
    return RecordedRound(chosen, drops, keys, transcript_path(transcripts, round_index))


def round_config(
    config: Config, round_index: int, dim: int, lora: NDArray[np.float64], identities: Identities | None
) -> RoundConfig:
    """One round of the configured protocol, in a session of its own."""
    graph, threshold = graph_parameters(config), config.secagg.threshold
    assert threshold is not None  # resolved with the configuration
    return RoundConfig(
        session=os.urandom(16),
        round_index=round_index,
        clients=tuple(range(config.federation.clients)),
        threshold=threshold,
        min_survivors=config.federation.min_survivors,
        bits=config.secagg.bits,
        dim=dim,
        context=hashlib.sha256(config_digest(config).encode()).digest(),
        neighbors=None if graph.complete else graph.neighbors,
        least_present=None if graph.complete else graph.least_present,
        mode=mode_of(config),
        identities=identities.roster.identities if identities is not None else (),
        model=hashlib.sha256(lora.astype("<f8").tobytes()).digest(),
    )


def scheduled_drops(config: Config, round_index: int) -> dict[int, Stage]:
    """Which clients the configuration makes disappear in a round, and where."""
    drops = (drop for drop in config.federation.drop if drop["round"] == round_index)
    return {int(drop["client"]): Stage(drop["stage"]) for drop in drops}
