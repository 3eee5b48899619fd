import dataclasses

import pytest
import torch

from dsv import (
    KNOWN_TASKS,
    ModelSpec,
    SynthesisConfig,
    Task,
    build_model,
    dead_leaves_start,
    draw_dead_leaves,
    predict,
    synthesize,
)

CIFAR10 = KNOWN_TASKS["cifar10"]


def drawn(task, count=64, seed=0):
    return draw_dead_leaves(count, task, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("side_px", [1, 2, 8, 33, 100])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_have_the_tasks_shape(side_px, channels):
    task = Task(channels, side_px, ("a", "b"), (0.5,) * channels, (0.5,) * channels)
    pictures = drawn(task, 4)
    assert pictures.shape == (4, channels, side_px, side_px) and pictures.dtype == torch.uint8


def test_the_seed_decides():
    assert torch.equal(drawn(CIFAR10), drawn(CIFAR10)) and not torch.equal(drawn(CIFAR10), drawn(CIFAR10, seed=1))


def test_neighbours_are_alike_and_pictures_are_not():
    """What white noise lacks: a pixel tells of the next one; and every picture has its own brightness."""
    pixels = drawn(CIFAR10, 200).float()
    centred = pixels - pixels.mean(dim=(2, 3), keepdim=True)
    alike = (centred[..., 1:] * centred[..., :-1]).mean() / centred.square().mean()
    assert alike > 0.7
    assert pixels.mean(dim=(1, 2, 3)).std() > 20


def test_the_start_holds_what_the_model_is_surest_of():
    task = dataclasses.replace(KNOWN_TASKS["digits"], class_names=("a", "b", "c"))
    model = build_model(ModelSpec.parse("convnet:4", task), seed=0).eval()
    start = dead_leaves_start(lambda images: predict(model, images, task), task, 5, seed=0)
    assert start.name == "dead-leaves" and start.images.shape == (15, *task.image_shape)
    sure = predict(model, start.images, task).view(3, 5, 3)
    ordinary = predict(model, drawn(task, 200, seed=1), task)
    for label in range(3):
        own = sure[label, :, label]
        assert (own.diff() <= 0).all() and own.min() > ordinary[:, label].quantile(0.95)
        assert len(start.images.view(3, 5, -1)[label].unique(dim=0)) == 5


def test_more_pictures_than_are_drawn_at_once(monkeypatch):
    monkeypatch.setattr("dsv.dead_leaves.POOL", 0)
    monkeypatch.setattr("dsv.dead_leaves._PART", 2)
    task = dataclasses.replace(KNOWN_TASKS["digits"], class_names=("a", "b"))
    model = build_model(ModelSpec.parse("convnet:4", task), seed=0).eval()
    start = dead_leaves_start(lambda images: predict(model, images, task), task, 3, seed=0)
    assert start.images.shape == (6, 1, 8, 8)
    found = synthesize(model, task, SynthesisConfig(images_per_class=3, iterations=1), seed=0, start=start)
    assert found.provenance.start == "dead-leaves"
