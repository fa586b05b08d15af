"""The built-in federation: seeded, labelled by known tastes, with topics nobody trains on."""

from __future__ import annotations

import tracemalloc
from itertools import islice

import numpy as np
import pytest

from fedpdpo_secure.config import Config, make_config
from fedpdpo_secure.data import PreferencePair, load_federation, synthetic
from fedpdpo_secure.data import synthetic_text as words
from fedpdpo_secure.data.export import write_jsonl
from fedpdpo_secure.data.oracle import oracle_accuracy


def config(clients: int = 8, *, seed: int = 0, partition: str = "client_id", **made: object) -> Config:
    return make_config(
        {
            "privacy": {"unit": "none"},
            "federation": {"clients": clients},
            "seed": seed,
            "data": {"partition": partition},
            "synthetic": {"pairs": 50, "validation_pairs": 20, "test_pairs": 40, "public_dialogues": 200, **made},
        }
    )


def by_split(conf: Config) -> dict[str, list[PreferencePair]]:
    found: dict[str, list[PreferencePair]] = {}
    for pair in load_federation(conf, None).pairs():
        found.setdefault(pair.split, []).append(pair)
    return found


def topic_of(prompt: str) -> int:
    (index,) = [i for i, (noun, _) in enumerate(words.TOPICS) if f" {noun}" in prompt.split("\n")[0]]
    return index


def attributes(prompt: str, answer: str) -> np.ndarray:
    """float64[5] read back from the words alone, by other means than the generator's."""
    place = words.PLACES[words.TOPICS[topic_of(prompt)][1]]
    return np.array(
        [
            f"the {place}" in answer,
            any(phrase in answer for phrase in words._POLITE),
            any(phrase in answer for phrase in words._EXTRA),
            any(cue in answer for cue in ("think", "Perhaps", "maybe")),
            any(picture in answer for picture in words._EMOJI),
        ],
        dtype=float,
    )


def utility_gap(conf: Config, pair: PreferencePair) -> float:
    weights = synthetic.client_weights(conf, synthetic.client_names(conf.federation.clients).index(pair.client))
    return float((attributes(pair.prompt, pair.chosen) - attributes(pair.prompt, pair.rejected)) @ weights)


def test_the_stream_is_the_same_every_time_and_another_seed_gives_another() -> None:
    federation = load_federation(config(), None)
    once, twice = list(federation.pairs()), list(federation.pairs())
    assert once == twice == list(load_federation(config(), None).pairs())
    other = list(load_federation(config(seed=1), None).pairs())
    assert len(other) == len(once)
    assert sum(a.chosen == b.chosen for a, b in zip(once, other, strict=True)) < len(once) / 10


def test_a_client_keeps_its_pairs_when_others_join_or_another_split_grows() -> None:
    small = list(synthetic.client_pairs(config(8), 3, "test"))
    large = list(synthetic.client_pairs(config(9, pairs=77, validation_pairs=0), 3, "test"))
    assert small == large


def test_counts_and_clients_say_what_the_stream_holds() -> None:
    federation = load_federation(config(12), None)
    seen: dict[str, dict[str, int]] = {}
    for pair in federation.pairs():
        splits = seen.setdefault(pair.client, {})
        splits[pair.split] = splits.get(pair.split, 0) + 1
    assert seen == federation.counts
    assert federation.clients == tuple(sorted(federation.clients)) == tuple(sorted(set(seen) - {"public"}))
    assert seen["client-00"] == {"train": 50, "validation": 20, "test": 40, "heldout": 20}


def test_splits_of_a_client_are_drawn_apart() -> None:
    conf = config(3, pairs=200, test_pairs=200)
    train, test = (list(synthetic.client_pairs(conf, 0, split)) for split in ("train", "test"))
    same = {(p.prompt, p.chosen, p.rejected) for p in train} & {(p.prompt, p.chosen, p.rejected) for p in test}
    assert len(same) <= 2  # about 10^5 texts are possible


@pytest.mark.parametrize("heterogeneity", [0.0, 0.4, 1.0])
def test_validation_test_and_heldout_labels_follow_the_clients_utility_without_noise(heterogeneity: float) -> None:
    conf = config(8, heterogeneity=heterogeneity)
    pairs = by_split(conf)
    for split in ("validation", "test", "heldout"):
        assert min(utility_gap(conf, pair) for pair in pairs[split]) >= synthetic.MIN_DIFFERENCE - 1e-9
    weights = synthetic.shared_weights(conf)
    for pair in pairs["public"]:
        assert (attributes(pair.prompt, pair.chosen) - attributes(pair.prompt, pair.rejected)) @ weights > 0.2


def test_training_labels_are_flipped_as_often_as_bradley_terry_says() -> None:
    conf = config(8, pairs=1500)
    gaps = np.array([utility_gap(conf, pair) for pair in by_split(conf)["train"]])
    expected = oracle_accuracy(conf).train_flips
    spread = np.sqrt(expected * (1 - expected) / len(gaps))
    assert 0.02 < expected < 0.045
    assert abs((gaps < 0).mean() - expected) < 4 * spread
    # The law, not only the rate: close pairs are flipped far more often than distant ones.
    close, far = np.abs(gaps) < 0.3, np.abs(gaps) > 1.5
    assert (gaps[close] < 0).mean() > 0.1
    assert (gaps[far] < 0).mean() < 0.01


