"""Rows are dealt to clients and splits as configured, checked before use, and streamed afterwards."""

from __future__ import annotations

import json
import math
import os
import tracemalloc
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from fedpdpo_secure.config import Config, make_config
from fedpdpo_secure.data import DataError, Federation, load_federation

REAL = os.environ.get("FEDPDPO_DATA")


def write_rows(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def make_rows(count: int, *, domains: int = 3, per_group: int = 2, text: str = "") -> list[dict[str, object]]:
    """Row i is about question i // per_group; the domain follows the question, the first domains being the biggest."""
    rows = []
    for index in range(count):
        group = index // per_group
        domain = min(group % (domains + 1), domains - 1)
        rows.append(
            {
                "prompt": f"Question {group}?{text}",
                "chosen": f" good {index}",
                "rejected": f" bad {index}",
                "domain": f"d{domain}",
                "group": f"g{group}",
            }
        )
    return rows


def config(path: str, clients: int = 12, **data: object) -> Config:
    return make_config(
        {
            "privacy": {"unit": "none"},
            "federation": {"clients": clients},
            "dataset_name": path,
            "data": {"partition": "domain", **data},
        }
    )


def rows_of(federation: Federation) -> dict[str, list[tuple[str, str, int]]]:
    """client -> (split, prompt, row number) of each of its pairs."""
    found = defaultdict(list)
    for pair in federation.pairs():
        found[pair.client].append((pair.split, pair.prompt, int(pair.chosen.split()[-1])))
    return found


def near(found: float, groups: float, chance: float, rows: int = 2) -> bool:
    """Whether a number of rows is within four standard errors of what hashing `groups` groups of `rows` rows gives."""
    return abs(found - rows * groups * chance) < 4 * rows * math.sqrt(groups * chance * (1 - chance))


def refusal(conf: Config, tokenizer=None) -> str:
    with pytest.raises(DataError) as caught:
        load_federation(conf, tokenizer)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def path(tmp_path) -> str:
    return write_rows(tmp_path / "pref.jsonl", make_rows(600))


@pytest.mark.parametrize(
    "data",
    [
        {"partition": "domain"},
        {"partition": "round_robin"},
        {"partition": "dirichlet", "label_column": "domain", "dirichlet_alpha": 1.0},
        {"partition": "round_robin", "public_fraction": 0.2, "group_column": "group"},
    ],
)
def test_every_row_has_one_owner_and_no_group_straddles_splits_or_clients(path, data) -> None:
    federation = load_federation(config(path, **data), None)
    found = rows_of(federation)
    assert sorted(row for rows in found.values() for _, _, row in rows) == list(range(600))
    homes = defaultdict(set)
    for client, rows in found.items():
        for split, prompt, _ in rows:
            homes[prompt].add((client, split))
    assert all(len(home) == 1 for home in homes.values())
    assert set(found) - {"public"} == set(federation.clients)
    for client, counts in federation.counts.items():
        assert Counter(split for split, _, _ in found[client]) == {k: v for k, v in counts.items() if v}


def test_a_load_is_repeatable_and_the_seed_decides(path) -> None:
    first, again = (rows_of(load_federation(config(path), None)) for _ in range(2))
    assert first == again
    other = config(path).model_copy(update={"seed": 1})
    assert rows_of(load_federation(other, None)) != first


def test_splits_take_the_configured_shares_up_to_four_standard_errors(tmp_path) -> None:
    path = write_rows(tmp_path / "pref.jsonl", make_rows(6000))
    federation = load_federation(config(path, clients=3, validation_fraction=0.1, test_fraction=0.3), None)
    for counts in federation.counts.values():
        groups = sum(counts.values()) / 2
        assert near(counts["test"], groups, 0.3)
        assert near(counts["validation"], groups, 0.1)


def test_as_many_values_as_clients_give_one_client_each(path) -> None:
    assert load_federation(config(path, clients=3), None).clients == ("d0", "d1", "d2")


def test_fewer_values_share_the_clients_in_sorted_order_whatever_their_sizes(tmp_path) -> None:
    federation = load_federation(config(write_rows(tmp_path / "pref.jsonl", make_rows(2400)), clients=7), None)
    assert federation.clients == ("d0-0", "d0-1", "d0-2", "d1-0", "d1-1", "d2-0", "d2-1")  # d2 has most rows
    sizes = {client: sum(counts.values()) for client, counts in federation.counts.items()}
    for domain, groups, parts in (("d0", 300, 3), ("d1", 300, 2), ("d2", 600, 2)):
        mine = [size for client, size in sizes.items() if client.startswith(domain)]
        assert len(mine) == parts
        assert sum(mine) == 2 * groups
        assert all(near(size, groups, 1 / parts) for size in mine)
    for pair in federation.pairs():
        question = int(pair.prompt.split()[1][:-1])
        assert pair.client.startswith(f"d{min(question % 4, 2)}-")


def test_more_values_than_clients_are_refused_at_the_row_that_is_too_much(path) -> None:
    message = refusal(config(path, clients=3, partition="prompt"))
    assert message.startswith("pref.jsonl row 7: field prompt: more than 3 values (federation.clients")


def test_one_group_under_two_values_stays_in_one_split_of_each_client(tmp_path) -> None:
    rows = [{**row, "domain": f"d{index % 3}"} for index, row in enumerate(make_rows(300, per_group=6))]
    federation = load_federation(config(write_rows(tmp_path / "a.jsonl", rows), clients=3), None)
    homes = defaultdict(set)
    for pair in federation.pairs():
        homes[pair.client, pair.prompt].add(pair.split)
    assert all(len(splits) == 1 for splits in homes.values())


def test_dirichlet_skews_labels_more_when_alpha_is_small(path) -> None:
    def skew(alpha: float) -> float:
        conf = config(path, clients=4, partition="dirichlet", label_column="domain", dirichlet_alpha=alpha)
        per_client: dict[str, Counter[int]] = defaultdict(Counter)
        for pair in load_federation(conf, None).pairs():
            per_client[pair.client][min(int(pair.prompt.split()[1][:-1]) % 4, 2)] += 1
        return sum(max(labels.values()) / sum(labels.values()) for labels in per_client.values()) / 4

    assert skew(1000.0) < 0.56  # the biggest domain has half of the rows
    assert skew(0.3) > 0.6


def test_a_client_without_a_training_pair_is_named(tmp_path) -> None:
    rows = make_rows(5, domains=1, per_group=1)
    message = refusal(config(write_rows(tmp_path / "a.jsonl", rows), clients=12))
    assert message.startswith("client d0-")
    assert "has no training pair" in message
    skewed = config(
        write_rows(tmp_path / "b.jsonl", make_rows(60)),
        partition="dirichlet",
        label_column="domain",
        dirichlet_alpha=0.01,
    )
    assert "data.dirichlet_alpha = 0.01" in refusal(skewed)


def test_training_pairs_of_public_data_are_capped_and_the_rest_is_reported(path) -> None:
    free = load_federation(config(path), None)
    capped = load_federation(config(path, pairs_per_client=20, public=True), None)
    left_out = 0
    for client in free.clients:
        assert capped.counts[client] == {**free.counts[client], "train": min(20, free.counts[client]["train"])}
        left_out += free.counts[client]["train"] - capped.counts[client]["train"]
    assert capped.notes == (
        f"{left_out} training pairs left out by data.pairs_per_client = 20; "
        "unit: one pair of the selected training set",
    )
    mine = {row for rows in rows_of(capped).values() for row in rows}
    assert mine < {row for rows in rows_of(free).values() for row in rows}


def test_private_data_above_the_declared_bound_is_refused_and_at_the_bound_taken_whole(path) -> None:
    free = load_federation(config(path), None)
    most = max(free.counts[client]["train"] for client in free.clients)
    over = next(client for client in free.clients if free.counts[client]["train"] == most)
    message = refusal(config(path, pairs_per_client=most - 1))
    assert message.startswith(
        f"client {over}: has more training pairs than data.pairs_per_client = {most - 1} declares; raise it"
    )
    taken = load_federation(config(path, pairs_per_client=most), None)
    assert (taken.counts, taken.notes) == (free.counts, ())


def test_public_rows_belong_to_no_client_and_give_both_answers_as_texts(path) -> None:
    federation = load_federation(config(path, public_fraction=0.2), None)
    public = [pair for pair in federation.pairs() if pair.client == "public"]
    assert {pair.split for pair in public} == {"public"}
    assert len(public) == federation.counts["public"]["public"]
    assert near(len(public), 300, 0.2)
    assert list(federation.public_texts()) == [p.prompt + t for p in public for t in (p.chosen, p.rejected)]
    assert list(load_federation(config(path), None).public_texts()) == []


def test_a_test_file_is_dealt_to_the_clients_of_its_values(path, tmp_path) -> None:
    held = [{**row, "prompt": "Other " + str(row["prompt"])} for row in make_rows(120)]
    federation = load_federation(config(path, test=write_rows(tmp_path / "held.jsonl", held)), None)
    tests = [pair for pair in federation.pairs() if pair.split == "test"]
    assert len(tests) == 120
    assert all(pair.prompt.startswith("Other ") for pair in tests)
    for pair in tests:
        assert pair.client.startswith(f"d{min(int(pair.prompt.split()[2][:-1]) % 4, 2)}-")
    per_client = [federation.counts[client]["test"] for client in federation.clients if client.startswith("d2")]
    assert all(near(count, 30, 1 / 4) for count in per_client)
    assert federation.notes == ()


def test_a_test_file_that_repeats_training_prompts_is_reported(path, tmp_path) -> None:
    federation = load_federation(config(path, test=write_rows(tmp_path / "held.jsonl", make_rows(12))), None)
    assert federation.notes == ("12 pairs of held.jsonl share their group with pairs of pref.jsonl",)


def test_a_test_row_of_an_unknown_value_is_refused(path, tmp_path) -> None:
    held = [*make_rows(4), {**make_rows(1)[0], "domain": "elsewhere"}]
    message = refusal(config(path, test=write_rows(tmp_path / "held.jsonl", held)))
    assert message.startswith("held.jsonl row 5: field domain: no training row has the value 'elsewhere'")


def test_where_that_keeps_nothing_is_refused(path) -> None:
    assert "holds no row that data.where keeps" in refusal(config(path, where={"domain": ["d9"]}))


def test_a_bad_row_anywhere_is_found_before_anything_is_handed_out(tmp_path) -> None:
    rows = make_rows(600)
    rows[516]["chosen"] = None
    message = refusal(config(write_rows(tmp_path / "pref.jsonl", rows)))
    assert message == "pref.jsonl row 517: field chosen: is null"


@pytest.mark.parametrize("value", [None, 1.5, True, ["d0"]])
def test_a_partition_cell_that_is_no_label_is_named(tmp_path, value) -> None:
    rows = make_rows(30)
    rows[4]["domain"] = value
    assert refusal(config(write_rows(tmp_path / "a.jsonl", rows))).startswith("a.jsonl row 5: field domain: ")


def test_values_become_names_that_are_safe_as_folders(tmp_path) -> None:
    rows = make_rows(60)
    for row in rows:
        row["domain"] = {"d0": "../up", "d1": "Confusion: People", "d2": "ä 1"}[str(row["domain"])]
    federation = load_federation(config(write_rows(tmp_path / "a.jsonl", rows), clients=3), None)
    assert federation.clients == ("1", "Confusion-People", "up")
    for row in rows:
        row["domain"] = {"../up": "up", "ä 1": "UP"}.get(str(row["domain"]), "x")
    assert "same client name" in refusal(config(write_rows(tmp_path / "b.jsonl", rows), clients=3))
    for row in rows:
        row["domain"] = "Public"
    assert "cannot name a client" in refusal(config(write_rows(tmp_path / "c.jsonl", rows)))


class Tokenizer:
    """As much of a tokenizer as loading needs."""

    def __init__(self, chat_template: str | None) -> None:
        self.chat_template = chat_template

    def apply_chat_template(self, messages, *, tokenize: bool, add_generation_prompt: bool) -> str:
        assert not tokenize
        text = "".join(f"[{message['role']}]{message['content']}" for message in messages)
        return text + "[assistant]" * add_generation_prompt


def chat_rows(count: int) -> list[dict[str, object]]:
    asked = [{"role": "user", "content": f"Question {index}"} for index in range(count)]
    reply = {True: {"role": "assistant", "content": "yes"}, False: {"role": "assistant", "content": "no"}}
    return [{"chosen": [ask, reply[True]], "rejected": [ask, reply[False]], "domain": "d"} for ask in asked]


def test_conversations_need_a_chat_template_and_say_so_before_any_model_is_loaded(tmp_path) -> None:
    conf = config(write_rows(tmp_path / "chat.jsonl", chat_rows(30)), clients=3)
    for tokenizer in (None, Tokenizer(None)):
        assert "chat.jsonl row 1: field chosen: " in refusal(conf, tokenizer)
        assert "chat template" in refusal(conf, tokenizer)
    federation = load_federation(conf, Tokenizer("a template"))
    assert federation.templated
    assert federation.example.prompt.startswith("[user]Question")
    assert (federation.example.chosen, federation.example.rejected) == ("yes", "no")


def test_plain_and_conversational_rows_are_not_mixed(tmp_path) -> None:
    mixed = config(write_rows(tmp_path / "a.jsonl", [*chat_rows(3), {**make_rows(1)[0], "domain": "d"}]), clients=3)
    assert "a.jsonl row 4: field chosen: conversational and plain" in refusal(mixed, Tokenizer("a template"))


def test_a_file_that_changes_under_the_stream_is_noticed(path) -> None:
    federation = load_federation(config(path), None)
    for count in (599, 601):
        write_rows(Path(path), make_rows(count))
        with pytest.raises(DataError, match="changed while it was read"):
            list(federation.pairs())


def test_a_row_that_changes_under_the_stream_is_not_handed_out(path) -> None:
    federation = load_federation(config(path), None)
    before = [pair.chosen for pair in federation.pairs()]
    for change in ({"chosen": " other"}, {"domain": "d1"}, {"prompt": "Question 1?"}):
        rows = make_rows(600)
        rows[300].update(change)
        write_rows(Path(path), rows)
        seen = []
        with pytest.raises(DataError, match="changed while it was read"):
            for pair in federation.pairs():
                seen.append(pair.chosen)
        assert seen == before[:300]
    rows = make_rows(600)
    rows[10], rows[500] = rows[500], rows[10]
    write_rows(Path(path), rows)
    with pytest.raises(DataError, match="changed while it was read"):
        list(federation.pairs())


def test_memory_does_not_hold_the_texts(tmp_path) -> None:
    def peak(count: int) -> tuple[int, int]:
        rows = make_rows(count, per_group=4, text=" long text" * 100)
        file = write_rows(tmp_path / f"{count}.jsonl", rows)
        del rows
        tracemalloc.start()
        federation = load_federation(config(file, public_fraction=0.1, pairs_per_client=100, public=True), None)
        seen = sum(1 for _ in federation.pairs())
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert seen > 0
        return used, os.path.getsize(file)

    small, _ = peak(1_000)
    large, size = peak(20_000)
    assert size > 20e6
    assert large - small < 20_000 * 150  # whole numbers per row, against a thousand characters each


@pytest.mark.skipif(not REAL, reason="FEDPDPO_DATA names no folder of real data")
def test_the_real_preference_files_load_as_twelve_clients_of_three_domains() -> None:
    domains = ["longqa", "instruct", "truthful"]
    conf = config(
        "${FEDPDPO_DATA}/pref_open_train.jsonl.gz",
        test="${FEDPDPO_DATA}/pref_open_test.jsonl.gz",
        where={"domain": domains},
        group_column="group",
    )
    federation = load_federation(conf, None)
    assert federation.clients == tuple(sorted(f"{domain}-{part}" for domain in domains for part in range(4)))
    totals = {
        domain: [
            sum(c["train"] + c["validation"] for n, c in federation.counts.items() if n.startswith(domain)),
            sum(c["test"] for n, c in federation.counts.items() if n.startswith(domain)),
        ]
        for domain in domains
    }
    assert totals == {"longqa": [1420, 324], "instruct": [825, 211], "truthful": [1802, 422]}
    assert federation.notes == ()
    assert federation.example.prompt.endswith("\n\nAssistant:")
    assert federation.example.chosen.startswith(" ")
