"""The same secure sum through flwr: its own workflow object drives its own client code, in one process.

Nothing of flwr is copied. `SecAggPlusWorkflow` runs as the server and `secaggplus_mod` as each client; between them
stands a grid that carries every message through flwr's own serialisation (its time is counted apart) and loses the
clients that are to drop out when the masked vector is due. No model is broadcast, so downloads hold keys and shares
only, as ours do. Importing this module needs flwr, of the version in constraints.txt: part of what it drives is
internal there.

flwr sums clipped floats, so it quantises; what that takes (loading, scaling and rounding the floats, and the way back
at the server) is measured and left out of the seconds compared with ours, which starts from integers.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module, metadata
from statistics import median
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.common import Code, FitIns, FitRes, Parameters, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.compat.common.recorddict_compat import fitres_to_recorddict
from flwr.server import LegacyContext
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray

from experiments.bench_points import FLOWER_QUANTISER_BITS, Point, flower_share_seconds
from experiments.bench_secagg import client_vector, peak_memory_bytes, value_limit

CLIP = 8.0
FULL_WEIGHT = 1000  # num_examples = max_weight: every vector has weight one, and flwr its best resolution
SHARING_SECONDS = 4.0  # about so long all sampled clients together take to make their shares
_CLIENT = import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")  # the package names the function alike
_WORKFLOW = import_module("flwr.server.workflow.secure_aggregation.secaggplus_workflow")
_CLIENT_FLOATS = ("parameters_to_ndarrays", "parameters_multiply", "quantize")
_SERVER_FLOATS = ("dequantize",)


def measure(point: Point) -> dict[str, Any]:
    """One round of flwr at `point`: CPU seconds, bytes, and how far its mean is from the true one.

    client_cpu_s, server_cpu_s leave quantising out; *_with_quantise leave it in. Client figures are medians over
    `clients_sampled` survivors: where making shares would take all clients more than four seconds, the others are told
    a threshold of 2, which changes neither what they send nor what the server computes (it combines all shares).
    Raises RuntimeError if flwr halts the round.
    """
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    grid = _Grid(point, _sampled(point))
    strategy = _Strategy(point.clients)
    workflow = SecAggPlusWorkflow(
        num_shares=1.0 if point.neighbors is None else point.neighbors + 1, reconstruction_threshold=point.threshold
    )
    clock = _Clock()
    with _timed_calls(_CLIENT, _CLIENT_FLOATS, grid.floats), _timed_calls(_WORKFLOW, _SERVER_FLOATS, clock):
        start = time.process_time()
        workflow(grid, _server_context(strategy))
        server = time.process_time() - start - grid.elapsed.seconds
    if strategy.mean is None:
        raise RuntimeError(f"flwr halted its round at {point}")
    expected = grid.total / len(point.survivors)
    error = float(np.abs(np.concatenate([part.ravel() for part in strategy.mean]) - expected).max())
    return {
        **grid.client_figures(),
        "server_cpu_s": server - clock.seconds,
        "server_with_quantise_s": server,
        "wire_cpu_s": grid.wire.seconds,
        "max_error": error,
        "correct": error <= 2 * 2 * CLIP / 2**FLOWER_QUANTISER_BITS,
        "clients_sampled": len(grid.sampled),
        "repeats": 1,
        "peak_memory_bytes": peak_memory_bytes(),
        "version": metadata.version("flwr"),
        "driven": "SecAggPlusWorkflow and secaggplus_mod, in one process",
    }


def _sampled(point: Point) -> frozenset[int]:
    """The survivors that make their shares at the true threshold, and whose time counts."""
    affordable = max(4, int(SHARING_SECONDS / flower_share_seconds(point)))
    return frozenset(point.survivors[:affordable])


def _server_context(strategy: _Strategy) -> LegacyContext:
    state = RecordDict({MAIN_CONFIGS_RECORD: ConfigRecord({WorkflowKey.CURRENT_ROUND: 1})})
    state[MAIN_PARAMS_RECORD] = ArrayRecord()
    context = Context(run_id=1, node_id=1, node_config={}, state=state, run_config={})
    return LegacyContext(context, strategy=strategy, client_manager=strategy)


@dataclass(slots=True)
class _Clock:
    """CPU seconds of all threads of this process (flwr shares and combines in a pool)."""

    seconds: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        start = time.process_time()
        try:
            yield
        finally:
            self.seconds += time.process_time() - start


@contextmanager
def _timed_calls(module: Any, names: Iterable[str], clock: _Clock) -> Iterator[None]:
    """Let `clock` run during the calls that `module` makes of the functions `names`."""
    originals = {name: getattr(module, name) for name in names}

    def timed(function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            with clock.running():
                return function(*arguments)

        return call

    try:
        for name, function in originals.items():
            setattr(module, name, timed(function))
        yield
    finally:
        for name, function in originals.items():
            setattr(module, name, function)


@dataclass(frozen=True, slots=True)
class _Proxy:
    node_id: int


class _Strategy:
    """What flwr's workflow asks of its strategy and client manager, and no more: all clients, and keep the mean."""

    def __init__(self, clients: int) -> None:
        self._clients = clients
        self.mean: list[NDArray[np.float64]] | None = None

    def num_available(self) -> int:
        return self._clients

    def configure_fit(self, server_round: int, parameters: Parameters, client_manager: Any) -> list[Any]:
        return [(_Proxy(_node(client)), FitIns(parameters, {})) for client in range(self._clients)]

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> tuple[None, Mapping[str, Any]]:
        if failures:
            raise failures[0]
        self.mean = parameters_to_ndarrays(results[0][1].parameters)
        return None, {}


