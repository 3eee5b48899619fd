"""The one optimiser over pixels: from a trained classifier to its Deep Support Vectors (Algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy
import torch
from torch import Tensor, nn

from dsv.augmentation import Augmentation
from dsv.deepkkt import DISTANCES, KktTerms, KktWeights, deepkkt_loss, project_dual
from dsv.errors import DsvError
from dsv.evaluation import predict
from dsv.pixels import noise_pixels, normalise, to_uint8
from dsv.support_set import Provenance, SupportSet, model_digest
from dsv.task import Task

ALGORITHM = 1
"""Raised whenever the same options and seed would give other DSVs; stands in every set's provenance."""


@dataclass(frozen=True)
class SynthesisConfig:
    """Options of a synthesis; the defaults are measured ones (docs/results.md).

    Args:
        images_per_class: candidates for every class, at least 1.
        iterations: optimiser steps, at least 1.
        image_step: Adam's step size for pixels in [0, 1]; falls to 0 along a cosine.
        multiplier_step: the same for the multipliers, which start uniformly in [0, 1).
        distance: D of Eq. 8, a key of ``DISTANCES``.
        primal_weight, total_variation_weight, norm_weight, augmented_weight: of the terms, see ``KktWeights``.
        translate, crop, cutout, noise: of the augmented copy, see ``Augmentation``; mirroring follows the task.
    """

    images_per_class: int = 10
    iterations: int = 300
    image_step: float = 0.03
    multiplier_step: float = 0.1
    distance: str = "layer-cosine"
    primal_weight: float = 0.1
    total_variation_weight: float = 0.0
    norm_weight: float = 0.0
    augmented_weight: float = 1.0
    translate: float = 0.125
    crop: float = 0.2
    cutout: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.images_per_class < 1:
            raise DsvError(f"images per class must be at least 1, got {self.images_per_class}")
        if self.iterations < 1:
            raise DsvError(f"iterations must be at least 1, got {self.iterations}")
        if self.distance not in DISTANCES:
            raise DsvError(f"unknown distance {self.distance!r}; choose one of: {', '.join(DISTANCES)}")
        if not (self.image_step > 0 and self.multiplier_step > 0):
            raise DsvError("image step and multiplier step must be positive")

    @property
    def weights(self) -> KktWeights:
        """Weights of Eq. 9."""
        return KktWeights(self.primal_weight, self.total_variation_weight, self.norm_weight, self.augmented_weight)

    def augmentation(self, task: Task) -> Augmentation:
        """A of Algorithm 1 for ``task``."""
        return Augmentation(self.translate, self.crop, 0.5 if task.mirror else 0.0, self.cutout, self.noise)


@dataclass(frozen=True)
class Start:
    """Given images that the candidates start from, instead of noise.

    Args:
        name: for the provenance.
        images: (N, C, H, W) uint8, N = images per class times classes, sorted by class.
    """

    name: str
    images: Tensor


Progress = Callable[[int, KktTerms], None]
"""Called after every iteration with the number of iterations done and the terms before the step."""


