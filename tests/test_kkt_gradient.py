"""The fast gradient against the definition, in float64, for every kind of layer that people use."""

import copy
import dataclasses
from typing import ClassVar

import pytest
import torch
from tensor_memory import peak_tensor_bytes
from torch import nn
from torch.autograd.function import once_differentiable

from dsv import (
    DISTANCES,
    Augmentation,
    Batch,
    Candidates,
    Compute,
    DsvError,
    KktWeights,
    ModelSpec,
    StationarityEngine,
    Task,
    build_model,
    chosen_parameters,
    deepkkt_loss,
    kkt_gradient,
)

COUNT = 7
WEIGHTS = KktWeights(primal=0.3, total_variation=0.2, norm=0.1, augmented=5.0)
TASK = Task(3, 8, ("a", "b", "c"), (0.5,) * 3, (0.5,) * 3)


class Attention(nn.Module):
    """One head of self-attention over the pixels, as transformers have it."""

    def __init__(self):
        super().__init__()
        self.into = nn.Linear(3, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, images):
        tokens = self.into(images.flatten(2).transpose(1, 2))
        return self.out(self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1))


def head(*layers):
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), *layers, nn.Flatten(), nn.Linear(72, 3))


MODELS = {
    **{
        f"convnet {norm} {pooling}": build_model(ModelSpec("convnet", 3, 8, 3, 4, norm, pooling), seed=0)
        for norm, pooling in (
            ("instance", "average"),
            ("instance", "max"),
            ("batch", "average"),
            ("group", "max"),
            ("layer", "average"),
            ("none", "max"),
        )
    },
    "resnet18": build_model(ModelSpec("resnet18", 3, 8, 3, 4, "batch"), seed=0),
    "torch instance norm": head(nn.InstanceNorm2d(8, affine=True), nn.Tanh()),
    "torch group norm": head(nn.GroupNorm(2, 8, affine=False), nn.Tanh()),
    "torch layer norm": head(nn.Flatten(), nn.LayerNorm(72), nn.GELU()),
    "local response norm": head(nn.LocalResponseNorm(3), nn.SiLU()),
    "attention": Attention(),
}


def both(
    model, labels, *, distance="layer-cosine", micro_batch=3, weights=WEIGHTS, patterns="*", device="cpu", way=None
):
    """Images, multipliers and terms by the fast way, and gradients and terms by the definition.

    ``way``: ``by_graph``, if it is not to be the engine's own.
    """
    torch.manual_seed(0)
    model, labels = model.double().eval().to(device), labels.to(device)
    images = torch.randn(COUNT, 3, 8, 8, dtype=torch.float64).to(device)
    multipliers = torch.rand(COUNT, dtype=torch.float64).to(device)
    drawn = Augmentation(cutout=0.2, noise=0.1).draw(COUNT, (3, 8, 8), torch.Generator().manual_seed(1))
    parameters = chosen_parameters(model, patterns)
    compute = Compute(device, micro_batch=micro_batch)
    engine = StationarityEngine(model, parameters, DISTANCES[distance], compute=compute)
    engine.by_graph = engine.by_graph if way is None else way
    views = [(1.0, lambda x, first: x * 1.0), (weights.augmented, drawn)]
    fast = kkt_gradient(engine, Candidates(images, labels, multipliers, COUNT), views, weights)
    images.requires_grad_(True)
    multipliers.requires_grad_(True)
    with compute.running():
        terms = deepkkt_loss(
            model,
            images,
            labels,
            multipliers,
            parameters=parameters,
            augment=drawn,
            distance=DISTANCES[distance],
            weights=weights,
        )
        gradients = torch.autograd.grad(terms.total, [images, multipliers], allow_unused=True)
    return fast, gradients, terms


