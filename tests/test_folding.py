"""Batch norms folded into convolutions: the same function, with the same derivatives, wherever it is done."""

import copy
import threading

import pytest
import torch
import torchvision
from torch import nn
from torch.func import functional_call

from dsv import Batch, ModelSpec, StationarityEngine, build_model, chosen_parameters, layer_cosine
from dsv.folding import folded_forward

INPUTS = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def trained(model, seed=1):
    """``model`` in eval mode and float64, with statistics, gains and offsets as training may leave them."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, module.weight, module.bias):
                if tensor is not None:
                    tensor.data.copy_(0.5 + torch.rand(tensor.shape, generator=generator, dtype=torch.float64))
    return model


def norms_that_run(model, chosen=()):
    """How many batch norms are still called."""
    forward, calls = folded_forward(model, chosen, INPUTS[:1]), []
    native = nn.BatchNorm2d.forward
    try:
        nn.BatchNorm2d.forward = lambda self, inputs: calls.append(self) or native(self, inputs)
        forward({}, INPUTS[:1])
    finally:
        nn.BatchNorm2d.forward = native
    return len(calls)


def block(seed=1):
    return trained(nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)), seed)


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("resnet18", 0),
        ("mobilenet_v3_small", 0),
        ("efficientnet_b0", 0),
        ("regnet_y_400mf", 0),
        ("shufflenet_v2_x0_5", 0),
        ("googlenet", 0),
        ("densenet121", 62),  # of 121: those before a convolution
        ("squeezenet1_1", 0),
        ("vit_b_16", None),
    ],
)
def test_torchvisions_models_give_the_same_logits(name, left):
    torch.manual_seed(0)
    model = trained(torchvision.models.get_model(name, num_classes=4, **({"image_size": 64} if "vit" in name else {})))
    parameters = {n: p + 0.01 for n, p in model.named_parameters()}  # not the model's own
    expected = functional_call(model, parameters, (INPUTS,))
    found = folded_forward(model, parameters, INPUTS[:1])(parameters, INPUTS)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    if left is not None:
        assert norms_that_run(model) == left


@pytest.mark.parametrize("architecture", ["convnet", "resnet18"])
def test_our_own_models_fold_whole(architecture):
    model = trained(build_model(ModelSpec(architecture, 3, 64, 4, 4, "batch"), seed=0))
    assert norms_that_run(model, chosen_parameters(model)) == 0


def test_weights_and_statistics_loaded_later_count():
    model = block()
    forward = folded_forward(model, (), INPUTS[:1])
    model.load_state_dict(block(seed=2).state_dict())
    torch.testing.assert_close(forward({}, INPUTS), model(INPUTS), rtol=1e-12, atol=1e-12)


def test_the_model_is_not_changed():
    model = block()
    before, names = copy.deepcopy(model.state_dict()), [name for name, _ in model.named_modules()]
    folded_forward(model, (), INPUTS[:1])({}, INPUTS)
    assert [name for name, _ in model.named_modules()] == names and list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(3, affine=False), nn.BatchNorm2d(3, eps=0.1)])
@pytest.mark.parametrize("bias", [True, False])
def test_with_and_without_bias_gain_and_offset(norm, bias):
    model = trained(nn.Sequential(nn.Conv2d(3, 3, 3, bias=bias), copy.deepcopy(norm)))
    torch.testing.assert_close(folded_forward(model, (), INPUTS[:1])({}, INPUTS), model(INPUTS), rtol=1e-12, atol=1e-12)
    assert norms_that_run(model) == 0


class ReadTwice(nn.Module):
    """The convolution's output goes elsewhere too."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)

    def forward(self, images):
        found = self.convolution(images)
        return self.norm(found) + found


class CalledTwice(ReadTwice):
    """One convolution before the norm and before nothing."""

    def forward(self, images):
        return self.norm(self.convolution(images)) + self.convolution(images)


