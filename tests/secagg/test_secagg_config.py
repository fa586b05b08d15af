"""Round configurations: bounds refused by name, and a digest that binds every field."""

from dataclasses import replace

import pytest
from secagg_harness import make_config

from secagg import RoundConfig, default_threshold

CONFIG = make_config(6)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"session": bytes(15)}, "session must have 16 bytes"),
        ({"context": bytes(31)}, "context must have 32 bytes"),
        ({"round_index": -1}, "round_index"),
        ({"clients": (1, 2)}, "clients: 2 given, at least 3"),
        ({"clients": (1, 2, 2, 3, 4, 5)}, "distinct and ascending"),
        ({"clients": (2, 1, 3, 4, 5, 6)}, "distinct and ascending"),
        ({"clients": (-1, 2, 3, 4, 5, 6)}, "an id must lie in"),
        ({"clients": (1, 2, 3, 4, 5, 2**32)}, "an id must lie in"),
        ({"threshold": 3}, r"threshold must lie in 4\.\.6 for 6 clients, not 3"),
        ({"threshold": 7}, r"threshold must lie in 4\.\.6 for 6 clients, not 7"),
        ({"min_survivors": 2}, r"min_survivors must lie in 3\.\.6, not 2"),
        ({"min_survivors": 7}, "min_survivors"),
        ({"bits": 20}, "bits must be one of"),
        ({"dim": 0}, "dim must lie in"),
        ({"dim": 2**31}, "dim must lie in"),
    ],
)
def test_a_field_out_of_bounds_is_refused_by_name(change: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        replace(CONFIG, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"session": b"fedcba9876543210"},
        {"context": bytes([1]) * 32},
        {"round_index": 8},
        {"clients": (1, 2, 3, 4, 5, 6)},
        {"threshold": 6},
        {"min_survivors": 4},
        {"bits": 32},
        {"dim": 41},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_digest_changes_with_every_field(change: dict[str, object]) -> None:
    assert replace(CONFIG, **change).digest() != CONFIG.digest()  # type: ignore[arg-type]
    assert replace(CONFIG).digest() == CONFIG.digest()


def test_the_default_threshold_is_two_thirds_and_one() -> None:
    assert [default_threshold(n) for n in (3, 4, 5, 6, 10, 12, 100)] == [3, 3, 4, 5, 7, 9, 67]


@pytest.mark.parametrize("n", range(3, 40))
def test_the_default_threshold_is_accepted_and_exceeds_two_thirds(n: int) -> None:
    assert 3 * default_threshold(n) > 2 * n
    assert isinstance(make_config(n), RoundConfig)


def test_positions_count_from_one_in_the_order_of_the_roster() -> None:
    assert [CONFIG.point(client) for client in CONFIG.clients] == [1, 2, 3, 4, 5, 6]
