"""Training: optimisers without torch.optim's compiler, and what must not be imported."""

import dataclasses
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from dsv import KNOWN_TASKS, DsvError, ModelSpec, TrainingConfig, build_model, newcomer_training, train
from dsv.lessons import _mixed
from dsv.optimisers import Adam, Sgd

DIGITS = KNOWN_TASKS["digits"]


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize("name", ["sgd", "adam", "fused adam", "fused adamw"])
def test_the_optimisers_are_torchs_to_the_bit(name, weight_decay):
    models = [build_model(ModelSpec("convnet", 1, 8, 3, 4), seed=0) for _ in range(2)]
    first, second = (list(model.parameters()) for model in models)
    ours, reference = _pair(name, first, second, weight_decay)
    images = torch.randn(6, 1, 8, 8)
    for step in range(6):
        ours.learning_rate = reference.param_groups[0]["lr"] = 0.1 / (step + 1)
        for model, optimiser in zip(models, (ours, reference), strict=True):
            optimiser.zero_grad()
            # every second step leaves the classifier without a gradient
            (model(images) if step % 2 else model.features(images)).square().mean().backward()
            optimiser.step()
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


def _pair(name, first, second, weight_decay):
    if name == "sgd":
        ours = Sgd(first, learning_rate=0.1, weight_decay=weight_decay)
        return ours, torch.optim.SGD(second, lr=0.1, momentum=0.9, weight_decay=weight_decay)
    fused, decoupled = name.startswith("fused"), name.endswith("adamw")
    ours = Adam(first, learning_rate=0.1, weight_decay=weight_decay, decoupled=decoupled, fused=fused)
    reference = torch.optim.AdamW if decoupled else torch.optim.Adam
    return ours, reference(second, lr=0.1, weight_decay=weight_decay, fused=fused)


def test_mixup_blends_a_label_as_it_blends_its_image():
    """Images that are their own labels say so afterwards too."""
    labels = torch.eye(6)
    images, blended = _mixed(labels[:, :, None, None], labels, 0.4, torch.Generator().manual_seed(0))
    torch.testing.assert_close(images[:, :, 0, 0], blended)
    assert not torch.equal(blended, labels) and torch.allclose(blended.sum(dim=1), torch.ones(6))


def test_the_rate_rises_evenly_and_falls_along_a_cosine():
    flat = TrainingConfig(100, "adamw", 0.5, cosine=False, weight_decay=0.0, batch_size=4, warmup=0.1)
    assert [flat.rate_at(step) for step in (0, 4, 9, 10, 99)] == pytest.approx([0.05, 0.25, 0.5, 0.5, 0.5])
    both = dataclasses.replace(flat, cosine=True)
    assert both.rate_at(0) == pytest.approx(0.05)
    assert both.rate_at(50) == pytest.approx(0.25) and 0 < both.rate_at(99) < 0.001
    assert max(both.rate_at(step) for step in range(100)) < 0.5


def test_without_a_warmup_the_first_step_is_the_largest():
    config = TrainingConfig(100, "adamw", 0.5, cosine=True, weight_decay=0.0, batch_size=4)
    assert config.rate_at(0) == 0.5
    assert TrainingConfig(1, "sgd", 0.5, cosine=True, weight_decay=0.0, batch_size=4, warmup=0.1).rate_at(0) == 0.5


def test_short_trainings_take_larger_steps():
    assert newcomer_training(999).learning_rate > newcomer_training(1_000).learning_rate


def test_newcomers_warm_up():
    assert newcomer_training(200).rate_at(0) == pytest.approx(newcomer_training().learning_rate / 10, rel=0.01)


@pytest.mark.parametrize(
    ("architecture", "share"),
    [("convnet:128", 1.0), ("resnet18:16", 1.0), ("resnet18:32", 1 / 2), ("resnet18:64", 1 / 4), ("convnet:4", 1.0)],
)
def test_wide_newcomers_take_smaller_steps(architecture, share):
    model = build_model(ModelSpec.parse(architecture, DIGITS), seed=0)
    config = newcomer_training()
    assert config.suited_to(model, DIGITS.classes).learning_rate == pytest.approx(share * config.learning_rate)


