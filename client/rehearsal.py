"""A device learns classes of its own beside a release's. Everything happens where the images are; nothing leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from client.bootstrap import train_newcomer
from dsv import (
    Expert,
    LabelledViews,
    ModelSpec,
    SupportSet,
    Targets,
    Task,
    TrainingConfig,
    build_model,
    check_fits,
    consolidate,
    joint_task,
    newcomer_training,
)

PASSES = 10
"""How often an expert sees each of its images, at least."""
REMEMBERING, LEARNING, JOINING = "old classes", "new classes", "both together"

OnStep = Callable[[str, int, int, float], None]
"""Told which of the three trainings, steps done, steps in all, and the loss."""


@dataclass(frozen=True)
class Own:
    """Images of this device, of classes that the release does not have.

    Args:
        images: (N, C, S, S) uint8.
        labels: (N,) int64.
        task: their classes; all else is the release's.
    """

    images: Tensor
    labels: Tensor
    task: Task


def rehearse(
    release: SupportSet,
    own: Own,
    architecture: str,
    *,
    labels: str = "",
    steps: int = 0,
    seed: int,
    device: str = "cpu",
    on_step: OnStep | None = None,
) -> tuple[nn.Module, Task]:
    """A model for the release's classes and one's own: two experts are trained, and brought together in a third model.

    Args:
        architecture: of all three, as ``ModelSpec.parse`` reads it.
        labels: of the release, as ``SupportSet.targets``.
        steps: of each training; 0: as many as suit what it learns from, see ``training_for`` and ``joining_for``.
        on_step: for progress.

    Returns:
        The model in eval mode, and its task: the release's classes first.

    Raises:
        DsvError: classes that the release has too, labels that it does not have, an architecture that is unknown or
            does not fit.
    """
    joint, targets = joint_task([release.task, own.task]), release.targets(labels)
    model = build_model(ModelSpec.parse(architecture, joint), seed=seed, device=device)
    check_fits(model.eval(), joint)  # before two trainings

    def expert(name: str, images: Tensor, wanted: Targets, task: Task) -> Expert:
        config = training_for(len(images), wanted, steps)
        told = _teller(on_step, name, config.steps)
        trained = train_newcomer(architecture, images, wanted, task, config, seed=seed, device=device, on_step=told)
        return Expert(trained, task, images, wanted if isinstance(wanted, LabelledViews) else None)

    experts = [
        expert(REMEMBERING, release.images, targets, release.task),
        expert(LEARNING, own.images, own.labels, own.task),
    ]
    config = joining_for(len(own.images), targets, steps)
    consolidate(model, experts, config, seed=seed, on_step=_teller(on_step, JOINING, config.steps))
    return model, joint


def training_for(images: int, targets: Targets, steps: int) -> TrainingConfig:
    """How an expert is trained: as a newcomer, with ``PASSES`` over images at least unless ``steps`` says otherwise."""
    return _seeing(0 if isinstance(targets, LabelledViews) else PASSES * images, targets, steps)


def joining_for(images: int, targets: Targets, steps: int) -> TrainingConfig:
    """How the third model is trained: as a newcomer, with one pass over one's own ``images`` at least."""
    return _seeing(images, targets, steps)


def _seeing(least: int, targets: Targets, steps: int) -> TrainingConfig:
    """A newcomer's training that draws so many images at least, unless ``steps`` says otherwise."""
    usual = newcomer_training(steps, targets)
    return usual if steps else newcomer_training(max(usual.steps, -(-least // usual.batch_size)), targets)


def _teller(on_step: OnStep | None, name: str, steps: int) -> Callable[[int, float], None] | None:
    return None if on_step is None else lambda done, loss: on_step(name, done, steps, loss)
