"""The unit `question`: a question draws episode and role by itself, so one question changes one clipped gradient."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from fedpdpo_secure.pluralllm.episodes import Episode
from fedpdpo_secure.pluralllm.roles import MAX_EPISODES, EpisodeRoles, assign, kept_chance
from privacy.entropy import Entropy, poisson_sample

E, RATE = 5, 0.4
REFUSED = 1e-6  # p value below which a law is refused; the seeds are fixed


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def drawn(chosen: np.ndarray, seed: int, episodes: int = E) -> EpisodeRoles:
    return assign(chosen, episodes=episodes, target_rate=RATE, entropy=Entropy.seeded(seed))


def test_adding_a_question_leaves_the_draws_of_all_others_bit_for_bit() -> None:
    base = ints(3, 8, 20, 21, 99)
    for seed, added in itertools.product(range(20), (0, 5, 50, 98, 100, 1000)):
        more = drawn(np.sort(np.append(base, added)), seed)
        kept = np.isin(more.question, base)
        less = drawn(base, seed)
        assert more.episode[kept].tolist() == less.episode.tolist()
        assert more.is_target[kept].tolist() == less.is_target.tolist()


def cells(roles: EpisodeRoles) -> np.ndarray:
    return roles.episode * 2 + roles.is_target


def independence_p(first: np.ndarray, second: np.ndarray, shares: np.ndarray) -> float:
    """Chi-square of the joint table of two questions' (episode, role) against the product of the stated shares."""
    table = np.zeros((len(shares), len(shares)))
    np.add.at(table, (first, second), 1)
    return float(stats.chisquare(table.ravel(), len(first) * np.outer(shares, shares).ravel()).pvalue)


SHARES = np.array([share for _ in range(E) for share in ((1 - RATE) / E, RATE / E)])


def test_two_questions_draw_episode_and_role_independently_by_the_stated_law() -> None:
    """From the operating system's entropy; a false alarm has chance 1e-6."""
    chosen, many = ints(2, 3, 70), 10_000
    seen = np.array([cells(assign(chosen, episodes=E, target_rate=RATE, entropy=Entropy.os())) for _ in range(many)])
    for a, b in itertools.combinations(range(3), 2):
        assert independence_p(seen[:, a], seen[:, b], SHARES) > REFUSED


def test_the_same_test_refuses_laws_that_would_break_the_argument() -> None:
    rng, many = np.random.default_rng(0), 10_000
    dealt = np.array([rng.permutation(E)[:2] for _ in range(many)]) * 2  # two questions never share an episode
    dealt += rng.random((many, 2)) < RATE
    roles = np.stack([rng.permutation(10)[:2] < 4 for _ in range(many)])  # a fixed number of targets
    fixed = rng.integers(0, E, (many, 2)) * 2 + roles
    biased = rng.integers(0, E, (many, 2)) * 2 + (rng.random((many, 2)) < RATE * 1.1)
    for law in (dealt, fixed, biased):
        assert independence_p(law[:, 0], law[:, 1], SHARES) < REFUSED
    right = rng.integers(0, E, (many, 2)) * 2 + (rng.random((many, 2)) < RATE)
    assert independence_p(right[:, 0], right[:, 1], SHARES) > REFUSED


def test_the_law_of_a_question_is_the_same_whether_another_is_sampled_or_not() -> None:
    """Two samples of question 7's draw, with fresh keys: alone, and beside 100 others."""
    many = 4000
    crowd = np.sort(np.append(np.arange(20, 120), 7))
    alone = [cells(assign(ints(7), episodes=E, target_rate=RATE, entropy=Entropy.os()))[0] for _ in range(many)]
    beside = [cells(assign(crowd, episodes=E, target_rate=RATE, entropy=Entropy.os()))[0] for _ in range(many)]
    table = np.array([np.bincount(side, minlength=2 * E) for side in (alone, beside)])
    assert stats.chi2_contingency(table).pvalue > REFUSED
    assert stats.chisquare(table.sum(axis=0), 2 * many * SHARES).pvalue > REFUSED


def clipped_gradient(episode: Episode, clip_norm: float) -> np.ndarray:
    """The worst kind of gradient: any change in an episode points somewhere else, at full norm."""
    key = [1, *episode.context.tolist(), 0x7FFF, *episode.target.tolist()]
    direction = np.random.default_rng(key).normal(size=6)
    return clip_norm * direction / np.linalg.norm(direction)


def gradients(roles: EpisodeRoles, clip_norm: float) -> dict[tuple[int, ...], np.ndarray]:
    return {(*e.context.tolist(), -1, *e.target.tolist()): clipped_gradient(e, clip_norm) for e in roles.build("G")}