def test_no_heterogeneity_means_equal_weights_and_full_means_opposed_tastes_cancel() -> None:
    flat = [synthetic.client_weights(config(8, heterogeneity=0), index) for index in range(8)]
    assert all(np.array_equal(flat[0], weights) for weights in flat)
    for clients in (8, 12):
        full = np.stack([synthetic.client_weights(config(clients, heterogeneity=1), i) for i in range(clients)])
        assert np.allclose(full.mean(axis=0), [2.0, 0.5, 0, 0, 0])
        assert np.allclose(np.abs(full), [2.0, 0.5, 1.25, 1.0, 0.75])
    eight = {tuple(np.sign(weights[2:])) for weights in full[:8]}
    assert len(eight) == 8


def test_heterogeneity_lowers_the_ceiling_of_a_model_for_all_step_by_step() -> None:
    ceilings = [oracle_accuracy(config(8, heterogeneity=h)).shared for h in (0, 0.25, 0.5, 0.75, 1)]
    assert ceilings == sorted(ceilings, reverse=True)
    assert ceilings[0] == 1.0
    assert ceilings[-1] == pytest.approx(0.769, abs=0.001)


def test_the_exact_ceiling_is_what_a_shared_scorer_reaches_on_the_pairs() -> None:
    conf = config(8, test_pairs=1000)
    weights = synthetic.shared_weights(conf)
    scores = [
        (attributes(pair.prompt, pair.chosen) - attributes(pair.prompt, pair.rejected)) @ weights
        for pair in by_split(conf)["test"]
    ]
    reached = np.mean([0.5 + 0.5 * np.sign(score) for score in scores])
    assert reached == pytest.approx(oracle_accuracy(conf).shared, abs=4 * 0.5 / np.sqrt(len(scores)))


def test_heldout_topics_stand_in_heldout_pairs_and_public_texts_only() -> None:
    conf = config(8, heldout_topics=4)
    pairs = by_split(conf)
    held = set(synthetic.heldout_topics(conf))
    topics = {split: {topic_of(pair.prompt) for pair in found} for split, found in pairs.items()}
    assert topics["heldout"] == held
    assert topics["train"] == topics["test"] == set(range(24)) - held
    assert not topics["validation"] & held
    assert held <= {topic_of(text) for text in synthetic.public_texts(conf)}
    assert all(words.TOPICS[a][1] != words.TOPICS[b][1] for a in held for b in held if a != b)


def test_without_heldout_topics_there_is_no_heldout_split() -> None:
    assert "heldout" not in by_split(config(8, heldout_topics=0))


def test_prompts_and_answers_meet_at_a_blank() -> None:
    for pairs in by_split(config(3)).values():
        for pair in pairs:
            assert pair.prompt.startswith("User: ")
            assert pair.prompt.endswith("\n\nAssistant:")
            for answer in (pair.chosen, pair.rejected):
                assert answer[0] == " "
                assert answer[1] != " "
                assert answer == answer.rstrip()


def test_public_dialogues_are_right_half_of_the_time_and_depend_on_no_client() -> None:
    conf = config(8, public_dialogues=2000)
    texts = list(synthetic.public_texts(conf))
    assert texts == list(synthetic.public_texts(config(30, public_dialogues=2000, heterogeneity=0.3)))
    marks = np.array([attributes(*text.split("\n\nAssistant:")) for text in texts])
    assert np.all(np.abs(marks.mean(axis=0) - 0.5) < 4 * 0.5 / np.sqrt(len(texts)))


def test_round_robin_gives_every_client_the_same_mixture_of_tastes() -> None:
    conf = config(8, pairs=1, test_pairs=400, partition="round_robin")
    long = {"client-00": 0.0, "client-01": 0.0}
    for pair in by_split(conf)["test"]:
        if pair.client in long:
            gap = attributes(pair.prompt, pair.chosen) - attributes(pair.prompt, pair.rejected)
            long[pair.client] += gap[2] / 400
    assert all(abs(mean) < 0.15 for mean in long.values())  # with client_id: +0.3 and -0.3


def test_a_thousand_clients_are_made_lazily() -> None:
    tracemalloc.start()
    federation = load_federation(config(1000), None)
    some = sum(1 for _ in islice(federation.pairs(), 6000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert some == 6000
    assert len(federation.clients) == 1000
    assert federation.clients[-1] == "client-999"
    assert peak < 4e6


def test_written_files_read_back_as_the_same_training_pairs(tmp_path) -> None:
    conf = config(8)
    federation = load_federation(conf, None)
    files = write_jsonl(federation, tmp_path)
    names = {file.name for file in files}
    assert names == {f"{s}.jsonl" for s in ("train", "validation", "test", "heldout", "public", "public_texts")}
    again = make_config(
        {
            "privacy": {"unit": "none"},
            "federation": {"clients": 8},
            "dataset_name": str(tmp_path / "train.jsonl"),
            "data": {"validation_fraction": 0, "test": str(tmp_path / "test.jsonl")},
        }
    )
    read = load_federation(again, None)
    assert read.clients == federation.clients
    kept = [pair for pair in federation.pairs() if pair.split in ("train", "test")]
    key = lambda pair: (pair.split, pair.client)  # noqa: E731
    assert sorted(read.pairs(), key=key) == sorted(kept, key=key)
    with pytest.raises(FileExistsError):
        write_jsonl(federation, tmp_path)
