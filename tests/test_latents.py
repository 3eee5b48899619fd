"""Labels as latent variables: interpolation, editing, mixing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from client.data import open_split
from deploy.pages.dsv_view import DRAWN
from dsv import (
    GIVEN_IMAGES,
    DsvError,
    SynthesisConfig,
    accuracy,
    blend,
    edit,
    interpolate,
    mix,
    predict,
    synthesize,
)

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
SHORT = SynthesisConfig(images_per_class=1, iterations=2)


def test_the_teacher_of_these_tests_knows_the_digits(trained, task):
    split = open_split("digits", "", "test", task)
    assert accuracy(trained.model, split.images(), split.labels, task) > 0.95


def test_an_interpolation_goes_from_one_class_to_the_other(interpolated):
    assert interpolated.images.shape == (10, 1, 8, 8)
    means = interpolated.soft_labels.view(5, 2, 10).mean(1)
    assert (means[1:, 1] <= means[:-1, 1] + 0.02).all() and (means[1:, 7] >= means[:-1, 7] - 0.02).all(), means
    assert means[0].argmax() == 1 and means[-1].argmax() == 7
    assert min(means[0, 1], means[-1, 7]) > 0.4 and max(means[0, 7], means[-1, 1]) < 0.1
    assert interpolated.labels.tolist() == [1] * 6 + [7] * 4


def test_labels_of_an_interpolation_are_probabilities_and_its_starts_the_same_noise(trained, task, monkeypatch):
    seen = {}

    def caught(*arguments, **options):
        seen.update(options)
        return synthesize(*arguments, **options)

    monkeypatch.setattr("dsv.latents.synthesize", caught)
    config = replace(SHORT, images_per_class=2)
    interpolate(trained.model, task, config, between=(3, 8), weights=(0.1, 0.7, 0.3), seed=4)
    labels, start = seen["labels"], seen["start"].images
    torch.testing.assert_close(labels.sum(1), torch.ones(6))
    torch.testing.assert_close(labels[:, 8], torch.tensor([0.1, 0.1, 0.7, 0.7, 0.3, 0.3]))
    assert (labels > 0).sum() == 12
    assert torch.equal(start[:2], start[2:4]) and torch.equal(start[:2], start[4:])
    assert not torch.equal(start[0], start[1])


def test_a_coarse_start_averages_back_to_the_noise_of_a_synthesis(trained, task):
    """With steps too small to see, what comes out is what went in."""
    still = SynthesisConfig(images_per_class=10, iterations=1, image_step=1e-9, coarse_stages=1)
    between = interpolate(trained.model, task, still, between=(0, 1), weights=[0], seed=5)
    plain = synthesize(trained.model, task, replace(still, images_per_class=1), seed=5)
    assert torch.equal(between.images, plain.images)
    assert between.provenance.start in DRAWN, "or pages would say that it grew from somebody's pictures"
    coarse = replace(still, iterations=3, coarse_stages=3)
    between = interpolate(trained.model, task, coarse, between=(0, 1), weights=[0], seed=5)
    plain = synthesize(trained.model, task, replace(coarse, images_per_class=1), seed=5)
    assert (between.images.int() - plain.images.int()).abs().max() <= 1  # the start has whole pixel values


def test_an_edit_raises_the_target_and_keeps_the_picture(trained, task, pictures):
    config = SynthesisConfig(iterations=80, coarse_stages=3)
    edited = edit(trained.model, task, config, images=pictures, target=8, seed=0, teacher_architecture="mine")
    before = predict(trained.model, pictures, task)[:, 8]
    assert (edited.soft_labels[:, 8] > before).all() and edited.soft_labels[:, 8].mean() > before.mean() + 0.3
    changes = (edited.images.float() - pictures.float()).abs().mean((1, 2, 3))
    others = (pictures.roll(2, 0).float() - pictures.float()).abs().mean((1, 2, 3))
    assert changes.mean() < 0.8 * others.mean()
    assert edited.labels.tolist() == [8] * 10
    assert edited.provenance.start == "given images" and edited.provenance.teacher_architecture == "mine"
    assert edited.provenance.start == GIVEN_IMAGES, "or pages would show it and stores take it"


def test_a_mix_is_linear_and_ends_in_its_parts(trained, task, pictures):
    vectors = pictures.flip(0)
    seen = mix(trained.model, task, vectors=vectors, images=pictures, shares=(0, 0.3, 1))
    assert seen.shape == (3, 10, 10) and seen.dtype == torch.float32
    assert torch.equal(seen[0], predict(trained.model, pictures, task))
    assert torch.equal(seen[2], predict(trained.model, vectors, task))
    pixels = blend(vectors, pictures, 0.3)
    torch.testing.assert_close(pixels, (0.3 * vectors.double() + 0.7 * pictures.double()).float() / 255)
    normalised = (pixels - task.mean[0]) / task.std[0]
    with torch.no_grad():
        torch.testing.assert_close(seen[1], trained.model(normalised).softmax(1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("between", "weights", "message"),
    [
        ((1, 1), [0.5], "class '1' was given twice"),
        ((0, 10), [0.5], "there is no class 10; choose 0 to 9"),
        ((-1, 2), [0.5], "there is no class -1"),
        ((0, 1), [], "at least one weight is needed"),
        ((0, 1), [0.5, 1.5], "a weight must lie in 0 to 1, got 1.5"),
        ((0, 1), [float("nan")], "a weight must lie in 0 to 1, got nan"),
    ],
)
def test_interpolations_that_cannot_be(trained, task, between, weights, message):
    with pytest.raises(DsvError, match=message):
        interpolate(trained.model, task, SHORT, between=between, weights=weights, seed=0)


@pytest.mark.parametrize(
    ("images", "target", "message"),
    [
        (torch.zeros(1, 1, 8, 8, dtype=torch.uint8), 10, "there is no class 10; choose 0 to 9"),
        (torch.zeros(0, 1, 8, 8, dtype=torch.uint8), 1, "there is no image to edit"),
        (torch.zeros(1, 1, 9, 9, dtype=torch.uint8), 1, "the start 'given images' has torch.uint8 images of shape"),
        (torch.zeros(1, 1, 8, 8), 1, "the start 'given images' has torch.float32 images"),
    ],
)
def test_edits_that_cannot_be(trained, task, images, target, message):
    with pytest.raises(DsvError, match=message):
        edit(trained.model, task, SHORT, images=images, target=target, seed=0)


@pytest.mark.parametrize(
    ("vectors", "images", "shares", "message"),
    [
        ((2, 1, 8, 8), (1, 1, 8, 8), [0.5], "two uint8 tensors of one shape"),
        ((1, 1, 9, 9), (1, 1, 9, 9), [0.5], "the task's are \\(1, 8, 8\\); use its size"),
        ((1, 1, 8, 8), (1, 1, 8, 8), [], "at least one share is needed"),
        ((1, 1, 8, 8), (1, 1, 8, 8), [-0.1], "a share must lie in 0 to 1, got -0.1"),
    ],
)
def test_mixes_that_cannot_be(trained, vectors, images, shares, message):
    given = {"vectors": torch.zeros(vectors, dtype=torch.uint8), "images": torch.zeros(images, dtype=torch.uint8)}
    with pytest.raises(DsvError, match=message):
        mix(trained.model, trained.task, **given, shares=shares)


def test_a_blend_takes_bytes_alone():
    with pytest.raises(DsvError, match="two uint8 tensors"):
        blend(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8), 0.5)
    with pytest.raises(DsvError, match="a share must lie in 0 to 1"):
        blend(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.zeros(1, 1, 8, 8, dtype=torch.uint8), 2.0)
