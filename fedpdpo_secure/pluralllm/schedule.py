"""Step sizes of local Adam: over the whole run (corrected), or the released code's cosine that returns (published)."""

from __future__ import annotations

import math
from typing import Literal

Decay = Literal["whole_run", "published", "constant"]
PUBLISHED_PERIOD = 100  # T_max of the released CosineAnnealingLR, in local steps; 600 are taken


def step_size(base: float, decay: Decay, *, step: int, steps: int) -> float:
    """The learning rate of local step `step` (from 0) of `steps` in the whole run.

    `whole_run` falls to 0 once. `published` falls to 0 after 100 local steps, returns to `base` after 200, and so on:
    torch's CosineAnnealingLR with T_max = 100, stepped past its end (PluralLLM's released code).
    """
    if decay == "constant":
        return base
    period = steps if decay == "whole_run" else PUBLISHED_PERIOD
    return base * (1.0 + math.cos(math.pi * step / period)) / 2.0
