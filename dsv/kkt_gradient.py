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
from dsv.stationarity_engine import StationarityEngine

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
            yield own, leaf, Batch(view(leaf, first), self.labels[own], self.multipliers[own].detach())


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
        parts: Iterable[_Part]
        if weights.stationarity == 0:
            parts = _without_stationarity(engine, candidates, view, scaled, priors=number == 0, size=size)
        elif at_once:
            parts = [_at_once(engine, candidates, view, scaled, priors=number == 0)]
        else:
            parts = _in_parts(engine, candidates, view, scaled, priors=number == 0, size=size)
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


def _in_parts(
    engine: StationarityEngine, candidates: Candidates, view: View, weights: KktWeights, *, priors: bool, size: int
) -> Iterator[_Part]:
    """The two passes of the top of this file."""
    with torch.no_grad():
        total = engine.total_gradient(batch for *_, batch in candidates.batches(view, size))
    distance, direction = engine.direction(total)
    direction = {name: weights.stationarity * v for name, v in direction.items()}
    for own, leaf, batch in candidates.batches(view, size):
        gradient, slopes, logits = engine.along(
            direction, batch.detached(), primal_weight=weights.primal / candidates.total
        )
        share = len(leaf) / candidates.total
        prior, terms = _priors(batch.inputs, logits, weights) if priors else (leaf.new_zeros(()), leaf.new_zeros(3))
        images = torch.autograd.grad((batch.inputs * gradient).sum() + share * prior, leaf)[0]
        primal = share * primal_loss(logits, batch.labels)
        yield _Part(own, images, slopes, torch.stack([primal, share * distance, *(share * terms)]).detach())


def _at_once(
    engine: StationarityEngine, candidates: Candidates, view: View, weights: KktWeights, *, priors: bool
) -> _Part:
    """The same where one micro-batch holds everything: the first pass keeps its graph, which is differentiated again.

    That is the arithmetic of seven forward passes instead of nine.
    """
    leaf = candidates.images.detach().requires_grad_()
    multipliers = candidates.multipliers.detach().requires_grad_()
    batch = Batch(view(leaf, 0), candidates.labels, multipliers)
    total, logits = engine.graph_of_total_gradient(batch)
    distance, direction = engine.direction({name: g.detach() for name, g in total.items()})
    primal = primal_loss(logits, batch.labels)
    prior, terms = _priors(batch.inputs, logits, weights) if priors else (leaf.new_zeros(()), leaf.new_zeros(3))
    with engine.compute.running():  # a convolution's backward pass looks for its precision when it runs
        images, slopes = torch.autograd.grad(
            [*total.values(), weights.primal * primal + prior],
            [leaf, multipliers],
            [*(weights.stationarity * v for v in direction.values()), torch.ones_like(prior)],
        )
    return _Part(slice(0, len(leaf)), images, slopes, torch.stack([primal, distance, *terms]).detach())


def _without_stationarity(
    engine: StationarityEngine, candidates: Candidates, view: View, weights: KktWeights, *, priors: bool, size: int
) -> Iterator[_Part]:
    """Of the other terms alone: one forward and one backward pass, and no second derivative."""
    for own, leaf, batch in candidates.batches(view, size):
        logits, share = engine.logits(batch), len(leaf) / candidates.total
        primal = primal_loss(logits, batch.labels)
        prior, terms = _priors(batch.inputs, logits, weights) if priors else (leaf.new_zeros(()), leaf.new_zeros(3))
        with engine.compute.running():  # a convolution's backward pass looks for its precision when it runs
            images = torch.autograd.grad(share * (weights.primal * primal + prior), leaf)[0]
        found = torch.stack([primal, torch.zeros_like(primal), *terms]).detach()
        yield _Part(own, images, torch.zeros_like(batch.multipliers), share * found)


def _priors(inputs: Tensor, logits: Tensor, weights: KktWeights) -> tuple[Tensor, Tensor]:
    """The weighted sum of total variation and norm, and (total variation, norm, entropy)."""
    smoothness, norm = total_variation(inputs), image_norm(inputs)
    terms = torch.stack([smoothness, norm, prediction_entropy(logits.detach())])
    return weights.total_variation * smoothness + weights.norm * norm, terms
