"""Losses of a model's outputs and what they change by along a direction in its parameters.

By default tangents are torch's dual numbers. Compiled, they are ``torch.func``'s, which torch's compiler can trace, and
which cost several milliseconds a call when they are not compiled.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import grad, jvp
from torch.nn import functional

from dsv.deepkkt import Parameters, misclassified
from dsv.folding import Forward, folded_forward
from dsv.layers import FOR_GRADIENTS, FOR_TANGENTS, TWICE_DIFFERENTIABLE, exchanged


@dataclass(frozen=True)
class Batch:
    """A micro-batch.

    Args:
        inputs: (n, C, H, W) float, what the model gets.
        labels: (n,) int64 or (n, K) float probabilities.
        multipliers: (n,) float, >= 0.
    """

    inputs: Tensor
    labels: Tensor
    multipliers: Tensor

    def detached(self) -> Batch:
        """The same without a graph."""
        return replace(self, inputs=self.inputs.detach(), multipliers=self.multipliers.detach())


class Derivatives(NamedTuple):
    """Functions of a model's parameters by name.

    Args:
        losses: from parameters, (n, C, H, W) inputs and their labels to (n,) losses and (n, K) logits.
        slopes: from a direction, inputs and labels to the (n,) losses' derivatives along it.
        along: from a direction, a batch and the scalar weight of the primal term to what ``StationarityEngine.along``
            returns.
    """

    losses: Callable[[Parameters, Tensor, Tensor], tuple[Tensor, Tensor]]
    slopes: Callable[[Parameters, Tensor, Tensor], Tensor]
    along: Callable[[Parameters, Batch, Tensor], tuple[Tensor, Tensor, Tensor]]


def eager_derivatives(model: nn.Module, parameters: Parameters, example: Tensor) -> Derivatives:
    """By dual numbers.

    Args:
        model: in eval mode.
        parameters: those of its own that directions are in.
        example: (1, C, H, W) inputs.
    """
    plain = folded_forward(exchanged(model, FOR_GRADIENTS), parameters, example)
    by_dual_numbers = _DualNumbers(model, parameters, example)
    return Derivatives(partial(_losses, plain), by_dual_numbers.slopes, by_dual_numbers.along)


class _DualNumbers:
    """``slopes`` and ``along`` of ``Derivatives``; arguments as above."""

    def __init__(self, model: nn.Module, parameters: Parameters, example: Tensor) -> None:
        self._model, self._example = model, example
        self._at = {name: parameter.detach() for name, parameter in parameters.items()}
        self._keeps_graph = False

    @cached_property
    def _forward(self) -> Forward:
        """Made when it is first asked for: many a synthesis does without."""
        _load_forward_mode()
        return folded_forward(exchanged(self._model, FOR_TANGENTS), self._at, self._example)

    def slopes(self, direction: Parameters, inputs: Tensor, labels: Tensor) -> Tensor:
        forward = self._forward  # before the level, of which there is one at a time
        with forward_ad.dual_level():
            return _tangent(_losses(forward, self._towards(direction), inputs, labels)[0])

    def along(self, direction: Parameters, batch: Batch, primal_weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # nobody needs a graph of the gradient, but without one torch's own group norm gives it no tangent
        if not self._keeps_graph:
            with suppress(NotImplementedError):
                return self._along(direction, batch, primal_weight)
            self._keeps_graph = True
        return self._along(direction, batch, primal_weight)

    def _along(self, direction: Parameters, batch: Batch, primal_weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        forward = self._forward
        with forward_ad.dual_level(), torch.enable_grad():
            leaf = batch.inputs.detach().requires_grad_()
            found, logits = _losses(forward, self._towards(direction), leaf, batch.labels)
            seen = _parts(logits)[0].detach()
            # the tangent of the multipliers adds the gradient of the primal term to the derivative along the direction
            # (a copy: the tangent of a part of a tensor is kept in one as large as the whole)
            weights = _dual(batch.multipliers.clone(), primal_weight * misclassified(seen, batch.labels))
            images = torch.autograd.grad((weights * found).sum(), leaf, create_graph=self._keeps_graph)[0]
            return _tangent(images), _tangent(found), seen

    def _towards(self, direction: Parameters) -> Parameters:
        return {name: _dual(p, direction[name]) for name, p in self._at.items()}


def compiled_derivatives(model: nn.Module, parameters: Parameters, example: Tensor) -> Derivatives:
    """The same by ``torch.func``, compiled by ``torch.compile`` at their first call."""
    forward = folded_forward(exchanged(model, TWICE_DIFFERENTIABLE), parameters, example)
    # torch.compile gives up on a normalisation whose input has no tangent while its gain has one (torch 2.15 falls
    # back to eager, or fails): the parameters that nothing speaks of get a tangent of zeros.
    others = {n: p.detach() for n, p in model.named_parameters() if n not in parameters}
    zeros = {name: torch.zeros_like(p) for name, p in others.items()}
    fixed_point = others | {name: p.detach() for name, p in parameters.items()}
    _load_forward_mode()

    # torch 2.11's compiler fails at the second derivative of the loss of int64 labels
    losses = partial(_losses, forward, one_hot=True)

    def slopes(direction: Parameters, inputs: Tensor, labels: Tensor) -> Tensor:
        at, towards = (fixed_point,), (zeros | dict(direction),)
        slope: Tensor = jvp(lambda chosen: losses(chosen, inputs, labels)[0], at, towards)[1]
        return slope

    def along(direction: Parameters, batch: Batch, primal_weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        def gradient(chosen: Parameters, step: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
            def weighted(inputs: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
                found, logits = losses(chosen, inputs, batch.labels)
                # step is 0 with derivative 1: it adds the gradient of the primal term to the derivative along v
                weights = batch.multipliers + step * primal_weight * misclassified(logits.detach(), batch.labels)
                return (weights * found).sum(), (found, logits)

            images, (found, logits) = grad(weighted, has_aux=True)(batch.inputs)
            return (images, found), logits

        zero = torch.zeros((), dtype=batch.inputs.dtype, device=batch.inputs.device)
        at, towards = (fixed_point, zero), (zeros | dict(direction), torch.ones_like(zero))
        derivatives: Any = jvp(gradient, at, towards, has_aux=True)  # torch types it as a pair, it is a triple
        (images, slopes), logits = derivatives[1:]
        return images, slopes, logits

    return Derivatives(torch.compile(losses), torch.compile(slopes), torch.compile(along))


def _losses(
    forward: Forward, chosen: Parameters, inputs: Tensor, labels: Tensor, *, one_hot: bool = False
) -> tuple[Tensor, Tensor]:
    logits = forward(chosen, inputs)
    if one_hot and labels.ndim == 1:
        labels = (labels[:, None] == torch.arange(logits.shape[1], device=logits.device)).to(logits)
    return functional.cross_entropy(logits, labels, reduction="none"), logits


def _dual(primal: Tensor, tangent: Tensor) -> Tensor:
    found: Tensor = forward_ad.make_dual(primal, tangent)  # type: ignore[no-untyped-call]
    return found


def _parts(dual: Tensor) -> tuple[Tensor, Tensor | None]:
    """Primal and tangent, if it has one."""
    found: tuple[Tensor, Tensor | None] = forward_ad.unpack_dual(dual)  # type: ignore[no-untyped-call]
    return found


def _tangent(dual: Tensor) -> Tensor:
    """Without a graph; zeros where nothing that has a tangent was read."""
    primal, tangent = _parts(dual)
    return torch.zeros_like(primal) if tangent is None else tangent.detach()


@cache
def _load_forward_mode() -> None:
    """Let torch load its rules of forward mode, once: it warns of its own use of torch.jit meanwhile."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        with forward_ad.dual_level():
            _dual(torch.zeros(1), torch.zeros(1))