def synthesize(
    model: nn.Module,
    task: Task,
    config: SynthesisConfig,
    *,
    seed: int,
    start: Start | None = None,
    teacher_architecture: str = "",
    device: torch.device | str = "cpu",
    on_iteration: Progress | None = None,
) -> SupportSet:
    """Find images and multipliers that satisfy the DeepKKT conditions of ``model``.

    Args:
        model: a trained classifier on ``device``, (N, C, H, W) normalised float to (N, K) logits. It is put in eval
            mode (batch norm uses its running statistics); its weights stay as they are.
        task: geometry, classes and normalisation that the model was trained with.
        config: the options.
        seed: of the noise, the multipliers and the augmentation.
        start: images to start from; noise when None.
        teacher_architecture: for the provenance; the class name when empty.
        device: where to compute.
        on_iteration: for progress and curves.

    Returns:
        A set sorted by class, ``config.images_per_class`` images each, with the model's soft labels for the stored
        (rounded) pixels.

    Raises:
        DsvError: the model does not fit the task, the start does not fit the options, or the loss is not finite.
    """
    model = model.to(device).eval()
    generator = torch.Generator().manual_seed(seed)
    count = config.images_per_class * task.classes
    labels = torch.arange(task.classes).repeat_interleave(config.images_per_class)
    pixels = _starting_pixels(task, count, start, generator).to(device)
    check_fits(model, task, device)
    multipliers = torch.rand(count, generator=generator).to(device)
    _descend(
        model,
        task,
        config,
        pixels=pixels,
        multipliers=multipliers,
        labels=labels.to(device),
        generator=generator,
        on_iteration=on_iteration,
    )
    images = to_uint8(pixels)
    return SupportSet(
        images=images,
        labels=labels,
        soft_labels=predict(model, images, task, device=device),
        multipliers=multipliers.detach().cpu(),
        task=task,
        provenance=Provenance(
            teacher_architecture=teacher_architecture or type(model).__name__,
            teacher_sha256=model_digest(model),
            start="noise" if start is None else start.name,
            seed=seed,
            config=asdict(config),
            versions={"synthesis": str(ALGORITHM), "torch": str(torch.__version__), "numpy": numpy.__version__},
        ),
    )


def check_fits(model: nn.Module, task: Task, device: torch.device | str = "cpu") -> None:
    """Raise DsvError unless ``model`` maps the task's images to the task's classes."""
    try:
        with torch.no_grad():
            logits = model(torch.zeros(1, *task.image_shape, device=device))
    except RuntimeError as error:
        raise DsvError(
            f"the model does not take images of {task.channels} x {task.image_size_px} x {task.image_size_px}; "
            "build it for this task's channels and image size"
        ) from error
    if tuple(logits.shape) != (1, task.classes):
        raise DsvError(
            f"the model has {logits.shape[-1]} outputs but the task has {task.classes} classes; use matching ones"
        )


def _starting_pixels(task: Task, count: int, start: Start | None, generator: torch.Generator) -> Tensor:
    if start is None:
        return noise_pixels(task, count, generator)
    if tuple(start.images.shape) != (count, *task.image_shape) or start.images.dtype != torch.uint8:
        raise DsvError(
            f"the start {start.name!r} has {start.images.dtype} images of shape {tuple(start.images.shape)}; "
            f"this synthesis needs uint8 of {(count, *task.image_shape)}"
        )
    return start.images.float() / 255


def _descend(
    model: nn.Module,
    task: Task,
    config: SynthesisConfig,
    *,
    pixels: Tensor,
    multipliers: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    on_iteration: Progress | None,
) -> None:
    """Lines 7 to 19 of Algorithm 1; changes ``pixels`` and ``multipliers`` in place."""
    steps = (config.image_step, config.multiplier_step)
    pixels.requires_grad_(True)
    multipliers.requires_grad_(True)
    optimiser = torch.optim.Adam([{"params": [pixels]}, {"params": [multipliers]}])
    parameters = [p for p in model.parameters() if p.requires_grad]
    augmentation = config.augmentation(task)
    for iteration in range(config.iterations):
        for group, step in zip(optimiser.param_groups, steps, strict=True):
            group["lr"] = step * 0.5 * (1 + math.cos(math.pi * iteration / config.iterations))
        terms = deepkkt_loss(
            model,
            normalise(pixels, task),
            labels,
            multipliers,
            parameters=parameters,
            augment=lambda images: augmentation(images, generator),
            distance=DISTANCES[config.distance],
            weights=config.weights,
        )
        pixels.grad, multipliers.grad = torch.autograd.grad(terms.total, [pixels, multipliers])
        optimiser.step()
        with torch.no_grad():
            pixels.clamp_(0, 1)
        project_dual(multipliers)
        if on_iteration is not None:
            on_iteration(iteration + 1, terms)
    pixels.requires_grad_(False)
    multipliers.requires_grad_(False)
