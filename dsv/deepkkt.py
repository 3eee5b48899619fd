"""The DeepKKT conditions as loss terms: the mathematics of Deep Support Vectors, whole, in this file.

Source: Lee et al., *Deep Support Vectors* (arXiv:2403.17329), Section 4 and Algorithm 1. Where the paper says a thing
in two ways, this is what is implemented:

- stationarity uses the gradient of the *loss* (Eq. 5 and 8), not of the logits (Algorithm 1), and is *descended*
  (Algorithm 1 prints a plus sign);
- dual feasibility is a projection, ``lambda <- max(lambda, 0)``: a candidate whose multiplier falls below zero leaves
  the sum of Eq. 5, as in Algorithm 1, but keeps its place, so that every class keeps its number of images, and may come
  back. Algorithm 1 drops it for good.

Every function is pure and differentiable in the images and multipliers (second order through ``create_graph``).
``deepkkt_loss`` is the definition; ``kkt_gradient.py`` computes its gradient faster and in memory that does not grow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from dsv.errors import DsvError

Parameters = Mapping[str, Tensor]
"""Parameter tensors under their names in the model, such as ``classifier.weight``."""

Distance = Callable[[Parameters, Parameters], Tensor]
"""D of Eq. 8: from theta and its reconstruction -g, at least one float tensor each and of the same names and shapes, to
a scalar >= 0, differentiable in both."""


@dataclass(frozen=True)
class KktWeights:
    """Weights of the terms in Eq. 9.

    Args:
        primal: alpha of Appendix D (beta_1 of Eq. 9), times ``primal_loss``.
        total_variation: beta (beta_2), times ``total_variation``.
        norm: gamma (beta_3), times ``image_norm``.
        augmented: eta of Algorithm 1: weight of primal and stationarity term of the augmented copy.
        stationarity: 1 in the paper; 0 leaves the primal term alone (the ablation of Fig. 5), and the term uncomputed.
    """

    primal: float
    total_variation: float
    norm: float
    augmented: float
    stationarity: float = 1.0


@dataclass(frozen=True)
class KktTerms:
    """The terms of one evaluation of the loss: scalars of the images' dtype, finite and >= 0.

    Args:
        total: the weighted sum that is descended.
        primal: Eq. 7, of the plain and, times eta, of the augmented copy.
        stationarity: Eq. 8, of both likewise; in units of its distance, ``layer_cosine`` 0 to 2 (1 + eta).
        total_variation: of the plain copy, in units of the normalised images.
        norm: of the plain copy, in squares of these.
        entropy: belongs to no loss: it is what Fig. 2a follows, the mean over the candidates, as they are, of the
            entropy of the model's prediction, in nats, 0 to log K.
    """

    total: Tensor
    primal: Tensor
    stationarity: Tensor
    total_variation: Tensor
    norm: Tensor
    entropy: Tensor


def primal_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Primal feasibility (Eq. 7): mean over all samples of the cross-entropy of the misclassified ones.

    Args:
        logits: (N, K) float.
        labels: (N,) int64 classes, or (N, K) float class probabilities, of which the largest must win.

    Returns:
        A scalar, 0 when every sample is classified as its label says.
    """
    return (functional.cross_entropy(logits, labels, reduction="none") * misclassified(logits, labels)).mean()


def misclassified(logits: Tensor, labels: Tensor) -> Tensor:
    """(N,) of the logits' dtype: 1 where the most probable class is not the label's, else 0; arguments as above.

    Where a label has several most probable classes, each of them is right.
    """
    predicted = logits.argmax(dim=1)
    if labels.ndim == 1:
        return (predicted != labels).to(logits.dtype)
    return (labels.gather(1, predicted[:, None]).squeeze(1) < labels.amax(dim=1)).to(logits.dtype)


def prediction_entropy(logits: Tensor) -> Tensor:
    """Mean entropy of softmax(logits), in nats, of (N, K) float logits: a scalar, 0 to log K."""
    logarithms = torch.log_softmax(logits, dim=1)
    return -(logarithms.exp() * logarithms).sum(dim=1).mean()


def lagrangian_gradient(
    logits: Tensor, labels: Tensor, multipliers: Tensor, parameters: Parameters
) -> dict[str, Tensor]:
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
    gradients = torch.autograd.grad((multipliers * losses).sum(), list(parameters.values()), create_graph=True)
    return dict(zip(parameters, gradients, strict=True))


def mean_l1(parameters: Parameters, reconstruction: Parameters) -> Tensor:
    """Mean absolute difference over all parameters: the paper's own ``Distance`` (Section 4.2, Appendix D)."""
    total = torch.stack([(p - reconstruction[name]).abs().sum() for name, p in parameters.items()]).sum()
    return total / sum(p.numel() for p in parameters.values())


