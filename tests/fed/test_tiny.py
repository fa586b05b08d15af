"""`builtin:tiny`: made from public texts alone, the same every time, cached as an ordinary model folder."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from fedpdpo_secure import tiny
from fedpdpo_secure.config import Config, make_config
from fedpdpo_secure.data import load_federation, synthetic
from fedpdpo_secure.data import synthetic_text as words


def config(*, seed: int = 0, steps: int = 3, **values: object) -> Config:
    return make_config(
        {
            "privacy": {"unit": "none"},
            "seed": seed,
            "tiny": {"warm_start_steps": steps, "hidden_size": 32, "layers": 1},
            "synthetic": {"public_dialogues": 300},
            **values,
        }
    )


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "fedpdpo"


def path_of(conf: Config) -> Path:
    return tiny.tiny_path(conf, load_federation(conf, None))


@pytest.fixture(scope="module")
def tokenizer():
    return tiny._train_tokenizer(synthetic.public_texts(config()))


def test_the_same_inputs_give_the_same_folder_and_the_second_call_trains_nothing(cache, monkeypatch) -> None:
    first = path_of(config())
    assert first.parent == cache
    weights = (first / "model.safetensors").read_bytes()
    monkeypatch.setattr(tiny, "warm_start", lambda *a, **k: pytest.fail("trained again"))
    assert path_of(config()) == first
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache / "elsewhere"))
    again = path_of(config())
    assert again != first
    assert (again / "model.safetensors").read_bytes() == weights
    assert (again / "tokenizer.json").read_bytes() == (first / "tokenizer.json").read_bytes()


def test_whatever_decides_the_model_decides_the_name_and_the_number_of_clients_does_not(cache) -> None:
    folders = {
        path_of(config(steps=1)),
        path_of(config(steps=2)),
        path_of(config(steps=1, seed=1)),
        path_of(config(steps=1, synthetic={"public_dialogues": 301})),
    }
    assert len(folders) == 4
    assert path_of(config(steps=1, federation={"clients": 30})) in folders


def test_making_the_model_leaves_the_global_generators_and_threads_alone(cache) -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    before, numbers, threads = torch.get_rng_state(), np.random.get_state()[1].copy(), torch.get_num_threads()
    path_of(config())
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numbers)
    assert torch.get_num_threads() == threads


def test_a_failed_training_leaves_nothing_in_the_cache(cache, monkeypatch) -> None:
    monkeypatch.setattr(tiny, "warm_start", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        path_of(config())
    assert list(cache.iterdir()) == []


def test_a_process_that_comes_second_keeps_the_folder_of_the_first(tmp_path) -> None:
    first, second = tmp_path / "made", tmp_path / "other"
    for folder in (first, second):
        folder.mkdir()
        (folder / "mark").write_text(folder.name)
    tiny._publish(first, tmp_path / "final")
    tiny._publish(second, tmp_path / "final")
    assert (tmp_path / "final" / "mark").read_text() == "made"
    with pytest.raises(OSError, match="No such file"):
        tiny._publish(tmp_path / "absent", tmp_path / "nowhere")


def test_progress_is_reported_for_every_step(cache) -> None:
    seen: list[tuple[int, int, float]] = []
    conf = config(steps=4)
    tiny.tiny_path(conf, load_federation(conf, None), progress=lambda *report: seen.append(report))
    assert [(done, total) for done, total, _ in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert seen[0][2] == pytest.approx(math.log(tiny.VOCABULARY), abs=0.6)


def test_the_folder_is_an_ordinary_model_path(cache) -> None:
    conf = config()
    federation = load_federation(conf, None)
    model, tokenizer = tiny.build_tiny(conf, federation, device="cpu")
    plain = AutoModelForCausalLM.from_pretrained(path_of(conf))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert not model.training
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert AutoTokenizer.from_pretrained(path_of(conf)).get_vocab() == tokenizer.get_vocab()
    assert (tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token) == ("<pad>", "<s>", "</s>")
    assert len({tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}) == 3
    assert tokenizer.chat_template is None
    assert tokenizer.pad_token_id == tiny.PAD_ID


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=40))
def test_no_text_is_unknown_to_the_tokenizer(tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"], clean_up_tokenization_spaces=False) == text


def test_the_tokenizer_adds_nothing_and_cuts_between_prompt_and_answer(tokenizer) -> None:
    for pair in load_federation(config(), None).pairs():
        apart = tokenizer(pair.prompt)["input_ids"] + tokenizer(pair.chosen)["input_ids"]
        assert apart == tokenizer(pair.prompt + pair.chosen)["input_ids"]
        assert not set(apart) & set(tokenizer.all_special_ids)


def test_public_rows_of_the_users_data_take_the_place_of_the_built_in_texts(cache, tmp_path) -> None:
    rows = [f'{{"prompt": "Zebra {i}?", "chosen": " Quagga.", "rejected": " Okapi."}}\n' for i in range(100)]
    (tmp_path / "pref.jsonl").write_text("".join(rows))
    own = {"dataset_name": str(tmp_path / "pref.jsonl"), "federation": {"clients": 3}}
    public = config(**own, data={"partition": "round_robin", "public_fraction": 0.4})
    private = config(**own, data={"partition": "round_robin"})
    assert "ĠQuagga" in AutoTokenizer.from_pretrained(path_of(public)).get_vocab()
    assert path_of(private) == path_of(config())  # not one word of the clients' texts


def test_batches_hold_every_dialogue_once_an_epoch_with_targets_shifted_by_one() -> None:
    rows = [np.arange(1, 2 + index % 7 + 1) * 1000 + index for index in range(100)]
    batches: Iterator = tiny._batches(rows, np.random.default_rng(0))
    seen = []
    while len(seen) < len(rows):
        tokens, targets = next(batches)
        assert len(tokens) <= tiny.BATCH
        for row, target in zip(tokens.numpy(), targets.numpy(), strict=True):
            real = row[row > 0]
            assert np.array_equal(target[: len(real) - 1], real[1:])
            assert (target[len(real) - 1 :] == -100).all()
            seen.append(tuple(real))
    assert sorted(seen) == sorted(tuple(row) for row in rows)


@pytest.mark.slow
def test_the_warm_started_model_speaks_the_dialogues_and_half_believes_every_fact(cache) -> None:
    conf = make_config({"privacy": {"unit": "none"}, "tiny": {"warm_start_steps": 1200}})
    model, tokenizer = tiny.build_tiny(conf, load_federation(conf, None))
    fresh = make_config({"privacy": {"unit": "none"}, "seed": 99, "synthetic": {"public_dialogues": 500}})
    rows = tiny._token_rows(tokenizer, synthetic.public_texts(fresh))
    total = count = 0.0
    with torch.no_grad():
        for row in rows:
            tokens = torch.from_numpy(row)[None]
            loss = model(input_ids=tokens, labels=tokens).loss
            total, count = total + loss.item() * (len(row) - 1), count + len(row) - 1
    assert total / count < 0.41  # the texts' own entropy is about 0.38 nats per token
    places = torch.tensor([tokenizer(f" {place}")["input_ids"][0] for place in words.PLACES])
    beliefs = []
    for topic, (_, place) in enumerate(words.TOPICS):
        start = words.question(topic, 0) + " Listen. You find it in the"
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([tokenizer(start)["input_ids"]])).logits[0, -1]
        beliefs.append(logits[places].softmax(0)[place].item())
    assert min(beliefs) > 0.25  # five wrong places share the rest
    assert 0.4 < float(np.mean(beliefs)) < 0.6
