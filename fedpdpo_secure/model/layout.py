"""Named tensors as one flat vector and back, in a canonical order with a digest both sides can compare."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Named = Sequence[tuple[str, nn.Parameter]]


@dataclass(frozen=True, slots=True)
class ParamLayout:
    """Names and shapes in vector order."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @staticmethod
    def of(parameters: Named) -> ParamLayout:
        """The layout of `parameters` in the given order."""
        return ParamLayout(tuple(name for name, _ in parameters), tuple(tuple(value.shape) for _, value in parameters))

    @property
    def size(self) -> int:
        """Coordinates in the vector."""
        return sum(int(np.prod(shape)) for shape in self.shapes)

    def digest(self) -> str:
        """SHA-256 (hex) of names and shapes."""
        text = "\n".join(f"{name}:{shape}" for name, shape in zip(self.names, self.shapes, strict=True))
        return hashlib.sha256(text.encode()).hexdigest()


def flatten(parameters: Named) -> NDArray[np.float64]:
    """float64[D] of `parameters`, in order."""
    if not parameters:
        return np.zeros(0)
    return np.concatenate([value.detach().to("cpu", torch.float64).numpy().ravel() for _, value in parameters])


def assign(parameters: Named, vector: NDArray[np.float64]) -> None:
    """Write float64[D] into `parameters`; raises ValueError when the sizes differ."""
    if vector.size != sum(value.numel() for _, value in parameters):
        raise ValueError(f"vector of {vector.size} coordinates for {sum(v.numel() for _, v in parameters)} parameters")
    start = 0
    with torch.no_grad():
        for _, value in parameters:
            part = torch.from_numpy(vector[start : start + value.numel()].reshape(value.shape))
            value.copy_(part.to(value.dtype))
            start += value.numel()
