"""What the cells of ``paper.py`` share: settings, results on disk, teachers, students and selections."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.cifar import TASK, Images, paper_teacher
from benchmarks.students import student_accuracy
from dsv import (
    PRESETS,
    Checkpointing,
    Compute,
    ModelSpec,
    Selection,
    SelectionConfig,
    SupportSet,
    SynthesisConfig,
    Targets,
    TrainingConfig,
    contact_sheet,
    model_digest,
    predict,
    select,
    write_picture,
)
from protos.checkpoint import Checkpoint, load_checkpoint

Variant = Literal["plain", "rightly classified", "from random multipliers", "of test images"]
"""How a selection is set up: of all images and from equal multipliers, or otherwise."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a cell depends on beside its name; a change of it makes all cells anew."""

    epochs: int
    iterations: int
    image_step: float
    distance: str
    selection_images: int
    selection_iterations: int
    student_steps: int
    student_rate: float
    student_seeds: int
    bfloat16_teacher: bool
    overfitted_teacher: bool


class Cells:
    """Results by name, on disk after each.

    Args:
        path: of the JSON file.
        settings: cells of other ones are made anew.
        rows: shell patterns, one of which a name must fit for its cell to be computed.
    """

    def __init__(self, path: Path, settings: Settings, rows: Sequence[str] = ("*",)) -> None:
        self._path, self._rows = path, rows
        described = dataclasses.asdict(settings)
        stored = json.loads(path.read_text()) if path.exists() else {}
        self.cells: dict[str, Any] = stored.get("cells", {}) if stored.get("settings") == described else {}
        self._settings = described

    def wants(self, name: str) -> bool:
        """Whether a row of that name was asked for."""
        return any(fnmatchcase(name, pattern) for pattern in self._rows)

    def fill(self, name: str, compute: Callable[[], Any]) -> None:
        """Compute the cell when it is wanted and not there."""
        if name not in self.cells and self.wants(name):
            started = time.perf_counter()
            self.cells[name] = compute()
            print(f"{name}: {self.cells[name]} ({time.perf_counter() - started:.0f} s)", file=sys.stderr, flush=True)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps({"settings": self._settings, "cells": self.cells}, indent=1) + "\n")


@dataclasses.dataclass(frozen=True)
class Bench:
    """What every cell needs."""

    images: Images
    settings: Settings
    device: str
    cache: Path
    compute: Compute
    teacher_file: Path | None = None

    def teacher(self, seed: int) -> Checkpoint:
        """The paper's teacher, or the one that was named, on the device."""
        found = self._trained(seed) if self.teacher_file is None else load_checkpoint(self.teacher_file)
        found.model.to(self.device)
        return found

    def _trained(self, seed: int) -> Checkpoint:
        s = self.settings
        return paper_teacher(
            self.images,
            self.cache,
            seed=seed,
            epochs=s.epochs,
            device=self.device,
            bfloat16=s.bfloat16_teacher,
            compiled=self.compute.compiled,
            overfitted=s.overfitted_teacher,
        )

    def teacher_name(self, seed: int) -> str:
        """What tells this teacher from any other of the same seed in a cache."""
        return model_digest(self.teacher(seed).model)[:12]

    def students(
        self,
        teacher: Checkpoint,
        images: Tensor,
        labels: Targets,
        config: TrainingConfig | None = None,
        *,
        spec: ModelSpec | None = None,
    ) -> list[float]:
        """Test accuracy in percent of fresh models; by default the teacher's architecture and the paper's recipe."""
        config = config or self.recipe(len(images))
        found = [
            student_accuracy(
                *(spec or teacher.spec, TASK, images, labels, config),
                test=(self.images.test, self.images.test_labels),
                weights_seed=1000 + seed,
                training_seed=seed,
                device=self.device,
                compiled=self.compute.compiled,
            )
            for seed in range(self.settings.student_seeds)
        ]
        return [round(100 * reached, 2) for reached in found]

    def recipe(self, images: int) -> TrainingConfig:
        """How a student trains from so many images with one label each: the paper's optimiser and rate."""
        s = self.settings
        return TrainingConfig(s.student_steps, "adam", s.student_rate, False, 0.0, min(100, images))

    def synthesis(self, count: int) -> SynthesisConfig:
        """The paper's options at ``count`` images per class."""
        s = self.settings
        return dataclasses.replace(
            PRESETS["paper-cifar"],
            images_per_class=count,
            iterations=s.iterations,
            image_step=s.image_step,
            distance=s.distance,
        )

    def selection(
        self, teacher: Checkpoint, seed: int, config: SelectionConfig | None = None, variant: Variant = "plain"
    ) -> Selection:
        """Multipliers of ``selection_images`` training (or test) images, by the run's own number of passes if not
        said; of those that are not among the candidates: 0."""
        config = config or SelectionConfig(iterations=self.settings.selection_iterations)
        told = f"{self.settings.selection_images}-{config.iterations}-{config.distance}-{config.step}-{variant}"
        path = self.cache / f"selection-{seed}-{self.teacher_name(seed)}-{told.replace(' ', '-')}.pt"
        of_test = variant == "of test images"
        images = self.images.test if of_test else self.images.train
        labels = self.images.test_labels if of_test else self.images.train_labels
        if not path.exists():
            generator = torch.Generator().manual_seed(0)
            chosen = torch.randperm(len(labels), generator=generator)[: self.settings.selection_images]
            if variant == "rightly classified":
                chosen = chosen[predict(teacher.model, images[chosen], TASK).argmax(dim=1) == labels[chosen]]
            kept = Checkpointing(path.with_suffix(".state"))
            found = select(
                teacher.model,
                lambda indices: images[chosen[list(indices)]],
                labels[chosen],
                TASK,
                config,
                start=torch.rand(len(chosen), generator=generator) if variant == "from random multipliers" else None,
                compute=dataclasses.replace(self.compute, micro_batch=100),
                checkpointing=kept,
                on_iteration=lambda done, d: print(f"selection {done}: distance {d:.4f}", file=sys.stderr, flush=True),
            )
            full = torch.zeros(len(labels))
            full[chosen] = found.multipliers
            torch.save({"multipliers": full, "distances": found.distances}, path)
            kept.clear()
        stored = torch.load(path, weights_only=True)
        return Selection(stored["multipliers"], labels, TASK.classes, stored["distances"])


def draw_set(bench: Bench, name: str, found: SupportSet) -> None:
    """Keep a set's contact sheet for the figures."""
    write_picture(bench.cache / f"{name}.png", contact_sheet(found))
