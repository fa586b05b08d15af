"""Episodes under the privacy unit `question`: every sampled question draws its episode and its role by itself.

Unit and neighbours. Two data sets of a group are neighbours if one has one question more: all answers of the group to
it. Per step each question is in the Poisson sample with the public rate q, and a sampled question draws

    its episode, over a public fixed number E, and its role, target with the public chance `target_rate`, else context,

independently of every other question, of how many there are, and of all answers. An episode without context or without
target is dropped: it contributes zero. Every other episode gives one gradient, clipped to norm C; their sum is released
with Gaussian noise of standard deviation s.

Sensitivity 2C. Fix the coins (sample, episode, role) of all other questions; they have the same law in both data sets,
because no question's coins look at another. If the further question x is not sampled, the sums are equal. If it is, it
has exactly one episode e, so the gradients of all other episodes are the same, and that of e, clipped, turns from g
into g' (either may be zero, where e is dropped): the sum moves by |g' - g| <= 2C, not by C, since x changes what the
predictor sees in e and so the whole gradient, rather than adding a summand. The bound is reached: g' = -g, |g| = C.

Amplification. Given the other coins, x moves the sum with chance exactly q and by at most 2C. Each such pair of outputs
is dominated by that of the Poisson-subsampled Gaussian mechanism with sensitivity 2C, and mixing over the common law of
the other coins keeps the bound (joint convexity of the hockey-stick divergence). So a step costs what DP-SGD's step
costs at rate q and noise multiplier s / (2C), never s / C. E and target_rate do not enter the bound, and a slight bias
of either draw would not either: only their independence does.

What would break it: fixed sizes of context or target, a permutation of the sample, dealing questions to episodes in
turn, a mean over the episodes that were kept, or normalising by the number of questions: then x moves other questions
or the weight of other episodes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedpdpo_secure.pluralllm.episodes import Episode
from privacy.entropy import Entropy

MAX_EPISODES = 1 << 20


@dataclass(frozen=True, slots=True)
class EpisodeRoles:
    """The draws of one step. Secret: they say which questions of a group were sampled."""

    question: NDArray[np.int64]  # [k], ascending indices into the survey's questions
    episode: NDArray[np.int64]  # [k], each in [0, episodes)
    is_target: NDArray[np.bool_]  # [k]; the others are context
    episodes: int  # E, public

    def build(self, group: str) -> tuple[Episode, ...]:
        """The episodes with both a context and a target, at most E, in the order of their numbers."""
        built = []
        for number in np.unique(self.episode):
            here = self.episode == number
            context, target = self.question[here & ~self.is_target], self.question[here & self.is_target]
            if len(context) and len(target):
                built.append(Episode(group, context, target))
        return tuple(built)


def assign(chosen: NDArray[np.int64], *, episodes: int, target_rate: float, entropy: Entropy) -> EpisodeRoles:
    """Draw episode and role of every question in `chosen`, from a keystream used for nothing else.

    Question i reads words 2i and 2i + 1 of the keystream, whatever else was chosen: its draw is a function of the key
    and of i alone. The words are independent, so the draws are; and adding a question leaves the draws of all others
    bit for bit as they are, which is stronger than leaving their law.

    Args:
        chosen: int64[k], strictly ascending survey indices of the sampled questions; may be empty.
        episodes: E, public, from 1 to 2^20.
        target_rate: public chance of the role target, in (0, 1).

    Raises:
        ValueError: a number out of its bound, or `chosen` not strictly ascending from 0.
    """
    _check_draw(episodes, target_rate)
    if chosen.ndim != 1 or chosen.dtype.kind != "i":
        raise ValueError(f"chosen must be a vector of whole numbers, got {chosen.dtype}{list(chosen.shape)}")
    if len(chosen) and (chosen[0] < 0 or (np.diff(chosen) <= 0).any()):
        raise ValueError("chosen must be strictly ascending and start at 0 or above")
    size = int(chosen[-1]) + 1 if len(chosen) else 0
    words = entropy.keystream().words(2 * size).reshape(size, 2)[chosen]
    place = (words[:, 0] >> np.uint64(32)) * np.uint64(episodes) >> np.uint64(32)  # floor(E u), u of 32 bits
    is_target = words[:, 1] < np.uint64(int(math.ldexp(target_rate, 64)))
    return EpisodeRoles(chosen.astype(np.int64), place.astype(np.int64), is_target, episodes)


def kept_chance(questions: int, *, sample_rate: float, episodes: int, target_rate: float) -> float:
    """The chance that one episode has a context and a target, for a group of `questions` questions.

    E times this is the expected number of gradients per step. It serves to choose E and the rates from a public or
    assumed number of questions; the true number of a group is private.

    Raises:
        ValueError: a number out of its bound.
    """
    _check_draw(episodes, target_rate)
    if questions < 0:
        raise ValueError(f"questions must be at least 0, got {questions}")
    if not 0.0 < sample_rate <= 1.0:
        raise ValueError(f"sample_rate must be in (0, 1], got {sample_rate}")
    here = sample_rate / episodes
    target, context = here * target_rate, here * (1.0 - target_rate)
    return 1.0 - (1.0 - target) ** questions - (1.0 - context) ** questions + (1.0 - here) ** questions


def _check_draw(episodes: int, target_rate: float) -> None:
    if not 1 <= episodes <= MAX_EPISODES:
        raise ValueError(f"episodes must be in [1, {MAX_EPISODES}], got {episodes}")
    if not 0.0 < target_rate < 1.0:
        raise ValueError(f"target_rate must be in (0, 1), got {target_rate}")
