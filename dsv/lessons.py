"""What a classifier is taught: endless batches, and how far its answers to one are from what is wanted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy
import torch
from torch import Tensor
from torch.nn import functional

from dsv.augmentation import Augmentation
from dsv.errors import DsvError
from dsv.fits import check_classes
from dsv.pixels import from_uint8
from dsv.task import Task
from dsv.views import LabelledViews

SMALLEST_BATCH = 8
"""Batch norm needs more than one value of a channel, and a mean that is worth something."""

_VALUES_AT_ONCE = 1 << 17  # of views that are drawn together

LessonLoss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Lesson:
    """One thing to learn.

    Args:
        batches: endless; (B, C, H, W) normalised float32 images where the model is, and what is wanted of each.
        loss: of the model's (B, K) logits for such images and what is wanted of them, a scalar.
    """

    batches: Iterator[tuple[Tensor, Tensor]]
    loss: LessonLoss


def images_lesson(
    images: Tensor,
    targets: Tensor,
    task: Task,
    *,
    batch_size: int,
    augment: Augmentation,
    mixup: float,
    generator: torch.Generator,
    device: torch.device,
) -> Lesson:
    """Images, augmented anew each time, with their classes or probabilities.

    Args:
        images: (N, C, H, W) uint8 on the CPU.
        targets: (N,) int64 classes or (N, K) float probabilities.
        batch_size: a smaller set is a batch of its own, one below ``SMALLEST_BATCH`` is in it several times.
        mixup: see ``TrainingConfig``.
        generator: of the order, the augmentation and the mixtures.

    Raises:
        DsvError: no image, images of another type, or targets that are not one of the task's classes, or probabilities
            of them, an image.
    """
    _check_images(images)
    _check_targets(targets, len(images), task)
    probabilities = functional.one_hot(targets, task.classes).float() if targets.ndim == 1 else targets.float()

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for chosen in _shuffled(len(images), min(batch_size, max(len(images), SMALLEST_BATCH)), generator):
            batch = augment(from_uint8(images[chosen], task, device=device, dtype=torch.float32), generator)
            labels = probabilities[chosen].to(device)
            yield _mixed(batch, labels, mixup, generator) if mixup > 0 else (batch, labels)

    return Lesson(batches(), functional.cross_entropy)


def views_lesson(
    images: Tensor,
    labelled: LabelledViews,
    task: Task,
    *,
    batch_size: int,
    generator: torch.Generator,
    device: torch.device,
) -> Lesson:
    """The views of a set's images, which are neither augmented nor mixed again, with the loss of ``LabelledViews``.

    Raises:
        DsvError: no image, or views that are not of these images.
    """
    _check_images(images)
    views = labelled.of(images, task)
    at_once = max(1, _VALUES_AT_ONCE // (batch_size * math.prod(task.image_shape)))

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        """Several batches of small views are drawn at once."""
        for numbers in _shuffled(views.plan.count, at_once * batch_size, generator):
            drawn = views.draw(numbers).to(device)
            yield from zip(torch.split(drawn, batch_size), torch.split(numbers, batch_size), strict=True)

    return Lesson(batches(), labelled.loss)


def _check_images(images: Tensor) -> None:
    if len(images) == 0:
        raise DsvError("there are no images to train on")
    if images.dtype != torch.uint8:
        raise DsvError(f"images to train on must be torch.uint8, got {images.dtype}; round them (dsv.to_uint8)")


def _check_targets(targets: Tensor, count: int, task: Task) -> None:
    hard = targets.ndim == 1 and targets.dtype == torch.int64
    soft = targets.ndim == 2 and targets.is_floating_point() and targets.shape[1] == task.classes
    if not (hard or soft) or len(targets) != count:
        raise DsvError(
            f"{count} images need as many int64 classes, or probabilities of {task.classes} classes, got "
            f"{targets.dtype} of shape {tuple(targets.shape)}"
        )
    if hard:
        check_classes(targets, task)


def _shuffled(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """``size`` indices at a time of an endless row of shuffled passes over ``count``."""
    order = torch.empty(0, dtype=torch.int64)
    while True:
        while len(order) < size:
            order = torch.cat([order, torch.randperm(count, generator=generator)])
        chosen, order = order[:size], order[size:]
        yield chosen


def _mixed(batch: Tensor, labels: Tensor, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mixup: each image and label blended with another one of the batch."""
    seed = int(torch.randint(2**31, (1,), generator=generator))
    share = torch.from_numpy(numpy.random.default_rng(seed).beta(alpha, alpha, len(batch))).to(batch)
    partner = torch.randperm(len(batch), generator=generator).to(batch.device)
    blended = share.view(-1, 1, 1, 1) * batch + (1 - share.view(-1, 1, 1, 1)) * batch[partner]
    return blended, share.view(-1, 1) * labels + (1 - share.view(-1, 1)) * labels[partner]
