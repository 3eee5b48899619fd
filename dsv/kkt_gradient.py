"""The exact gradient of the DeepKKT loss in micro-batches: memory depends on their size, not on the number of DSVs.

With g = sum_i lambda_i grad_theta L(x_i; theta) the stationarity term is D(theta, -g). Once v = dD/dg is known, its
gradient in every image and multiplier is that of

    sum_i lambda_i <v, grad_theta L(x_i; theta)>  =  sum_i lambda_i * d/de L(x_i; theta + e v) at e = 0

with v held fixed: a sum over images, which may be taken in parts. So a first pass adds up g without keeping a graph,
and a second pass takes every micro-batch's share of this derivative (Pearlmutter, *Fast exact multiplication by the
Hessian*, 1994). No gradient of a single image is ever stored. ``deepkkt.deepkkt_loss`` is the definition that this is
tested against.

The second pass has two ways. One differentiates the left side: a graph of the batch's own g, in reverse over reverse
mode. The other takes the gradient in the images and its tangent along v, in forward over reverse mode. A chosen weight
costs the first a pass more and memory, so the first is taken where v holds less than half of the model's numbers, as
with the per-layer cosine, which needs no convolution in front of a norm (``scale_invariance.py``).

Why not reverse over forward: for layer and instance norm torch's forward derivative is right, but its own reverse
derivative takes the saved mean and variance for constants, and the outcome is wrong by tens of percent without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dsv.deepkkt import (
    KktTerms,
    KktWeights,
    image_norm,
    prediction_entropy,
    primal_loss,
    total_variation,
    weighted_terms,
)
from dsv.derivatives import Batch
from dsv.stationarity_engine import Along, StationarityEngine

View = Callable[[Tensor, int], Tensor]
"""From candidates ``first`` to ``first + n``, (n, C, h, w), to what the model sees, (n, C, H, W); differentiable."""


@dataclass(frozen=True)
class Candidates:
    """What is optimised, or this rank's share of it.

    Args:
        images: (n, C, h, w) float.
        labels: (n,) int64 or (n, K) float probabilities.
        multipliers: (n,) float, >= 0.
        total: number of candidates over all ranks; means are taken over these.
    """

    images: Tensor
    labels: Tensor
    multipliers: Tensor
    total: int

    def batches(self, view: View, size: int) -> Iterator[tuple[slice, Tensor, Batch]]:
        """Micro-batches: their place, the images as a leaf of the graph, and what the model gets."""
        count = -(-len(self.images) // size)
        for number in range(count):  # of nearly equal sizes, so that compiled code sees one or two shapes
            first, end = len(self.images) * number // count, len(self.images) * (number + 1) // count
            own = slice(first, end)
            leaf = self.images[own].detach().requires_grad_(torch.is_grad_enabled())
            yield own, leaf, Batch(view(leaf, first), self.labels[own], self.multipliers[own])


@dataclass(frozen=True)
class KktGradient:
    """Gradients of the total in this rank's candidates, and the terms over all ranks'.

    Args:
        terms: scalars without a graph, alike on every rank.
        images: (n, C, h, w), of the images' dtype and device.
        multipliers: (n,), of the multipliers' dtype and device; 0 where the stationarity term has the weight 0.
    """

    terms: KktTerms
    images: Tensor
    multipliers: Tensor


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

    Returns:
        The gradients of this rank's candidates, which carry no graph, and the terms.

    Raises:
        DsvError: the loss is not finite.
    """
    images, multipliers = torch.zeros_like(candidates.images), torch.zeros_like(candidates.multipliers)
    sums = torch.zeros(5, dtype=images.dtype, device=images.device)  # in the order of KktTerms, without the total
    with torch.no_grad():
        side = views[0][1](candidates.images[:1], 0).shape[-1] if len(images) else 1  # more ranks than candidates
    size = engine.compute.chunk(side)
    at_once = len(images) <= size and engine.ranks.count == 1 and not engine.compute.compiled
    for number, (weight, view) in enumerate(views):
        if weight == 0:
            continue
        scaled = replace(weights, primal=weight * weights.primal, stationarity=weight * weights.stationarity)
        one = _OneView(engine, candidates, view, scaled, number == 0, size)
        parts: Iterable[_Part]
        if weights.stationarity == 0:
            parts = one.without_stationarity()
        elif at_once:
            parts = [one.at_once()]
        else:
            parts = one.in_parts()
        for part in parts:
            images[part.own] += part.images
            multipliers[part.own] += part.multipliers
            part.sums[:2] *= weight
            sums += part.sums
    engine.ranks.add_up([sums])
    return KktGradient(weighted_terms(weights, KktTerms(sums[0], *sums)), images, multipliers)


