"""Pairs as packed rows: one row = prompt | chosen | rejected = one preference pair = one unit of privacy.

Rejected tokens cannot see chosen ones and positions restart after the prompt, so both completions get exactly the
log-probabilities of two separate sequences, while the first dimension of every gradient stays the pair. The prompt is
computed once, which also makes this the fastest known form of a DPO step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from fedpdpo_secure.data.pairs import PreferencePair

PROMPT, CHOSEN, REJECTED, PADDING = 0, 1, 2, -1


@dataclass(frozen=True, slots=True)
class TokenPair:
    """One pair in token ids, with the reference model's log-probabilities once they are known."""

    prompt: NDArray[np.int32]  # [p], p >= 1
    chosen: NDArray[np.int32]  # [c], c >= 1
    rejected: NDArray[np.int32]  # [r], r >= 1
    reference: NDArray[np.float32] | None = None  # [2] = chosen, rejected; nats

    def __len__(self) -> int:
        return len(self.prompt) + len(self.chosen) + len(self.rejected)


@dataclass(frozen=True, slots=True)
class PairBatch:
    """B packed rows of S slots with at most R response tokens each, right padded."""

    tokens: Tensor  # int64[B, S]
    positions: Tensor  # int64[B, S]
    attention: Tensor  # bool[B, 1, S, S]: query row may see key column
    predictor: Tensor  # int64[B, R]: column whose hidden state predicts the k-th response token
    target: Tensor  # int64[B, R]
    is_chosen: Tensor  # bool[B, R]
    is_rejected: Tensor  # bool[B, R]
    last: Tensor  # int64[B, 2]: column of the last chosen and last rejected token
    reference: Tensor  # float32[B, 2]; NaN where not computed yet

    def __len__(self) -> int:
        return self.tokens.shape[0]


def tokenize_pair(
    pair: PreferencePair,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    max_prompt_length: int | None,
    templated: bool = False,
) -> TokenPair:
    """Token ids of `pair`: BOS first where the tokenizer itself puts one, EOS after both completions if there is one.

    `templated` texts carry their chat template's special tokens, so none is added. A prompt too long loses its
    beginning, a completion too long its end: prompt + either completion fits `max_length`, the prompt keeps a token.
    """
    prompt, chosen, rejected = (
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in (pair.prompt, pair.chosen, pair.rejected)
    )
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    start = [bos] if not templated and bos is not None and tokenizer("a")["input_ids"][:1] == [bos] else []
    if not prompt and not start:
        start = [next(token for token in (bos, eos, 0) if token is not None)]
    end = [eos] if not templated and eos is not None else []
    longest = max_length - 1 - len(start)
    chosen, rejected = (chosen + end)[:longest], (rejected + end)[:longest]
    room = max_length - len(start) - max(len(chosen), len(rejected))
    if max_prompt_length is not None:
        room = min(room, max_prompt_length)
    parts = (start + prompt[-room:], chosen, rejected)
    return TokenPair(*(np.asarray(part, dtype=np.int32) for part in parts))


def collate(pairs: Sequence[TokenPair], device: torch.device | str = "cpu") -> PairBatch:
    """Packed rows of `pairs` (at least one) on `device`."""
    slots = max(len(pair) for pair in pairs)
    responses = max(len(pair.chosen) + len(pair.rejected) for pair in pairs)
    count = len(pairs)
    tokens = np.zeros((count, slots), np.int64)
    positions = np.zeros((count, slots), np.int64)
    segment = np.full((count, slots), PADDING, np.int8)
    predictor = np.zeros((count, responses), np.int64)
    target = np.zeros((count, responses), np.int64)
    side = np.full((count, responses), PADDING, np.int8)
    last = np.zeros((count, 2), np.int64)
    reference = np.full((count, 2), np.nan, np.float32)
    for row, pair in enumerate(pairs):
        p, c, r = len(pair.prompt), len(pair.chosen), len(pair.rejected)
        tokens[row, : p + c + r] = np.concatenate([pair.prompt, pair.chosen, pair.rejected])
        positions[row, : p + c] = np.arange(p + c)
        positions[row, p + c : p + c + r] = np.arange(p, p + r)
        segment[row, : p + c + r] = np.repeat([PROMPT, CHOSEN, REJECTED], [p, c, r])
        predictor[row, : c + r] = np.arange(p - 1, p + c + r - 1)
        predictor[row, c] = p - 1  # the first rejected token follows the prompt, not the chosen answer
        target[row, : c + r] = tokens[row, p : p + c + r]
        side[row, : c + r] = np.repeat([CHOSEN, REJECTED], [c, r])
        last[row] = p + c - 1, p + c + r - 1
        if pair.reference is not None:
            reference[row] = pair.reference

    def move(array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(device)

    return PairBatch(
        tokens=move(tokens),
        positions=move(positions),
        attention=_visible(move(segment)),
        predictor=move(predictor),
        target=move(target),
        is_chosen=move(side == CHOSEN),
        is_rejected=move(side == REJECTED),
        last=move(last),
        reference=move(reference),
    )


def _visible(segment: Tensor) -> Tensor:
    """bool[B, 1, S, S]: causal, inside one's own segment or onto the prompt; the diagonal keeps padding rows finite."""
    slots = segment.shape[1]
    causal = torch.ones(slots, slots, dtype=torch.bool, device=segment.device).tril()
    key, query = segment[:, None, :], segment[:, :, None]
    seen = causal & ((key == query) | (key == PROMPT)) & (key >= 0)
    return (seen | torch.eye(slots, dtype=torch.bool, device=segment.device))[:, None]