def test_only_layers_that_are_trained_and_are_not_the_last_one_set_the_rate():
    config = TrainingConfig(1, "adamw", 0.5, cosine=False, weight_decay=0.0, batch_size=4, full_rate_fan_in=100)
    model = nn.Sequential(nn.Linear(400, 200), nn.Linear(200, 10))
    assert config.suited_to(model, 10).learning_rate == 0.5 * 100 / 400
    assert config.suited_to(model, 200).learning_rate == 0.5 * 100 / 200
    model[0].requires_grad_(False)
    assert config.suited_to(model, 10).learning_rate == 0.5
    depthwise = nn.Sequential(nn.ConvTranspose2d(64, 64, 3, groups=64), nn.Flatten(), nn.Linear(64, 10))
    assert config.suited_to(depthwise, 10).learning_rate == 0.5
    assert dataclasses.replace(config, full_rate_fan_in=0).suited_to(model, 3).learning_rate == 0.5


def test_what_sums_up_no_inputs_is_no_layer():
    """A position embedding has a row a place, and a transposed convolution's inputs come first."""
    config = TrainingConfig(1, "adamw", 0.5, cosine=False, weight_decay=0.0, batch_size=4, full_rate_fan_in=100)
    model = nn.Sequential(nn.Linear(50, 50), nn.ConvTranspose2d(8, 512, 3), nn.Linear(50, 10))
    model.register_parameter("positions", nn.Parameter(torch.zeros(1, 64, 128)))
    assert config.suited_to(model, 10).learning_rate == 0.5
    model[1] = nn.ConvTranspose2d(80, 4, 3)
    assert config.suited_to(model, 10).learning_rate == 0.5 * 100 / 720


def test_a_hidden_layer_as_wide_as_there_are_classes_counts():
    config = TrainingConfig(1, "adamw", 0.5, cosine=False, weight_decay=0.0, batch_size=4, full_rate_fan_in=100)
    model = nn.Sequential(nn.Linear(400, 10), nn.Linear(10, 10))
    assert config.suited_to(model, 10).learning_rate == 0.5 * 100 / 400


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "at least 1 step of 1 image, got 0 of 4"),
        ({"batch_size": 0}, "at least 1 step of 1 image, got 1 of 0"),
        ({"optimiser": "lion"}, "unknown optimiser 'lion'; choose one of: sgd, adam, adamw"),
        ({"learning_rate": float("nan")}, "learning rate and a weight decay must be finite"),
        ({"weight_decay": -1.0}, "weight decay must be finite and at least 0"),
        ({"warmup": 2.0}, "warmup are shares, from 0 to 1"),
        ({"crop": 3.0}, "translate, crop and warmup are shares"),
        ({"translate": float("nan")}, "translate, crop and warmup are shares"),
        ({"mixup": -1.0}, "mixup"),
    ],
)
def test_options_out_of_their_ranges(change, message):
    config = TrainingConfig(1, "sgd", 0.5, cosine=False, weight_decay=0.0, batch_size=4)
    with pytest.raises(DsvError, match=message):
        dataclasses.replace(config, **change)


def test_training_follows_the_rate_that_suits_the_model():
    def trained(rate, fan_in):
        config = TrainingConfig(3, "adamw", rate, cosine=True, weight_decay=0.0, batch_size=8, full_rate_fan_in=fan_in)
        model = build_model(ModelSpec.parse("convnet:4", DIGITS), seed=0)
        train(model, torch.arange(8 * 64).view(8, 1, 8, 8).byte(), torch.arange(8), DIGITS, config, seed=0)
        return model

    for wide, plain in zip(trained(0.02, 18).parameters(), trained(0.01, 0).parameters(), strict=True):
        torch.testing.assert_close(wide, plain, rtol=0, atol=0)


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_training_brings_no_compiler_along(optimiser):
    script = f"""
import sys, torch
from dsv import KNOWN_TASKS, ModelSpec, TrainingConfig, build_model, train
task = KNOWN_TASKS["digits"]
model = build_model(ModelSpec("convnet", 1, 8, 10, 4), seed=0)
config = TrainingConfig(2, {optimiser!r}, 0.1, False, 1e-3, 4)
train(model, torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4), task, config, seed=0)
print([name for name in ("torch._dynamo", "sympy", "torchvision") if name in sys.modules])
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