def _node(client: int) -> int:
    return client + 1  # 0 names no node in flwr


class _Grid:
    """Carries messages between the workflow and the clients, all of them here; times and counts them."""

    def __init__(self, point: Point, sampled: frozenset[int]) -> None:
        self.sampled = sampled
        self.elapsed, self.wire, self.floats, self._training = _Clock(), _Clock(), _Clock(), _Clock()
        self.total = np.zeros(point.dim)
        self._point = point
        self._scale = np.float32(1 / value_limit(point))
        self._contexts = {
            client: Context(run_id=1, node_id=_node(client), node_config={}, state=RecordDict(), run_config={})
            for client in range(point.clients)
        }
        self._stages: dict[str, dict[int, float]] = defaultdict(dict)  # CPU seconds, without quantising
        self._quantise: dict[int, float] = defaultdict(float)
        self._upload: dict[int, int] = defaultdict(int)
        self._download: dict[int, int] = defaultdict(int)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        with self.elapsed.running():
            replies = [self._deliver(message) for message in messages]
        return [reply for reply in replies if reply is not None]

    def client_figures(self) -> dict[str, Any]:
        """Medians over the sampled clients."""
        stages = {name: median(by[client] for client in self.sampled) for name, by in self._stages.items()}
        totals = {client: sum(by[client] for by in self._stages.values()) for client in self.sampled}
        return {
            "client_cpu_s": median(totals.values()),
            "client_with_quantise_s": median(totals[client] + self._quantise[client] for client in self.sampled),
            "mask_cpu_s": stages[Stage.COLLECT_MASKED_VECTORS],
            "stages": stages,
            "upload_bytes": int(median(self._upload[client] for client in self.sampled)),
            "download_bytes": int(median(self._download[client] for client in self.sampled)),
        }

    def _deliver(self, message: Message) -> Message | None:
        client = message.metadata.dst_node_id - _node(0)
        stage = message.content.config_records[RECORD_KEY_CONFIGS][Key.STAGE]
        if stage == Stage.COLLECT_MASKED_VECTORS and client not in self._point.survivors:
            return None
        received = self._carry(message, self._download, client)
        if stage == Stage.SETUP and client not in self.sampled:
            received.content.config_records[RECORD_KEY_CONFIGS][Key.THRESHOLD] = 2
        floats, training, start = self.floats.seconds, self._training.seconds, time.process_time()
        reply = _CLIENT.secaggplus_mod(received, self._contexts[client], self._train)
        spent = time.process_time() - start - (self._training.seconds - training)
        quantise = self.floats.seconds - floats
        self._stages[str(stage)][client] = spent - quantise
        self._quantise[client] += quantise
        return self._carry(reply, self._upload, client)

    def _carry(self, message: Message, counted: dict[int, int], client: int) -> Message:
        with self.wire.running():
            proto = message_to_proto(message)
            data = proto.SerializeToString()
            counted[client] += len(data)
            return message_from_proto(type(proto).FromString(data))

    def _train(self, message: Message, context: Context) -> Message:
        """What flwr calls the client's training: here, making its vector."""
        with self._training.running():
            client = message.metadata.dst_node_id - _node(0)
            vector = client_vector(self._point, client).astype(np.float32) * self._scale
            self.total += vector
            result = FitRes(Status(Code.OK, ""), ndarrays_to_parameters([vector]), FULL_WEIGHT, {})
            return Message(fitres_to_recorddict(result, False), reply_to=message)
