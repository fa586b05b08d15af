"""One row more or less moves no other row: the neighbouring data sets of the privacy unit differ in that row only."""

from __future__ import annotations

import json
import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from fedpdpo_secure.config import make_config
from fedpdpo_secure.data import load_federation, partition
from fedpdpo_secure.data.partition import Purpose, Split

KINDS = {
    "column": {"partition": "domain"},
    "round_robin": {"partition": "round_robin"},
    "dirichlet": {"partition": "dirichlet", "label_column": "domain", "dirichlet_alpha": 2.0},
}
Row = dict[str, str]
PINNED = [9192348299396527373, 13736055287676884070, 6176593845732167178, 11027771657596636228, 8968623760026537335]


def make_rows(count: int) -> list[Row]:
    """Two rows per question; every fifth question has rows of two domains."""
    rows = []
    for index in range(count):
        group = index // 2
        domain = (group + (index % 2) * (group % 5 == 0)) % 3
        texts = {"prompt": f"Question {group}?", "chosen": f" good {index}", "rejected": f" bad {index}"}
        rows.append({**texts, "domain": f"d{domain}"})
    return rows


def homes(folder: Path, rows: list[Row], seed: int = 0, test: list[Row] | None = None, **data: object):
    """(chosen text) -> (client, split) of all pairs, as loaded from files."""
    (folder / "pref.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if test is not None:
        (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in test))
        data["test"] = str(folder / "test.jsonl")
    conf = make_config(
        {
            "privacy": {"unit": "none"},
            "seed": seed,
            "federation": {"clients": 7},
            "dataset_name": str(folder / "pref.jsonl"),
            "data": {"public_fraction": 0.1, **data},
        }
    )
    return {pair.chosen: (pair.client, pair.split) for pair in load_federation(conf, None).pairs()}


ADDED = {
    "a new group": {"prompt": "Something new?", "domain": "d1"},
    "a known group": {"prompt": "Question 33?", "domain": "d0"},
    "a known group under another label": {"prompt": "Question 33?", "domain": "d2"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("added", ADDED)
@pytest.mark.parametrize("place", [0, 1, 201, 400])
def test_one_row_more_moves_no_other_row(kind: str, added: str, place: int, tmp_path) -> None:
    rows = make_rows(400)
    row = {"chosen": " added", "rejected": " not", **ADDED[added]}
    for seed in (0, 1):
        before = homes(tmp_path, rows, seed, **KINDS[kind])
        after = homes(tmp_path, [*rows[:place], row, *rows[place:]], seed, **KINDS[kind])
        assert len(before) == 400
        assert after.keys() - before.keys() == {" added"}
        assert {text: after[text] for text in before} == before


@pytest.mark.parametrize("kind", KINDS)
def test_one_row_more_of_public_data_displaces_at_most_one_from_a_capped_client(kind: str, tmp_path) -> None:
    options = {**KINDS[kind], "pairs_per_client": 20, "public": True}
    rows = make_rows(400)
    before = homes(tmp_path, rows, **options)
    assert len(before) < 380  # the cap binds
    displaced = 0
    for number in range(25):
        row = {"prompt": f"New {number}?", "chosen": " added", "rejected": " not", "domain": f"d{number % 3}"}
        place = 16 * number
        after = homes(tmp_path, [*rows[:place], row, *rows[place:]], **options)
        gone = before.keys() - after.keys()
        assert after.keys() - before.keys() <= {" added"}
        assert len(gone) <= 1
        assert all(after[text] == before[text] for text in before.keys() - gone)
        assert all(before[text] == after[" added"] for text in gone)
        displaced += len(gone)
    assert displaced > 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_the_rows_decides_nothing(kind: str, tmp_path) -> None:
    options = {**KINDS[kind], "pairs_per_client": 20, "public": True}
    rows = make_rows(400)
    shuffled = [rows[index] for index in np.random.default_rng(5).permutation(400)]
    assert homes(tmp_path, shuffled, **options) == homes(tmp_path, rows, **options)


def test_a_value_that_no_other_row_has_moves_no_row_of_a_dirichlet_partition(tmp_path) -> None:
    rows = make_rows(400)
    row = {"prompt": "New?", "chosen": " added", "rejected": " not", "domain": "a value before all others"}
    before = homes(tmp_path, rows, **KINDS["dirichlet"])
    after = homes(tmp_path, [row, *rows], **KINDS["dirichlet"])
    assert {text: after[text] for text in before} == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_of_the_test_file_belongs_to_the_client_that_trains_on_it(kind: str, tmp_path) -> None:
    rows = make_rows(400)
    held = [{**row, "chosen": row["chosen"] + " held"} for row in reversed(rows[100:200])]
    found = homes(tmp_path, rows, test=held, **KINDS[kind])
    for row in held:
        client, split = found[row["chosen"]]
        assert split == "test"
        assert found[row["chosen"].removesuffix(" held")][0] in (client, "public")


def test_hashes_are_uniform_and_independent_between_purposes_seeds_and_texts() -> None:
    count = 20_000
    bound = 4 / math.sqrt(count)  # four standard errors of a correlation
    purposes = (Purpose.OWNER, Purpose.PUBLIC, Purpose.SPLIT, Purpose.CAP)
    columns = [
        np.array([partition.draw(f"g{index}", seed=seed, purpose=purpose) * 2.0**-64 for index in range(count)])
        for purpose in purposes
        for seed in (0, 1)
    ]
    for column in columns:
        cells = np.bincount((column * 20).astype(int), minlength=20)
        assert ((cells - count / 20) ** 2 / (count / 20)).sum() < 50  # chi-square, 19 degrees: 1e-4
        assert abs(np.corrcoef(column[1:], column[:-1])[0, 1]) < bound
    assert all(abs(np.corrcoef(a, b)[0, 1]) < bound for a, b in combinations(columns, 2))


def test_dirichlet_groups_follow_their_labels_shares() -> None:
    names = tuple(f"c{index}" for index in range(5))
    roster = partition.numbered_roster(names, ["x", "y"], 0.7, seed=3)
    group = np.array([partition.draw(f"g{i}", seed=3, purpose=Purpose.OWNER) for i in range(20_000)], dtype=np.uint64)
    assert np.allclose(roster.shares.sum(axis=1), 1)
    assert np.abs(roster.shares[0] - roster.shares[1]).max() > 0.1
    for label, shares in enumerate(roster.shares):
        owner = partition.deal(np.full(len(group), label), group, roster)
        found = np.bincount(owner, minlength=5) / len(group)
        assert (np.abs(found - shares) <= 4 * np.sqrt(shares * (1 - shares) / len(group))).all()


def test_the_ends_of_the_hash_range_have_an_owner() -> None:
    ends = np.array([0, 2**64 - 1], dtype=np.uint64)
    label = np.zeros(2, dtype=np.int64)
    for clients in (1, 2, 3, 7, 1000, 99_999):
        names = tuple(str(index) for index in range(clients))
        for alpha in (None, 0.5):
            owner = partition.deal(label, ends, partition.numbered_roster(names, [""], alpha, seed=0))
            assert owner.min() >= 0
            assert owner.max() < clients
            assert alpha or list(owner) == [0, clients - 1]


def test_this_version_maps_these_texts_to_these_places_for_good() -> None:
    # A ledger belongs to a client, so a group must keep its client: another mapping needs another VERSION.
    assert partition.VERSION == 1
    assert [partition.draw("Question 1?", seed=0, purpose=purpose) for purpose in Purpose] == PINNED
    split = {partition.split_of(f"g{i}", seed=0, public=0.2, validation=0.2, test=0.2) for i in range(60)}
    assert split == set(Split)
