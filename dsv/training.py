"""One training loop for every classifier: on a device's own images and on a downloaded DSV set alike."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy
import torch
from torch import Tensor, nn
from torch.nn import functional

from dsv.augmentation import Augmentation
from dsv.errors import DsvError
from dsv.parameters import start_training
from dsv.pixels import from_uint8
from dsv.sgd import Sgd
from dsv.task import Task


@dataclass(frozen=True)
class TrainingConfig:
    """How a classifier is trained.

    Args:
        steps: optimiser steps in all; at least 1.
        optimiser: ``sgd`` (momentum 0.9), ``adam`` or ``adamw``.
        learning_rate: at the first step.
        cosine: whether the rate falls to 0 along a cosine, or stays.
        weight_decay: L2 inside the gradient (SGD, Adam), or AdamW's decoupled decay.
        batch_size: images a step, taken from an endless row of shuffled passes over the data. A smaller set is a batch
            of its own; one below ``SMALLEST_BATCH`` is in it several times, each time augmented anew.
        translate, crop: of ``Augmentation``; mirroring follows the task.
        mixup: alpha of the Beta distribution that pairs of images and labels are mixed with (Zhang et al.,
            arXiv:1710.09412); 0 turns it off.
        bfloat16: whether the model runs in bfloat16 where that is safe (torch's autocast); weights stay float32.
    """

    steps: int
    optimiser: str
    learning_rate: float
    cosine: bool
    weight_decay: float
    batch_size: int
    translate: float = 0.125
    crop: float = 0.2
    mixup: float = 0.0
    bfloat16: bool = False


NEWCOMER_STEPS = 500

SMALLEST_BATCH = 8
"""Batch norm needs more than one value of a channel, and a mean that is worth something."""


def newcomer_training(steps: int = NEWCOMER_STEPS) -> TrainingConfig:
    """How a model is trained from a few images a class; measured in docs/zero-shot.md."""
    return TrainingConfig(
        steps=steps,
        optimiser="adamw",
        learning_rate=0.005,
        cosine=True,
        weight_decay=5e-4,
        batch_size=24,
        mixup=0.4,
    )


def train(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    task: Task,
    config: TrainingConfig,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    on_step: Callable[[int, float], None] | None = None,
) -> float:
    """Train ``model`` in place, those parameters that require a gradient, and leave it in eval mode.

    Args:
        model: (N, C, H, W) normalised float to (N, K) logits.
        images: (N, C, H, W) uint8 on the CPU.
        targets: (N,) int64 classes or (N, K) float probabilities.
        seed: of the order of the images and the augmentation.
        device: where the model is and the batches go.
        on_step: called with the number of steps done and the loss of the last one.

    Returns:
        The mean loss of the last tenth of the steps.

    Raises:
        DsvError: no images, or a loss that is not finite.
    """
    if len(images) == 0:
        raise DsvError("there are no images to train on")
    generator = torch.Generator().manual_seed(seed)
    augment = Augmentation(translate=config.translate, crop=config.crop, mirror=0.5 if task.mirror else 0.0)
    probabilities = functional.one_hot(targets, task.classes).float() if targets.ndim == 1 else targets.float()
    optimiser = _optimiser(model, config)
    start_training(model)
    losses: list[float] = []
    order = torch.empty(0, dtype=torch.int64)
    size = min(config.batch_size, max(len(images), SMALLEST_BATCH))
    for step in range(config.steps):
        if config.cosine:
            for group in optimiser.param_groups:
                group["lr"] = config.learning_rate * 0.5 * (1 + math.cos(math.pi * step / config.steps))
        while len(order) < size:
            order = torch.cat([order, torch.randperm(len(images), generator=generator)])
        chosen, order = order[:size], order[size:]
        batch = augment(from_uint8(images[chosen], task, device=device, dtype=torch.float32), generator)
        labels = probabilities[chosen].to(device)
        if config.mixup > 0:
            batch, labels = _mixed(batch, labels, config.mixup, generator)
        optimiser.zero_grad()
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=config.bfloat16):
            loss = functional.cross_entropy(model(batch), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise DsvError(f"training diverged at step {step + 1} of {config.steps}; lower the learning rate")
        if on_step is not None:
            on_step(step + 1, losses[-1])
    model.eval()
    tail = losses[-max(1, len(losses) // 10) :]
    return sum(tail) / len(tail)


def _optimiser(model: nn.Module, config: TrainingConfig) -> Sgd | torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    rate, decay = config.learning_rate, config.weight_decay
    if config.optimiser == "sgd":
        return Sgd(parameters, learning_rate=rate, weight_decay=decay)
    if config.optimiser == "adam":
        return torch.optim.Adam(parameters, lr=rate, weight_decay=decay, fused=True)
    if config.optimiser == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, fused=True)
    raise DsvError(f"unknown optimiser {config.optimiser!r}; choose sgd, adam or adamw")


def _mixed(batch: Tensor, labels: Tensor, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mixup: each image and label blended with another one of the batch."""
    seed = int(torch.randint(2**31, (1,), generator=generator))
    share = torch.from_numpy(numpy.random.default_rng(seed).beta(alpha, alpha, len(batch))).to(batch)
    partner = torch.randperm(len(batch), generator=generator).to(batch.device)
    blended = share.view(-1, 1, 1, 1) * batch + (1 - share.view(-1, 1, 1, 1)) * batch[partner]
    return blended, share.view(-1, 1) * labels + (1 - share.view(-1, 1)) * labels[partner]
