"""The derivative of a distance by hand is the one that torch takes of its definition."""

from functools import partial

import pytest
import torch

from dsv import DISTANCES, layer_cosine
from dsv.distance_gradient import distance_and_gradient


def tensors(seed, *, scale=1.0, dtype=torch.float64, device="cpu"):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"convolution": (4, 3, 3, 3), "gain": (4,), "bias": (4,), "classifier": (5, 36)}
    drawn = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    return {name: (scale * value).to(device, dtype) for name, value in drawn.items()}


def by_torch(distance, parameters, reconstruction, weight):
    leaves = {name: r.clone().requires_grad_() for name, r in reconstruction.items()}
    value = distance(parameters, leaves)
    return value.detach(), dict(zip(leaves, torch.autograd.grad(weight * value, list(leaves.values())), strict=True))


def assert_same(distance, parameters, reconstruction, weight=1.0, **tolerances):
    value, gradients = distance_and_gradient(distance, parameters, reconstruction, weight=weight)
    expected_value, expected = by_torch(distance, parameters, reconstruction, weight)
    torch.testing.assert_close(value, expected_value, **tolerances)
    torch.testing.assert_close(gradients, expected, **tolerances)
    assert not value.requires_grad
    assert not any(gradient.requires_grad for gradient in gradients.values())


@pytest.mark.parametrize("weight", [1.0, -0.5, 0.0])
@pytest.mark.parametrize("distance", [*DISTANCES.values(), partial(layer_cosine, blind=3)])
def test_it_is_that_of_the_definition(distance, weight, device):
    assert_same(distance, tensors(0, device=device), tensors(1, device=device), weight, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("distance", DISTANCES.values())
def test_in_single_precision(distance, device):
    parameters, reconstruction = (tensors(seed, dtype=torch.float32, device=device) for seed in (0, 1))
    assert_same(distance, parameters, reconstruction, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("zero", ["parameters", "reconstruction", "both"])
def test_where_a_tensor_is_zero(zero):
    parameters, reconstruction = tensors(0), tensors(1)
    for side, of in (("parameters", parameters), ("reconstruction", reconstruction)):
        if zero in (side, "both"):
            of["bias"] = torch.zeros_like(of["bias"])
    assert_same(layer_cosine, parameters, reconstruction, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("scale", [1e-40, 0.0])
def test_where_all_of_the_reconstruction_is_nearly_or_wholly_zero(scale):
    assert_same(layer_cosine, tensors(0), tensors(1, scale=scale), rtol=1e-12, atol=1e-14)


def test_a_tensor_of_rounding_errors_fades_out():
    parameters, reconstruction = tensors(0), tensors(1)
    reconstruction["bias"] *= 1e-9
    assert_same(layer_cosine, parameters, reconstruction, rtol=1e-12, atol=1e-14)
