"""First derivatives along a direction in the weights: what the stationarity term needs of one model.

``kkt_gradient.py`` says what for.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import grad, jvp
from torch.nn import functional

from dsv.compute import Compute
from dsv.deepkkt import Distance, Parameters, misclassified
from dsv.folding import Forward, folded_forward
from dsv.ranks import Ranks


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
        return replace(self, inputs=self.inputs.detach())


class _Derivatives(NamedTuple):
    """Functions of a model's parameters by name."""

    losses: Callable[[Parameters, Tensor, Tensor], tuple[Tensor, Tensor]]
    slopes: Callable[[Parameters, Tensor, Tensor], Tensor]
    along: Callable[[Parameters, Batch, Tensor], tuple[Tensor, Tensor, Tensor]]


def _derivatives(forward: Forward, model: nn.Module, parameters: Parameters, *, compiled: bool) -> _Derivatives:
    """What the methods of ``StationarityEngine`` compute."""
    # torch.compile gives up on a normalisation whose input has no tangent while its gain has one (torch 2.15 falls
    # back to eager, or fails): where it is asked for, the parameters that nothing speaks of get a tangent of zeros.
    others = {n: p.detach() for n, p in model.named_parameters() if compiled and n not in parameters}
    zeros = {name: torch.zeros_like(p) for name, p in others.items()}
    fixed_point = others | {name: p.detach() for name, p in parameters.items()}

    def losses(chosen: Parameters, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = forward(chosen, inputs)
        if compiled and labels.ndim == 1:  # torch 2.11's compiler fails at the second derivative of nll_loss
            labels = (labels[:, None] == torch.arange(logits.shape[1], device=logits.device)).to(logits)
        return functional.cross_entropy(logits, labels, reduction="none"), logits

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

    def slopes(direction: Parameters, inputs: Tensor, labels: Tensor) -> Tensor:
        at, towards = (fixed_point,), (zeros | dict(direction),)
        slope: Tensor = jvp(lambda chosen: losses(chosen, inputs, labels)[0], at, towards)[1]
        return slope

    if not compiled:
        return _Derivatives(losses, slopes, along)
    return _Derivatives(torch.compile(losses), torch.compile(slopes), torch.compile(along))


class StationarityEngine:
    """Directional derivatives that the stationarity term needs, of one model; holds what is prepared once.

    Args:
        model: in eval mode, on the device of ``compute``.
        parameters: those of ``model`` that the stationarity term speaks of.
        distance: D of Eq. 8.
        compute: micro-batch, precision and compilation.
        ranks: over which gradients are added up.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Parameters,
        distance: Distance,
        *,
        compute: Compute | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.compute, self.ranks = compute or Compute(), ranks or Ranks()
        self._model = model
        self._parameters = {name: p.detach().requires_grad_() for name, p in parameters.items()}
        self._distance = distance
        self._target: Parameters = self._parameters
        self._made: _Derivatives | None = None

    def _of(self, batch: Batch) -> _Derivatives:
        """What derivatives are taken with, made when the first batch shows what the model's inputs are like."""
        if self._made is None:
            forward = folded_forward(self._model, self._parameters, batch.inputs[:1])
            self._made = _derivatives(forward, self._model, self._parameters, compiled=self.compute.compiled)
        return self._made

    def aim(self, target: Parameters) -> None:
        """Ask that -g be ``target``, by parameter name, instead of the parameters themselves (Eq. 5)."""
        self._target = target

    def total_gradient(self, batches: Iterable[Batch]) -> dict[str, Tensor]:
        """g = sum_i lambda_i grad_theta L_i over all ranks' batches, by parameter name; memory of one batch."""
        totals = {name: torch.zeros_like(p) for name, p in self._parameters.items()}
        leaves = list(self._parameters.values())
        for batch in batches:
            with torch.enable_grad(), self.compute.running():
                losses, _ = self._of(batch).losses(self._parameters, batch.inputs, batch.labels)
                loss = (batch.multipliers * losses).sum()
                gradients = torch.autograd.grad(loss, leaves)
            torch._foreach_add_(list(totals.values()), list(gradients))
        self.ranks.add_up(list(totals.values()))
        return totals

    def graph_of_total_gradient(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """g of one batch and its logits, differentiable in its inputs and multipliers."""
        with torch.enable_grad(), self.compute.running():
            losses, logits = self._of(batch).losses(self._parameters, batch.inputs, batch.labels)
            leaves = list(self._parameters.values())
            gradients = torch.autograd.grad((batch.multipliers * losses).sum(), leaves, create_graph=True)
        return dict(zip(self._parameters, gradients, strict=True)), logits

    def logits(self, batch: Batch) -> Tensor:
        """(n, K) logits of one batch, differentiable in its inputs."""
        fixed = {name: p.detach() for name, p in self._parameters.items()}
        with torch.enable_grad(), self.compute.running():
            return self._of(batch).losses(fixed, batch.inputs, batch.labels)[1]

    def direction(self, total_gradient: Parameters) -> tuple[Tensor, dict[str, Tensor]]:
        """The distance of Eq. 8 and v = dD/dg by parameter name, at ``total_gradient``."""
        with torch.enable_grad():
            leaf = {name: (-total).requires_grad_() for name, total in total_gradient.items()}
            distance = self._distance({name: self._target[name].detach() for name in leaf}, leaf)
            descent = torch.autograd.grad(distance, list(leaf.values()))
        return distance.detach(), {name: -d for name, d in zip(leaf, descent, strict=True)}

    def slopes(self, direction: Parameters, batch: Batch) -> Tensor:
        """(n,) derivative of every image's loss along ``direction``, by forward-mode differentiation alone.

        Args:
            direction: a tensor of every chosen parameter's shape and dtype, by its name.
            batch: whose multipliers are not read; what is returned has the inputs' dtype and no graph.
        """
        _load_forward_mode()
        with torch.no_grad(), self.compute.running():
            return self._of(batch).slopes(direction, batch.inputs, batch.labels)

    def least_squares_scale(self, total_gradient: Parameters) -> float:
        """The factor for all multipliers that brings -g nearest to theta, or 0 where every positive one leads away."""
        pairs = [(self._parameters[name].detach(), g) for name, g in total_gradient.items()]
        along = sum(float(-(p * g).sum()) for p, g in pairs)
        return max(along, 0.0) / max(sum(float(g.square().sum()) for _, g in pairs), 1e-30)

    def along(
        self, direction: Parameters, batch: Batch, *, primal_weight: float = 0.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What changes along ``direction``.

        Args:
            direction: a tensor of every chosen parameter's shape and dtype, by its name.
            batch: inputs without a graph.
            primal_weight: of a sum over the images, >= 0.

        Returns:
            (n, C, H, W) gradient in the inputs of sum_i lambda_i d/de L_i, plus ``primal_weight`` times that of the sum
            of the misclassified images' losses; (n,) d/de L_i; (n, K) logits. All have the inputs' dtype and no graph.
        """
        _load_forward_mode()
        with torch.no_grad(), self.compute.running():
            weight = torch.tensor(primal_weight, dtype=batch.inputs.dtype, device=batch.inputs.device)
            return self._of(batch).along(direction, batch, weight)


@cache
def _load_forward_mode() -> None:
    """Let torch load its rules of forward mode, once: it warns of its own use of torch.jit meanwhile."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        with forward_ad.dual_level():
            forward_ad.make_dual(torch.zeros(1), torch.zeros(1))  # type: ignore[no-untyped-call]
