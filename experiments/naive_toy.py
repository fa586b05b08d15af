"""The naive scheme on a toy small enough for thousands of runs: a bilinear logistic model f(x) = h . W x.

W (4 x 8) is shared and released every round, h (4) is personal. Every scheme claims (2, 1e-3) for one record more or
less over 20 rounds. The attacker knows all other records, so the score of a run is the exact log likelihood ratio of
its released trajectory. numpy alone; all runs advance together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from privacy.calibration import noise_multiplier

Scheme = Literal["naive", "frozen", "joint", "client"]
SCHEMES: tuple[Scheme, ...] = ("naive", "frozen", "joint", "client")
EPSILON, DELTA = 2.0, 1e-3
ROUNDS = 20
RECORDS = 60  # of the attacked client, the target not counted: the public divisor
HIDDEN, INPUTS = 4, 8
CLIP = 1.0
_RATE = 0.5  # of W, on the mean over RECORDS
_LOCAL_STEPS = 5  # on W, in the client-level scheme
_BLOCK = 2000  # runs that advance together

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Toy:
    """Data and start. The last record is the target."""

    name: str
    x: Array  # [RECORDS + 1, INPUTS]
    y: Array  # [RECORDS + 1], +1 or -1
    shared: Array  # [HIDDEN, INPUTS], W at the start
    personal: Array  # [HIDDEN], h at the start: public, and what `frozen` keeps
    head_rate: float  # of gradient descent on h, on the mean over the client's records
    head_steps: int  # in each round
    sample_rate: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Attack:
    """Scores of independent runs, their coins, and what the target moved one release by, in claimed sensitivities."""

    scores: Array  # [runs]
    coins: NDArray[np.bool_]  # [runs], True where the target was in
    moved_mean: float
    moved_most: float


@dataclass(frozen=True, slots=True, eq=False)
class _World:
    """What is released without noise, for every run of a block, and the personal head after it."""

    released: Array  # [runs, D]
    target: Array  # [runs, D]: the target's own clipped part of it, 0 where it is out or the whole update is clipped
    head: Array  # [runs, HIDDEN]


def worst_case() -> Toy:
    """All records but the target lie where W is 0, so that the head never moves without the target.

    With it the head does move, and then every other record's clipped gradient points the same way.
    """
    x = np.zeros((RECORDS + 1, INPUTS))
    x[:-1, 0], x[-1, 1] = 1.0, 1.0
    shared = np.zeros((HIDDEN, INPUTS))
    shared[0, 1] = 0.3
    return Toy("toy, worst case", x, np.ones(RECORDS + 1), shared, np.zeros(HIDDEN), head_rate=50.0, head_steps=20)


def outlier(sample_rate: float = 1.0) -> Toy:
    """Gaussian records with linear labels; the target is far out and mislabelled."""
    rng = np.random.default_rng(7)
    direction = rng.standard_normal(INPUTS)
    direction /= np.linalg.norm(direction)
    x = rng.standard_normal((RECORDS + 1, INPUTS))
    y = np.where(x @ direction > 0, 1.0, -1.0)
    x[-1], y[-1] = 4.0 * direction, -1.0
    shared, personal = rng.standard_normal((HIDDEN, INPUTS)) / np.sqrt(INPUTS), rng.standard_normal(HIDDEN)
    name = "toy, outlier" if sample_rate == 1.0 else f"toy, outlier, sampled at {sample_rate:g}"
    return Toy(name, x, y, shared, personal, head_rate=5.0, head_steps=20, sample_rate=sample_rate)


TOYS = (worst_case(), outlier(), outlier(0.25))


def attack(toy: Toy, scheme: Scheme, *, runs: int, rng: np.random.Generator) -> Attack:
    """Play `runs` independent runs and score each. Under sampling the attacker knows every coin but the target's."""
    coins = rng.random(runs) < 0.5
    parts = [_block(toy, scheme, coins[at : at + _BLOCK], rng) for at in range(0, runs, _BLOCK)]
    moves = np.concatenate([moved for _, moved in parts])
    return Attack(np.concatenate([score for score, _ in parts]), coins, float(moves.mean()), float(moves.max()))


def claimed_noise(toy: Toy, scheme: Scheme) -> float:
    """Standard deviation of one coordinate of a release; a client's update may be replaced, so it carries twice."""
    noise = noise_multiplier(epsilon=EPSILON, delta=DELTA, sample_rate=toy.sample_rate, steps=ROUNDS)
    return noise * CLIP * _sensitivity(scheme)


def _sensitivity(scheme: Scheme) -> float:
    return 2.0 if scheme == "client" else 1.0


