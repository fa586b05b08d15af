"""`builtin:tiny`: a small Llama and its byte-level BPE, made and warm-started on public texts, cached on disk.

It speaks the public dialogues and knows half of the facts in them, so that preference training has something to
sharpen; no download is needed. Everything is decided by the configuration and the public texts: the same inputs on the
same library versions give the same folder, which is an ordinary model path.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from fedpdpo_secure.config.models import Config
from fedpdpo_secure.data import synthetic
from fedpdpo_secure.data.pairs import Federation

VERSION = 3  # raise when anything below changes what is made
VOCABULARY = 512
CONTEXT = 1024
BATCH = 16  # dialogues per warm-start step
LEARNING_RATE = 5.0e-3
BETAS = (0.9, 0.95)
INITIAL_STD = 0.08  # with the usual 0.02 a model this narrow needs twice the steps before it learns a single fact
FINAL_RATE = 0.05  # of LEARNING_RATE, reached linearly
POOL = 8  # batches sorted by length together, so that little padding is computed
PAD, BOS, EOS = "<pad>", "<s>", "</s>"
PAD_ID = 0  # special tokens come first in the vocabulary

Progress = Callable[[int, int, float], None]  # steps done, steps in all, loss (nats per token) of the last step


def build_tiny(
    config: Config, federation: Federation, *, device: str | torch.device = "cpu", progress: Progress | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The float32 model on `device` and its tokenizer, from the cache or made now (on one CPU thread).

    The tokenizer adds no special token by itself; a dialogue was trained as prompt + answer + EOS, without BOS.
    """
    path = tiny_path(config, federation, progress=progress)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    return model.to(device), AutoTokenizer.from_pretrained(path)


def tiny_path(config: Config, federation: Federation, *, progress: Progress | None = None) -> Path:
    """The folder of the saved model and tokenizer, made first if the cache has none for these inputs.

    Texts are `federation.public_texts()`, or the built-in public dialogues where the federation has none.

    Raises:
        OSError: the cache folder cannot be written.
    """
    path = _cache_folder() / f"tiny-{_fingerprint(config, federation)}"
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".tiny-", dir=path.parent))
        try:
            model, tokenizer = _make(config, federation, progress)
            model.save_pretrained(made)
            tokenizer.save_pretrained(made)
            _publish(made, path)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    return path


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fedpdpo"


def _publish(made: Path, path: Path) -> None:
    """One rename: a reader sees the whole folder or none. If another process was first, its equal folder stays."""
    try:
        made.rename(path)
    except OSError:
        if not path.is_dir():
            raise


def _fingerprint(config: Config, federation: Federation) -> str:
    digest = hashlib.sha256()
    decided_by = [VERSION, config.seed, config.tiny.model_dump(), torch.__version__, transformers.__version__]
    digest.update(json.dumps(decided_by, sort_keys=True).encode())
    for text in _texts(config, federation):
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()[:32]


def _texts(config: Config, federation: Federation) -> Iterator[str]:
    empty = True
    for text in federation.public_texts():
        empty = False
        yield text
    if empty:
        yield from synthetic.public_texts(config)


def _make(
    config: Config, federation: Federation, progress: Progress | None
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    tokenizer = _train_tokenizer(_texts(config, federation))
    rows = _token_rows(tokenizer, _texts(config, federation))
    with _one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = LlamaForCausalLM(_architecture(config, tokenizer))
    with _one_thread():
        warm_start(model, rows, steps=config.tiny.warm_start_steps, seed=config.seed, progress=progress)
    return model.eval(), tokenizer


def _train_tokenizer(texts: Iterator[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE: every byte has a token, so no text of any user is unknown."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token=PAD, bos_token=BOS, eos_token=EOS, model_max_length=CONTEXT
    )


def _token_rows(tokenizer: PreTrainedTokenizerFast, texts: Iterator[str]) -> list[np.ndarray]:
    """int64 tokens of every dialogue, ended by EOS and cut to CONTEXT."""
    eos = tokenizer.eos_token_id
    return [np.array([*tokenizer(text)["input_ids"], eos][:CONTEXT], dtype=np.int64) for text in texts]


def _architecture(config: Config, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    hidden = config.tiny.hidden_size
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3,
        num_hidden_layers=config.tiny.layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        initializer_range=INITIAL_STD,
        tie_word_embeddings=True,
        pad_token_id=PAD_ID,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def warm_start(
    model: LlamaForCausalLM, rows: list[np.ndarray], *, steps: int, seed: int, progress: Progress | None = None
) -> None:
    """Train `model` in place as a language model: AdamW, rate falling linearly, BATCH whole dialogues per step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=0.0, fused=True)
    batches = _batches(rows, np.random.default_rng([seed, 900]))
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * (1.0 - (1.0 - FINAL_RATE) * step / max(1, steps - 1))
        tokens, targets = next(batches)
        logits = model(input_ids=tokens, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten(), ignore_index=-100)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if progress is not None:
            progress(step + 1, steps, loss.item())


def _batches(rows: list[np.ndarray], rng: np.random.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless epochs of (tokens int64[BATCH, T], next tokens int64[BATCH, T-1] with -100 on padding).

    Padding stands on the right, behind everything a causal model looks at, so no attention mask is needed.
    """
    lengths = np.array([len(row) for row in rows])
    while True:
        order = rng.permutation(len(rows))
        batches = []
        for start in range(0, len(order), BATCH * POOL):
            pool = order[start : start + BATCH * POOL]
            pool = pool[np.argsort(lengths[pool], kind="stable")]
            batches += [pool[at : at + BATCH] for at in range(0, len(pool), BATCH)]
        for index in rng.permutation(len(batches)):
            chosen = batches[index]
            tokens = np.full((len(chosen), lengths[chosen].max()), PAD_ID)
            targets = np.full((len(chosen), tokens.shape[1] - 1), -100)
            for place, row in enumerate(chosen):
                tokens[place, : lengths[row]] = rows[row]
                targets[place, : lengths[row] - 1] = rows[row][1:]
            yield torch.from_numpy(tokens), torch.from_numpy(targets)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in one order whatever the machine; more threads would not help matrices this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
