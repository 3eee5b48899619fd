"""Documented errors of dsv/ that no other test meets: each names the thing and the remedy."""

from __future__ import annotations

import copy
import dataclasses
import sys

import pytest
import torch
from torch import nn

from dsv import (
    DISTANCES,
    KNOWN_TASKS,
    Candidates,
    Checkpointing,
    Compute,
    DsvError,
    KktWeights,
    ModelSpec,
    Provenance,
    SelectionConfig,
    Start,
    StationarityEngine,
    SynthesisConfig,
    TrainingConfig,
    ViewPlan,
    build_model,
    chosen_parameters,
    kkt_gradient,
    label_views,
    newcomer_training,
    rank_correlation,
    select,
    synthesize,
    train,
)

SHORT = SynthesisConfig(images_per_class=1, iterations=2)
ONE_STEP = TrainingConfig(1, "sgd", 0.1, False, 0.0, 4)
LABELS = torch.arange(10)
PICTURES = torch.arange(10 * 64).view(10, 1, 8, 8).to(torch.uint8)


def broken(model: nn.Module) -> nn.Module:
    """The model with one weight that is not a number, as a training that diverged leaves it."""
    changed = copy.deepcopy(model)
    with torch.no_grad():
        next(changed.parameters())[0] = torch.nan
    return changed


def refused(message: str, call, *arguments, **options) -> None:
    with pytest.raises(DsvError, match=message) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)


# Losses that are not finite


@pytest.mark.parametrize("micro_batch", [3, 100])
@pytest.mark.parametrize("weights", [KktWeights(0.1, 0.0, 0.0, 0.0), KktWeights(0.1, 0.0, 0.0, 0.0, stationarity=0.0)])
def test_the_fast_gradient_of_a_loss_that_is_not_finite(teacher, micro_batch, weights):
    model = broken(teacher.model)
    compute = Compute(micro_batch=micro_batch)
    engine = StationarityEngine(model, chosen_parameters(model), DISTANCES["layer-cosine"], compute=compute)
    candidates = Candidates(torch.rand(10, 1, 8, 8), LABELS.flip(0), torch.ones(10), 10)
    views = [(1.0, lambda pixels, first: pixels * 1.0)]
    refused("not finite; lower the step sizes or check the teacher's", kkt_gradient, engine, candidates, views, weights)


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_synthesis_from_weights_that_are_not_finite(teacher, task, distance):
    config = dataclasses.replace(SHORT, distance=distance)
    refused("DeepKKT loss is not finite", synthesize, broken(teacher.model), task, config, seed=0)


def test_a_newcomer_whose_loss_is_not_finite(teacher, support_set):
    config = dataclasses.replace(ONE_STEP, steps=9)
    refused("diverged at step 1 of 9; lower", support_set.train, broken(teacher.model), config=config)
    huge = dataclasses.replace(config, learning_rate=1e30)
    refused("diverged at step [2-9] of 9; lower", support_set.train, copy.deepcopy(teacher.model), config=huge)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_teacher_that_labels_views_with_what_is_no_number(task, value):
    def logits(images):
        found = torch.zeros(len(images), 10)
        found[-1, 3] = value
        return found

    refused("teacher's logits .* not finite; check its weights", label_views, logits, PICTURES, task, ViewPlan(20))


# Models, labels and images that do not fit


def test_a_selection_for_a_model_that_does_not_fit(teacher, task):
    def chosen(model, task=task, config=None):
        return select(model, lambda indices: PICTURES[list(indices)], LABELS, task, config or SelectionConfig())

    eleven = dataclasses.replace(task, class_names=tuple("abcdefghijk"))
    refused("10 outputs but the task has 11 classes", chosen, teacher.model, eleven)
    refused("does not take images of 3 x 32 x 32", chosen, teacher.model, KNOWN_TASKS["cifar10"])
    refused("is torch.bfloat16, not float32; convert it", chosen, copy.deepcopy(teacher.model).bfloat16())
    pattern = SelectionConfig(stationary_parameters="nothing.*")
    refused("no parameter of the model fits 'nothing", chosen, teacher.model, config=pattern)


