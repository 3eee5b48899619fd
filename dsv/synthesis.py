"""The one optimiser over pixels: from a trained classifier to its Deep Support Vectors (Algorithm 1)."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from dsv.anchors import Anchors
from dsv.compute import Compute
from dsv.deepkkt import KktTerms
from dsv.errors import DsvError
from dsv.evaluation import predict
from dsv.fits import check_classes, check_teacher
from dsv.frames import Frames
from dsv.pixel_optimiser import PixelOptimiser
from dsv.pixels import to_uint8
from dsv.ranks import Ranks
from dsv.resume import Checkpointing, Saving, SynthesisState
from dsv.start import Start
from dsv.support_set import Provenance, SupportSet, model_digest
from dsv.synthesis_config import SynthesisConfig
from dsv.task import Task

ALGORITHM = 3
"""Raised whenever the same options and seed would give other DSVs of the same provenance, in which it stands, for other
reasons than rounding."""


Progress = Callable[[int, KktTerms], None]
"""Called after every iteration with the number of iterations done and the terms before the step."""


def synthesize(
    model: nn.Module,
    task: Task,
    config: SynthesisConfig | None = None,
    *,
    seed: int = 0,
    labels: Tensor | None = None,
    start: Start | None = None,
    anchors: Anchors | None = None,
    label: Callable[[Tensor], Tensor] | None = None,
    teacher_architecture: str = "",
    compute: Compute | None = None,
    ranks: Ranks | None = None,
    checkpointing: Checkpointing | None = None,
    on_iteration: Progress | None = None,
    frames: Frames | None = None,
) -> SupportSet:
    """Find images and multipliers that satisfy the DeepKKT conditions of ``model``.

    Args:
        model: a trained classifier, (N, C, H, W) normalised float to (N, K) logits. It is moved to the device and put
            in eval mode (batch norm uses its running statistics); its weights stay as they are.
        task: geometry, classes and normalisation that the model was trained with.
        config: the options; the defaults when None.
        seed: of the noise, the multipliers and the augmentation.
        labels: what the candidates shall support, (N,) int64 or (N, K) float32 probabilities (latents between classes);
            ``config.images_per_class`` of every class when None.
        start: images to start from; noise when None.
        anchors: ask stationarity of these instead of ``model``'s end point; primal feasibility is then not asked, and
            the terms speak of the anchors' models.
        label: from (N, C, H, W) uint8 images to their soft labels, (N, K) float32; ``model``'s probabilities when None.
        teacher_architecture: for the provenance; the class name when empty.
        compute: device, micro-batch, precision.
        ranks: processes that share the work; every one of them returns the whole set.
        checkpointing: where the state is saved at intervals, and read from when it is the state of this very run.
        on_iteration: for progress and curves.
        frames: which iterations' images to show to whom; given alike on every rank.

    Returns:
        A set in the order of the labels (sorted by class when None; the most probable class of a probability row), with
        the model's soft labels for the stored (rounded) pixels.

    Raises:
        DsvError: the model does not fit the task, is not of float32 or has no parameter that ``stationary_parameters``
            names, labels or start do not fit the options, the state cannot be read or saved, or the loss is not finite.
    """
    config, compute, ranks = config or SynthesisConfig(), compute or Compute(), ranks or Ranks()
    model = compute.place(model)
    wanted = _labels(task, config) if labels is None else _checked(labels, task)
    with compute.running():
        check_teacher(model, task)
    options = asdict(config) | ({} if anchors is None else {"anchors_sha256": anchors.digest})
    provenance = _provenance(model, teacher_architecture, start, seed, options)
    moved = model if anchors is None else copy.deepcopy(model)
    run = PixelOptimiser(moved, task, config, wanted, compute=compute, ranks=ranks, anchors=anchors)
    saving = Saving(
        checkpointing,
        lambda: _identity(provenance, task, compute, ranks, labels=wanted, start=start),
        alone=ranks.count == 1,
    )
    state = saving.found(SynthesisState)
    run.restore(state) if state else run.begin(seed, start)
    _show(run, frames, ranks)
    while run.iteration < config.iterations:
        terms = run.step()
        _show(run, frames, ranks)
        if on_iteration is not None:
            on_iteration(run.iteration, terms)
        if saving.due(run.iteration):
            state = run.state()  # every rank gives its share
            if ranks.rank == 0:
                saving.save(state)
    final = run.state()
    images = to_uint8(final.pixels)
    return SupportSet(
        images=images,
        labels=wanted if wanted.ndim == 1 else wanted.argmax(dim=1),
        soft_labels=label(images) if label else _answers(model, images, task, compute),
        multipliers=final.multipliers if anchors is None else (final.multipliers * anchors.units(wanted)).mean(dim=1),
        task=task,
        provenance=provenance,
    )


def _answers(model: nn.Module, images: Tensor, task: Task, compute: Compute) -> Tensor:
    with compute.running():
        return predict(model, images, task, batch_size=compute.chunk(task.image_size_px))


def _provenance(
    model: nn.Module, architecture: str, start: Start | None, seed: int, options: dict[str, Any]
) -> Provenance:
    return Provenance(
        teacher_architecture=architecture or type(model).__name__,
        teacher_sha256=model_digest(model),
        start="noise" if start is None else start.name,
        seed=seed,
        config=options,
        versions={"synthesis": str(ALGORITHM), "torch": str(torch.__version__), "numpy": numpy.__version__},
    )


def _show(run: PixelOptimiser, frames: Frames | None, ranks: Ranks) -> None:
    if frames is not None and run.iteration in frames.at:
        pixels = run.pixels()  # every rank gives its share
        if ranks.rank == 0:
            frames.take(run.iteration, to_uint8(pixels))


def _labels(task: Task, config: SynthesisConfig) -> Tensor:
    return torch.arange(task.classes).repeat_interleave(config.images_per_class)


def _checked(labels: Tensor, task: Task) -> Tensor:
    soft = labels.ndim == 2 and labels.is_floating_point() and labels.shape[1] == task.classes
    hard = labels.ndim == 1 and labels.dtype == torch.int64
    if not (soft or hard) or len(labels) == 0:
        raise DsvError(
            f"labels must be int64 classes or float probabilities of {task.classes} classes, "
            f"got {labels.dtype} of shape {tuple(labels.shape)}"
        )
    if hard:
        check_classes(labels, task)
    if soft and not (
        bool((labels >= 0).all()) and torch.allclose(labels.sum(dim=1), torch.ones(()).to(labels), atol=1e-3)
    ):
        raise DsvError("labels that are probabilities must be at least 0 and sum up to 1 in every row")
    return labels.clone()  # the set keeps them, whatever becomes of the caller's


def _identity(
    provenance: Provenance, task: Task, compute: Compute, ranks: Ranks, *, labels: Tensor, start: Start | None
) -> str:
    """What must be equal for a saved state to be a state of this run."""
    described = json.dumps([asdict(provenance), asdict(task), asdict(compute), ranks.count], sort_keys=True)
    digest = hashlib.sha256(described.encode())
    for tensor in (labels, start.images if start else None):
        digest.update(b"-" if tensor is None else tensor.numpy().tobytes())
    return digest.hexdigest()
