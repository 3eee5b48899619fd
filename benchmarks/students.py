"""Newcomers of the benchmarks: drawn, trained, compiled if asked for, and tested; several at once if asked for."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import cast

import torch
from torch import Tensor, nn

from dsv import ModelSpec, Targets, Task, TrainingConfig, accuracy, build_model, train


def student_accuracy(
    spec: ModelSpec,
    task: Task,
    images: Tensor,
    targets: Targets,
    config: TrainingConfig,
    *,
    test: tuple[Tensor, Tensor],
    weights_seed: int,
    training_seed: int,
    device: str,
    compiled: bool,
) -> float:
    """Test accuracy in [0, 1] of one fresh model that learned from a set; told on stderr too, since it may have taken
    an hour and others are waited for.

    Args:
        images: (N, C, H, W) uint8, what it learns from.
        targets: what it learns of them.
        test: (M, C, H, W) uint8 images and their (M,) int64 classes.
        weights_seed: of its first weights.
        training_seed: of its batches and augmentations.
        compiled: see ``trained_form``.
    """
    model = build_model(spec, seed=weights_seed, device=device)
    runs = trained_form(model, compiled=compiled)
    train(runs, images, targets, task, config, seed=training_seed)
    reached = accuracy(model, *test, task)
    print(f"a student, {spec}, of seed {training_seed}: {reached:.2%}", file=sys.stderr, flush=True)
    return reached


def all_at_once(ways: Sequence[Callable[[], float]], processes: int) -> list[float]:
    """What each of them returns, in their order; ``processes`` of them at a time, each in a process of its own, which
    on few cores is quicker than one with all of these."""
    if processes == 1:
        return [way() for way in ways]
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        return [future.result() for future in [pool.submit(way) for way in ways]]


def trained_form(model: nn.Module, *, compiled: bool) -> nn.Module:
    """What to hand to ``train``: the model itself, or one that shares its weights, channels last and compiled, which
    takes two thirds of a step's time on a CPU (ConvNet of width 128, 32 px)."""
    if not compiled:
        return model
    return cast(nn.Module, torch.compile(model.to(memory_format=torch.channels_last), dynamic=False))


def in_bfloat16(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """What answers in bfloat16 where that is safe: (N, C, H, W) normalised images to (N, K) float32 logits."""

    def logits_of(images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16):
            return cast(Tensor, model(images)).float()

    return logits_of
