"""A walk through everything an object can reach, and the byte strings that it must not find there."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from types import BuiltinMethodType, FunctionType, MethodType, ModuleType

import numpy as np
from numpy.typing import NDArray

from secagg import RoundConfig, from_ring
from secagg.client import AwaitVector
from secagg.client_steps import mask_keys_of
from secagg.prg import apply_masks
from secagg.ring import pack

Words = NDArray[np.uint32]


def reachable(root: object) -> Iterator[bytes]:
    """The bytes of every array and byte string reachable from `root`.

    The bases of arrays count, and what functions were bound to (closure, defaults, self), but neither
    modules and classes nor the globals of functions.
    """
    todo, seen = [root], set[int]()
    keep = []  # so that no id is used twice
    while todo:
        value = todo.pop()
        if id(value) in seen or isinstance(value, ModuleType | type):
            continue
        seen.add(id(value))
        keep.append(value)
        if isinstance(value, np.ndarray):
            yield value.tobytes()
            todo.append(value.base)
        elif isinstance(value, bytes | bytearray | memoryview):
            yield bytes(value)
        elif isinstance(value, MethodType | BuiltinMethodType):
            todo.append(value.__self__)
        if isinstance(value, FunctionType):
            todo += [value.__closure__, value.__defaults__, value.__kwdefaults__]
            continue
        todo.extend(gc.get_referents(value))


def traces(words: Words, bits: int) -> set[bytes]:
    """Byte strings that show that `words` (or eight neighbours of it) are stored in any of the usual forms."""
    small = words & words.dtype.type(2**bits - 1)
    found = set()
    for start in (0, small.size // 2, small.size - 8):
        part = small[start : start + 8]
        signed = from_ring(part, bits)
        found |= {pack(part, bits), part.tobytes(), part.astype(np.int64).tobytes()}
        found |= {signed.tobytes(), signed.astype(np.int32).tobytes()}
        found |= {signed.astype(np.float64).tobytes(), signed.astype(np.float32).tobytes()}
    return found


def forbidden(config: RoundConfig, federation_states: dict[int, AwaitVector], vectors: dict[int, Words]) -> set[bytes]:
    """For each client its vector, the vector with one kind of mask only, and every partial plain sum."""
    found: set[bytes] = set()
    running = np.zeros_like(next(iter(vectors.values())))
    for count, (client, words) in enumerate(vectors.items(), start=1):
        add, subtract = mask_keys_of(config, client, federation_states[client])
        self_mask_only, pairwise_only = words.copy(), words.copy()
        apply_masks(self_mask_only, add=add[:1], subtract=())
        apply_masks(pairwise_only, add=add[1:], subtract=subtract)
        running = running + words
        for value in (words, self_mask_only, pairwise_only, *([running] if count < len(vectors) else [])):
            found |= traces(value, config.bits)
    return found


def masked_forms(masked: list[Words], bits: int) -> set[bytes]:
    """Each masked vector, and every sum that the accumulator held before the last one was added."""
    found: set[bytes] = set()
    running = np.zeros_like(masked[0])
    for count, words in enumerate(masked, start=1):
        running = running + words
        found |= traces(words, bits) | (traces(running, bits) if count < len(masked) else set())
    return found


def holds(root: object, needles: set[bytes], bits: int) -> bool:
    for stored in reachable(root):
        forms = [stored]
        if len(stored) % 4 == 0:  # accumulators carry more bits than the ring
            forms.append((np.frombuffer(stored, np.uint32) & np.uint32(2**bits - 1)).tobytes())
        if any(needle in form for form in forms for needle in needles):
            return True
    return False