class NormedTwice(ReadTwice):
    """Two norms read the convolution's output."""

    def __init__(self):
        super().__init__()
        self.other = nn.BatchNorm2d(3)

    def forward(self, images):
        found = self.convolution(images)
        return self.norm(found) + self.other(found)


class PastTheModule(ReadTwice):
    """The convolution is called once as a module, and once otherwise."""

    def forward(self, images):
        return self.norm(self.convolution(images)) + self.convolution.forward(images)


class CannotBeCopied(ReadTwice):
    """Holds a lock."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()

    def forward(self, images):
        with self.lock:
            return self.norm(self.convolution(images))


class ReadsItsWeights(ReadTwice):
    """The weights serve twice."""

    def forward(self, images):
        return self.norm(self.convolution(images)) * self.convolution.weight.sum()


class LooksAtItsInput(ReadTwice):
    """Whose calls hang on values: python goes on deciding."""

    def forward(self, images):
        return self.norm(self.convolution(images)) if images.mean() < 10 else images


class OwnNorm(nn.BatchNorm2d):
    """Another norm under a known one's name."""

    def forward(self, images):
        return 2 * super().forward(images)


def shared(layer):
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3))
    model[layer + 2].weight = model[layer].weight
    return model


def hooked():
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3))
    model[1].register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))
    return model


@pytest.mark.parametrize(
    ("model", "left"),
    [
        (ReadTwice(), 1),
        (CalledTwice(), 1),
        (NormedTwice(), 2),
        (PastTheModule(), 1),
        (CannotBeCopied(), 1),
        (ReadsItsWeights(), 1),
        (LooksAtItsInput(), 0),
        (nn.Sequential(nn.Conv2d(3, 3, 3), OwnNorm(3)), 1),
        (nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3, track_running_stats=False)), 1),
        (nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU(), nn.BatchNorm2d(3)), 1),
        (nn.Sequential(nn.BatchNorm2d(3)), 1),
        (shared(0), 2),
        (shared(1), 2),
        (hooked(), 1),
    ],
    ids=[
        "read twice",
        "called twice",
        "normed twice",
        "past the module",
        "cannot be copied",
        "reads weights",
        "branch",
        "own norm",
        "no statistics",
        "activation",
        "alone",
        "one weight",
        "one gain",
        "hook",
    ],
)
def test_where_it_would_be_wrong_it_is_not_done(model, left):
    model = trained(model)
    torch.testing.assert_close(folded_forward(model, (), INPUTS[:1])({}, INPUTS), model(INPUTS), rtol=1e-12, atol=1e-12)
    assert norms_that_run(model) == left


def test_a_chosen_gain_alone_does_not_cost_a_derivative_of_its_convolution():
    model = block()
    assert norms_that_run(model, ["1.weight"]) == 1
    assert norms_that_run(model, ["1.weight", "0.weight"]) == norms_that_run(model, ["1.bias"]) == 0


def test_an_engine_finds_every_slope_of_a_network_of_batch_norms():
    """Against finite differences of the model as it is."""
    model = trained(build_model(ModelSpec("resnet18", 3, 64, 4, 4, "batch"), seed=0))
    parameters = chosen_parameters(model)
    engine = StationarityEngine(model, parameters, layer_cosine)
    torch.manual_seed(0)
    direction = {name: torch.randn_like(p) for name, p in parameters.items()}
    labels = torch.tensor([1, 2])
    slopes = engine.slopes(direction, Batch(INPUTS, labels, torch.ones(2)))
    step = 1e-6

    def losses(sign):
        moved = {name: p + sign * step * direction[name] for name, p in parameters.items()}
        return nn.functional.cross_entropy(functional_call(model, moved, (INPUTS,)), labels, reduction="none")

    torch.testing.assert_close(slopes, ((losses(1) - losses(-1)) / (2 * step)).detach(), rtol=1e-6, atol=1e-6)
