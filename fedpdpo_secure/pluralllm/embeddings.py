"""One vector per point (question, option): from a file, from a language model, or of the built-in groups.

Embeddings are made of questions and options alone. These are public, so neither the vectors, nor the cache on disk, nor
its key, holds anything of a group's answers.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from fedpdpo_secure.data.pairs import DataError
from fedpdpo_secure.pluralllm.point_texts import PromptForm, point_texts
from fedpdpo_secure.pluralllm.survey import Survey

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

VERSION = 1  # of the cached vectors; raise when the same inputs give others
MAX_TOKENS = 512
Progress = Callable[[int, int], None]  # texts done, texts in all


@dataclass(frozen=True, slots=True)
class PointEmbeddings:
    """Row `offsets[q] + k` is question q, option k."""

    values: NDArray[np.float32]  # [points, W]
    offsets: NDArray[np.int64]  # [questions + 1]
    truncated: int = 0  # texts longer than the model reads; their beginnings were cut

    @property
    def width(self) -> int:
        """W."""
        return self.values.shape[1]

    def rows(self, question: int) -> slice:
        """The rows of all options of `question`."""
        return slice(int(self.offsets[question]), int(self.offsets[question + 1]))


def point_embeddings(values: NDArray[np.floating], survey: Survey, label: str = "embeddings") -> PointEmbeddings:
    """`values` as the embeddings of `survey`. Raises DataError: not float[points, W], or a value is not finite."""
    offsets = survey.offsets
    if values.ndim != 2 or values.dtype.kind != "f" or values.shape[0] != offsets[-1] or values.shape[1] == 0:
        shape = f"{values.dtype}{list(values.shape)}"
        raise DataError(f"{label}: must be float[{offsets[-1]}, W], a row for every option, got {shape}")
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise DataError(f"{label}: row {bad[0]} holds a value that is not finite")
    return PointEmbeddings(values.astype(np.float32), offsets)


def read_embeddings(path: str | Path, survey: Survey) -> PointEmbeddings:
    """The vectors of an .npz file with `embeddings` (or `emb`), float[points, W], and, if it has them, `offsets`.

    Raises:
        DataError: no such file, not an .npz of plain arrays, or its rows are not the options of `survey`.
    """
    path = Path(path).expanduser()
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in ("embeddings", "emb", "offsets") if name in arrays}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path.name}: is not a readable .npz file ({' '.join(str(error).split())[:200]})") from error
    values = found.get("embeddings", found.get("emb"))
    if values is None:
        raise DataError(f"{path.name}: holds neither `embeddings` nor `emb`")
    if "offsets" in found and not np.array_equal(found["offsets"], survey.offsets):
        raise DataError(f"{path.name}: its offsets are not those of the survey's {len(survey.questions)} questions")
    return point_embeddings(values, survey, path.name)


def model_embeddings(
    survey: Survey,
    model: str,
    *,
    form: PromptForm = "plain",
    normalise: bool = True,
    batch_size: int = 16,
    device: str | torch.device = "cpu",
    cache: Path | None = None,
    progress: Progress | None = None,
) -> PointEmbeddings:
    """Vectors by any sentence or causal model, given by path or hub id, from the cache or made now.

    The model computes in the dtype it was saved in; means over tokens are float32.

    Args:
        normalise: scale every vector to length 1 (sentence models); the published pipeline does not.
        cache: folder; None is `fedpdpo/embeddings` in the user's cache.

    Raises:
        DataError: the model cannot be loaded, or its vectors are not finite.
    """
    from transformers import AutoConfig

    texts = point_texts(survey.questions, form)
    folder = Path(model).expanduser()
    model = str(folder.resolve()) if folder.is_dir() else model
    try:
        commit = getattr(AutoConfig.from_pretrained(model), "_commit_hash", None)
    except (OSError, ValueError) as error:
        raise DataError(f"embeddings: no model at {model} ({_line(error)})") from error
    version = commit or _folder_fingerprint(folder)
    decided_by = json.dumps([VERSION, model, version, normalise, MAX_TOKENS, texts])
    name = hashlib.sha256(decided_by.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    file = (_cache_folder() if cache is None else cache) / f"{name}.npz"
    if file.exists():
        return _read_cached(file, survey)
    body, tokenizer = _load(model, device)
    values, truncated = embed_texts(texts, body, tokenizer, batch_size=batch_size, progress=progress)
    if normalise:
        values = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    made = point_embeddings(values, survey, f"embeddings by {model}")
    _write_cached(file, made.values, truncated)
    return PointEmbeddings(made.values, made.offsets, truncated)


def embed_texts(
    texts: Sequence[str],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> tuple[NDArray[np.float32], int]:
    """float32[texts, W], the mean of the last hidden states over each text's tokens, and how many texts were cut.

    `model` is a body without head (AutoModel). Texts of similar length share a batch. What a model cannot read is cut
    from the beginning, because the option stands at the end.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    limit = min(MAX_TOKENS, tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", MAX_TOKENS))
    full = [tokenizer(text, verbose=False)["input_ids"] for text in texts]
    tokenizer.truncation_side = "left"
    rows = [tokenizer(text, truncation=True, max_length=limit)["input_ids"] for text in texts]
    empty = next((place for place, row in enumerate(rows) if not row), None)
    if empty is not None:
        raise DataError(f"embeddings: text {empty} has no token")
    order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
    values = np.empty((len(rows), int(model.config.get_text_config().hidden_size)), dtype=np.float32)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        values[batch] = _mean_states(model, [rows[place] for place in batch])
        if progress is not None:
            progress(start + len(batch), len(order))
    return values, sum(len(row) > limit for row in full)


@torch.no_grad()
def _mean_states(model: PreTrainedModel, rows: list[list[int]]) -> NDArray[np.float32]:
    """Padded on the right, where neither a causal nor a masked bidirectional model sees it; any token will do."""
    device, length = model.device, max(len(row) for row in rows)
    tokens = torch.zeros((len(rows), length), dtype=torch.int64, device=device)
    is_token = torch.zeros((len(rows), length), dtype=torch.int64, device=device)
    for place, row in enumerate(rows):
        tokens[place, : len(row)] = torch.tensor(row, device=device)
        is_token[place, : len(row)] = 1
    states = model(input_ids=tokens, attention_mask=is_token).last_hidden_state.float()
    weight = is_token[..., None].float()
    # where(), not a product: a model may give NaN at padding, and 0 * NaN is NaN
    total = torch.where(weight > 0, states, torch.zeros_like(states)).sum(dim=1)
    return (total / weight.sum(dim=1)).cpu().numpy()


def _load(model: str, device: str | torch.device) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
        body = AutoModel.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise DataError(f"embeddings: {model} cannot be loaded ({_line(error)})") from error
    return body.eval().to(device), tokenizer


def _folder_fingerprint(folder: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of a local model's files: another model at the same path must not meet the old cache."""
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(folder.glob("*.*"))]


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fedpdpo" / "embeddings"


def _write_cached(file: Path, values: NDArray[np.float32], truncated: int) -> None:
    """Whole or not at all, under a name of its own until then: two processes may write the same entry."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(prefix=".embeddings-", dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            np.savez(stream, embeddings=values, truncated=np.array(truncated))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, file)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def _read_cached(file: Path, survey: Survey) -> PointEmbeddings:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            found, truncated = point_embeddings(arrays["embeddings"], survey, str(file)), int(arrays["truncated"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{file}: the cached embeddings cannot be read; delete the file ({_line(error)})") from error
    return PointEmbeddings(found.values, found.offsets, truncated)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
