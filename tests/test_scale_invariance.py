"""Leaving out what the per-layer cosine cannot see changes nothing but the time."""

import dataclasses
from functools import partial

import pytest
import torch
from torch import nn

from dsv import (
    Candidates,
    Compute,
    KktWeights,
    ModelSpec,
    StationarityEngine,
    Task,
    build_model,
    chosen_parameters,
    kkt_gradient,
    layer_cosine,
    scale_invariant_parameters,
    steered_by_cosine,
)

TASK = Task(3, 8, ("a", "b", "c"), (0.5,) * 3, (0.5,) * 3)
CONVOLUTIONS = {f"features.{layer}.weight" for layer in (0, 4, 8)}
BIASES = {f"features.{layer}.bias" for layer in (0, 4, 8)}


def trained(norm, architecture="convnet", size_px=8):
    """A model whose norms are no longer at 1 and 0, as training leaves them."""
    model = build_model(ModelSpec(architecture, 3, size_px, 3, 8, norm), seed=0).double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


@pytest.mark.parametrize(
    ("norm", "expected"),
    [("instance", CONVOLUTIONS | BIASES), ("layer", set()), ("batch", set()), ("none", set())],
)
def test_a_weight_in_front_of_a_normalisation_is_found(norm, expected):
    # In front of layer norm there is a bias too, and only both together may grow; batch norm is in eval mode.
    model = trained(norm)
    assert scale_invariant_parameters(model, TASK, dict(model.named_parameters())) == expected


def test_a_wide_layer_that_is_seen_is_not_taken_for_one_that_is_not():
    """By chance alone its gradient is nearly at a right angle to it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3000), nn.ReLU(), nn.Linear(3000, 2000), nn.Linear(2000, 3))
    chosen = {name: p for name, p in model.named_parameters() if p.ndim == 2}
    assert scale_invariant_parameters(model.eval(), TASK, chosen) == set()
    wide = build_model(ModelSpec("convnet", 3, 8, 3, 512), seed=0).eval()
    assert scale_invariant_parameters(wide, TASK, dict(wide.named_parameters())) >= CONVOLUTIONS


def test_a_frozen_model_is_looked_at_too():
    model = trained("instance").requires_grad_(False)
    assert scale_invariant_parameters(model, TASK, dict(model.named_parameters())) == CONVOLUTIONS | BIASES


@pytest.mark.parametrize(
    ("architecture", "norm", "size_px"),
    [("convnet", "instance", 8), ("convnet", "group", 8), ("resnet18", "group", 32)],
)
def test_the_loss_and_its_gradient_are_those_over_all_parameters(architecture, norm, size_px):
    task = dataclasses.replace(TASK, image_size_px=size_px)
    model = trained(norm, architecture, size_px)
    labels = torch.arange(3).repeat(2)
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(6, 3, size_px, size_px, generator=generator, dtype=torch.float64)
    candidates = Candidates(images, labels, torch.rand(6, generator=generator, dtype=torch.float64), 6)
    everything = chosen_parameters(model)
    kept, distance = steered_by_cosine(model, task, everything)
    assert 0 < len(kept) < len(everything)
    whole, part = (
        kkt_gradient(
            StationarityEngine(model, parameters, measure),
            candidates,
            [(1.0, lambda pixels, first: pixels * 1.0)],
            KktWeights(primal=0.1, total_variation=0.0, norm=0.0, augmented=0.0),
        )
        for parameters, measure in ((everything, layer_cosine), (kept, distance))
    )
    torch.testing.assert_close(part.terms.stationarity, whole.terms.stationarity, rtol=1e-3, atol=1e-3)
    for name in ("images", "multipliers"):
        ours, theirs = getattr(part, name), getattr(whole, name)
        assert float((ours - theirs).norm()) <= 0.01 * float(theirs.norm())


def test_where_nothing_is_left_everything_stays():
    model = trained("instance")
    chosen = chosen_parameters(model, "features.0.*")
    kept, distance = steered_by_cosine(model, TASK, chosen)
    assert kept is chosen
    assert distance is layer_cosine


@pytest.mark.slow
@pytest.mark.parametrize("patterns", ["*", "features.9.*,classifier.*"])
def test_compiled_in_one_piece_where_layers_are_left_out(patterns, monkeypatch):
    """Without a tangent for a normalisation's input, torch.compile falls back to eager, unless it must not."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, fullgraph=True))
    task = dataclasses.replace(TASK, image_size_px=16)
    model = trained("instance", size_px=16).float()
    images = torch.randn(7, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    candidates = Candidates(images, torch.arange(7) % 3, torch.ones(7), 7)
    kept, distance = steered_by_cosine(model, task, chosen_parameters(model, patterns))
    compiled, eager = (
        kkt_gradient(
            StationarityEngine(model, kept, distance, compute=Compute(micro_batch=4, compiled=compiled)),
            candidates,
            [(1.0, lambda pixels, first: pixels * 1.0)],
            KktWeights(primal=0.1, total_variation=0.0, norm=0.0, augmented=0.0),
        ).images
        for compiled in (True, False)
    )
    assert float((compiled - eager).norm()) <= 0.01 * float(eager.norm())