def assert_same(fast, gradients, terms):
    for ours, definition in zip((fast.images, fast.multipliers), gradients, strict=True):
        expected = torch.zeros_like(ours) if definition is None else definition
        torch.testing.assert_close(ours, expected, rtol=1e-7, atol=1e-9)
    for name in ("total", "primal", "stationarity", "total_variation", "norm", "entropy"):
        torch.testing.assert_close(getattr(fast.terms, name), getattr(terms, name).detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("by_graph", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_layer_by_either_way(name, by_graph, device):
    assert_same(*both(MODELS[name], torch.arange(COUNT) % 3, device=device, way=by_graph))


@pytest.mark.parametrize(("patterns", "by_graph"), [("*", False), ("classifier.*", True), ("features.*", False)])
def test_a_graph_is_taken_for_few_of_the_numbers(patterns, by_graph):
    model = MODELS["convnet instance average"]
    assert StationarityEngine(model, chosen_parameters(model, patterns), DISTANCES["mean-l1"]).by_graph == by_graph


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("micro_batch", [1, 4, 100])
def test_every_distance_and_micro_batch(distance, micro_batch):
    labels = torch.arange(COUNT) % 3
    assert_same(*both(MODELS["convnet instance average"], labels, distance=distance, micro_batch=micro_batch))


def test_soft_labels_and_a_subset_of_the_parameters():
    soft = torch.softmax(torch.randn(COUNT, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3)), 1)
    assert_same(*both(MODELS["convnet instance average"], soft, patterns="classifier.*"))


@pytest.mark.parametrize("micro_batch", [3, 100])
@pytest.mark.parametrize("change", [{"stationarity": 0.0}, {"augmented": 0.0}, {"primal": 0.0}])
def test_terms_that_are_left_out(change, micro_batch):
    labels, weights = torch.arange(COUNT) % 3, dataclasses.replace(WEIGHTS, **change)
    assert_same(*both(MODELS["resnet18"], labels, weights=weights, micro_batch=micro_batch))


class OnceDifferentiable(torch.autograd.Function):
    """The identity, without a second derivative and without forward mode; counts the passes."""

    passes: ClassVar[list[str]] = []

    @staticmethod
    def forward(ctx, logits):
        OnceDifferentiable.passes.append("forward")
        return logits.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        OnceDifferentiable.passes.append("backward")
        return gradient.clone()


@pytest.mark.parametrize("by_graph", [True, False])
def test_memory_follows_the_micro_batch_and_not_the_number_of_candidates(by_graph):
    """From 20 to 200 candidates ours grows by what their own gradients take; the definition's grows about tenfold."""
    model = copy.deepcopy(MODELS["convnet instance average"]).float().eval()
    parameters, distance, view = chosen_parameters(model), DISTANCES["layer-cosine"], lambda x, first: x * 1.0
    engine = StationarityEngine(model, parameters, distance, compute=Compute(micro_batch=10))
    engine.by_graph = by_graph

    def peaks_bytes(count):
        images, labels, multipliers = torch.randn(count, 3, 8, 8), torch.arange(count) % 3, torch.rand(count)
        candidates = Candidates(images, labels, multipliers, count)
        leaf, weights = images.clone().requires_grad_(), KktWeights(0.3, 0.2, 0.1, 0.0)

        def definition():
            options = {"parameters": parameters, "distance": distance, "weights": weights, "augment": lambda x: x}
            torch.autograd.grad(deepkkt_loss(model, leaf, labels, multipliers, **options).total, leaf)

        return (
            peak_tensor_bytes(lambda: kkt_gradient(engine, candidates, [(1.0, view)], weights)),
            peak_tensor_bytes(definition),
        )

    peaks_bytes(20)  # what is made with the first use
    (ours, plain), (ours_of_ten_times, plain_of_ten_times) = peaks_bytes(20), peaks_bytes(200)
    assert ours_of_ten_times - ours <= 180 * (3 * 8 * 8 + 1) * 4
    assert plain_of_ten_times > 6 * plain and ours_of_ten_times < 2 * ours


class Once(nn.Module):
    def forward(self, logits):
        return OnceDifferentiable.apply(logits)


@pytest.mark.parametrize(("micro_batch", "parts"), [(3, 3), (100, 1)])
def test_without_stationarity_nothing_is_differentiated_twice(micro_batch, parts):
    """One forward and one backward pass a part and a copy, of a model that has no second derivative; and the gradient
    is what it was when it was computed like the others, along the direction 0."""
    plain = copy.deepcopy(MODELS["convnet instance average"]).double().eval()
    once, compute = nn.Sequential(plain, Once()), Compute(micro_batch=micro_batch)
    images, labels = torch.randn(COUNT, 3, 8, 8, dtype=torch.float64), torch.arange(COUNT) % 3
    candidates = Candidates(images, labels, torch.rand(COUNT, dtype=torch.float64), COUNT)
    views = [(1.0, lambda x, first: x * 1.0), (5.0, lambda x, first: x.flip(3))]
    weights = KktWeights(0.3, 0.0, 0.0, 5.0, stationarity=0.0)
    engine = StationarityEngine(once, chosen_parameters(once), DISTANCES["layer-cosine"], compute=compute)
    OnceDifferentiable.passes.clear()
    found = kkt_gradient(engine, candidates, views, weights)
    assert OnceDifferentiable.passes == ["forward", "backward"] * parts * 2
    with pytest.raises(DsvError, match="torch cannot differentiate the model"):
        kkt_gradient(engine, candidates, views, dataclasses.replace(weights, stationarity=1.0))

    nowhere = {name: torch.zeros_like(p) for name, p in chosen_parameters(plain).items()}
    engine = StationarityEngine(plain, chosen_parameters(plain), DISTANCES["layer-cosine"])
    expected = torch.zeros_like(images)
    for weight, flip in ((1.0, lambda x: x), (5.0, lambda x: x.flip(3))):
        batch = Batch(flip(images), labels, candidates.multipliers)
        gradient, slopes, _ = engine.along(nowhere, batch, primal_weight=weight * weights.primal / COUNT)
        expected += flip(gradient)
        assert not slopes.any()
    assert expected.abs().max() > 1e-3 and not found.multipliers.any()
    torch.testing.assert_close(found.images, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "efficientnet_b0", "densenet121", "convnext_tiny", "swin_t"])