def relative_l2(parameters: Parameters, reconstruction: Parameters) -> Tensor:
    """A ``Distance``: squared l2 distance (Algorithm 1) over the squared norm of the parameters, which must not be 0; 1
    for a zero reconstruction."""
    distance = torch.stack([(p - reconstruction[name]).square().sum() for name, p in parameters.items()]).sum()
    return distance / torch.stack([p.square().sum() for p in parameters.values()]).sum()


def layer_cosine(parameters: Parameters, reconstruction: Parameters, *, blind: int = 0) -> Tensor:
    """A ``Distance``: mean over the tensors of 1 - cosine similarity: 0 when all directions agree, 2 when opposed.

    Blind to lengths, hence to a common scale of the multipliers. A bias in front of a normalisation has no gradient but
    rounding errors, whose direction must not count: lengths below 1e-5 of the whole reconstruction's fade out.

    Args:
        parameters, reconstruction: see ``Distance``; the similarity of a tensor of zeros is 0.
        blind: number of further tensors that were left out because their similarity is 0 (``scale_invariance.py``).
    """
    whole = torch.stack([r.square().sum() for r in reconstruction.values()]).sum().clamp(min=1e-30).sqrt()
    cosines = []
    for name, p in parameters.items():
        ours, theirs = p.flatten(), reconstruction[name].flatten()
        # A length has no derivative at 0; there the similarity is 0 whatever is in its place.
        length = theirs.square().sum().clamp(min=1e-30).sqrt() + 1e-5 * whole
        cosines.append(torch.dot(ours, theirs) / (length * torch.linalg.vector_norm(ours).clamp(min=1e-12)))
    return 1 - torch.stack(cosines).sum() / (len(cosines) + blind)


DISTANCES: dict[str, Distance] = {"mean-l1": mean_l1, "relative-l2": relative_l2, "layer-cosine": layer_cosine}
"""D of Eq. 8 by name."""


def stationarity_loss(
    logits: Tensor, labels: Tensor, multipliers: Tensor, parameters: Parameters, distance: Distance
) -> Tensor:
    """Stationarity (Eq. 8): D(theta, -sum_i lambda_i grad_theta L(Phi(x_i; theta), y_i)).

    Args:
        logits, labels, multipliers, parameters: as of ``lagrangian_gradient``.
        distance: D, one of ``DISTANCES``.

    Returns:
        A scalar >= 0, differentiable in whatever the logits and multipliers came from; theta counts as fixed.
    """
    gradient = lagrangian_gradient(logits, labels, multipliers, parameters)
    return distance({name: p.detach() for name, p in parameters.items()}, {name: -g for name, g in gradient.items()})


@torch.no_grad()
def project_dual(multipliers: Tensor) -> None:
    """Dual feasibility: every multiplier becomes max(lambda, 0), in place. See the top of this file.

    Args:
        multipliers: float of any shape; changed without a trace in a graph.
    """
    multipliers.clamp_(min=0)


def total_variation(images: Tensor) -> Tensor:
    """Mean absolute difference of vertical neighbours plus that of horizontal ones, of (N, C, H, W) images: >= 0."""
    down = (images[..., 1:, :] - images[..., :-1, :]).abs()
    right = (images[..., :, 1:] - images[..., :, :-1]).abs()
    means = [part.mean() for part in (down, right) if part.numel()]  # a single pixel has no neighbours
    return sum(means, images.new_zeros(()))


def image_norm(images: Tensor) -> Tensor:
    """Mean squared value of (N, C, H, W) normalised float images, a scalar >= 0: penalises pixels far from the data's
    mean."""
    return images.square().mean()


def deepkkt_loss(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    multipliers: Tensor,
    *,
    parameters: Parameters,
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
    primal, stationarity, entropy = (images.new_zeros(()) for _ in range(3))
    for weight, view in ((1.0, None), (weights.augmented, augment)):
        if weight == 0:
            continue
        logits = model(images if view is None else view(images))
        primal = primal + weight * primal_loss(logits, labels)
        if weights.stationarity != 0:
            distances = stationarity_loss(logits, labels, multipliers, parameters, distance)
            stationarity = stationarity + weight * distances
        entropy = prediction_entropy(logits.detach()) if view is None else entropy
    smoothness, size = total_variation(images), image_norm(images)
    return weighted_terms(weights, KktTerms(entropy, primal, stationarity, smoothness, size, entropy))


def weighted_terms(weights: KktWeights, terms: KktTerms) -> KktTerms:
    """``terms`` with ``total`` replaced by Eq. 9's sum of the others; raises DsvError where that is not finite."""
    total = weights.stationarity * terms.stationarity + weights.primal * terms.primal
    total = total + weights.total_variation * terms.total_variation + weights.norm * terms.norm
    if not torch.isfinite(total):
        raise DsvError("the DeepKKT loss is not finite; lower the step sizes or check the teacher's weights")
    return replace(terms, total=total)
