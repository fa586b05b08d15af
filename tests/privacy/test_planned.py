"""A history that departs from its plan is refused, whichever parameter was chosen on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from privacy.errors import AdaptiveParameters
from privacy.events import Event, FullBatchGaussian, IntegerGaussian, NonPrivate, PoissonGaussian
from privacy.planned import plan_digest, require_planned

SHARED = IntegerGaussian(
    variance=500,
    own_variance=100,
    colluding_variance=0,
    norm_squared=10,
    sample_rate=1.0,
    steps=1,
    distance_log2=-90.0,
    unit="pair",
)
PLAN: Sequence[Event] = [PoissonGaussian(1.0, 0.1, 5), PoissonGaussian(1.0, 0.1, 5), SHARED]


@pytest.mark.parametrize(
    "done",
    [PLAN, PLAN[:2], [], [PLAN[0], None, SHARED], [replace(PLAN[0], steps=3), PLAN[1]]],
    ids=["all of it", "stopped early", "nothing", "sat out", "fewer steps"],
)
def test_what_was_planned_may_be_done(done: Sequence[Event | None]) -> None:
    require_planned(PLAN, done, plan_digest(PLAN))


@pytest.mark.parametrize(
    ("done", "place"),
    [
        ([PoissonGaussian(1.1, 0.1, 5)], "round 1: planned"),
        ([PLAN[0], PoissonGaussian(1.0, 0.2, 5)], "round 2: planned"),
        ([PoissonGaussian(1.0, 0.1, 6)], "round 1: planned"),
        ([FullBatchGaussian(1.0, 5)], "round 1: planned"),
        ([NonPrivate("seeded noise")], "round 1: planned"),
        ([None, None, replace(SHARED, variance=600)], "round 3: planned"),
        ([None, None, replace(SHARED, distance_log2=-91.0)], "round 3: planned"),
        ([*PLAN, PLAN[0]], "round 4: was not planned"),
    ],
)
def test_anything_else_is_refused(done: Sequence[Event | None], place: str) -> None:
    with pytest.raises(AdaptiveParameters, match=place):
        require_planned(PLAN, done)


def test_the_plan_cannot_be_rewritten_afterwards() -> None:
    published = plan_digest(PLAN)
    rewritten = [PoissonGaussian(1.1, 0.1, 5), *PLAN[1:]]
    assert plan_digest(rewritten) != published
    assert plan_digest(PLAN[::-1]) != published
    with pytest.raises(AdaptiveParameters, match="digest was published"):
        require_planned(rewritten, [], published)
