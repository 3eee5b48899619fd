"""Layers with derivatives of their own: against torch's, and against finite differences in float64."""

import copy
import threading
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, jvp
from torch.nn import functional

from dsv import Batch, Compute, ModelSpec, StationarityEngine, build_model, chosen_parameters, layer_cosine
from dsv.average_pool import average_pool
from dsv.group_norm import group_norm
from dsv.layers import FOR_GRADIENTS, FOR_TANGENTS, exchanged


def drawn(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def norm_inputs(channels=4):
    shapes = ((2, channels, 3, 2), (channels,), (channels,))
    return [drawn(*shape, seed=number).requires_grad_() for number, shape in enumerate(shapes)]


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_group_norm_is_torchs(groups):
    inputs, weight, bias = norm_inputs()
    for eps in (1e-5, 0.5):
        expected = functional.group_norm(inputs, groups, weight, bias, eps)
        torch.testing.assert_close(group_norm(inputs, groups, weight, bias, eps), expected)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_group_norms_derivatives_against_finite_differences(groups):
    def of(*tensors):
        return group_norm(tensors[0], groups, *tensors[1:])

    assert gradcheck(of, norm_inputs(), check_forward_ad=True)
    assert gradgradcheck(
        of, norm_inputs(), check_fwd_over_rev=True, check_rev_over_rev=False, check_undefined_grad=False
    )


def test_a_graph_of_group_norms_gradient_is_refused_and_not_wrong():
    inputs, weight, bias = norm_inputs()
    first = torch.autograd.grad(group_norm(inputs, 2, weight, bias).square().sum(), inputs, create_graph=True)[0]
    with pytest.raises(NotImplementedError):
        torch.autograd.grad(first.square().sum(), inputs)


def test_average_pool_is_torchs_and_so_are_its_derivatives():
    inputs = drawn(2, 3, 4, 6).requires_grad_()
    torch.testing.assert_close(average_pool(inputs), functional.avg_pool2d(inputs, 2))
    assert gradcheck(average_pool, inputs, check_forward_ad=True)
    assert gradgradcheck(average_pool, inputs, check_fwd_over_rev=True)


@pytest.mark.parametrize(
    "layer",
    [
        nn.GroupNorm(2, 4),
        nn.GroupNorm(2, 4, affine=False),
        nn.AvgPool2d(2),
        nn.AvgPool2d((2, 2)),
        nn.AvgPool2d(3),
        nn.AvgPool2d(2, stride=1),
        nn.AvgPool2d(2, padding=1),
        nn.AvgPool2d(2, ceil_mode=True),
        nn.AvgPool2d(2, divisor_override=3),
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(2, 4, 6, 6), (2, 4, 5, 5), (4, 6, 6)], ids=str)
def test_an_exchanged_layer_gives_what_it_gave_whatever_its_options(layer, shape):
    if isinstance(layer, nn.GroupNorm) and len(shape) == 3:
        shape = (3, *shape[:1], 7)  # of sequences
    inputs = drawn(*shape, dtype=torch.float32)
    torch.testing.assert_close(exchanged(layer, FOR_TANGENTS)(inputs), layer(inputs))


class Own(nn.GroupNorm):
    """Someone's, that is more than its base class."""

    def forward(self, inputs):
        return 2 * super().forward(inputs)


def test_a_model_with_exchanged_layers_shares_its_tensors_and_leaves_it_as_it_was():
    model = nn.Sequential(nn.GroupNorm(2, 4), nn.AvgPool2d(2), Own(2, 4))
    own = exchanged(model, FOR_TANGENTS)
    assert [type(layer) is type(other) for layer, other in zip(model, own, strict=True)] == [False, False, True]
    assert [type(layer) for layer in model] == [nn.GroupNorm, nn.AvgPool2d, Own]
    model.load_state_dict({name: tensor + 1 for name, tensor in model.state_dict().items()})
    inputs = drawn(2, 4, 6, 6, dtype=torch.float32)
    torch.testing.assert_close(own(inputs), model(inputs))
    assert [type(layer) is nn.GroupNorm for layer in exchanged(model, FOR_GRADIENTS)] == [True, False, False]


def test_what_has_nothing_to_exchange_or_cannot_be_copied_is_taken_as_it_is():
    plain = nn.Sequential(nn.Linear(2, 2))
    assert exchanged(plain, FOR_TANGENTS) is plain
    stubborn = nn.Sequential(nn.GroupNorm(2, 4))
    stubborn.lock = threading.Lock()
    assert exchanged(stubborn, FOR_TANGENTS) is stubborn


def test_hooks_stay():
    model, seen = nn.Sequential(nn.GroupNorm(2, 4)), []
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(output))
    exchanged(model, FOR_TANGENTS)(torch.zeros(1, 4, 2, 2))
    assert len(seen) == 1


@pytest.mark.parametrize("patterns", ["*", "*.bias", "features.1.weight", "classifier.*", "features.0.weight"])
@pytest.mark.parametrize("architecture", ["convnet:6", "resnet18:4", "convnet:6:layer", "convnet:6:instance:max"])
def test_along_and_slopes_are_those_of_torchs_own_layers(architecture, patterns, task, device):
    """Whichever tensors have a tangent and whichever have none."""
    spec = ModelSpec.parse(architecture, task)
    if spec.architecture == "resnet18":  # whose last groups are of one pixel here, for which it is not built
        spec = replace(spec, image_size_px=16)
    model = build_model(spec, seed=1, device=device).double().eval()
    for parameter in model.parameters():  # off the kink of a ReLU, where groups of one pixel put all that has no offset
        parameter.data += 0.1 * drawn(*parameter.shape, seed=3).to(device)
    parameters = chosen_parameters(model, patterns)
    direction = {name: drawn(*p.shape, seed=7).to(device) for name, p in parameters.items()}
    multipliers = torch.tensor([0.5, 1.5, 0.0], dtype=torch.float64)
    batch = Batch(*(tensor.to(device) for tensor in (drawn(3, 1, 8, 8), torch.tensor([1, 4, 4]), multipliers)))
    engine = StationarityEngine(model, parameters, layer_cosine, compute=Compute(device))

    def gradient(chosen):
        def weighted(inputs):
            logits = torch.func.functional_call(model, chosen, (inputs,))
            found = functional.cross_entropy(logits, batch.labels, reduction="none")
            return (batch.multipliers * found).sum(), found

        return grad(weighted, has_aux=True)(batch.inputs)

    at = {name: p.detach() for name, p in parameters.items()}
    _, (images, slopes) = jvp(gradient, (at,), (direction,))
    found_images, found_slopes, _ = engine.along(direction, batch)
    torch.testing.assert_close(found_images, images)
    torch.testing.assert_close(found_slopes, slopes)
    torch.testing.assert_close(engine.slopes(direction, copy.deepcopy(batch)), slopes)
