"""A distance of Eq. 8 with its derivative in the reconstruction, which every iteration takes once.

The per-layer cosine's is written out by hand: torch's own takes some forty operations a tensor, each a kernel to be
launched on a card, which for a ResNet-50 were more than all of its layers take. By hand there are three. Of the other
distances it is torch's.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from dsv.deepkkt import Distance, Parameters, layer_cosine


@torch.no_grad()
def distance_and_gradient(
    distance: Distance, parameters: Parameters, reconstruction: Parameters, *, weight: float = 1.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """D(theta, r), and ``weight`` dD/dr by parameter name.

    Args:
        distance: D.
        parameters: theta, which counts as fixed.
        reconstruction: r, of the same names, shapes, dtypes and device.
        weight: of the derivative.

    Returns:
        A scalar, and a tensor of every parameter's shape; they carry no graph.
    """
    function, options = (distance.func, distance.keywords) if isinstance(distance, partial) else (distance, {})
    if function is layer_cosine:
        found = [reconstruction[name] for name in parameters]
        value, gradients = _layer_cosine(list(parameters.values()), found, weight, **options)
        return value, dict(zip(parameters, gradients, strict=True))
    return _by_torch(distance, parameters, reconstruction, weight)


def _by_torch(
    distance: Distance, parameters: Parameters, reconstruction: Parameters, weight: float
) -> tuple[Tensor, dict[str, Tensor]]:
    with torch.enable_grad():
        leaves = {name: reconstruction[name].detach().requires_grad_() for name in parameters}
        value = distance({name: p.detach() for name, p in parameters.items()}, leaves)
        gradients = torch.autograd.grad(weight * value, list(leaves.values()))
    return value.detach(), dict(zip(leaves, gradients, strict=True))


def _layer_cosine(
    parameters: list[Tensor], reconstruction: list[Tensor], weight: float, *, blind: int = 0
) -> tuple[Tensor, list[Tensor]]:
    """Of 1 - 1/K sum_k <p_k, r_k> / (l_k |p_k|) with l_k = |r_k| + 1e-5 |r|, in which the derivative of a length is
    r / |r|: what is left is a multiple of p_k and one of r_k."""
    tensors = len(parameters) + blind
    lengths = torch.stack(torch._foreach_norm(reconstruction))
    whole = torch.linalg.vector_norm(lengths)
    own, at_all = (length.clamp(min=1e-15) for length in (lengths, whole))
    faded = own + 1e-5 * at_all
    inverse = 1 / (faded * torch.stack(torch._foreach_norm(parameters)).clamp(min=1e-12))
    pairs = list(zip(parameters, reconstruction, strict=True))
    cosines = inverse * torch.stack([torch.dot(p.flatten(), r.flatten()) for p, r in pairs])
    shrinking = cosines / faded
    along = shrinking * (lengths > 1e-15) / own + 1e-5 * shrinking.sum() * (whole > 1e-15) / at_all
    of_parameters, of_reconstruction = ((weight / tensors * by).unbind() for by in (-inverse, along))
    factors = zip(pairs, of_parameters, of_reconstruction, strict=True)
    return 1 - cosines.sum() / tensors, [torch.addcmul(by_r * r, p, by_p) for (p, r), by_p, by_r in factors]
