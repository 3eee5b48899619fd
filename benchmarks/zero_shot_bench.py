"""What the methods of ``zero_shot.py`` share: what they may use, and what they make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.zero_shot_federations import Images, Trajectory, federate, folder_of
from benchmarks.zero_shot_rivals import RealData
from dsv import Compute, ViewPlan, accuracy
from protos.checkpoint import Checkpoint
from server.labeller import Labeller


@dataclass(frozen=True)
class Bench:
    """What a method may use; what it looks at of it stands in its row. Sets that were made are kept in ``folder``; a
    selection looks at ``selection_images`` training images (0: at all)."""

    trajectory: Trajectory
    folder: Path
    images: Images
    device: str
    iterations: int
    rival_iterations: int
    crops_folder: Path | None = None
    selection_images: int = 0
    views: ViewPlan | None = None
    compiled: bool = False
    bfloat16: bool = False

    @classmethod
    def of(
        cls, name: str, images: Images, cache: Path, device: str, *, compiled: bool, bfloat16: bool, **more: Any
    ) -> Bench:
        """The bench of a federation, which is trained where ``cache`` lacks it.

        Args:
            more: the other fields, by their names.
        """
        trajectory = federate(name, images, cache, device, compiled=compiled, bfloat16=bfloat16)
        folder = folder_of(name, cache, bfloat16=bfloat16) / "sets"
        return cls(trajectory, folder, images, device=device, compiled=compiled, bfloat16=bfloat16, **more)

    @property
    def compute(self) -> Compute:
        """How syntheses and students run; compiled they round otherwise, and are faster."""
        return Compute(self.device, compiled=self.compiled)

    @property
    def teacher(self) -> Checkpoint:
        """The global model after the last round, on the device."""
        found = self.trajectory.checkpoint(self.trajectory.rounds[-1])
        found.model.to(self.device)
        return found

    @cached_property
    def teacher_accuracy(self) -> float:
        """Share of all test images."""
        teacher = self.teacher
        return accuracy(teacher.model, self.images.test, self.images.test_labels, teacher.task)

    @property
    def labeller(self) -> Labeller:
        """As in the product: the teacher, and where clients uploaded once, all of them."""
        return Labeller.of(self.teacher, self.clients if self.trajectory.one_shot else [], self.device)

    @property
    def clients(self) -> list[Checkpoint]:
        """Every client's own model after the last round, and how many images it was trained on."""
        trajectory = self.trajectory
        pairs = zip(trajectory.clients[-1], trajectory.counts, strict=True)
        return [replace(trajectory.checkpoint(state), examples=count) for state, count in pairs]

    @property
    def real(self) -> RealData:
        """For methods that see real images."""
        return RealData(self.images, self.trajectory.task, self.device)


@dataclass(frozen=True)
class Made:
    """A method's set: (N, C, H, W) uint8 and (N,) int64; what it started from, how many real images it looked at."""

    images: Tensor
    labels: Tensor
    start: str
    seen_real_images: int


Method = Callable[[Bench, int, int], Made]
"""From bench, images per class and seed."""


def class_labels(bench: Bench, per_class: int) -> Tensor:
    """(classes * per_class,) int64, sorted."""
    return torch.arange(bench.trajectory.task.classes).repeat_interleave(per_class)
