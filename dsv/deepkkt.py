"""The DeepKKT conditions as loss terms: the mathematics of Deep Support Vectors, whole, in this file.

Source: Lee et al., *Deep Support Vectors* (arXiv:2403.17329), Section 4 and Algorithm 1. Where the paper says a thing
in two ways, this is what is implemented:

- stationarity uses the gradient of the *loss* (Eq. 5 and 8), not of the logits (Algorithm 1), and is *descended*
  (Algorithm 1 prints a plus sign);
- dual feasibility is a projection, ``lambda <- max(lambda, 0)``: a candidate whose multiplier falls below zero leaves
  the sum of Eq. 5, as in Algorithm 1, but keeps its place, so that every class keeps its number of images, and may come
  back. Algorithm 1 drops it for good.

Every function is pure and differentiable in the images and multipliers (second order through ``create_graph``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dsv.errors import DsvError

Distance = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]


@dataclass(frozen=True)
class KktWeights:
    """Weights of the terms in Eq. 9.

    Args:
        primal: alpha of Appendix D (beta_1 of Eq. 9), times ``primal_loss``.
        total_variation: beta (beta_2), times ``total_variation``.
        norm: gamma (beta_3), times ``image_norm``.
        augmented: eta of Algorithm 1: weight of primal and stationarity term of the augmented copy.
    """

    primal: float
    total_variation: float
    norm: float
    augmented: float


@dataclass(frozen=True)
class KktTerms:
    """The scalar terms of one evaluation of the loss; ``total`` is the weighted sum that is descended."""

    total: Tensor
    primal: Tensor
    stationarity: Tensor
    total_variation: Tensor
    norm: Tensor


def primal_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Primal feasibility (Eq. 7): mean over all samples of the cross-entropy of the misclassified ones.

    Args:
        logits: (N, K) float.
        labels: (N,) int64 classes, or (N, K) float class probabilities, of which the largest must win.

    Returns:
        A scalar, 0 when every sample is classified as its label says.
    """
    target = labels if labels.ndim == 1 else labels.argmax(dim=1)
    wrong = (logits.argmax(dim=1) != target).to(logits.dtype)
    return (functional.cross_entropy(logits, labels, reduction="none") * wrong).mean()


def lagrangian_gradient(
    logits: Tensor, labels: Tensor, multipliers: Tensor, parameters: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """sum_i lambda_i grad_theta L(Phi(x_i; theta), y_i): the right-hand side of Eq. 5 with its sign turned.

    Args:
        logits: (N, K) float, computed from ``parameters``.
        labels: (N,) int64 or (N, K) float probabilities.
        multipliers: (N,) float, >= 0.
        parameters: the leaves that the model was evaluated with; each requires grad.

    Returns:
        One tensor per parameter, of its shape, differentiable in whatever the logits and multipliers came from.
    """
    losses = functional.cross_entropy(logits, labels, reduction="none")
    return torch.autograd.grad((multipliers * losses).sum(), list(parameters), create_graph=True)


def mean_l1(parameters: Sequence[Tensor], reconstruction: Sequence[Tensor]) -> Tensor:
    """Mean absolute difference over all parameters: the paper's own distance (Section 4.2, Appendix D)."""
    total = torch.stack([(p - r).abs().sum() for p, r in zip(parameters, reconstruction, strict=True)]).sum()
    return total / sum(p.numel() for p in parameters)


def relative_l2(parameters: Sequence[Tensor], reconstruction: Sequence[Tensor]) -> Tensor:
    """Squared l2 distance (Algorithm 1) over the squared norm of the parameters; 1 for a zero reconstruction."""
    distance = torch.stack([(p - r).square().sum() for p, r in zip(parameters, reconstruction, strict=True)]).sum()
    return distance / torch.stack([p.square().sum() for p in parameters]).sum()


def layer_cosine(parameters: Sequence[Tensor], reconstruction: Sequence[Tensor]) -> Tensor:
    """Mean over the parameter tensors of 1 - cosine similarity: 0 when all directions agree, 2 when opposed.

    Blind to lengths, hence to a common scale of the multipliers.
    """
    cosines = [
        functional.cosine_similarity(p.flatten(), r.flatten(), dim=0, eps=1e-12)
        for p, r in zip(parameters, reconstruction, strict=True)
    ]
    return 1 - torch.stack(cosines).mean()


DISTANCES: dict[str, Distance] = {"mean-l1": mean_l1, "relative-l2": relative_l2, "layer-cosine": layer_cosine}
"""D of Eq. 8 by name."""


def stationarity_loss(
    logits: Tensor, labels: Tensor, multipliers: Tensor, parameters: Sequence[Tensor], distance: Distance
) -> Tensor:
    """Stationarity (Eq. 8): D(theta, -sum_i lambda_i grad_theta L(Phi(x_i; theta), y_i)); arguments as above."""
    gradient = lagrangian_gradient(logits, labels, multipliers, parameters)
    return distance([p.detach() for p in parameters], [-g for g in gradient])


@torch.no_grad()
def project_dual(multipliers: Tensor) -> None:
    """Dual feasibility: every multiplier becomes max(lambda, 0), in place. See the top of this file."""
    multipliers.clamp_(min=0)


def total_variation(images: Tensor) -> Tensor:
    """Mean absolute brightness difference between neighbouring pixels, of (N, C, H, W) images."""
    down = (images[..., 1:, :] - images[..., :-1, :]).abs()
    right = (images[..., :, 1:] - images[..., :, :-1]).abs()
    return down.mean() + right.mean()


def image_norm(images: Tensor) -> Tensor:
    """Mean squared value of (N, C, H, W) normalised images: penalises pixels far from the data's mean."""
    return images.square().mean()


def deepkkt_loss(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    multipliers: Tensor,
    *,
    parameters: Sequence[Tensor],
    augment: Callable[[Tensor], Tensor],
    distance: Distance,
    weights: KktWeights,
) -> KktTerms:
    """Eq. 9 as Algorithm 1 (lines 8 to 15) lays it out: L_kkt(X) + eta L_kkt(A X) + L_prior(X).

    Args:
        model: in eval mode; its parameters are not changed.
        images: (N, C, H, W) normalised float.
        labels: (N,) int64 or (N, K) float probabilities.
        multipliers: (N,) float, >= 0.
        parameters: leaves of ``model`` that the stationarity term speaks of; each requires grad.
        augment: a differentiable f_A drawn anew at every call.
        distance: D of Eq. 8, one of ``DISTANCES``.
        weights: of the terms.

    Returns:
        The terms, those of the plain and the augmented copy added up with eta already applied.

    Raises:
        DsvError: a term is not finite.
    """
    primal = images.new_zeros(())
    stationarity = images.new_zeros(())
    for weight, view in ((1.0, lambda x: x), (weights.augmented, augment)):
        if weight == 0:
            continue
        logits = model(view(images))
        primal = primal + weight * primal_loss(logits, labels)
        stationarity = stationarity + weight * stationarity_loss(logits, labels, multipliers, parameters, distance)
    smoothness, size = total_variation(images), image_norm(images)
    total = stationarity + weights.primal * primal + weights.total_variation * smoothness + weights.norm * size
    if not torch.isfinite(total):
        raise DsvError("the DeepKKT loss is not finite; lower the step sizes or check the teacher's weights")
    return KktTerms(total, primal, stationarity, smoothness, size)
