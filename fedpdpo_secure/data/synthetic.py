"""The built-in federation: seeded, made on the fly client by client, with known ground truth.

Every client wants answers that are correct (weight 2.0) and polite (0.5). On length (1.25), hedging (1.0) and emoji
(0.75) clients may disagree: with heterogeneity h, client c weighs attribute a by `w_a * ((1 - h) + h * sign_ca)`, so at
h = 0 all want the same, at h = 0.5 half of them do not care, and at h = 1 half of them want the opposite of the others.
Sign patterns come in opposite neighbours: for an even number of clients the opposed tastes average `(1 - h) * w_a`.
Training labels follow Bradley-Terry; validation, test and held-out labels are noise-free.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fedpdpo_secure.config.models import Config
from fedpdpo_secure.data.pairs import PUBLIC_CLIENT, Federation, PreferencePair
from fedpdpo_secure.data.synthetic_text import (
    ATTRIBUTES,
    PARAPHRASES,
    PLACES,
    QUESTIONS,
    TOPICS,
    Answer,
    answer,
    question,
)

SHARED_WEIGHTS = np.array([2.0, 0.5, 0.0, 0.0, 0.0])  # correct, polite, long, hedged, emoji
OPPOSED_WEIGHTS = np.array([0.0, 0.0, 1.25, 1.0, 0.75])
SIGNS = ((1, 1, 1), (-1, -1, -1), (1, 1, -1), (-1, -1, 1), (1, -1, 1), (-1, 1, -1), (-1, 1, 1), (1, -1, -1))
MIN_DIFFERENCE = 0.25  # closer pairs are redrawn
SHARPNESS = 5.0  # of the Bradley-Terry training labels: about 3 % flips
PUBLIC_PAIRS = 300  # labelled by the tastes all clients share, for evaluation at the server

_STREAMS = {"train": 1, "validation": 2, "test": 3, "heldout": 4, "public": 5, "dialogues": 6}


@dataclass(frozen=True, slots=True)
class _Comparisons:
    """Drawn pairs before they become words; axis 1 of two-dimensional fields is the answer."""

    topic: np.ndarray  # int64[n]
    phrasing: np.ndarray  # int64[n]
    bits: np.ndarray  # bool[n, 2, 5]
    wrong: np.ndarray  # int64[n, 2]
    paraphrases: np.ndarray  # int64[n, 2, 4]
    first_wins: np.ndarray  # bool[n]


def client_names(clients: int) -> tuple[str, ...]:
    """Names whose alphabetical order is their number."""
    width = max(2, len(str(clients - 1)))
    return tuple(f"client-{index:0{width}d}" for index in range(clients))


def client_weights(config: Config, client_index: int) -> np.ndarray:
    """float64[5]: the true utility weights of one client, in the order of ATTRIBUTES."""
    h = config.synthetic.heterogeneity
    signs = np.array([1.0, 1.0, *SIGNS[client_index % len(SIGNS)]])
    return SHARED_WEIGHTS + OPPOSED_WEIGHTS * ((1.0 - h) + h * signs)


def shared_weights(config: Config) -> np.ndarray:
    """float64[5]: what all clients have in common (the mean of their weights for an even number of clients)."""
    return SHARED_WEIGHTS + OPPOSED_WEIGHTS * (1.0 - config.synthetic.heterogeneity)


def heldout_topics(config: Config) -> range:
    """Indices into TOPICS that only `heldout` pairs (and public texts) mention."""
    return range(len(TOPICS) - config.synthetic.heldout_topics, len(TOPICS))


def make_federation(config: Config) -> Federation:
    """The built-in federation of `config`; nothing is generated before the stream is read."""
    names = client_names(config.federation.clients)
    sizes = _sizes(config)
    counts = {name: dict(sizes) for name in names}
    counts[PUBLIC_CLIENT] = {"public": PUBLIC_PAIRS}
    return Federation(
        clients=names,
        counts=counts,
        example=next(client_pairs(config, 0, "train")),
        source=f"built-in synthetic federation, seed {config.seed}, heterogeneity {config.synthetic.heterogeneity:g}",
        templated=False,
        notes=(),
        stream=lambda: _stream(config),
        public_stream=lambda: public_texts(config),
    )


def client_pairs(config: Config, client_index: int, split: str) -> Iterator[PreferencePair]:
    """The pairs of one client and split, in a fixed order that depends on nothing but seed, client and split."""
    sizes, clients = _sizes(config), config.federation.clients
    held = heldout_topics(config)
    topics = np.array(held if split == "heldout" else range(held.start))
    owners = np.full(sizes[split], client_index)
    if config.data.partition == "round_robin":  # all tastes dealt evenly to every client
        owners = (owners + np.arange(sizes[split])) % clients
    patterns = np.stack([client_weights(config, index) for index in range(min(clients, len(SIGNS)))])
    rng = np.random.default_rng([config.seed, _STREAMS[split], client_index])
    drawn = _draw(rng, topics, patterns[owners % len(SIGNS)], SHARPNESS if split == "train" else None)
    yield from _worded(drawn, client_names(clients)[client_index], split)


def public_pairs(config: Config) -> Iterator[PreferencePair]:
    """PUBLIC_PAIRS pairs on all topics, labelled without noise by `shared_weights`; no client owns them."""
    rng = np.random.default_rng([config.seed, _STREAMS["public"]])
    weights = np.tile(shared_weights(config), (PUBLIC_PAIRS, 1))
    yield from _worded(_draw(rng, np.arange(len(TOPICS)), weights, None), PUBLIC_CLIENT, "public")


def public_texts(config: Config) -> Iterator[str]:
    """`synthetic.public_dialogues` dialogues on all topics; every attribute, correct too, is true half of the time."""
    rng = np.random.default_rng([config.seed, _STREAMS["dialogues"]])
    count = config.synthetic.public_dialogues
    drawn = _draw(rng, np.arange(len(TOPICS)), np.zeros((count, len(ATTRIBUTES))), None, min_difference=0.0)
    for pair in _worded(drawn, PUBLIC_CLIENT, "public"):
        yield pair.prompt + pair.chosen


def _sizes(config: Config) -> dict[str, int]:
    made = config.synthetic
    return {
        "train": made.pairs,
        "validation": made.validation_pairs,
        "test": made.test_pairs,
        "heldout": made.test_pairs // 2 if made.heldout_topics else 0,
    }


def _stream(config: Config) -> Iterator[PreferencePair]:
    for index in range(config.federation.clients):
        for split, size in _sizes(config).items():
            if size:
                yield from client_pairs(config, index, split)
    yield from public_pairs(config)


def _draw(
    rng: np.random.Generator,
    topics: np.ndarray,
    weights: np.ndarray,
    sharpness: float | None,
    min_difference: float = MIN_DIFFERENCE,
) -> _Comparisons:
    """One comparison per row of `weights` (float64[n, 5]); attributes are redrawn until the utilities differ enough."""
    count = len(weights)
    bits = np.empty((count, 2, len(ATTRIBUTES)), dtype=bool)
    difference = np.empty(count)
    pending = np.arange(count)
    while len(pending):
        fresh = rng.random((len(pending), 2, len(ATTRIBUTES))) < 0.5
        gap = ((fresh[:, 0].astype(float) - fresh[:, 1]) * weights[pending]).sum(axis=1)
        far = np.abs(gap) >= min_difference - 1e-9
        bits[pending[far]], difference[pending[far]] = fresh[far], gap[far]
        pending = pending[~far]
    coin = rng.random(count)
    first_wins = difference > 0
    if sharpness is not None:
        first_wins = coin < 1.0 / (1.0 + np.exp(-sharpness * difference))
    return _Comparisons(
        topic=topics[rng.integers(0, len(topics), count)] if count else np.empty(0, dtype=np.int64),
        phrasing=rng.integers(0, len(QUESTIONS), count),
        bits=bits,
        wrong=rng.integers(0, len(PLACES) - 1, (count, 2)),
        paraphrases=rng.integers(0, PARAPHRASES, (count, 2, 4)),
        first_wins=first_wins,
    )


def _worded(drawn: _Comparisons, client: str, split: str) -> Iterator[PreferencePair]:
    for row in range(len(drawn.topic)):
        topic = int(drawn.topic[row])
        first, second = (_answer(drawn, row, side, topic) for side in (0, 1))
        chosen, rejected = (first, second) if drawn.first_wins[row] else (second, first)
        yield PreferencePair(question(topic, int(drawn.phrasing[row])), chosen, rejected, client, split)


def _answer(drawn: _Comparisons, row: int, side: int, topic: int) -> str:
    correct, polite, long, hedged, emoji = (bool(bit) for bit in drawn.bits[row, side])
    true = TOPICS[topic][1]
    place = true if correct else (true + 1 + int(drawn.wrong[row, side])) % len(PLACES)
    opener, sentence, extra, picture = (int(choice) for choice in drawn.paraphrases[row, side])
    return answer(topic, Answer(place, polite, long, hedged, emoji, (opener, sentence, extra, picture)))
