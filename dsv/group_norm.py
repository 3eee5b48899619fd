"""Group norm (Wu and He, 2018; instance norm with one channel a group) whose derivatives are written by hand.

A group of M values x becomes z = r (x - mean), r = 1 / sqrt(variance + eps), and the output y = w z + b. With

    P(u) = u - mean(u) - z mean(u z),  means over each group,

z changes by r P(x') along a tangent x', and r by -r^2 mean(x' z). A gradient g of y gives the input r P(w g). What this
changes by along a tangent follows from the product rule. All are sums over the images' sides, and multiples of a few
tensors: 28 passes over whole tensors in all, where torch 2.15 takes 46.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function


def group_norm(inputs: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """``torch.nn.functional.group_norm`` of images, for forward mode over reverse mode.

    Its first derivatives can be taken in either mode, and the gradient's along a tangent; a graph of the gradient can't
    be made (torch's own is as fast there, and faster for a gradient alone).

    Args:
        inputs: (N, C, H, W) float.
        groups: that the channels are cut into; divides C.
        weight: (C,) gain w, of the inputs' dtype and device.
        bias: (C,) offset b, likewise.
        eps: is added to the variance.

    Returns:
        (N, C, H, W), of the inputs' dtype and device.
    """
    return cast(Tensor, _GroupNorm.apply(inputs, weight, bias, groups, eps)[0])


class _GroupNorm(Function):
    """From x (N, C, H, W), w (C,) and b (C,) to y and z (N, C, H, W) and r (N, groups).

    With z and r among the outputs what is built upon them takes their derivatives from here.
    """

    @staticmethod
    def forward(  # noqa: PLR0917
        ctx: Any, x: Tensor, w: Tensor, b: Tensor, groups: int, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        n, c, height, width = x.shape
        z, _, r = torch.native_group_norm(x, None, None, n, c, height * width, groups, eps)
        ctx.save_for_backward(z, r, w)
        ctx.save_for_forward(z, r, w)
        ctx.set_materialize_grads(False)
        return _combined(b, (w, z)), z, r

    @staticmethod
    def jvp(ctx: Any, x_: Tensor | None, w_: Tensor | None, b_: Tensor | None, *_: None) -> tuple[Tensor, ...]:
        z, r, w = ctx.saved_tensors
        of = _Groups(z, r)
        b_ = torch.zeros_like(w) if b_ is None else b_
        by_w = (torch.zeros_like(w) if w_ is None else w_, z)
        if x_ is None:
            return _combined(b_, by_w), torch.zeros_like(z), torch.zeros_like(r)
        along = _dots(x_, z)
        z_ = _combined(-of.r * of.means(_sums(x_)), (of.r, x_), (-of.r * of.means(along), z))
        return _combined(b_, (w, z_), by_w), z_, -r.square() * of.sums(along) / of.size

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if g is None:
            return None, None, None, None, None
        of_x, dots, sums = _GroupNormBackward.apply(g, *ctx.saved_tensors)
        return of_x, dots.sum(0), sums.sum(0), None, None


class _GroupNormBackward(Function):
    """From g and z (N, C, H, W), r (N, groups) and w (C,) to r P(w g) and, for every image and channel (N, C), to the
    sums of g z and of g, which are its shares in the gradients of w and b."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, z: Tensor, r: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        of, dots, sums = _Groups(z, r), _dots(g, z), _sums(g)
        ctx.save_for_backward(g, z, r, w, dots, sums)
        ctx.save_for_forward(g, z, r, w, dots, sums)
        ctx.set_materialize_grads(False)
        found = _combined(-of.r * of.means(w * sums), (of.r * w, g), (-of.r * of.means(w * dots), z))
        return found, dots, sums

    @staticmethod
    def jvp(ctx: Any, g_: Tensor | None, z_: Tensor | None, r_: Tensor | None, w_: Tensor | None) -> tuple[Tensor, ...]:
        g, z, r, w, dots, sums = ctx.saved_tensors
        of, none = _Groups(z, r), torch.zeros_like(dots)
        sums_, dots_ = (none, none) if g_ is None else (_sums(g_), _dots(g_, z))
        if z_ is not None:
            dots_ = dots_ + _dots(g, z_)
        # r P(w g) changes by r (P(q) - z mean(w g z') - z' mean(w g z)) with q = w g' + along g
        along = (none if w_ is None else w_) + (none if r_ is None else w * of.spread(r_ / r))
        terms = [(of.r * along, g), (-of.r * of.means(w * dots_ + along * dots), z)]
        terms += [] if g_ is None else [(of.r * w, g_)]
        terms += [] if z_ is None else [(-of.r * of.means(w * dots), z_)]
        return _combined(-of.r * of.means(w * sums_ + along * sums), *terms), dots_, sums_


class _Groups:
    """Sums over groups of what is known of every image and channel (N, C)."""

    def __init__(self, z: Tensor, r: Tensor) -> None:
        self._count, self._channels = r.shape[1], z.shape[1] // r.shape[1]
        self.size = self._channels * z.shape[2] * z.shape[3]
        self.r = self.spread(r)

    def spread(self, values: Tensor) -> Tensor:
        """(N, groups) to (N, C)."""
        return values.repeat_interleave(self._channels, dim=1)

    def sums(self, values: Tensor) -> Tensor:
        """(N, C) to (N, groups)."""
        return values.reshape(len(values), self._count, self._channels).sum(2)

    def means(self, values: Tensor) -> Tensor:
        """(N, C) sums over the sides to (N, C) means over the whole groups."""
        return self.spread(self.sums(values) / self.size)


def _sums(values: Tensor) -> Tensor:
    return values.sum((2, 3))


def _dots(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).sum((2, 3))


def _wide(values: Tensor) -> Tensor:
    """(C,) or (N, C), to be multiplied with (N, C, H, W)."""
    return values[..., None, None]


def _combined(constant: Tensor, *terms: tuple[Tensor, Tensor]) -> Tensor:
    """Tensors (N, C, H, W), each times its (C,) or (N, C), and a constant (C,) or (N, C) added up in one new tensor."""
    (factor, tensor), *others = terms
    found = tensor * _wide(factor)
    for factor, tensor in others:
        found.addcmul_(tensor, _wide(factor))
    return found.add_(_wide(constant))
