"""Gradients per row from Opacus' hooks: one backward pass, a check of every shape, and the rows as one matrix.

A row is what the loss gives one number for: a pair, or an episode of several questions. Used by every kind of noise.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from privacy.discrete.rounding import Floats

from .errors import PrivacyError, StructureError


def backward(losses: Tensor) -> int:
    """Run the backward pass of losses float[rows] and return rows > 0. Raises PrivacyError for another shape."""
    if losses.dim() != 1 or len(losses) == 0:
        raise PrivacyError(f"losses must be one number per pair, shape [pairs], got {tuple(losses.shape)}")
    with warnings.catch_warnings():  # the first layer's input needs no gradient; its hook fires all the same
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        torch.autograd.backward(losses.sum())
    return len(losses)


def row_gradients(params: Iterable[tuple[str, nn.Parameter]], rows: int) -> list[Tensor]:
    """What the hooks left on each parameter, [rows, *shape of the parameter].

    Raises StructureError, naming the tensor, unless every parameter has one gradient per row.
    """
    found = []
    for name, parameter in params:
        gradient, wanted = getattr(parameter, "grad_sample", None), (rows, *parameter.shape)
        if not isinstance(gradient, Tensor):
            raise StructureError(f"{name}: no gradient per pair reached it, or more than one backward pass did")
        if tuple(gradient.shape) != wanted:
            raise StructureError(f"{name}: gradients per pair have shape {tuple(gradient.shape)}, not {wanted}")
        found.append(gradient)
    return found


def joined(gradients: Sequence[Tensor]) -> Floats:
    """float[rows, dim]: the gradients of all parameters side by side, in their order, in their own precision."""
    if any(len(gradient) != len(gradients[0]) for gradient in gradients):
        raise ValueError("every parameter needs gradients of the same rows")
    flat = [gradient.detach().reshape(len(gradient), math.prod(gradient.shape[1:])) for gradient in gradients]
    return np.concatenate([part.cpu().numpy() for part in flat], axis=1)


def row_norms(rows: Floats) -> NDArray[np.float64]:
    """float64[rows]: L2 norms in float64; not finite where a row is not, or where its square overflows."""
    with np.errstate(over="ignore", invalid="ignore"):
        squares: NDArray[np.float64] = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
        return np.sqrt(squares)


def declared_rows(rows: int | None, drawn: int, moves: int) -> int:
    """How many rows a step must have: the sample where a unit is a row, else the public number `rows` if given.

    Raises PrivacyError where a unit is a row and `rows` is another number than the sample's.
    """
    if rows is None:
        return drawn
    if rows < 0 or (moves == 1 and rows != drawn):
        raise PrivacyError(f"a sample of {drawn} pairs, each a row of its own, cannot be {rows} rows")
    return rows


def check_count(found: int, wanted: int) -> None:
    """Raise PrivacyError unless the step was given the rows it must have."""
    if found != wanted:
        raise PrivacyError(f"the sample has {wanted} pairs but the step was given {found}")
