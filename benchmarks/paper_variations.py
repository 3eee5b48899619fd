"""One option changed at a time, of the synthesis, of the selection and of their students: why our figures differ from
the paper's; see ``paper.py``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from benchmarks.cifar import TASK
from benchmarks.paper_cells import Bench, Cells, Variant
from dsv import SelectionConfig, Start, synthesize

VARIATIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("real", {"image_step": 0.01}),
    ("real", {"image_step": 0.1}),
    ("noise", {"distance": "layer-cosine", "coarse_stages": 3, "total_variation_weight": 0.1}),
    ("other", {"distance": "layer-cosine", "image_step": 0.1}),
    ("other", {"image_step": 0.1, "iterations": 4}),
    ("real", {"iterations": 4}),
    ("real", {"distance": "layer-cosine"}),
    ("noise", {"distance": "layer-cosine"}),
    ("real", {"primal_weight": 1.0}),
    ("real", {"augmented_weight": 0.0}),
    ("noise", {"image_step": 0.1}),
    ("noise", {"distance": "relative-l2"}),
    ("noise", {"distance": "layer-cosine", "coarse_stages": 3, "total_variation_weight": 0.1, "iterations": 4}),
    ("real", {"iterations": 16}),
    ("other", {"iterations": 16}),
    ("noise", {"iterations": 16}),
    ("other", {"image_step": 0.1, "iterations": 16}),
    ("other", {"distance": "layer-cosine", "image_step": 0.1, "iterations": 16}),
)
"""Where the images start from, and the options changed; iterations as a factor of the run's own."""
RECIPES: tuple[dict[str, int], ...] = (
    {"steps": 5},
    {"learning_rate": 10},
    {"steps": 5, "learning_rate": 10},
    {"translate": 0, "crop": 0},
)
"""What a student's training has, as a factor of the run's own."""
SELECTIONS: tuple[tuple[Variant, dict[str, Any]], ...] = (
    ("plain", {"iterations": 10}),
    ("plain", {"distance": "mean-l1"}),
    ("plain", {"distance": "mean-l1", "iterations": 10}),
    ("plain", {"step": 4.0, "iterations": 10}),
    ("plain", {"iterations": 100}),
    ("rightly classified", {}),
    ("rightly classified", {"iterations": 10}),
    ("rightly classified", {"distance": "mean-l1"}),
    ("from random multipliers", {}),
    ("from random multipliers", {"iterations": 10}),
)
"""How a selection is set up, and the options that it has; passes as a factor of the run's own."""


def variation_cells(bench: Bench, cells: Cells, seed: int, starts: dict[str, Tensor]) -> None:
    """Accuracy of students with hard and with the teacher's soft labels, for every variation whose start is there.

    Args:
        starts: (10, 3, 32, 32) uint8 images to start from, by the names in ``VARIATIONS``; noise needs none.
    """
    teacher = bench.teacher(seed)

    def varied(start: str, changes: dict[str, Any]) -> dict[str, list[float]]:
        config = bench.synthesis(1)
        factor = changes.get("iterations", 1)
        config = dataclasses.replace(config, **{**changes, "iterations": config.iterations * factor})
        images = Start(start, starts[start]) if start in starts else None
        found = synthesize(teacher.model, TASK, config, seed=seed, start=images, compute=bench.compute)
        return {kind: bench.students(teacher, found.images, found.targets(kind)) for kind in ("hard", "soft")}

    for start, changes in VARIATIONS:
        if start == "noise" or start in starts:
            cells.fill(f"variation, from {start}, {_told(changes)}/1/{seed}", partial(varied, start, changes))


def recipe_cells(
    bench: Bench, cells: Cells, seed: int, count: int, sets: dict[str, Callable[[], tuple[Tensor, Tensor]]]
) -> None:
    """Accuracy of students that learn otherwise from the sets of both tables.

    Args:
        sets: by row, what makes (N, 3, 32, 32) uint8 images and (N,) int64 classes.
    """
    teacher = bench.teacher(seed)

    def taught(changes: dict[str, int], make: Callable[[], tuple[Tensor, Tensor]]) -> list[float]:
        images, labels = make()
        recipe = bench.recipe(len(images))
        changed = {name: type(getattr(recipe, name))(getattr(recipe, name) * by) for name, by in changes.items()}
        return bench.students(teacher, images, labels, dataclasses.replace(recipe, **changed))

    for changes in RECIPES:
        told = ", ".join(f"{name} x {by}" for name, by in changes.items())
        for row, make in sets.items():
            cells.fill(f"recipe, {told}, {row}/{count}/{seed}", partial(taught, changes, make))


def selection_cells(bench: Bench, cells: Cells, seed: int, count: int) -> None:
    """Accuracy of students of the images whose multipliers are largest when the selection runs otherwise."""
    teacher = bench.teacher(seed)

    def taught(variant: Variant, changes: dict[str, Any]) -> list[float]:
        passes = bench.settings.selection_iterations * changes.get("iterations", 1)
        found = bench.selection(teacher, seed, SelectionConfig(**{**changes, "iterations": passes}), variant)
        chosen = found.coreset(count)
        return bench.students(teacher, bench.images.train[chosen], found.labels[chosen])

    for variant, changes in SELECTIONS:
        told = ", ".join(filter(None, ("" if variant == "plain" else variant, _told(changes))))
        cells.fill(f"selection, {told}/{count}/{seed}", partial(taught, variant, changes))


def _told(changes: dict[str, Any]) -> str:
    """Options as a cell's name has them."""
    return ", ".join(f"{name} {'x ' if name == 'iterations' else ''}{value}" for name, value in changes.items())
