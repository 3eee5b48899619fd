"""The exact gradient of the DeepKKT loss in micro-batches: memory depends on their size, not on the number of DSVs.

With g = sum_i lambda_i grad_theta L(x_i; theta) the stationarity term is D(theta, -g). Once v = dD/dg is known, its
gradient in every image and multiplier is that of

    sum_i lambda_i <v, grad_theta L(x_i; theta)>  =  sum_i lambda_i * d/de L(x_i; theta + e v) at e = 0

with v held fixed: a sum over images, which may be taken in parts. So a first pass adds up g without keeping a graph,
and a second pass, micro-batch by micro-batch, differentiates the ordinary gradient in the images along v (forward over
reverse; Pearlmutter, *Fast exact multiplication by the Hessian*, 1994). No gradient of a single image is ever stored.
``deepkkt.deepkkt_loss`` is the definition that this is tested against.

Why not reverse over forward: for layer and instance norm torch's forward derivative is right, but its own reverse
derivative takes the saved mean and variance for constants, and the outcome is wrong by tens of percent without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp
from torch.nn import functional

from dsv.compute import Compute
from dsv.deepkkt import (
    Distance,
    KktTerms,
    KktWeights,
    Parameters,
    image_norm,
    misclassified,
    prediction_entropy,
    primal_loss,
    total_variation,
    weighted_terms,
)
from dsv.ranks import Ranks

View = Callable[[Tensor, int], Tensor]
"""From candidates ``first`` to ``first + n``, (n, C, h, w), to what the model sees, (n, C, H, W); differentiable."""


@dataclass(frozen=True)
class Batch:
    """A micro-batch: (n, C, H, W) model input, (n,) int64 or (n, K) float labels, (n,) multipliers."""

    inputs: Tensor
    labels: Tensor
    multipliers: Tensor

    def detached(self) -> Batch:
        """The same without a graph."""
        return replace(self, inputs=self.inputs.detach())


@dataclass(frozen=True)
class Candidates:
    """What is optimised, or this rank's share of it.

    Args:
        images: (n, C, h, w) float.
        labels: (n,) int64 or (n, K) float probabilities.
        multipliers: (n,) float.
        total: number of candidates over all ranks; means are taken over these.
    """

    images: Tensor
    labels: Tensor
    multipliers: Tensor
    total: int

    def batches(self, view: View, size: int) -> Iterator[tuple[slice, Tensor, Batch]]:
        """Micro-batches: their place, the images as a leaf of the graph, and what the model gets."""
        count = max(1, -(-len(self.images) // size))
        for number in range(count):  # of nearly equal sizes, so that compiled code sees one or two shapes
            first, end = len(self.images) * number // count, len(self.images) * (number + 1) // count
            own = slice(first, end)
            leaf = self.images[own].detach().requires_grad_(torch.is_grad_enabled())
            yield own, leaf, Batch(view(leaf, first), self.labels[own], self.multipliers[own].detach())


@dataclass(frozen=True)
class KktGradient:
    """Gradients of the total in this rank's images and multipliers, and the terms over all ranks."""

    terms: KktTerms
    images: Tensor
    multipliers: Tensor


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
        self._parameters = {name: p.detach().requires_grad_() for name, p in parameters.items()}
        self._distance = distance

        def losses(chosen: Parameters, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            logits = functional_call(model, dict(chosen), (inputs,))
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

            fixed_point = {name: p.detach() for name, p in self._parameters.items()}
            zero = torch.zeros((), dtype=batch.inputs.dtype, device=batch.inputs.device)
            at, towards = (fixed_point, zero), (dict(direction), torch.ones_like(zero))
            derivatives: Any = jvp(gradient, at, towards, has_aux=True)  # torch types it as a pair, it is a triple
            (images, slopes), logits = derivatives[1:]
            return images, slopes, logits

        def slopes(direction: Parameters, inputs: Tensor, labels: Tensor) -> Tensor:
            at = ({name: p.detach() for name, p in self._parameters.items()},)
            slope: Tensor = jvp(lambda chosen: losses(chosen, inputs, labels)[0], at, (dict(direction),))[1]
            return slope

        self._slopes = torch.compile(slopes) if self.compute.compiled else slopes
        self._losses = torch.compile(losses) if self.compute.compiled else losses
        self._along = torch.compile(along) if self.compute.compiled else along

    def total_gradient(self, batches: Iterable[Batch]) -> dict[str, Tensor]:
        """g = sum_i lambda_i grad_theta L_i over all ranks' batches, by parameter name; memory of one batch."""
        totals = {name: torch.zeros_like(p) for name, p in self._parameters.items()}
        leaves = list(self._parameters.values())
        for batch in batches:
            with torch.enable_grad(), self.compute.running():
                loss = (batch.multipliers * self._losses(self._parameters, batch.inputs, batch.labels)[0]).sum()
                gradients = torch.autograd.grad(loss, leaves)
            torch._foreach_add_(list(totals.values()), list(gradients))
        self.ranks.add_up(list(totals.values()))
        return totals

    def direction(self, total_gradient: Parameters) -> tuple[Tensor, dict[str, Tensor]]:
        """The distance of Eq. 8 and v = dD/dg by parameter name, at ``total_gradient``."""
        with torch.enable_grad():
            leaf = {name: (-total).requires_grad_() for name, total in total_gradient.items()}
            distance = self._distance({name: p.detach() for name, p in self._parameters.items()}, leaf)
            descent = torch.autograd.grad(distance, list(leaf.values()))
        return distance.detach(), {name: -d for name, d in zip(leaf, descent, strict=True)}

    def slopes(self, direction: Parameters, batch: Batch) -> Tensor:
        """(n,) derivative of every image's loss along ``direction``, by forward-mode differentiation alone."""
        with torch.no_grad(), self.compute.running():
            return self._slopes(direction, batch.inputs, batch.labels)

    def least_squares_scale(self, total_gradient: Parameters) -> float:
        """The factor for all multipliers that brings -g nearest to theta, or 0 where every positive one leads away."""
        pairs = [(self._parameters[name].detach(), g) for name, g in total_gradient.items()]
        along = sum(float(-(p * g).sum()) for p, g in pairs)
        return max(along, 0.0) / max(sum(float(g.square().sum()) for _, g in pairs), 1e-30)

    def along(
        self, direction: Parameters, batch: Batch, *, primal_weight: float = 0.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What changes along ``direction``.

        Returns:
            (n, C, H, W) gradient in the inputs of sum_i lambda_i d/de L_i, plus ``primal_weight`` times that of the sum
            of the misclassified images' losses; (n,) d/de L_i; (n, K) logits. None of them carries a graph.
        """
        with torch.no_grad(), self.compute.running():
            weight = torch.tensor(primal_weight, dtype=batch.inputs.dtype, device=batch.inputs.device)
            return self._along(direction, batch, weight)

    def nowhere(self) -> dict[str, Tensor]:
        """The direction 0."""
        return {name: torch.zeros_like(p) for name, p in self._parameters.items()}


def kkt_gradient(
    engine: StationarityEngine, candidates: Candidates, views: Sequence[tuple[float, View]], weights: KktWeights
) -> KktGradient:
    """The gradient of ``deepkkt_loss`` in every image and multiplier.

    Args:
        engine: of the model.
        candidates: this rank's share.
        views: weight and view of every copy of the candidates. The first is the candidates as they are and also
            carries total variation, norm and entropy; further ones are augmented copies.
        weights: of the terms; ``augmented`` is not read, it stands in ``views``.

    Raises:
        DsvError: the loss is not finite.
    """
    images, multipliers = torch.zeros_like(candidates.images), torch.zeros_like(candidates.multipliers)
    sums = torch.zeros(5, dtype=images.dtype, device=images.device)  # in the order of KktTerms, without the total
    size = engine.compute.chunk
    for number, (weight, view) in enumerate(views):
        if weight == 0:
            continue
        direction = engine.nowhere()
        if weights.stationarity != 0:
            with torch.no_grad():
                total = engine.total_gradient(batch for *_, batch in candidates.batches(view, size))
            distance, direction = engine.direction(total)
            sums[1] += weight * distance / engine.ranks.count
            direction = {name: weight * weights.stationarity * v for name, v in direction.items()}
        for own, leaf, batch in candidates.batches(view, size):
            share = len(leaf) / candidates.total
            primal_weight = weight * weights.primal / candidates.total
            gradient, slopes, logits = engine.along(direction, batch.detached(), primal_weight=primal_weight)
            multipliers[own] += slopes
            sums[0] += weight * share * primal_loss(logits, batch.labels)
            target = (batch.inputs * gradient).sum()
            if number == 0:
                smoothness, norm = share * total_variation(batch.inputs), share * image_norm(batch.inputs)
                target = target + weights.total_variation * smoothness + weights.norm * norm
                sums[2:] += torch.stack([smoothness, norm, share * prediction_entropy(logits)]).detach()
            images[own] += torch.autograd.grad(target, leaf)[0]
    engine.ranks.add_up([sums])
    return KktGradient(weighted_terms(weights, KktTerms(sums[0], *sums)), images, multipliers)
