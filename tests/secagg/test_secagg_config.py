"""Round configurations: bounds refused by name, and a digest that binds every field."""

from dataclasses import replace

import pytest
from secagg_harness import make_config, random_vectors, run_local

from secagg import Mode, RoundConfig, Stage, TooFewSurvivors, default_threshold

CONFIG = make_config(6)
SIGNED = {"mode": Mode.MALICIOUS_SERVER, "identities": tuple(bytes([i]) * 32 for i in range(6))}


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
        ({"threshold": 3}, r"threshold must lie in 4\.\.6 for 6 clients in semi-honest mode, not 3"),
        ({"threshold": 7}, r"threshold must lie in 4\.\.6 for 6 clients in semi-honest mode, not 7"),
        ({"min_survivors": 2}, r"min_survivors must lie in 3\.\.6, not 2"),
        ({"min_survivors": 7}, "min_survivors"),
        ({"bits": 20}, "bits must be one of"),
        ({"dim": 0}, "dim must lie in"),
        ({"dim": 2**31}, "dim must lie in"),
        ({"model": bytes(31)}, "model must have 32 bytes"),
        ({"least_present": 4}, r"least_present must lie in 5\.\.6, not 4"),
        ({"least_present": 7}, "least_present"),
        ({"neighbors": 3}, r"neighbors must be even and lie in 2\.\.4 for 6 clients, not 3"),
        ({"neighbors": 6}, "neighbors must be even"),
        ({"neighbors": 4, "threshold": 5}, r"threshold must lie in 2\.\.4 for 4 neighbors"),
        ({"neighbors": 4, "threshold": 1}, r"threshold must lie in 2\.\.4 for 4 neighbors"),
        ({"identities": (bytes(32),) * 6}, "identities: 6 given for 6 clients in semi-honest mode"),
        ({"mode": Mode.MALICIOUS_SERVER}, "identities: 0 given for 6 clients"),
        ({"mode": Mode.MALICIOUS_SERVER, "threshold": 4}, r"threshold must lie in 5\.\.6"),
        ({"mode": Mode.MALICIOUS_SERVER, "identities": (bytes(32),) * 6}, "identities must be distinct"),
        ({"mode": Mode.MALICIOUS_SERVER, "identities": (bytes(31),) * 6}, "identities must have 32 bytes"),
        ({**SIGNED, "neighbors": 4, "threshold": 2}, r"threshold must lie in 3\.\.4 for 4 neighbors in malicious"),
        (
            {**SIGNED, "neighbors": 4, "threshold": 3, "min_survivors": 4},
            "least_present must be given",
        ),
        (
            {**SIGNED, "neighbors": 4, "threshold": 3, "min_survivors": 4, "least_present": 5},
            "min_survivors must be at most threshold = 3",
        ),
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
        {"neighbors": 4, "threshold": 4},
        {"least_present": 5},
        SIGNED,
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


def test_the_model_is_bound_by_the_binding_alone() -> None:
    """Keys of a round may be exchanged before its model exists."""
    other = replace(CONFIG, model=bytes([1]) * 32)
    assert other.digest() == CONFIG.digest()
    assert other.binding() != CONFIG.binding()
    assert replace(CONFIG, dim=41).binding() != CONFIG.binding()


def test_a_roster_that_is_too_thin_draws_no_neighbours() -> None:
    config = make_config(9, neighbors=4, threshold=2, min_survivors=3)
    thick = replace(config, least_present=8)
    drops = dict.fromkeys(config.clients[:2], Stage.BEFORE_KEYS)
    run_local(config, random_vectors(config), drops)
    with pytest.raises(TooFewSurvivors, match="7 clients advertised keys, at least 8 are needed"):
        run_local(thick, random_vectors(config), drops)
    run_local(thick, random_vectors(config), dict.fromkeys(config.clients[:1], Stage.BEFORE_KEYS))
