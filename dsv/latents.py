"""The classifier as a latent generative model: class labels are what is varied, images are what comes out.

Source: Lee et al., *Deep Support Vectors* (arXiv:2403.17329), Section 5.2, Fig. 6 and 11 (interpolation, editing).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from dsv.compute import Compute
from dsv.errors import DsvError
from dsv.evaluation import predict
from dsv.pixels import noise_pixels, to_uint8
from dsv.resume import Checkpointing
from dsv.start import GIVEN_IMAGES, SHARED_NOISE, Start
from dsv.support_set import SupportSet
from dsv.synthesis import Progress, synthesize
from dsv.synthesis_config import SynthesisConfig
from dsv.task import Task


def interpolate(
    model: nn.Module,
    task: Task,
    config: SynthesisConfig,
    *,
    between: tuple[int, int],
    weights: Sequence[float],
    seed: int,
    teacher_architecture: str = "",
    compute: Compute | None = None,
    checkpointing: Checkpointing | None = None,
    on_iteration: Progress | None = None,
) -> SupportSet:
    """Images between two classes: DSVs of the labels (1 - delta) y_a + delta y_b.

    One synthesis makes them all, and the same noise is the start for every delta, so that the images of a row tell what
    the label changes. The primal term asks for the larger of the two classes, and for either where delta is 0.5.

    Args:
        model: as for ``synthesize``.
        task: geometry, classes and normalisation that the model was trained with.
        config: the options; ``images_per_class`` is the number of images for every delta.
        between: a and b, two different classes, 0 to K - 1.
        weights: delta of every step, 0 (class a) to 1 (class b).
        seed: of the noise, the multipliers and the augmentation.
        teacher_architecture: for the provenance; the class name when empty.
        compute: device, micro-batch, precision.
        checkpointing: as for ``synthesize``.
        on_iteration: for progress and curves.

    Returns:
        A set of len(weights) * images_per_class images in the order of the weights: image i of every weight started
        from the same noise. Its labels are the most probable class of each mixture.

    Raises:
        DsvError: classes that are equal or not the task's, no weight or one outside 0 to 1; else as ``synthesize``.
    """
    first, second = between
    _check_class(first, task)
    _check_class(second, task)
    if first == second:
        raise DsvError(f"class {task.class_names[first]!r} was given twice; name two classes to interpolate between")
    check_shares(weights, "weight")
    delta = torch.tensor(weights, dtype=torch.float32).repeat_interleave(config.images_per_class)
    labels = torch.zeros(len(delta), task.classes)
    labels[:, first], labels[:, second] = 1 - delta, delta
    return synthesize(
        model,
        task,
        config,
        seed=seed,
        labels=labels,
        start=Start(SHARED_NOISE, _noise(task, config, seed).repeat(len(weights), 1, 1, 1)),
        teacher_architecture=teacher_architecture,
        compute=compute,
        checkpointing=checkpointing,
        on_iteration=on_iteration,
    )


def edit(
    model: nn.Module,
    task: Task,
    config: SynthesisConfig,
    *,
    images: Tensor,
    target: int,
    seed: int,
    teacher_architecture: str = "",
    compute: Compute | None = None,
    checkpointing: Checkpointing | None = None,
    on_iteration: Progress | None = None,
) -> SupportSet:
    """Turn given images towards a class: the DeepKKT loss is descended from them, with that class for a label.

    The images stay at full resolution whatever ``config.coarse_stages`` says: shrinking them first would lose the
    structure that is to be kept. How far they go is a matter of ``iterations`` times ``image_step``.

    Args:
        images: (N, C, H, W) uint8, N at least 1.
        target: the class, 0 to K - 1.
        seed: of the multipliers and the augmentation.
        model, task, config, teacher_architecture, compute, checkpointing, on_iteration: as for ``interpolate``; no
            option is read that counts images.

    Returns:
        A set of N images in the order given, all labelled with the target.

    Raises:
        DsvError: a target that is not the task's, no image, or images of another shape or type; else as ``synthesize``.
    """
    _check_class(target, task)
    if len(images) == 0:
        raise DsvError("there is no image to edit; give at least one")
    return synthesize(
        model,
        task,
        replace(config, coarse_stages=1),
        seed=seed,
        labels=torch.full((len(images),), target),
        start=Start(GIVEN_IMAGES, images),
        teacher_architecture=teacher_architecture,
        compute=compute,
        checkpointing=checkpointing,
        on_iteration=on_iteration,
    )


def blend(vectors: Tensor, images: Tensor, share: float) -> Tensor:
    """share * vectors + (1 - share) * images, (N, C, H, W) float32 pixels in [0, 1], of two uint8 tensors like that.

    Raises:
        DsvError: the tensors differ in shape or are not uint8, or the share lies outside 0 to 1.
    """
    if vectors.shape != images.shape or vectors.dtype != torch.uint8 or images.dtype != torch.uint8:
        raise DsvError(
            f"a blend takes two uint8 tensors of one shape, got {vectors.dtype} of {tuple(vectors.shape)} and "
            f"{images.dtype} of {tuple(images.shape)}"
        )
    check_shares([share], "share")
    weight = torch.tensor([share], dtype=torch.float32)
    return (weight * vectors.float() + (1 - weight) * images.float()) / 255


def mix(
    model: nn.Module,
    task: Task,
    *,
    vectors: Tensor,
    images: Tensor,
    shares: Sequence[float],
) -> Tensor:
    """What the model says of images into which DSVs are blended: share * vector + (1 - share) * image.

    Args:
        model: (N, C, H, W) normalised float to (N, K) logits; it is asked where it is, and put in eval mode.
        task: geometry, classes and normalisation that the model was trained with.
        vectors: (N, C, H, W) uint8, for every image the DSV that is blended into it.
        images: (N, C, H, W) uint8.
        shares: of the vector, S numbers of 0 (the image alone) to 1 (the vector alone).

    Returns:
        (S, N, K) float32 class probabilities, on the CPU. The blends are not rounded to whole pixel values.

    Raises:
        DsvError: vectors and images do not fit each other or the task, no share, or one outside 0 to 1.
    """
    check_shares(shares, "share")
    if tuple(images.shape[1:]) != task.image_shape:
        raise DsvError(f"the images are {tuple(images.shape[1:])}, the task's are {task.image_shape}; use its size")
    # predict takes pixels of 0 to 255; it does not mind that these are no whole numbers
    return torch.stack([predict(model, blend(vectors, images, share) * 255, task) for share in shares])


def _noise(task: Task, config: SynthesisConfig, seed: int) -> Tensor:
    """What a synthesis would start from, at full size: blocks of equal pixels, which a coarse start averages back."""
    drawn = noise_pixels(
        task,
        config.images_per_class,
        torch.Generator().manual_seed(seed),
        side_px=config.side(0, task.image_size_px),
    )
    return to_uint8(functional.interpolate(drawn, task.image_size_px, mode="nearest"))


def _check_class(label: int, task: Task) -> None:
    if not 0 <= label < task.classes:
        raise DsvError(f"there is no class {label}; choose 0 to {task.classes - 1}")


def check_shares(values: Sequence[float], name: str) -> None:
    """Raise DsvError where there is none of the ``values``, or one that does not lie in 0 to 1; each is a ``name``."""
    if len(values) == 0:
        raise DsvError(f"at least one {name} is needed")
    for value in values:
        if not 0 <= value <= 1:
            raise DsvError(f"a {name} must lie in 0 to 1, got {value}")