def _block(toy: Toy, scheme: Scheme, coins: NDArray[np.bool_], rng: np.random.Generator) -> tuple[Array, Array]:
    """(scores [runs], what the target moved [runs, ROUNDS])."""
    runs, deviation = len(coins), claimed_noise(toy, scheme)
    shared = np.tile(toy.shared, (runs, 1, 1))
    heads = {member: np.tile(toy.personal, (runs, 1)) for member in (True, False)}
    scores, moved = np.zeros(runs), np.empty((runs, ROUNDS))
    for at in range(ROUNDS):
        drawn = rng.random((runs, RECORDS + 1)) < toy.sample_rate
        inside, outside = (_world(toy, scheme, shared, heads[m], drawn, member=m) for m in (True, False))
        hidden = inside.released + inside.target  # the target sampled
        truth = np.where(coins[:, None], np.where(drawn[:, -1:], hidden, inside.released), outside.released)
        seen = truth + deviation * rng.standard_normal(truth.shape)
        drawn_ratio = _log_ratio(seen, hidden, outside.released, deviation)
        if toy.sample_rate < 1.0:
            other = _log_ratio(seen, inside.released, outside.released, deviation)
            q = toy.sample_rate
            drawn_ratio = np.logaddexp(np.log1p(-q) + other, np.log(q) + drawn_ratio)
        scores += drawn_ratio
        moved[:, at] = np.linalg.norm(hidden - outside.released, axis=1) / (CLIP * _sensitivity(scheme))
        heads = {True: inside.head, False: outside.head}
        step = seen * (1.0 if scheme == "client" else -_RATE) / RECORDS
        shared = shared + step[:, : HIDDEN * INPUTS].reshape(shared.shape)
        if scheme == "joint":  # the personal part is noised and the attacker sees it: one head for both worlds
            head = heads[True] + step[:, HIDDEN * INPUTS :]
            heads = {True: head, False: head}
    return scores, moved


def _log_ratio(seen: Array, inside: Array, outside: Array, deviation: float) -> Array:
    return np.asarray(((inside - outside) * (seen - (inside + outside) / 2)).sum(axis=1) / deviation**2)


def _world(toy: Toy, scheme: Scheme, shared: Array, head: Array, drawn: NDArray[np.bool_], *, member: bool) -> _World:
    size = RECORDS + 1 if member else RECORDS
    x, y = toy.x[:size], toy.y[:size]
    if scheme in ("naive", "client"):
        head = trained_head(shared, head, x, y, rate=toy.head_rate, steps=toy.head_steps)
    if scheme == "client":
        released = _whole_update(shared, head, x, y)
        return _World(released, np.zeros_like(released), head)
    weights = clipped_weights(shared, head, x, y, joint=scheme == "joint") * drawn[:, :size]
    if member:  # its own part is kept apart: the attacker does not know whether it was drawn
        alone = clipped_weights(shared, head, x[-1:], y[-1:], joint=scheme == "joint")
        target = _sum(shared, head, alone, x[-1:], joint=scheme == "joint")
        weights[:, -1] = 0.0
    released = _sum(shared, head, weights, x, joint=scheme == "joint")
    return _World(released, target if member else np.zeros_like(released), head)


def clipped_weights(shared: Array, head: Array, x: Array, y: Array, *, joint: bool) -> Array:
    """float64[runs, n]: record i's clipped gradient is this times (head x_i^T; and, jointly, W x_i)."""
    slope = -y * expit(-y * _scores(shared, head, x))
    squares = (head**2).sum(axis=1)[:, None] * (x**2).sum(axis=1)
    if joint:
        squares = squares + ((shared @ x.T) ** 2).sum(axis=1)
    norms = np.abs(slope) * np.sqrt(squares)
    return np.asarray(slope * np.minimum(1.0, CLIP / np.maximum(norms, 1e-300)))


def _sum(shared: Array, head: Array, weights: Array, x: Array, *, joint: bool) -> Array:
    """float64[runs, D]: the weighted gradients added up."""
    total = weights @ x
    on_shared = (head[:, :, None] * total[:, None, :]).reshape(len(head), -1)
    return np.concatenate([on_shared, (shared @ total[:, :, None])[:, :, 0]], axis=1) if joint else on_shared


def trained_head(shared: Array, head: Array, x: Array, y: Array, *, rate: float, steps: int) -> Array:
    """Gradient descent on the head alone, without noise: what the naive scheme takes to be harmless."""
    features = shared @ x.T  # [runs, HIDDEN, n]
    for _ in range(steps):
        slope = -y * expit(-y * np.einsum("rk,rkn->rn", head, features))
        head = head - rate / len(y) * np.einsum("rn,rkn->rk", slope, features)
    return head


def _whole_update(shared: Array, head: Array, x: Array, y: Array) -> Array:
    """float64[runs, D]: local descent on W, clipped as a whole."""
    trained = shared
    for _ in range(_LOCAL_STEPS):
        slope = -y * expit(-y * _scores(trained, head, x))
        trained = trained - _RATE / len(y) * (head[:, :, None] * (slope @ x)[:, None, :])
    update = (trained - shared).reshape(len(head), -1)
    norms = np.linalg.norm(update, axis=1, keepdims=True)
    return np.asarray(update * np.minimum(1.0, CLIP / np.maximum(norms, 1e-300)))


def _scores(shared: Array, head: Array, x: Array) -> Array:
    return np.asarray(np.einsum("rk,rkd->rd", head, shared) @ x.T)
