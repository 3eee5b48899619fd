"""One training loop for every classifier: on a device's own images and on a downloaded DSV set alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dsv.augmentation import Augmentation
from dsv.device import device_of
from dsv.errors import DsvError, differentiable
from dsv.lessons import Lesson, LessonLoss, images_lesson, views_lesson
from dsv.optimisers import Adam, Sgd
from dsv.parameters import start_training
from dsv.task import Task
from dsv.views import LabelledViews, Targets

OPTIMISERS = ("sgd", "adam", "adamw")


@dataclass(frozen=True)
class TrainingConfig:
    """How a classifier is trained.

    Args:
        steps: optimiser steps in all; at least 1.
        optimiser: ``sgd`` (momentum 0.9), ``adam`` or ``adamw``.
        learning_rate: the highest.
        cosine: whether the rate falls to 0 along a cosine, or stays.
        weight_decay: L2 inside the gradient (SGD, Adam), or AdamW's decoupled decay.
        batch_size: images a step, taken from an endless row of shuffled passes over the data. A smaller set is a batch
            of its own; one of less than 8 is in it several times, each time augmented anew.
        translate, crop: of ``Augmentation``; mirroring follows the task.
        mixup: alpha of the Beta distribution that pairs of images and labels are mixed with (Zhang et al.,
            arXiv:1710.09412); 0 turns it off.
        bfloat16: whether the model runs in bfloat16 where that is safe (torch's autocast); weights stay float32.
        warmup: share of the steps, 0 to 1, during which the rate rises evenly from 0 (Goyal et al., arXiv:1706.02677).
        full_rate_fan_in: a network with a layer before its logits that sums up more inputs than this trains at a rate
            that is smaller in proportion, as wide ones must (Yang et al., arXiv:2203.03466); 0: none does.

    Raises:
        DsvError: a value is out of its range, or the optimiser is unknown.
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
    warmup: float = 0.0
    full_rate_fan_in: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise DsvError(f"a training needs at least 1 step of 1 image, got {self.steps} of {self.batch_size}")
        if self.optimiser not in OPTIMISERS:
            raise DsvError(f"unknown optimiser {self.optimiser!r}; choose one of: {', '.join(OPTIMISERS)}")
        if not (0 <= self.learning_rate < math.inf and 0 <= self.weight_decay < math.inf):
            raise DsvError(
                "a learning rate and a weight decay must be finite and at least 0, got "
                f"{self.learning_rate} and {self.weight_decay}"
            )
        if not (0 <= self.mixup < math.inf and self.full_rate_fan_in >= 0):
            raise DsvError("mixup and full_rate_fan_in must be at least 0")
        if not all(0 <= share <= 1 for share in (self.translate, self.crop, self.warmup)):
            raise DsvError("translate, crop and warmup are shares, from 0 to 1")

    def rate_at(self, step: int) -> float:
        """The learning rate of the step of that number, 0 to ``steps - 1``."""
        falls = 0.5 * (1 + math.cos(math.pi * step / self.steps)) if self.cosine else 1.0
        rising_steps = self.warmup * self.steps
        rises = (step + 1) / rising_steps if step + 1 < rising_steps else 1.0
        return self.learning_rate * falls * rises

    def augmentation(self, task: Task) -> Augmentation:
        """What is done to images that have one label each."""
        return Augmentation(translate=self.translate, crop=self.crop, mirror=0.5 if task.mirror else 0.0)

    def suited_to(self, model: nn.Module, classes: int) -> TrainingConfig:
        """The same with the rate that suits the model's widest layer, see ``full_rate_fan_in``.

        Args:
            classes: number of logits; the layer that makes them does not count.
        """
        layers = [p for p in model.parameters() if p.ndim > 1 and len(p) > 1]  # a position embedding is of one row
        of_logits = next((p for p in reversed(layers) if len(p) == classes), None)
        transposed = {m.weight: m.groups for m in model.modules() if isinstance(m, nn.modules.conv._ConvTransposeNd)}
        hidden = [p for p in layers if p.requires_grad and p is not of_logits]
        widest = max((p[:, 0].numel() // transposed[p] if p in transposed else p[0].numel() for p in hidden), default=0)
        if not self.full_rate_fan_in or widest <= self.full_rate_fan_in:
            return self
        return replace(self, learning_rate=self.learning_rate * self.full_rate_fan_in / widest)


NEWCOMER_STEPS, VIEW_STEPS = 500, 750
LONG_STEPS = 1_000
"""From here on a smaller rate is as good for a ConvNet, and better for a deep network."""
NEWCOMER_WARMUP = 0.05
"""Without it a deep network loses its way in its first steps; measured in docs/zero-shot.md."""
NEWCOMER_FAN_IN = 9 * 128
"""Of the networks that the rates were found on: ConvNet-128, ResNet-18 of width 16; measured likewise."""


def newcomer_training(steps: int = 0, targets: Targets | None = None) -> TrainingConfig:
    """How a model is trained from a few images a class; measured in docs/zero-shot.md.

    Args:
        steps: 0 takes ``NEWCOMER_STEPS``; from labelled views, of which there is more to learn, ``VIEW_STEPS`` or as
            many as it takes to see each of them twice.
        targets: what it will be trained towards, where that is known.

    Raises:
        DsvError: fewer steps than none.
    """
    if steps < 0:
        raise DsvError(f"the steps of a newcomer must be at least 1, or 0 for as many as fit, got {steps}")
    batch_size = 24
    if isinstance(targets, LabelledViews):
        steps = steps or max(VIEW_STEPS, 2 * targets.plan.count // batch_size)
    steps = steps or NEWCOMER_STEPS
    return TrainingConfig(
        steps=steps,
        optimiser="adamw",
        learning_rate=0.007 if steps < LONG_STEPS else 0.005,
        cosine=True,
        weight_decay=5e-4,
        batch_size=batch_size,
        mixup=0.4,
        warmup=NEWCOMER_WARMUP,
        full_rate_fan_in=NEWCOMER_FAN_IN,
    )


def train(
    model: nn.Module,
    images: Tensor,
    targets: Targets,
    task: Task,
    config: TrainingConfig,
    *,
    seed: int,
    on_step: Callable[[int, float], None] | None = None,
) -> float:
    """Train ``model`` in place, those parameters that require a gradient, and leave it in eval mode.

    Args:
        model: (N, C, H, W) normalised float to (N, K) logits; it is trained where it is.
        images: (N, C, H, W) uint8 on the CPU.
        targets: (N,) int64 classes or (N, K) float probabilities; or labelled views of the images, which are neither
            augmented nor mixed again, with the loss of ``LabelledViews``.
        seed: of the order of the images and the augmentation.
        on_step: called with the number of steps done and the loss of the last one.

    Returns:
        The mean loss of the last tenth of the steps.

    Raises:
        DsvError: no images, no parameter that requires a gradient, views that are not of these images, or a loss that
            is not finite.
    """
    generator, device = torch.Generator().manual_seed(seed), device_of(model)
    if isinstance(targets, LabelledViews):
        lesson = views_lesson(images, targets, task, batch_size=config.batch_size, generator=generator, device=device)
    else:
        lesson = images_lesson(
            images,
            targets,
            task,
            batch_size=config.batch_size,
            augment=config.augmentation(task),
            mixup=config.mixup,
            generator=generator,
            device=device,
        )
    return teach(model, [lesson], config.suited_to(model, task.classes), on_step=on_step)


def teach(
    model: nn.Module,
    lessons: Sequence[Lesson],
    config: TrainingConfig,
    *,
    on_step: Callable[[int, float], None] | None = None,
) -> float:
    """Train ``model`` in place on a batch of every lesson at once, and leave it in eval mode.

    Args:
        model: (N, C, H, W) normalised float to (N, K) logits.
        lessons: at least one; their losses are added up. All batches of a step go through the model together, so that
            a batch norm sees one distribution.
        config: read for the optimiser, the rates and the steps alone.
        on_step: called with the number of steps done and the loss of the last one.

    Returns:
        The mean loss of the last tenth of the steps.

    Raises:
        DsvError: no parameter that requires a gradient, or a loss that is not finite.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise DsvError("no parameter of the model requires a gradient, so there is nothing to train")
    optimiser = _optimiser(model, config)
    start_training(model)
    losses: list[float] = []
    for step in range(config.steps):
        optimiser.learning_rate = config.rate_at(step)
        optimiser.zero_grad()
        with differentiable(), torch.enable_grad():
            loss = _loss_of(model, [(next(lesson.batches), lesson.loss) for lesson in lessons], config)
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


def _loss_of(
    model: nn.Module, drawn: Sequence[tuple[tuple[Tensor, Tensor], LessonLoss]], config: TrainingConfig
) -> Tensor:
    images = [batch for (batch, _), _ in drawn]
    with torch.autocast(images[0].device.type, torch.bfloat16, enabled=config.bfloat16):
        logits = model(images[0] if len(images) == 1 else torch.cat(images))
        parts = torch.split(logits, [len(batch) for batch in images])
        losses = [loss_of(part, wanted) for part, ((_, wanted), loss_of) in zip(parts, drawn, strict=True)]
        return torch.stack(losses).sum() if len(losses) > 1 else losses[0]


def _optimiser(model: nn.Module, config: TrainingConfig) -> Sgd | Adam:
    parameters = [p for p in model.parameters() if p.requires_grad]
    rate, decay = config.learning_rate, config.weight_decay
    if config.optimiser == "sgd":
        return Sgd(parameters, learning_rate=rate, weight_decay=decay)
    decoupled = config.optimiser == "adamw"
    return Adam(parameters, learning_rate=rate, weight_decay=decay, decoupled=decoupled, fused=True)
