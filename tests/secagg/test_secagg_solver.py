"""The (k, t) solver against published values, exact fractions, every small graph, and random graphs drawn for real."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from secagg_harness import make_config

from secagg import Mode, RoundConfig, default_threshold
from secagg.solver import (
    COMPLETE_BELOW,
    GRINDING_BITS,
    MAX_CLIENTS,
    Assumptions,
    GraphParameters,
    complete_graph,
    default_parameters,
    solve,
)
from secagg.tails import log_disconnected, log_upper_tail

# (clients, corrupted, dropped, malicious, k, t): graph_parameter_finder_test.cc of google-parfait/federated-compute
# (Apache-2.0), 40 security bits and 20 failure bits. Its test accepts any t up to the stated one.
PUBLISHED = [
    (100, 0.45, 0.45, False, 92, 46),
    (1_000_000, 0.45, 0.45, False, 6240, 3156),
    (10, 0.33, 0.33, False, 8, 4),
    (100, 0.33, 0.33, False, 68, 34),
    (1000, 0.33, 0.33, False, 286, 150),
    (10_000, 0.33, 0.33, False, 422, 221),
    (100_000, 0.33, 0.33, False, 480, 251),
    (1_000_000, 0.33, 0.33, False, 518, 270),
    (100, 0.3, 0.3, True, 92, 62),
    (1000, 0.3, 0.3, True, 872, 584),
    (100_000, 0.3, 0.3, True, 9388, 6286),
    (1_000_000, 0.3, 0.3, True, 11136, 7454),
    (100, 0.05, 0.33, False, 28, 6),
    (1000, 0.05, 0.33, False, 72, 24),
    (1_000_000, 0.05, 0.33, False, 102, 34),
    (10, 0.05, 0.33, True, 8, 5),
    (100, 0.05, 0.33, True, 72, 39),
    (1000, 0.05, 0.33, True, 398, 223),
    (10_000, 0.05, 0.33, True, 746, 420),
    (1_000_000, 0.05, 0.33, True, 970, 545),
    (10, 0.33, 0.05, True, 4, 4),
    (1000, 0.33, 0.05, True, 132, 109),
    (1_000_000, 0.33, 0.05, True, 212, 173),
    (1000, 0.05, 0.05, False, 30, 17),
    (10_000, 0.05, 0.05, True, 62, 44),
    (1_000_000, 0.05, 0.05, True, 74, 52),
    (1_000_000, 0.0, 0.0, True, 2, 2),
]
# Where the published finder differs: it draws neighbours from all n clients, and counts pairs of gaps more coarsely.
NEAR_PUBLISHED = [
    (1000, 0.45, 0.45, False, 822, 824),
    (10_000, 0.3, 0.3, True, 4822, 4828),
    (1000, 0.0, 0.33, True, 228, 230),
    (1000, 0.33, 0.0, False, 38, 36),
]
# (malicious, corrupted, dropped), then (k, t) at each size, for 40 security bits and 30 failure bits: computed
# beforehand by another implementation.
SIZES = (50, 100, 300, 1000, 10_000)
TABLE = {
    (False, 0.01, 0.05): [(4, 2), (8, 2), (14, 4), (22, 10), (28, 12)],
    (False, 0.05, 0.05): [(6, 3), (12, 6), (26, 14), (34, 18), (38, 21)],
    (False, 0.05, 0.1): [(8, 3), (16, 6), (32, 15), (40, 19), (46, 22)],
    (False, 0.1, 0.1): [(12, 6), (22, 11), (42, 22), (52, 28), (60, 32)],
    (False, 0.2, 0.1): [(16, 11), (32, 21), (58, 36), (76, 47), (90, 55)],
    (False, 0.2, 0.3): [(26, 11), (50, 21), (108, 49), (160, 73), (206, 94)],
    (False, 0.33, 0.1): [(22, 17), (42, 32), (82, 57), (114, 78), (140, 95)],
    (False, 0.33, 0.33): [(34, 17), (68, 34), (172, 88), (310, 159), (480, 246)],
    (True, 0.01, 0.05): [(6, 4), (12, 7), (28, 16), (46, 29), (56, 36)],
    (True, 0.05, 0.05): [(8, 6), (16, 11), (42, 29), (62, 43), (74, 51)],
    (True, 0.05, 0.1): [(14, 9), (26, 16), (60, 38), (90, 58), (114, 74)],
    (True, 0.1, 0.1): [(16, 11), (32, 22), (76, 52), (114, 78), (144, 98)],
    (True, 0.2, 0.1): [(22, 17), (42, 32), (102, 75), (162, 118), (216, 157)],
    (True, 0.2, 0.3): [(42, 27), (82, 52), (242, 152), (684, 433), (2082, 1319)],
    (True, 0.33, 0.1): [(28, 23), (54, 44), (138, 108), (244, 189), (358, 276)],
}


@pytest.mark.parametrize(("clients", "corrupted", "dropped", "malicious", "neighbors", "threshold"), PUBLISHED)
def test_the_published_parameters_come_out(
    clients: int, corrupted: float, dropped: float, malicious: bool, neighbors: int, threshold: int
) -> None:
    found = solve(clients, Assumptions(corrupted, dropped, failure_bits=20, absent=0), malicious=malicious)
    assert (found.neighbors, found.threshold, found.complete) == (neighbors, threshold, False)


@pytest.mark.parametrize(("clients", "corrupted", "dropped", "malicious", "published", "ours"), NEAR_PUBLISHED)
def test_where_the_published_finder_counts_differently_the_difference_is_known(
    clients: int, corrupted: float, dropped: float, malicious: bool, published: int, ours: int
) -> None:
    found = solve(clients, Assumptions(corrupted, dropped, failure_bits=20, absent=0), malicious=malicious)
    assert found.neighbors == ours
    assert abs(ours - published) <= 6


@pytest.mark.parametrize("case", TABLE, ids=str)
def test_the_table_of_another_implementation_comes_out(case: tuple[bool, float, float]) -> None:
    malicious, corrupted, dropped = case
    found = [solve(n, Assumptions(corrupted, dropped, absent=0), malicious=malicious) for n in SIZES]
    assert [(one.neighbors, one.threshold) for one in found] == TABLE[case]


def exact_tail(at_least: int, *, population: int, marked: int, drawn: int) -> Fraction:
    """P[X >= at_least] by counting subsets."""
    hits = sum(
        math.comb(marked, x) * math.comb(population - marked, drawn - x)
        for x in range(max(0, at_least), min(marked, drawn) + 1)
    )
    return Fraction(hits, math.comb(population, drawn))


def log_of(value: Fraction) -> float:
    """ln of a fraction whose parts may be far beyond a float."""
    return math.log(value.numerator) - math.log(value.denominator) if value else -math.inf


def test_the_tail_is_exact_for_every_small_population() -> None:
    for population in range(1, 10):
        for marked in range(population + 1):
            for drawn in range(population + 1):
                for at_least in range(-1, population + 2):
                    numbers = {"population": population, "marked": marked, "drawn": drawn}
                    found = math.exp(log_upper_tail(at_least, **numbers))
                    assert found == pytest.approx(float(exact_tail(at_least, **numbers)), rel=1e-12, abs=1e-14), numbers


@pytest.mark.parametrize(
    ("population", "marked", "drawn", "at_least"),
    [
        (999, 50, 62, 30),
        (999, 330, 310, 159),
        (999, 999, 40, 40),
        (9999, 500, 114, 40),
        (9999, 3000, 2082, 750),
        (999_999, 50_000, 100, 60),
        (999_999, 1, 1000, 1),
        (2999, 1, 1500, 1),
    ],
)
def test_the_tail_is_exact_far_out(population: int, marked: int, drawn: int, at_least: int) -> None:
    numbers = {"population": population, "marked": marked, "drawn": drawn}
    assert log_upper_tail(at_least, **numbers) == pytest.approx(log_of(exact_tail(at_least, **numbers)), abs=1e-7)


def falls_apart(clients: int, removed: frozenset[int], neighbors: int) -> bool:
    """Whether the ring graph on 0..clients-1 without `removed` is unconnected, by walking it."""
    left = set(range(clients)) - removed
    reached, edge = set(), {min(left)}
    while edge:
        reached |= edge
        steps = {(here + step) % clients for here in edge for step in range(-(neighbors // 2), neighbors // 2 + 1)}
        edge = (steps & left) - reached
    return reached != left


def exact_disconnected(clients: int, removed: int, neighbors: int) -> Fraction:
    """P[two gaps or more of k/2 or more], by inclusion and exclusion over the gaps (not only pairs of them)."""
    n, m, wide = clients, clients - removed, neighbors // 2
    cases = sum(
        (-1) ** j * (j - 1) * math.comb(m, j) * math.comb(n - 1 - j * wide, m - 1)
        for j in range(2, removed // wide + 1)
    )
    return Fraction(cases, math.comb(n - 1, m - 1))


@pytest.mark.parametrize("neighbors", [2, 4, 6])
@pytest.mark.parametrize("clients", [8, 11, 12])
def test_the_bound_on_falling_apart_covers_every_small_graph(clients: int, neighbors: int) -> None:
    for removed in range(clients):
        subsets = [frozenset(chosen) for chosen in combinations(range(clients), removed)]
        apart = sum(falls_apart(clients, chosen, neighbors) for chosen in subsets)
        exact = Fraction(apart, len(subsets))
        assert exact == exact_disconnected(clients, removed, neighbors)
        bound = math.exp(log_disconnected(clients=clients, removed=removed, neighbors=neighbors))
        assert bound >= float(exact) * (1 - 1e-12)
        assert (bound == 0) == (exact == 0)


@pytest.mark.parametrize(("clients", "removed", "neighbors"), [(100, 30, 26), (1000, 330, 38), (1000, 660, 90)])
def test_where_it_matters_the_bound_on_falling_apart_is_nearly_exact(
    clients: int, removed: int, neighbors: int
) -> None:
    exact = log_of(exact_disconnected(clients, removed, neighbors))
    assert exact < -17
    assert 0 <= log_disconnected(clients=clients, removed=removed, neighbors=neighbors) - exact < 0.01


def meets_the_rules(clients: int, assumptions: Assumptions, malicious: bool, neighbors: int, threshold: int) -> bool:
    """The three conditions in exact arithmetic, written from their statement."""
    corrupted, dropped = assumptions.counts(clients)
    half = Fraction(1, 2 ** int(assumptions.security_bits + assumptions.grinding_bits + 1))
    n, ring = clients, assumptions.least_present(clients)
    m = n - corrupted - dropped
    wide_pairs = math.comb(m, 2) * math.comb(max(0, n - 1 - neighbors), m - 1)
    connected = Fraction(wide_pairs, math.comb(n - 1, m - 1)) <= half
    # The least number of corrupted neighbours with which the server gets what it should not.
    enough = next(x for x in range(2 * n) if (2 * threshold <= neighbors + x if malicious else x >= threshold))
    secret = n * exact_tail(enough, population=ring - 1, marked=corrupted, drawn=neighbors) <= half
    too_many = neighbors - threshold + 1
    lost = n * exact_tail(too_many, population=n - 1, marked=dropped, drawn=neighbors)
    return connected and secret and lost <= Fraction(1, 2 ** int(assumptions.failure_bits))


@pytest.mark.parametrize("malicious", [False, True])
@pytest.mark.parametrize("clients", [12, 31, 60])
@pytest.mark.parametrize(
    "assumptions",
    [
        Assumptions(0.1, 0.1, security_bits=6, failure_bits=4),
        Assumptions(0.2, 0.15, security_bits=10, failure_bits=5, absent=0),
        Assumptions(0.05, 0.3, security_bits=3, failure_bits=3, grinding_bits=4),
        Assumptions(0.4, 0.05, security_bits=8, failure_bits=2),
    ],
    ids=str,
)
def test_the_answer_is_the_least_that_meets_the_rules_in_exact_arithmetic(
    clients: int, assumptions: Assumptions, malicious: bool
) -> None:
    ring = assumptions.least_present(clients)
    expected = next(
        (
            (neighbors, threshold)
            for neighbors in range(2, ring - 1, 2)
            for threshold in range(2, neighbors + 1)
            if meets_the_rules(clients, assumptions, malicious, neighbors, threshold)
        ),
        (clients - 1, None),
    )
    found = solve(clients, assumptions, malicious=malicious)
    assert found.neighbors == expected[0]
    assert found.complete == (expected[1] is None)
    assert found.complete or found.threshold == expected[1]


@pytest.mark.parametrize("malicious", [False, True])
@pytest.mark.parametrize("clients", [300, 1000])
def test_at_full_strength_the_answer_holds_exactly_and_one_step_less_does_not(clients: int, malicious: bool) -> None:
    assumptions = Assumptions(0.1, 0.1, grinding_bits=GRINDING_BITS if malicious else 0)
    found = solve(clients, assumptions, malicious=malicious)
    k, t = found.neighbors, found.threshold
    assert meets_the_rules(clients, assumptions, malicious, k, t)
    assert not meets_the_rules(clients, assumptions, malicious, k, t - 1)
    assert not any(meets_the_rules(clients, assumptions, malicious, k - 2, other) for other in range(2, k - 1))


@pytest.mark.parametrize(
    ("clients", "corrupted", "dropped", "malicious"),
    [(300, 0.1, 0.1, True), (1000, 0.2, 0.1, True), (1000, 0.2, 0.1, False), (1000, 0.05, 0.3, False)],
)
def test_the_stated_bits_are_those_of_the_exact_bounds(
    clients: int, corrupted: float, dropped: float, malicious: bool
) -> None:
    assumptions = Assumptions(corrupted, dropped, grinding_bits=10)
    found = solve(clients, assumptions, malicious=malicious)
    n, k, t = clients, found.neighbors, found.threshold
    bad, gone = assumptions.counts(n)
    enough = 2 * t - k if malicious else t  # corrupted neighbours with which 2t > k + corrupted fails, or t are reached
    m = n - bad - gone
    apart = Fraction(math.comb(m, 2) * math.comb(n - 1 - k, m - 1), math.comb(n - 1, m - 1))
    unsafe = apart + n * exact_tail(enough, population=n - gone - 1, marked=bad, drawn=k)
    lost = n * exact_tail(k - t + 1, population=n - 1, marked=gone, drawn=k)
    assert found.security_bits == pytest.approx(-log_of(unsafe) / math.log(2) - 10, abs=1e-6)
    assert found.failure_bits == pytest.approx(-log_of(lost) / math.log(2), abs=1e-6)
    assert found.security_bits >= 40
    assert found.failure_bits >= 30


def test_grinding_is_paid_for_as_security_bits() -> None:
    ground = solve(1000, Assumptions(0.05, 0.05, security_bits=40, grinding_bits=64), malicious=True)
    strong = solve(1000, Assumptions(0.05, 0.05, security_bits=104), malicious=True)
    plain = solve(1000, Assumptions(0.05, 0.05), malicious=True)
    assert (ground.neighbors, ground.threshold) == (strong.neighbors, strong.threshold) == (84, 62)
    assert ground.neighbors > plain.neighbors
    assert ground.security_bits == pytest.approx(strong.security_bits - 64)
    assert ground.security_bits >= 40


FRACTIONS = st.floats(0, 0.45, allow_nan=False)


def neighbors_or_none(clients: int, assumptions: Assumptions, malicious: bool) -> float:
    """k, or infinity where nothing will do."""
    try:
        return solve(clients, assumptions, malicious=malicious).neighbors
    except ValueError:
        return math.inf


@settings(max_examples=150, deadline=None)
@given(
    clients=st.integers(3, 2000),
    corrupted=FRACTIONS,
    dropped=FRACTIONS,
    more=st.sampled_from(["corrupted", "dropped", "security_bits", "failure_bits", "grinding_bits"]),
    by=st.floats(0.001, 0.2),
    malicious=st.booleans(),
)
def test_withstanding_more_never_takes_fewer_neighbours(
    clients: int, corrupted: float, dropped: float, more: str, by: float, malicious: bool
) -> None:
    weak = Assumptions(corrupted, dropped, security_bits=20, failure_bits=10)
    scale = 1 if more in ("corrupted", "dropped") else 100
    strong = replace(weak, **{more: getattr(weak, more) + scale * by})
    assert neighbors_or_none(clients, weak, malicious) <= neighbors_or_none(clients, strong, malicious)
    assert neighbors_or_none(clients, weak, False) <= neighbors_or_none(clients, weak, True)


@settings(max_examples=150, deadline=None)
@given(
    clients=st.integers(3, 3000),
    corrupted=FRACTIONS,
    dropped=FRACTIONS,
    malicious=st.booleans(),
    grinding=st.sampled_from([0.0, GRINDING_BITS]),
)
def test_every_answer_keeps_its_promises(
    clients: int, corrupted: float, dropped: float, malicious: bool, grinding: float
) -> None:
    assumptions = Assumptions(corrupted, dropped, grinding_bits=grinding)
    try:
        found = default_parameters(clients, assumptions, malicious=malicious)
    except ValueError as error:
        assert "\n" not in str(error)
        return
    bad, gone = assumptions.counts(clients)
    assert found.least_present == clients - gone
    assert found.security_bits >= 40
    assert found.failure_bits >= 30
    assert found.complete or (found.neighbors % 2 == 0 and found.neighbors <= found.least_present - 2)
    assert found.complete == (found.neighbors == clients - 1)
    assert 2 <= found.threshold <= found.holders
    assert found.corrupted_neighbors <= bad
    if malicious:
        assert 2 * found.threshold > found.holders + found.corrupted_neighbors
        assert found.honest_part > (found.holders - found.corrupted_neighbors) / 2
    else:
        assert found.threshold > found.corrupted_neighbors


def test_fewer_on_the_ring_take_more_neighbours_unless_everyone_must_be_there() -> None:
    all_there = solve(10_000, Assumptions(0.2, 0.3, absent=0), malicious=False)
    some_there = solve(10_000, Assumptions(0.2, 0.3, absent=0.1), malicious=False)
    least_there = solve(10_000, Assumptions(0.2, 0.3), malicious=False)
    assert all_there.neighbors == 206 < some_there.neighbors < least_there.neighbors
    assert (all_there.least_present, some_there.least_present, least_there.least_present) == (10_000, 9_000, 7_000)


def test_below_a_hundred_clients_the_graph_is_complete_with_two_thirds_and_one() -> None:
    assumptions = Assumptions(0.1, 0.1, grinding_bits=GRINDING_BITS)
    for clients in (3, 10, 50, COMPLETE_BELOW - 1):
        for malicious in (False, True):
            found = default_parameters(clients, assumptions, malicious=malicious)
            assert found == complete_graph(clients, assumptions, malicious=malicious)
            assert (found.neighbors, found.threshold) == (clients - 1, default_threshold(clients))
            assert (found.complete, found.holders) == (True, clients)
    assert not default_parameters(COMPLETE_BELOW, assumptions, malicious=True).complete


def test_where_no_sparse_graph_will_do_the_answer_is_the_complete_one() -> None:
    found = solve(100, Assumptions(0.33, 0.33), malicious=False)
    assert found == GraphParameters(
        clients=100,
        neighbors=99,
        threshold=67,
        least_present=67,
        complete=True,
        corrupted_neighbors=33,
        security_bits=math.inf,
        failure_bits=math.inf,
    )


@pytest.mark.parametrize(
    ("corrupted", "dropped", "malicious", "threshold"),
    [(0.3, 0.3, False, 67), (0.1, 0.4, False, 60), (0.7, 0.1, False, 71), (0.4, 0.25, True, 71), (0.1, 0.3, True, 67)],
)
def test_a_complete_graphs_threshold_is_the_nearest_to_two_thirds_that_will_do(
    corrupted: float, dropped: float, malicious: bool, threshold: int
) -> None:
    assert complete_graph(100, Assumptions(corrupted, dropped), malicious=malicious).threshold == threshold


@pytest.mark.parametrize(
    ("clients", "corrupted", "dropped", "malicious", "text"),
    [
        (1000, 0.5, 0.5, False, r"corrupted \+ dropped must stay below clients: 500 and 500 of 1000"),
        (1000, 0.4, 0.3, True, r"corrupted \+ 2 \* dropped \(malicious server\) must stay below clients: 400 and 300"),
        (1_000_000, 0.6, 0.2, True, "malicious server"),
        (10, 0.1, 0.5, False, "dropped: 5 of 10 clients leave 5, fewer than the 6 shares needed"),
        (1000, 0.1, 0.4, True, "dropped: 400 of 1000 clients leave 600, fewer than the 667 shares needed"),
        (2, 0.1, 0.1, False, r"clients must lie in 3\.\.1000000, not 2"),
        (MAX_CLIENTS + 1, 0.1, 0.1, False, "clients must lie in"),
    ],
)
def test_what_no_graph_withstands_is_refused_with_the_bound(
    clients: int, corrupted: float, dropped: float, malicious: bool, text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        default_parameters(clients, Assumptions(corrupted, dropped), malicious=malicious)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"corrupted": -0.1}, r"corrupted must be a fraction in \[0, 1\), not -0.1"),
        ({"corrupted": 1.0}, "corrupted"),
        ({"dropped": math.nan}, "dropped"),
        ({"dropped": 1.5}, "dropped"),
        ({"security_bits": 0}, r"security_bits must lie in 1\.\.256"),
        ({"failure_bits": math.inf}, "failure_bits"),
        ({"grinding_bits": -1}, r"grinding_bits must lie in 0\.\.256"),
        ({"absent": 0.11}, r"absent must lie in 0\.\.0.1 \(dropped\), not 0.11"),
    ],
)
def test_an_assumption_out_of_bounds_is_refused_by_name(change: dict[str, float], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        replace(Assumptions(0.1, 0.1), **change)


def test_counts_are_not_lost_to_binary_fractions() -> None:
    assert Assumptions(0.29, 0.57).counts(100) == (29, 57)
    assert Assumptions(0.05, 0.1).counts(19) == (0, 1)


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("clients", [3, 10, 99, 100, 130])
def test_a_round_takes_every_default(clients: int, mode: Mode) -> None:
    assumptions = Assumptions(0.1, 0.1)
    found = default_parameters(clients, assumptions, malicious=mode is Mode.MALICIOUS_SERVER)
    neighbors = None if found.complete else found.neighbors
    config = make_config(clients, mode=mode, neighbors=neighbors, threshold=found.threshold)
    assert isinstance(config, RoundConfig)


def marked_neighbors(
    positions: NDArray[np.bool_],  # bool[rounds, clients] around the ring
    neighbors: int,
) -> NDArray[np.int64]:  # int64[rounds, clients]
    steps = [step for step in range(-(neighbors // 2), neighbors // 2 + 1) if step]
    return sum(np.roll(positions, step, axis=1).astype(np.int64) for step in steps)


def test_on_graphs_drawn_for_real_a_clients_neighbours_come_from_the_others() -> None:
    clients, corrupted, neighbors, rounds = 12, 4, 4, 40_000
    ring = np.random.default_rng(5).permuted(np.tile(np.arange(clients), (rounds, 1)), axis=1)
    counts = marked_neighbors(ring < corrupted, neighbors)[ring == clients - 1]  # one honest client in each graph
    for at_least in (2, 3, 4):
        seen = float(np.mean(counts >= at_least))
        right = math.exp(log_upper_tail(at_least, population=clients - 1, marked=corrupted, drawn=neighbors))
        wrong = math.exp(log_upper_tail(at_least, population=clients, marked=corrupted, drawn=neighbors))
        error = math.sqrt(right * (1 - right) / rounds)
        assert abs(seen - right) < 4 * error
        assert abs(seen - wrong) > 4 * error  # the test would see a client drawn as its own neighbour


def test_on_graphs_drawn_for_real_bad_events_are_as_rare_as_bounded() -> None:
    clients, corrupted, dropped, neighbors, rounds = 60, 9, 9, 8, 20_000
    ring = np.random.default_rng(6).permuted(np.tile(np.arange(clients), (rounds, 1)), axis=1)
    most = np.where(ring >= corrupted, marked_neighbors(ring < corrupted, neighbors), 0).max(axis=1)
    for at_least in (5, 6):
        bound = clients * math.exp(log_upper_tail(at_least, population=59, marked=corrupted, drawn=neighbors))
        seen = float(np.mean(most >= at_least))
        assert 0.5 * bound < seen < bound
    removed = ring < corrupted + dropped
    wide = np.ones_like(removed)
    for step in range(neighbors // 2):
        wide &= np.roll(removed, -step, axis=1)  # true where a run of k/2 removed clients starts
    starts = wide & ~np.roll(removed, 1, axis=1)  # counted once for each gap
    seen = float(np.mean(starts.sum(axis=1) >= 2))
    exact = float(exact_disconnected(clients, corrupted + dropped, neighbors))
    assert abs(seen - exact) < 4 * math.sqrt(exact / rounds)


def test_the_least_connected_degree_grows_with_the_federation() -> None:
    found = [
        solve(n, Assumptions(0.05, 0.05), malicious=True).neighbors for n in (100, 1000, 10_000, 100_000, MAX_CLIENTS)
    ]
    assert all(a < b for a, b in pairwise(found))
    assert found[-1] < 100  # logarithmic, which is what the sparse graph is for