def test_a_synthesis_of_what_does_not_fit(teacher, task, tmp_path):
    double = copy.deepcopy(teacher.model).double()
    refused("is torch.float64, not float32; convert it with", synthesize, double, task, SHORT)
    pattern = dataclasses.replace(SHORT, stationary_parameters="nothing.*")
    refused("no parameter of the model fits 'nothing", synthesize, teacher.model, task, pattern)
    floats = Start("mine", PICTURES.float())
    refused("the start 'mine' has torch.float32 images", synthesize, teacher.model, task, SHORT, start=floats)
    few = Start("mine", PICTURES[:9])
    refused(r"'mine' has .* of shape \(9, 1, 8, 8\)", synthesize, teacher.model, task, SHORT, start=few)
    state = Checkpointing(tmp_path / "state")
    state.path.mkdir()
    refused("cannot read the saved state", synthesize, teacher.model, task, SHORT, checkpointing=state)


def test_training_from_views_of_other_images(teacher, task):
    views = label_views(teacher.model.eval(), PICTURES, task, ViewPlan(20))
    model, others = copy.deepcopy(teacher.model), 255 - PICTURES
    refused("not the views that were labelled", train, model, others, views, task, ONE_STEP, seed=0)


def test_newcomers_that_cannot_be(support_set, teacher):
    refused("steps of a newcomer must be at least 1, or 0 for as many as fit, got -1", newcomer_training, -1)
    model = copy.deepcopy(teacher.model)
    refused("has hard, soft labels, not 'none'", support_set.train, model, labels="none")


def test_a_set_of_no_images(support_set):
    nothing = {name: getattr(support_set, name)[:0] for name in ("images", "labels", "soft_labels", "multipliers")}
    refused("a DSV set needs at least one image", dataclasses.replace, support_set, **nothing)


def test_a_rank_correlation_of_one_value():
    refused("two equally long rows", rank_correlation, torch.zeros(1), torch.zeros(1))
    refused("two equally long rows", rank_correlation, torch.zeros(2, 2), torch.zeros(2, 2))


def test_architectures_of_torchvision_without_it(task, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    spec = ModelSpec.parse("mobilenet_v3_small", task)
    refused("comes from torchvision, which is not installed; install torchvision, or", build_model, spec, seed=0)
    assert build_model(ModelSpec.parse("convnet:4", task), seed=0)(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_a_width_out_of_range_in_an_architectures_name(task):
    refused("a model's width must be a whole number from 0 to 4096, got 5000", ModelSpec.parse, "convnet:5000", task)


# Values out of their ranges


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 2}, r"has 1 \(grey\) or 3 \(RGB\) channels, not 2"),
        ({"image_size_px": 0}, "image size 0 is outside 1 to 4096 pixels"),
        ({"image_size_px": 4097}, "image size 4097 is outside 1 to 4096 pixels"),
        ({"class_names": ("one",)}, "needs 2 to 65535 classes, got 1"),
        ({"class_names": ()}, "needs 2 to 65535 classes, got 0"),
        ({"class_names": tuple(map(str, range(65_536)))}, "needs 2 to 65535 classes, got 65536"),
        ({"class_names": ("a", "")}, "class name '' is not printable text; rename the class"),
        ({"class_names": ("a", "b\x1b[")}, "is not printable text; rename the class"),
        ({"class_names": ("a", 1)}, "class name 1 is not printable text; rename the class"),
        ({"class_names": ["a", "b"]}, "class names, mean and std must be tuples"),
        ({"mean": [0.5]}, "class names, mean and std must be tuples"),
        ({"std": 0.5}, "class names, mean and std must be tuples"),
        ({"channels": True}, "channels and image size must be whole numbers, and mirror true or false"),
        ({"image_size_px": 8.0}, "channels and image size must be whole numbers, and mirror true or false"),
        ({"mirror": 1}, "channels and image size must be whole numbers, and mirror true or false"),
        ({"mean": ("0.5",)}, "mean and std must be numbers up to 1000000"),
        ({"std": (10**400,)}, "mean and std must be numbers up to 1000000"),
        ({"mean": (float("inf"),)}, "mean and std must be numbers up to 1000000"),
        ({"mean": (float("nan"),)}, "mean must be finite and std positive and finite"),
        ({"std": (0.0,)}, "mean must be finite and std positive and finite"),
        ({"std": (-1.0,)}, "mean must be finite and std positive and finite"),
    ],
)
def test_tasks_that_cannot_be(task, change, message):
    refused(message, dataclasses.replace, task, **change)


