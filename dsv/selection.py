"""Which real images a trained model rests on: multipliers learned for given images, which stay as they are.

This is the paper's Table 1: with theta and the images fixed, Eq. 5 is a question about lambda alone. It runs where the
images are. The gradient of the distance in lambda_i is the directional derivative of that image's loss along one vector
(see ``kkt_gradient.py``), so every pass reads the images in micro-batches and keeps one number per image.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dsv.characteristics import class_sums
from dsv.compute import Compute
from dsv.deepkkt import DISTANCES, project_dual
from dsv.derivatives import Batch
from dsv.device import dtype_of
from dsv.errors import DsvError
from dsv.fits import check_classes, check_teacher
from dsv.parameters import stationary_parameters
from dsv.pixels import from_uint8
from dsv.resume import Checkpointing, Saving, SelectionState
from dsv.stationarity_engine import StationarityEngine
from dsv.support_set import model_digest
from dsv.task import Task

Load = Callable[[Sequence[int]], Tensor]
"""From indices to (n, C, H, W) uint8 images."""


@dataclass(frozen=True)
class SelectionConfig:
    """Options of a selection.

    Args:
        iterations: steps of projected gradient descent, at least 1; each reads every image twice.
        step: length of the first step: what the gradient's root mean square moves a multiplier by, as a fraction
            of the mean multiplier; falls to 0 along a cosine.
        distance: D of Eq. 8, a key of ``DISTANCES``.
        stationary_parameters: patterns of the parameters that stationarity speaks of.

    Raises:
        DsvError: an option is out of its range.
    """

    iterations: int = 10
    step: float = 0.5
    distance: str = "layer-cosine"
    stationary_parameters: str = "*"

    def __post_init__(self) -> None:
        if self.iterations < 1 or not 0 < self.step < math.inf:
            raise DsvError("a selection needs at least 1 iteration and a positive, finite step")
        if self.distance not in DISTANCES:
            raise DsvError(f"unknown distance {self.distance!r}; choose one of: {', '.join(DISTANCES)}")


@dataclass(frozen=True)
class Selection:
    """Multipliers of given images.

    Args:
        multipliers: (N,) float32, >= 0; large where the model rests on the image.
        labels: (N,) int64.
        classes: number of classes.
        distances: D after 0, 1, ... iterations; one more than there were iterations.
    """

    multipliers: Tensor
    labels: Tensor
    classes: int
    distances: tuple[float, ...]

    def coreset(self, per_class: int) -> Tensor:
        """Indices of the images with the largest multipliers, sorted by class, then falling; (classes * per_class,).

        Raises:
            DsvError: a class has fewer images.
        """
        chosen = []
        for label in range(self.classes):
            own = torch.nonzero(self.labels == label).flatten()
            if not 1 <= per_class <= len(own):
                raise DsvError(f"class {label} has {len(own)} images; ask for 1 to {len(own)} per class")
            order = torch.argsort(self.multipliers[own], descending=True, stable=True)
            chosen.append(own[order[:per_class]])
        return torch.cat(chosen)

    def per_class(self) -> Tensor:
        """(classes,) float32: sum of the multipliers of every class (Fig. 2b)."""
        return class_sums(self.multipliers, self.labels, self.classes)


def select(
    model: nn.Module,
    load: Load,
    labels: Tensor,
    task: Task,
    config: SelectionConfig,
    *,
    start: Tensor | None = None,
    compute: Compute | None = None,
    checkpointing: Checkpointing | None = None,
    on_iteration: Callable[[int, float], None] | None = None,
) -> Selection:
    """Learn lambda >= 0 for given images.

    Args:
        model: a trained classifier of float32 or float64; it is moved to the device and put in eval mode.
        load: from indices to (n, C, H, W) uint8 images; called for a micro-batch at a time.
        labels: (N,) int64.
        task: of the model.
        config: the options.
        start: (N,) multipliers >= 0 to start from, up to a factor that is found; all alike if not given.
        compute: device and micro-batch; memory follows the micro-batch and one float per image.
        checkpointing: where the state is saved at intervals, and read from when it is the state of this very selection,
            of these very images, which are read once more to tell.
        on_iteration: called after every iteration with the number of those done and the distance that they led to.

    Raises:
        DsvError: no images, or some of another type or shape; labels that are not the task's classes; a start that is
            not one finite number >= 0 an image and above 0 somewhere; a model that does not fit the task or reads no
            parameter that ``stationary_parameters`` names; or a state that cannot be read or saved.
    """
    compute = compute or Compute()
    multipliers = _started(start, labels, task)
    model = compute.place(model)
    with compute.running():
        check_teacher(model, task, dtypes=(torch.float32, torch.float64))
        parameters = stationary_parameters(model, task, config.stationary_parameters)
    engine = StationarityEngine(model, parameters, DISTANCES[config.distance], compute=compute)
    images = _Images(load, labels, task.image_shape, compute.chunk(task.image_size_px))
    saving = Saving(checkpointing, lambda: _identity(model, images, multipliers, (task, config, compute)))
    state = saving.found(SelectionState) or SelectionState(multipliers, ())
    multipliers, distances = state.multipliers, list(state.distances)

    def batches() -> Iterator[tuple[slice, Batch]]:
        for own, read in images:
            inputs = from_uint8(read, task, device=compute.device, dtype=dtype_of(model))
            yield own, Batch(inputs, labels[own].to(compute.device), multipliers[own].to(inputs))

    slopes = torch.empty(len(labels))  # in one piece: many small ones would scatter over the heap
    for iteration in range(len(distances), config.iterations + 1):
        total = engine.total_gradient(batch for _, batch in batches())
        if iteration == 0:
            scale = engine.least_squares_scale(total) or 1.0
            multipliers *= scale
            total = {name: scale * g for name, g in total.items()}
        distance, direction = engine.direction(total)
        distances.append(float(distance))
        if iteration > 0 and on_iteration is not None:
            on_iteration(iteration, distances[-1])
        if iteration < config.iterations:
            for own, batch in batches():
                slopes[own] = engine.slopes(direction, batch)
            _descend(multipliers, slopes, config, iteration)
            if saving.due(len(distances)):
                saving.save(SelectionState(multipliers, tuple(distances)))
    return Selection(multipliers, labels, task.classes, tuple(distances))


def _descend(multipliers: Tensor, slopes: Tensor, config: SelectionConfig, iteration: int) -> None:
    """One step of projected gradient descent, in place."""
    fallen = 0.5 * (1 + math.cos(math.pi * iteration / config.iterations))
    deviation = slopes.square().mean().sqrt().clamp(min=1e-30)
    multipliers -= config.step * fallen * multipliers.mean() * slopes / deviation
    project_dual(multipliers)


@dataclass(frozen=True)
class _Images:
    """Given images, read ``size`` at a time, each time anew: they may not fit into memory."""

    load: Load
    labels: Tensor
    image_shape: tuple[int, ...]
    size: int

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        for first in range(0, len(self.labels), self.size):
            own = slice(first, min(first + self.size, len(self.labels)))
            read, wanted = self.load(range(own.start, own.stop)), (own.stop - own.start, *self.image_shape)
            if read.dtype != torch.uint8 or tuple(read.shape) != wanted:
                raise DsvError(
                    f"images {own.start} to {own.stop - 1} must be uint8 of shape {wanted}, got {read.dtype} of "
                    f"{tuple(read.shape)}"
                )
            yield own, read


def _started(start: Tensor | None, labels: Tensor, task: Task) -> Tensor:
    """Multipliers of mean 1."""
    if labels.ndim != 1 or labels.dtype != torch.int64:
        raise DsvError(f"labels must be int64 classes, one an image, got {labels.dtype} of shape {tuple(labels.shape)}")
    if len(labels) == 0:
        raise DsvError("there are no images to select from")
    check_classes(labels, task)
    found = torch.ones(len(labels)) if start is None else start.float()
    if found.shape != labels.shape or not (found.min() >= 0 and 0 < found.max() < math.inf):
        raise DsvError(f"a start of a selection must have {len(labels)} finite multipliers, >= 0 and not all 0")
    return found / found.mean()


def _identity(model: nn.Module, images: _Images, start: Tensor, options: tuple[Any, ...]) -> str:
    """What must be equal for a saved state to be a state of this selection; ``options`` are data classes."""
    described = [model_digest(model), *map(asdict, options), str(torch.__version__)]
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    digest.update(images.labels.numpy().tobytes() + start.numpy().tobytes())
    for _, read in images:
        digest.update(read.cpu().numpy().tobytes())
    return digest.hexdigest()
