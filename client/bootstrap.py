"""A newcomer: from a DSV set to a model of its own, of any architecture, without raw data."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from dsv import (
    ModelSpec,
    Targets,
    Task,
    TrainingConfig,
    build_model,
    check_fits,
    train,
)


def train_newcomer(
    architecture: str,
    images: Tensor,
    targets: Targets,
    task: Task,
    config: TrainingConfig,
    *,
    seed: int,
    device: str = "cpu",
    on_step: Callable[[int, float], None] | None = None,
) -> nn.Module:
    """A fresh model of ``architecture`` trained on a small set.

    Args:
        architecture: as ``ModelSpec.parse`` reads it.
        images: (N, C, H, W) uint8.
        targets: (N,) int64, (N, K) float probabilities, or labelled views of the images.

    Raises:
        DsvError: unknown architecture, or one that does not fit the task.
    """
    model = build_model(ModelSpec.parse(architecture, task), seed=seed, device=device)
    model.eval()
    check_fits(model, task)
    train(model, images, targets, task, config, seed=seed, on_step=on_step)
    return model