@pytest.mark.parametrize(
    "change", [{"teacher_architecture": 5}, {"teacher_sha256": "\n"}, {"start": None}, {"seed": "0"}, {"seed": True}]
)
def test_provenances_that_cannot_be(change):
    given = {"teacher_architecture": "convnet", "teacher_sha256": "a" * 64, "start": "noise", "seed": 0, **change}
    refused("architecture, digest and start must be printable text, its seed a number", Provenance, **given)


@pytest.mark.parametrize(
    "change", [{"teacher_sha256": "A" * 64}, {"teacher_sha256": ""}, {"seed": -1}, {"seed": 2**63}]
)
def test_provenances_out_of_their_ranges(change):
    given = {"teacher_architecture": "convnet", "teacher_sha256": "a" * 64, "start": "noise", "seed": 0, **change}
    refused("digest must be 64 hexadecimal digits, its seed 0 to", Provenance, **given)


@pytest.mark.parametrize("row", [torch.zeros(10), torch.full((10,), 500.0), torch.full((10,), 0.102)])
def test_soft_labels_that_are_no_probabilities(support_set, row):
    labels = support_set.soft_labels.clone()
    labels[3] = row
    refused("soft_labels must add up to 1 in every row", dataclasses.replace, support_set, soft_labels=labels)


@pytest.mark.parametrize("scale", [0.0, 1e-320, 1e300, float("nan"), 1])
def test_scales_of_views_out_of_their_range(task, scale):
    views = label_views(lambda images: torch.rand(len(images), 10), PICTURES, task, ViewPlan(20))
    refused("scale of views' logits must be a number from 1e-6 to 1e9", dataclasses.replace, views, scale=scale)


class Hoarder(nn.Module):
    """Holds a layer that it never reads."""

    def __init__(self):
        super().__init__()
        self.unread, self.read = nn.Linear(3, 3), nn.Linear(64, 10)

    def forward(self, images):
        return self.read(images.flatten(1))


@pytest.mark.parametrize("distance", DISTANCES)
def test_parameters_that_are_never_read_say_nothing(task, distance):
    model, config = Hoarder().eval(), dataclasses.replace(SHORT, distance=distance)
    assert len(synthesize(model, task, config, seed=0)) == 10
    found = select(model, lambda own: PICTURES[list(own)], LABELS, task, SelectionConfig(2, distance=distance))
    assert len(found.multipliers) == len(LABELS)
    unread = dataclasses.replace(config, stationary_parameters="unread.*")
    refused("outputs depend on no parameter that fits 'unread.*'", synthesize, model, task, unread, seed=0)


def test_a_newcomer_that_is_frozen(teacher, support_set):
    frozen = copy.deepcopy(teacher.model).requires_grad_(False)
    refused("requires a gradient, so there is nothing to train", support_set.train, frozen, config=ONE_STEP)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_step": float("inf")}, "image step must be a finite number, got inf"),
        ({"multiplier_step": -1.0}, "image step and multiplier step must be positive"),
        ({"primal_weight": float("nan")}, "primal weight must be a finite number, got nan"),
        ({"crop": 1.0}, "crop is a fraction of the side, from 0 to below 1, got 1.0"),
    ],
)
def test_options_of_a_synthesis_out_of_their_ranges(change, message):
    refused(message, dataclasses.replace, SHORT, **change)


@pytest.mark.parametrize("step", [0.0, -1.0, float("inf"), float("nan")])
def test_steps_of_a_selection_out_of_their_range(step):
    refused("a positive, finite step", SelectionConfig, step=step)


@pytest.mark.parametrize(
    "change",
    [
        {"full_rate_fan_in": -1},
        {"mixup": float("inf")},
        {"learning_rate": -1.0},
    ],
)
def test_options_of_a_training_out_of_their_ranges(change):
    refused("must be at least 0|must be finite and at least 0", dataclasses.replace, ONE_STEP, **change)
