"""Embeddings: a row per option, the mean over a text's own tokens whatever shares its batch, cached whole or not."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from fedpdpo_secure.data import DataError
from fedpdpo_secure.pluralllm import embeddings as module
from fedpdpo_secure.pluralllm.embeddings import embed_texts, model_embeddings, point_embeddings, read_embeddings
from fedpdpo_secure.pluralllm.point_texts import point_texts
from fedpdpo_secure.pluralllm.survey import Answer, Question, Survey, build_survey
from fedpdpo_secure.pluralllm.survey_sources import load_survey

DATA = Path(os.environ.get("FEDPDPO_DATA", "none"))
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture
def survey() -> Survey:
    questions = [
        Question("q0", "do you like a b c", ("y e s", "n o")),
        Question("q1", "and " + "long " * 12, ("a", "b", "c d e f")),
        Question("q2", "z", ("u", "v")),
    ]
    return build_survey(questions, [Answer("G", 0, np.array([0.5, 0.5]))])


def save_model(folder: Path, kind: str, seed: int = 0, positions: int = 64) -> str:
    vocabulary = {"<unk>": 0, **{letter: place + 1 for place, letter in enumerate(LETTERS)}, "long": 27, "do": 28}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    if kind == "causal":  # saved with its head, as hubs do
        config = LlamaConfig(vocab_size=32, max_position_embeddings=positions, **sizes)
        LlamaForCausalLM(config).save_pretrained(folder)
    else:
        BertModel(BertConfig(vocab_size=32, max_position_embeddings=positions, **sizes)).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)  # no pad token
    return str(folder)


def one_by_one(texts: list[str], path: str) -> np.ndarray:
    """The naive way: each text alone, no padding anywhere."""
    model, tokenizer = AutoModel.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)
    with torch.no_grad():
        states = [
            model(torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0].mean(dim=0) for text in texts
        ]
    return torch.stack(states).numpy()


@pytest.mark.parametrize("kind", ["causal", "sentence"])
def test_a_vector_is_the_mean_over_its_own_tokens_whatever_shares_the_batch(kind: str, survey, tmp_path) -> None:
    path, texts = save_model(tmp_path / "model", kind), point_texts(survey.questions)
    expected = one_by_one(texts, path)
    for batch_size in (1, 3, 16):
        made = model_embeddings(survey, path, normalise=False, batch_size=batch_size, cache=tmp_path / str(batch_size))
        np.testing.assert_allclose(made.values, expected, atol=2e-6)
    unit = model_embeddings(survey, path, cache=tmp_path / "unit").values
    np.testing.assert_allclose(unit, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=2e-6)
    assert made.values.dtype == np.float32
    assert made.truncated == 0


def test_rows_follow_the_offsets_of_the_survey(survey, tmp_path) -> None:
    texts = point_texts(survey.questions)
    assert texts[int(survey.offsets[1]) + 2] == survey.questions[1].text + "\nc d e f"
    made = model_embeddings(survey, save_model(tmp_path / "m", "causal"), cache=tmp_path)
    assert made.rows(1) == slice(2, 5)
    assert made.values.shape == (7, 16)


def test_a_long_text_loses_its_beginning_and_never_its_option(survey, tmp_path) -> None:
    path = save_model(tmp_path / "short", "causal", positions=6)
    made = model_embeddings(survey, path, normalise=False, cache=tmp_path)
    assert made.truncated == 5  # q0 has 9 or 8 tokens, q1 more, q2 two
    spans = [made.values[made.rows(question)] for question in range(3)]
    for rows in spans:
        assert len(np.unique(rows.round(5), axis=0)) == len(rows)  # options still tell the rows of a question apart
    again = model_embeddings(survey, path, normalise=False, cache=tmp_path)
    assert again.truncated == 5  # also from the cache


def test_a_cached_survey_is_not_embedded_again_and_another_input_is(survey, tmp_path, monkeypatch) -> None:
    path = save_model(tmp_path / "m", "causal")
    calls: list[int] = []
    real = embed_texts

    def counted(texts, *args, **options):
        calls.append(len(texts))
        return real(texts, *args, **options)

    monkeypatch.setattr(module, "embed_texts", counted)
    first = model_embeddings(survey, path, cache=tmp_path / "c")
    again = model_embeddings(survey, path, cache=tmp_path / "c")
    assert calls == [7]
    assert again.values.tobytes() == first.values.tobytes()
    other = Survey((*survey.questions[:2], Question("q2", "y", ("u", "v"))), survey.groups, survey.answers)
    model_embeddings(other, path, cache=tmp_path / "c")
    model_embeddings(survey, path, cache=tmp_path / "c", normalise=False)
    model_embeddings(survey, path, cache=tmp_path / "c", form="alpaca")
    assert len(calls) == 4
    save_model(tmp_path / "m", "causal", seed=1)  # another model at the same path
    changed = model_embeddings(survey, path, cache=tmp_path / "c")
    assert len(calls) == 5
    assert changed.values.tobytes() != first.values.tobytes()


def test_a_group_s_answers_do_not_enter_the_cache_key_or_the_vectors(survey, tmp_path) -> None:
    path = save_model(tmp_path / "m", "causal")
    model_embeddings(survey, path, cache=tmp_path / "c")
    answered = build_survey(survey.questions, [Answer("H", 2, np.array([0.1, 0.9]))])
    model_embeddings(answered, path, cache=tmp_path / "c")
    assert len(list((tmp_path / "c").iterdir())) == 1


def test_a_write_that_fails_leaves_no_cache_entry_and_no_litter(survey, tmp_path, monkeypatch) -> None:
    path = save_model(tmp_path / "m", "causal")

    def broken(stream, **arrays):
        stream.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", broken)
    with pytest.raises(OSError, match="disk full"):
        model_embeddings(survey, path, cache=tmp_path / "c")
    assert list((tmp_path / "c").iterdir()) == []


def test_a_damaged_cache_entry_is_named_not_used(survey, tmp_path) -> None:
    path = save_model(tmp_path / "m", "causal")
    model_embeddings(survey, path, cache=tmp_path / "c")
    (entry,) = (tmp_path / "c").iterdir()
    entry.write_bytes(entry.read_bytes()[:200])
    with pytest.raises(DataError, match="cannot be read; delete the file"):
        model_embeddings(survey, path, cache=tmp_path / "c")


def test_progress_counts_texts_to_the_end(survey, tmp_path) -> None:
    seen: list[tuple[int, int]] = []
    path = save_model(tmp_path / "m", "causal")
    model_embeddings(
        survey, path, batch_size=3, cache=tmp_path / "c", progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(3, 7), (6, 7), (7, 7)]


def test_the_published_prompt_lists_all_options_and_ends_in_the_answer() -> None:
    question = Question("q", "Is it?", ("Yes", "No", "Maybe"))
    texts = point_texts([question], "alpaca")
    assert all("Answer the following question by picking ONE of the given options" in text for text in texts)
    assert all("Is it?\n\nOptions:\nA. Yes\nB. No\nC. Maybe\n" in text for text in texts)
    assert [text.rpartition("### Response:")[2] for text in texts] == ["A. Yes", "B. No", "C. Maybe"]
    with pytest.raises(DataError, match="27 options"):
        point_texts([Question("q", "Is it?", tuple(str(i) for i in range(27)))], "alpaca")


def test_a_file_gives_float32_rows_and_its_offsets_are_checked(survey, tmp_path) -> None:
    values = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float16)
    np.savez(tmp_path / "a.npz", emb=values, offsets=survey.offsets.astype(np.int32))
    np.savez(tmp_path / "b.npz", embeddings=values)
    for name in ("a.npz", "b.npz"):
        read = read_embeddings(tmp_path / name, survey)
        assert read.values.dtype == np.float32
        np.testing.assert_array_equal(read.values, values.astype(np.float32))
    np.savez(tmp_path / "c.npz", emb=values, offsets=np.array([0, 3, 5, 7]))
    with pytest.raises(DataError, match=r"c\.npz: its offsets are not those"):
        read_embeddings(tmp_path / "c.npz", survey)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.zeros((6, 4)), r"must be float\[7, W\]"),
        (np.zeros(7), r"must be float\[7, W\]"),
        (np.zeros((7, 4), dtype=np.int64), r"must be float\[7, W\]"),
        (np.full((7, 4), np.nan), "row 0 holds a value that is not finite"),
    ],
)
def test_rows_that_are_not_the_options_of_the_survey_are_refused(values, says: str, survey, tmp_path) -> None:
    np.savez(tmp_path / "a.npz", embeddings=values)
    with pytest.raises(DataError, match=says):
        read_embeddings(tmp_path / "a.npz", survey)


def test_a_file_that_is_none_or_would_run_code_is_refused(survey, tmp_path) -> None:
    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    np.savez(tmp_path / "bomb.npz", embeddings=np.array([Bomb()], dtype=object))
    (tmp_path / "text.npz").write_text("no")
    np.savez(tmp_path / "other.npz", vectors=np.zeros((7, 4)))
    for name in ("bomb.npz", "text.npz", "other.npz", "absent.npz"):
        with pytest.raises(DataError, match=name):
            read_embeddings(tmp_path / name, survey)
    assert not (tmp_path / "ran").exists()


def test_a_model_that_is_not_there_gives_one_line(survey, tmp_path) -> None:
    with pytest.raises(DataError, match="no model at") as caught:
        model_embeddings(survey, str(tmp_path / "none"), cache=tmp_path)
    assert "\n" not in str(caught.value)


def test_vectors_that_are_not_finite_are_refused_before_they_are_cached(survey, tmp_path) -> None:
    path = save_model(tmp_path / "m", "causal")
    model = LlamaForCausalLM.from_pretrained(path)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    model.save_pretrained(path)
    with pytest.raises(DataError, match="not finite"):
        model_embeddings(survey, path, cache=tmp_path / "c")
    assert not (tmp_path / "c").exists()


@pytest.mark.skipif(not (DATA / "stories260k").is_dir(), reason="FEDPDPO_DATA names no folder with stories260k")
def test_a_real_pretrained_model_agrees_with_one_text_at_a_time(survey, tmp_path) -> None:
    path = str(DATA / "stories260k")
    made = model_embeddings(survey, path, normalise=False, batch_size=4, cache=tmp_path)
    np.testing.assert_allclose(made.values, one_by_one(point_texts(survey.questions), path), atol=1e-4)


@pytest.mark.skipif(
    not (DATA / "global_opinions_minilm_f16.npz").is_file(), reason="FEDPDPO_DATA names no folder with the embeddings"
)
def test_the_shared_embeddings_belong_to_the_shared_survey() -> None:
    survey = load_survey(str(DATA / "global_opinions.jsonl.gz"))
    made = read_embeddings(DATA / "global_opinions_minilm_f16.npz", survey)
    assert made.values.shape == (6611, 384)
    np.testing.assert_allclose(np.linalg.norm(made.values, axis=1), 1.0, atol=2e-3)  # float16 on disk
    # Options of one question are nearer to each other than to those of a random other question.
    rng = np.random.default_rng(0)
    within, across = [], []
    for question in rng.integers(0, len(survey.questions), 300):
        rows = made.values[made.rows(int(question))]
        within.append(rows[0] @ rows[1])
        across.append(rows[0] @ made.values[rng.integers(0, 6611)])
    assert np.mean(within) > np.mean(across) + 0.3


def test_embeddings_of_the_built_in_groups_are_accepted() -> None:
    from fedpdpo_secure.pluralllm.synthetic_survey import SyntheticSettings, make_synthetic

    made = make_synthetic(SyntheticSettings(groups=3, questions=10))
    assert point_embeddings(made.embeddings, made.survey).width == 32
