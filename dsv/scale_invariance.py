"""Parameters that the per-layer cosine need not look at.

A weight in front of a normalisation (convolution, then instance, group or layer norm; torch's batch norm in eval mode
is none) may grow without changing the network's output. Along itself its derivative is therefore zero (van Laarhoven,
arXiv:1706.05350), for every image:

    <theta_l, grad_l L(x, y)> = 0,   hence   cos(theta_l, -sum_i lambda_i grad_l L_i) = 0,

whatever the candidates are. Such a layer adds a constant to ``layer_cosine`` and nothing to its gradient, so a
synthesis leaves it out and is faster by its share: a third for a ConvNet, whose convolutions hold nearly all weights.
Up to the small constant that a normalisation adds to the variance, the loss is the same.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dsv.deepkkt import Distance, Parameters, layer_cosine
from dsv.pixels import noise_pixels, normalise
from dsv.task import Task

_IMAGES, _PROBES, _SMALLEST_LENGTH = 4, 6, 1e-6
_LARGEST_COSINE, _SHARE_OF_CHANCE = 1e-3, 0.1
"""Two directions of n numbers that have nothing to do with each other have a cosine of about 1 / sqrt(n): what is to
tell a right angle has to be well below that."""


def scale_invariant_parameters(model: nn.Module, task: Task, parameters: Parameters) -> frozenset[str]:
    """Names of those of ``parameters`` along which the logits do not change, found by looking at noise.

    A zero tensor counts (its cosine is defined as 0), and so does a bias that a normalisation takes out again.

    Args:
        model: in eval mode; its parameters are not changed.
        parameters: of the model, under their names.
    """
    leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
    like = next(iter(leaves.values()))
    generator = torch.Generator().manual_seed(0)
    pixels = normalise(noise_pixels(task, _IMAGES, generator).to(like), task)
    found = set(parameters)
    with torch.enable_grad():
        logits = functional_call(model, leaves, (pixels,))
        for _ in range(_PROBES):
            probe = torch.randn(logits.shape, generator=generator).to(logits)
            total = (probe * logits).sum()
            gradients = torch.autograd.grad(total, list(leaves.values()), retain_graph=True, allow_unused=True)
            found -= _changing(parameters, gradients)
    return frozenset(found)


@torch.no_grad()
def _changing(parameters: Parameters, gradients: tuple[Tensor | None, ...]) -> set[str]:
    """Names of the parameters whose gradient is not at a right angle to them."""
    whole = torch.stack([g.square().sum() for g in gradients if g is not None]).sum().sqrt()
    names = set()
    for (name, p), g in zip(parameters.items(), gradients, strict=True):
        if g is None or g.norm() <= _SMALLEST_LENGTH * whole:
            continue
        largest = min(_LARGEST_COSINE, _SHARE_OF_CHANCE * p.numel() ** -0.5)
        if (p * g).sum().abs() > largest * p.norm() * g.norm():
            names.add(name)
    return names


def steered_by_cosine(model: nn.Module, task: Task, parameters: Parameters) -> tuple[Parameters, Distance]:
    """Those of ``parameters`` that ``layer_cosine`` depends on, and the distance over them that equals it over all."""
    blind = scale_invariant_parameters(model, task, parameters)
    if len(blind) == len(parameters):
        return parameters, layer_cosine
    kept = {name: p for name, p in parameters.items() if name not in blind}
    return kept, partial(layer_cosine, blind=len(blind))
