"""Layers of a model that are exchanged for others with the same outputs and cheaper derivatives."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import suppress

from torch import Tensor, nn
from torch.nn import functional

from dsv.average_pool import average_pool
from dsv.group_norm import group_norm

Exchange = Mapping[type[nn.Module], type[nn.Module]]
"""What takes whose place: a subclass of it without further state."""


class _AveragePool(nn.AvgPool2d):
    def forward(self, inputs: Tensor) -> Tensor:
        halves = (self.kernel_size, self.stride, self.padding, self.divisor_override) == (2, 2, 0, None)
        even = inputs.ndim == 4 and inputs.shape[2] % 2 == inputs.shape[3] % 2 == 0
        if halves and even and inputs.device.type == "cpu":  # cards have fast ones of their own
            return average_pool(inputs)
        return super().forward(inputs)


class _GroupNorm(nn.GroupNorm):
    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.ndim != 4 or not self.affine:
            return super().forward(inputs)
        return group_norm(inputs, self.num_groups, self.weight, self.bias, self.eps)


class _Hardsigmoid(nn.Hardsigmoid):
    """torch's own has no second derivative."""

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.relu6(inputs + 3) / 6


TWICE_DIFFERENTIABLE: Exchange = {nn.Hardsigmoid: _Hardsigmoid}
"""For whatever asks for a second derivative."""
FOR_GRADIENTS: Exchange = {**TWICE_DIFFERENTIABLE, nn.AvgPool2d: _AveragePool}
"""For gradients, and graphs of gradients."""
FOR_TANGENTS: Exchange = {**FOR_GRADIENTS, nn.GroupNorm: _GroupNorm}
"""For derivatives along a direction, and gradients of these."""


def copy_over(model: nn.Module) -> nn.Module | None:
    """Another module over the same tensors, or None where it can't be made."""
    tensors = [*model.parameters(), *model.buffers()]
    with suppress(TypeError, RuntimeError):  # a stranger's module may hold what cannot be copied
        return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    return None


def exchanged(model: nn.Module, layers: Exchange) -> nn.Module:
    """A module over ``model``'s tensors with other layers, or ``model`` itself where there is none to exchange or it
    can't be copied. ``model`` stays as it is; what is loaded into it later counts."""
    own = copy_over(model) if any(type(module) in layers for module in model.modules()) else None
    if own is None:
        return model
    for module in own.modules():
        # its class and not the module: code around it may read its attributes, and hooks stay
        module.__class__ = layers.get(type(module), type(module))
    return own