def test_one_question_more_changes_one_clipped_gradient_and_the_sum_by_at_most_twice_the_clip_norm() -> None:
    clip_norm, moves, changed = 0.7, [], []
    rng = np.random.default_rng(4)
    for seed in range(600):
        base = np.flatnonzero(rng.random(40) < 0.4)
        added = int(rng.choice(np.setdiff1d(np.arange(40), base)))
        before = gradients(drawn(base, seed), clip_norm)
        after = gradients(drawn(np.sort(np.append(base, added)), seed), clip_norm)
        assert len(before.keys() - after.keys()) <= 1 and len(after.keys() - before.keys()) <= 1
        moved = sum(after.values(), np.zeros(6)) - sum(before.values(), np.zeros(6))
        moves.append(np.linalg.norm(moved))
        changed.append(len(before.keys() ^ after.keys()))
    assert max(moves) <= 2 * clip_norm + 1e-12
    assert max(moves) > 1.8 * clip_norm  # so C alone would be a wrong sensitivity
    assert {1, 2} <= set(changed)  # an episode completed by the question, and one whose content it changed


def test_episodes_without_context_or_target_are_dropped_and_all_others_kept() -> None:
    roles = EpisodeRoles(
        question=ints(1, 4, 6, 7, 9, 12),
        episode=ints(2, 0, 2, 1, 4, 4),
        is_target=np.array([True, True, False, False, True, False]),
        episodes=E,
    )
    built = roles.build("G")
    assert [(e.group, e.context.tolist(), e.target.tolist()) for e in built] == [("G", [6], [1]), ("G", [12], [9])]
    assert drawn(ints(), 0).build("G") == ()


def test_every_question_of_a_kept_episode_is_there_once_in_its_role() -> None:
    for seed in range(30):
        roles = drawn(np.arange(0, 120, 2), seed)
        built = roles.build("G")
        assert len(built) <= E
        placed = {}
        for episode in built:
            placed |= {int(q): False for q in episode.context} | {int(q): True for q in episode.target}
        assert sum(len(e.context) + len(e.target) for e in built) == len(placed)
        for question, target in zip(roles.question.tolist(), roles.is_target.tolist(), strict=True):
            assert placed.get(question, target) == target


@pytest.mark.parametrize(("questions", "sample_rate", "episodes"), [(40, 0.3, 4), (200, 0.2, 16), (10, 1.0, 3)])
def test_the_chance_that_an_episode_is_kept_is_the_stated_one(
    questions: int, sample_rate: float, episodes: int
) -> None:
    entropy, many, kept = Entropy.seeded(9), 1500, 0
    for _ in range(many):
        chosen = poisson_sample(questions, sample_rate, entropy)
        kept += len(assign(chosen, episodes=episodes, target_rate=RATE, entropy=entropy).build("G"))
    chance = kept_chance(questions, sample_rate=sample_rate, episodes=episodes, target_rate=RATE)
    # episodes of one step depend on each other: count each step as one observation, which errs on the wide side
    error = np.sqrt(chance * (1 - chance) / many)
    assert abs(kept / many / episodes - chance) < 5 * error


def test_successive_draws_of_one_seeded_source_differ_and_repeat_with_the_seed() -> None:
    entropy, again = Entropy.seeded(1), Entropy.seeded(1)
    chosen = np.arange(50)
    options = {"episodes": E, "target_rate": RATE}
    one, two = (cells(assign(chosen, entropy=entropy, **options)).tolist() for _ in range(2))
    assert one != two
    assert one == cells(assign(chosen, entropy=again, **options)).tolist()


def test_episodes_lie_in_range_for_any_number_of_them() -> None:
    for episodes in (1, 2, 3, 1000, MAX_EPISODES):
        roles = drawn(np.arange(5000), 3, episodes)
        assert roles.episode.min() >= 0 and roles.episode.max() < episodes


@pytest.mark.parametrize(
    ("chosen", "episodes", "target_rate", "says"),
    [
        (ints(1, 1), 4, 0.5, "strictly ascending"),
        (ints(2, 1), 4, 0.5, "strictly ascending"),
        (ints(-1, 1), 4, 0.5, "start at 0"),
        (np.array([True, False]), 4, 0.5, "vector of whole numbers"),
        (ints(1), 0, 0.5, r"episodes must be in \[1, 1048576\], got 0"),
        (ints(1), 4, 0.0, r"target_rate must be in \(0, 1\), got 0.0"),
        (ints(1), 4, 1.0, r"target_rate must be in \(0, 1\), got 1.0"),
        (ints(1), 4, float("nan"), r"target_rate must be in \(0, 1\), got nan"),
    ],
)
def test_unfit_numbers_are_refused(chosen, episodes: int, target_rate: float, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        assign(chosen, episodes=episodes, target_rate=target_rate, entropy=Entropy.seeded(0))
