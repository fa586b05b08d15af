"""What is trained is what is clipped and noised, and it moves. Checked, because failures are silent (opacus#820)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .errors import SilentTrainingError, StructureError

_OPACUS_MODULE_TRACES = ("activations", "max_batch_len")


def check_structure(module: nn.Module, params: Sequence[tuple[str, nn.Parameter]]) -> None:
    """Raise StructureError, naming the tensor, unless `params` are exactly the module's tensors that require
    gradients.

    Also refused: a trained tensor that is neither float32 nor float64, a trained layer with buffers (a running mean
    of private activations is an un-noised release), and a trained layer in evaluation mode, where the hooks see
    nothing.
    """
    trainable = {id(p): name for name, p in module.named_parameters() if p.requires_grad}
    held = {id(parameter): name for name, parameter in params}
    if not params:
        raise StructureError("no parameter to train was given")
    if len(held) != len(params):
        raise StructureError("a parameter was given twice")
    for identity, name in trainable.items():
        if identity not in held:
            raise StructureError(f"{name}: requires a gradient but is not clipped and noised")
    for identity, name in held.items():
        if identity not in trainable:
            raise StructureError(f"{name}: is to be noised but is not a tensor of the module that requires a gradient")
    for name, parameter in params:
        if parameter.dtype not in (torch.float32, torch.float64):
            raise StructureError(f"{name}: has type {parameter.dtype}; trained tensors must be float32 or float64")
    for name, layer in module.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training:
            raise StructureError(f"{name}: batch normalisation mixes pairs; put it in evaluation mode")
        if any(p.requires_grad for p in layer.parameters(recurse=False)):
            _check_layer(name or type(layer).__name__, layer)


def _check_layer(name: str, layer: nn.Module) -> None:
    if not layer.training:
        raise StructureError(f"{name}: is in evaluation mode; call train() on the module first")
    if any(True for _ in layer.buffers()):
        raise StructureError(f"{name}: is trained and has buffers, whose updates nothing would clip or noise")


def remove_traces(module: nn.Module, params: Sequence[tuple[str, nn.Parameter]]) -> None:
    """Remove what Opacus leaves behind on layers and parameters, gradients included."""
    for layer in module.modules():
        for trace in _OPACUS_MODULE_TRACES:
            if any(p.requires_grad for p in layer.parameters(recurse=False)):
                layer.__dict__.pop(trace, None)
    for _, parameter in params:
        parameter.__dict__.pop("summed_grad", None)
        parameter.grad = None


class Movement:
    """Watches each parameter until its first real move, then no more."""

    def __init__(self, params: Sequence[tuple[str, nn.Parameter]], learning_rate: float) -> None:
        self._unseen = dict(params)
        self._learning_rate = learning_rate

    def snapshot(self) -> dict[str, Tensor]:
        """Copies of the parameters that have not been seen to move."""
        return {name: parameter.detach().clone() for name, parameter in self._unseen.items()}

    def check(self, before: Mapping[str, Tensor]) -> None:
        """Raise SilentTrainingError for a parameter that its noised gradient must have moved and that did not move.

        A step too small to change a float, or exactly zero (no noise and no signal), is no failure.
        """
        for name, old in before.items():
            parameter = self._unseen[name]
            assert parameter.grad is not None  # add_noise has set it
            if torch.equal(torch.add(old, parameter.grad, alpha=-self._learning_rate), old):
                continue
            if torch.equal(parameter.detach(), old):
                raise SilentTrainingError(f"{name}: did not move although its noised gradient is not zero")
            del self._unseen[name]