def test_classifiers_of_torchvision(name):
    """In float32, in parts against all at once; untrained nets of this depth hardly pass a gradient on."""
    model = build_model(ModelSpec(name, 3, 32, 3), seed=0).eval()
    candidates = Candidates(torch.rand(2, 3, 32, 32), torch.tensor([0, 1]), torch.ones(2), 2)
    found = []
    for micro_batch in (1, 2):
        compute = Compute(micro_batch=micro_batch)
        engine = StationarityEngine(model, chosen_parameters(model), DISTANCES["layer-cosine"], compute=compute)
        weights = dataclasses.replace(WEIGHTS, total_variation=0.0, norm=0.0)
        found.append(kkt_gradient(engine, candidates, [(1.0, lambda x, first: x * 1.0)], weights).images)
    assert found[0].abs().sum() > 0
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-5 * float(found[1].abs().max()))


def test_a_frozen_model_is_no_obstacle():
    model = build_model(ModelSpec("convnet", 3, 8, 3, 4), seed=0).requires_grad_(False)
    compute = Compute()
    engine = StationarityEngine(model, chosen_parameters(model), DISTANCES["mean-l1"], compute=compute)
    candidates = Candidates(torch.rand(2, 3, 8, 8), torch.tensor([0, 1]), torch.ones(2), 2)
    found = kkt_gradient(engine, candidates, [(1.0, lambda x, first: x * 1.0)], WEIGHTS)
    assert found.images.abs().sum() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"micro_batch": -1}, "micro-batch must be at least 1"),
        ({"precision": "float8"}, "unknown precision 'float8'"),
        ({"device": "cuda:99"}, "CUDA devices"),
    ],
)
def test_bad_ways_to_compute(options, message):
    with pytest.raises(DsvError, match=message):
        Compute(**options)