@dataclass(frozen=True)
class _Part:
    """Gradients of some candidates under one view, and their share in the terms, in the order of ``KktTerms``."""

    own: slice
    images: Tensor
    multipliers: Tensor
    sums: Tensor


@dataclass(frozen=True)
class _OneView:
    """What is computed for one copy of the candidates; ``priors``: whether it carries the terms of the images alone."""

    engine: StationarityEngine
    candidates: Candidates
    view: View
    weights: KktWeights
    priors: bool
    size: int

    def in_parts(self) -> Iterator[_Part]:
        """The two passes of the top of this file."""
        with torch.no_grad():
            total = self.engine.total_gradient(batch for *_, batch in self.candidates.batches(self.view, self.size))
        distance, direction = self.engine.direction(total, weight=self.weights.stationarity)
        for own, leaf, batch in self.candidates.batches(self.view, self.size):
            along = self.engine.along(direction, batch, primal_weight=self._primal_weight)
            yield self._part(own, leaf, batch, distance, along)

    def at_once(self) -> _Part:
        """The same where one micro-batch holds everything: the first pass keeps its graph for the second."""
        [(own, leaf, batch)] = self.candidates.batches(self.view, self.size)
        weight = self.weights.stationarity
        distance, along = self.engine.at_once(batch, weight=weight, primal_weight=self._primal_weight)
        return self._part(own, leaf, batch, distance, along)

    def without_stationarity(self) -> Iterator[_Part]:
        """Of the other terms alone: one forward and one backward pass, and no second derivative."""
        for own, leaf, batch in self.candidates.batches(self.view, self.size):
            logits, share = self.engine.logits(batch), len(leaf) / self.candidates.total
            primal = primal_loss(logits, batch.labels)
            prior, terms = self._priors(batch.inputs, logits)
            with self.engine.compute.running():  # a convolution's backward pass looks for its precision when it runs
                images = torch.autograd.grad(share * (self.weights.primal * primal + prior), leaf)[0]
            found = torch.stack([primal, torch.zeros_like(primal), *terms]).detach()
            yield _Part(own, images, torch.zeros_like(batch.multipliers), share * found)

    @property
    def _primal_weight(self) -> float:
        return self.weights.primal / self.candidates.total

    def _part(self, own: slice, leaf: Tensor, batch: Batch, distance: Tensor, along: Along) -> _Part:
        """From what the model sees back to the candidates; and the terms of the images alone."""
        primal, share = primal_loss(along.logits, batch.labels), len(leaf) / self.candidates.total
        prior, terms = self._priors(batch.inputs, along.logits)
        images = torch.autograd.grad((batch.inputs * along.images).sum() + share * prior, leaf)[0]
        return _Part(own, images, along.slopes, share * torch.stack([primal, distance, *terms]).detach())

    def _priors(self, inputs: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The weighted sum of total variation and norm, and (total variation, norm, entropy)."""
        if not self.priors:
            return inputs.new_zeros(()), inputs.new_zeros(3)
        smoothness, norm = total_variation(inputs), image_norm(inputs)
        terms = torch.stack([smoothness, norm, prediction_entropy(logits.detach())])
        return self.weights.total_variation * smoothness + self.weights.norm * norm, terms
