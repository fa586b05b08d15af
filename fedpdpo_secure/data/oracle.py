"""What perfect scorers reach on the built-in federation, computed exactly from its ground truth."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from fedpdpo_secure.config.models import Config
from fedpdpo_secure.data.synthetic import MIN_DIFFERENCE, SHARPNESS, client_weights, shared_weights
from fedpdpo_secure.data.synthetic_text import ATTRIBUTES


@dataclass(frozen=True, slots=True)
class OracleAccuracy:
    """Expected pair accuracies, means over clients; ties count one half."""

    own: float  # knows the client's weights, noise-free labels: 1 by construction
    shared: float  # knows only `shared_weights`: the ceiling of any model that is the same for every client
    train_flips: float  # share of training labels against the client's own utility


def oracle_accuracy(config: Config) -> OracleAccuracy:
    """Exact expectations over the attributes of both answers, given that their utilities differ enough to be kept."""
    # The difference of two fair bits is -1, 0, 1 with chances 1/4, 1/2, 1/4.
    differences = np.array(list(product((-1, 0, 1), repeat=len(ATTRIBUTES))), dtype=float)
    chance = np.prod(np.where(differences == 0, 0.5, 0.25), axis=1)
    by_shared = np.sign(np.round(differences @ shared_weights(config), 9))
    own, shared, flips = [], [], []
    for client in range(config.federation.clients):
        utility = differences @ client_weights(config, client)
        kept = np.where(np.abs(utility) >= MIN_DIFFERENCE - 1e-9, chance, 0.0)
        kept /= kept.sum()
        own.append(float(kept @ (np.sign(utility) != 0)))
        shared.append(float(kept @ (0.5 + 0.5 * np.sign(utility) * by_shared)))
        flips.append(float(kept @ (1.0 / (1.0 + np.exp(SHARPNESS * np.abs(utility))))))
    return OracleAccuracy(float(np.mean(own)), float(np.mean(shared)), float(np.mean(flips)))
