"""The paper's Tables 1 and 2 and Figures 2, 4, 5 and 7 on CIFAR-10:

    python -m benchmarks.paper --data-root DIR/cifar10 --cache runs/paper [--device cuda] [--per-class 1,10,50]

Resumable: every cell is written to ``docs/results/paper.json`` as soon as it is there, and never computed twice.
Teacher as in Appendix D (see ``cifar.py``). DSVs and students as in Appendix D: primal weight 2e-3, eta 5, Adam; hard
labels. What the paper leaves open is an option here, and stands in the file. The last rows are our own way, whose
DSVs see no image either; students by labelled views follow the product's recipe.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from benchmarks.cifar import TASK, TEACHER, Images, load_images
from benchmarks.crops import random_crops
from benchmarks.paper_cells import Bench, Cells, Settings, draw_set
from benchmarks.paper_figures import figure_cells, transfer_cell
from benchmarks.paper_variations import recipe_cells, selection_cells, variation_cells
from dsv import (
    Checkpointing,
    Compute,
    ModelSpec,
    Start,
    SupportSet,
    SynthesisConfig,
    accuracy,
    dead_leaves_start,
    newcomer_training,
    picture_paths,
    read_picture,
    synthesize,
)
from protos import artefact
from protos.settings import AUTO
from server.labeller import Labeller
from server.view_labels import plan_of

PAPER = {  # accuracy in percent at 1, 10, 50 images per class
    "table 1, random": (14.26, 30.08, 46.16),
    "table 1, largest lambda": (16.83, 33.69, 48.91),
    "table 2, from noise": (None, None, None),
    "table 2, from other images": (21.68, 30.35, 39.35),
    "table 2, from real images": (22.69, 37.90, 53.56),
    "ours, from dead leaves, hard labels": (None, None, None),
    "ours, from dead leaves, soft labels": (None, None, None),
}
PER_CLASS = (1, 10, 50)
Labelled = tuple[Tensor, Tensor]
"""(N, 3, 32, 32) uint8 and (N,) int64 classes."""


def random_images(images: Images, count: int, seed: int) -> Tensor:
    """Indices of ``count`` random training images of every class, sorted by class."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images.train_labels), generator=generator)
    return torch.cat([order[images.train_labels[order] == label][:count] for label in range(TASK.classes)])


def other_images(folder: Path, count: int) -> Tensor:
    """``count`` pictures of another data set, (count, 3, 32, 32) uint8: all that the folder has, in order of their
    paths, and random crops of them where these are too few."""
    pictures = torch.stack([read_picture(path, TASK) for path in picture_paths(folder)[:count]])
    if len(pictures) == count:
        return pictures
    crops = random_crops(folder, TASK, count - len(pictures), torch.Generator().manual_seed(0))
    return torch.cat([pictures, crops])


def one_label_each(found: SupportSet) -> Labelled:
    """Its images and the one class of each."""
    return found.images, found.labels


def teacher_accuracy(bench: Bench, seed: int, images: Tensor, labels: Tensor) -> float:
    """In percent, of (N, 3, 32, 32) uint8 images and their (N,) int64 classes."""
    return round(100 * accuracy(bench.teacher(seed).model, images, labels, TASK), 2)


def table_sets(bench: Bench, seed: int, count: int, other: Tensor | None) -> dict[str, Callable[[], Labelled]]:
    """What makes the set of each row of both tables, and ours, from one teacher, at ``count`` images per class."""
    teacher = bench.teacher(seed)
    images, labels = bench.images.train, bench.images.train_labels
    random = random_images(bench.images, count, seed)

    def real(chosen: Tensor) -> Labelled:
        return images[chosen], labels[chosen]

    def synthesised(name: str, start: Start | None) -> Labelled:
        def make(kept: Checkpointing) -> SupportSet:
            options = bench.synthesis(count)
            return synthesize(
                teacher.model, TASK, options, seed=seed, start=start, compute=bench.compute, checkpointing=kept
            )

        return one_label_each(kept_set(bench, f"{name}-{count}-{seed}", seed, make))

    sets: dict[str, Callable[[], Labelled]] = {
        "ours, from dead leaves, hard labels": lambda: one_label_each(our_set(bench, seed, count)),
        "table 1, random": lambda: real(random),
        "table 2, from noise": lambda: synthesised("noise", None),
        "table 2, from real images": lambda: synthesised("real", Start("random-real", images[random])),
    }
    if other is not None:
        start = Start("other", other[: count * TASK.classes])
        sets["table 2, from other images"] = lambda: synthesised("other", start)
    if bench.settings.selection_images:
        sets["table 1, largest lambda"] = lambda: real(bench.selection(teacher, seed).coreset(count))
    return sets


def table_cells(bench: Bench, cells: Cells, seed: int, count: int, other: Tensor | None) -> None:
    """One teacher's cells of both tables at ``count`` images per class, of the selection's options and of the students'
    recipe."""
    teacher, key = bench.teacher(seed), f"{count}/{seed}"
    sets = table_sets(bench, seed, count, other)

    def taught(make: Callable[[], Labelled]) -> list[float]:
        return bench.students(teacher, *make())

    for row, make in sets.items():
        cells.fill(f"{row}/{key}", partial(taught, make))

    def taught_softly() -> list[float]:
        ours = our_set(bench, seed, count)
        return bench.students(teacher, ours.images, ours.soft_labels)

    cells.fill(f"ours, from dead leaves, soft labels/{key}", taught_softly)
    recipe_cells(bench, cells, seed, count, sets)
    if bench.settings.selection_images:
        selection_cells(bench, cells, seed, count)


def view_cells(bench: Bench, cells: Cells, seed: int, count: int, *, steps: int, views: str, student: str) -> None:
    """Students that train from labelled views by the product's recipe: of our DSVs, and of random real images."""
    teacher = bench.teacher(seed)
    plan = plan_of(views, TASK, seed)
    assert plan is not None

    def taught(images: Tensor) -> list[float]:
        labelled = Labeller(teacher.model, TASK, bench.device).views(images, plan)
        spec = ModelSpec.parse(student, TASK)
        return bench.students(teacher, images, labelled, newcomer_training(steps, labelled), spec=spec)

    how = ("" if views == AUTO else f"{views} ") + "labelled views" + (f", {steps} steps" if steps else "")
    key = how + ("" if student == TEACHER else f", {student}") + f"/{count}/{seed}"
    random = random_images(bench.images, count, seed)
    cells.fill(f"ours, from dead leaves, {key}", lambda: taught(our_set(bench, seed, count).images))
    cells.fill(f"table 1, random, {key}", lambda: taught(bench.images.train[random]))


def our_set(bench: Bench, seed: int, count: int) -> SupportSet:
    """What the product makes of the teacher with its own options, in as many iterations as the other cells."""

    def make(kept: Checkpointing) -> SupportSet:
        teacher = bench.teacher(seed)
        labeller = Labeller(teacher.model, TASK, bench.device)
        start = dead_leaves_start(labeller.probabilities, TASK, count, seed=seed)
        config = SynthesisConfig(images_per_class=count, iterations=bench.settings.iterations)
        return synthesize(
            teacher.model, TASK, config, seed=seed, start=start, compute=bench.compute, checkpointing=kept
        )

    return kept_set(bench, f"ours-{count}-{seed}", seed, make)


def kept_set(bench: Bench, name: str, seed: int, make: Callable[[Checkpointing], SupportSet]) -> SupportSet:
    """A set that is made once for a teacher and the options of a synthesis, and drawn; cut off, it goes on."""
    s = bench.settings
    path = bench.cache / f"{name}-{bench.teacher_name(seed)}-{s.iterations}-{s.image_step}-{s.distance}.dsv"
    if not path.exists():
        kept = Checkpointing(path.with_suffix(".state"))
        found = make(kept)
        draw_set(bench, name, found)
        artefact.save(found, path)
        kept.clear()
    return artefact.load(path)


def markdown(cells: dict[str, Any], per_class: list[int]) -> str:
    """Our figures beside the paper's; mean and deviation over all students of all teachers."""
    lines = [
        "| row | " + " | ".join(f"{c} per class: ours / paper" for c in per_class) + " |",
        "|---" * (len(per_class) + 1) + "|",
    ]
    by_views = {name.split("/")[0]: (None, None, None) for name in cells if "labelled views" in name}
    for row, published in (PAPER | by_views).items():
        texts = []
        for count in per_class:
            values = [v for name, found in cells.items() if name.startswith(f"{row}/{count}/") for v in found]
            deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            ours = f"{statistics.fmean(values):.1f}{deviation} ({len(values)})" if values else "open"
            reference = published[PER_CLASS.index(count)] if count in PER_CLASS else None
            texts.append(f"{ours} / {reference if reference is not None else '-'}")
        lines.append(f"| {row} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


@click.command()
@click.option("--data-root", required=True, help="CIFAR-10 as an ImageFolder tree.")
@click.option("--other", type=click.Path(path_type=Path), help="Folder of other pictures to start from.")
@click.option("--fashion-root", default="", help="Fashion-MNIST's folder, for Figure 4.")
@click.option("--cache", type=click.Path(path_type=Path), default=Path("runs/paper"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/results/paper.json"), show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--seeds", default="0,1,2", show_default=True, help="Teachers.")
@click.option(
    "--teacher", type=click.Path(path_type=Path), help="A model file for the teachers' place; has a cache of its own."
)
@click.option("--per-class", default="1,10,50", show_default=True)
@click.option("--epochs", default=30, show_default=True)
@click.option("--iterations", default=2000, show_default=True)
@click.option("--image-step", default=0.01, show_default=True)
@click.option("--distance", default="mean-l1", show_default=True)
@click.option("--selection-images", default=50000, show_default=True, help="0 leaves the selection out.")
@click.option("--selection-iterations", default=10, show_default=True)
@click.option("--student-steps", default=2000, show_default=True)
@click.option("--student-rate", default=1e-4, show_default=True)
@click.option("--student-seeds", default=3, show_default=True)
@click.option("--view-steps", default="0", show_default=True, help="Of students from labelled views; 0: the product's.")
@click.option("--views", default=AUTO, show_default=True, help="How many the teacher labels; auto: the product's.")
@click.option("--student", default=TEACHER, show_default=True, help="What learns from labelled views.")
@click.option("--bfloat16-teacher/--float32-teacher", default=False, show_default=True)
@click.option("--overfitted-teacher/--decayed-teacher", default=False, show_default=True, help="See cifar.py.")
@click.option("--compiled/--no-compiled", default=False, show_default=True)
@click.option("--rows", default="*", show_default=True, help="To compute: patterns, by semicolons.")
def main(**o: Any) -> None:
    """Compute what is missing and print the table."""
    settings = Settings(**{field.name: o[field.name] for field in dataclasses.fields(Settings)})
    compute = Compute(device=o["device"], compiled=o["compiled"])
    bench = Bench(load_images(o["data_root"], o["cache"]), settings, o["device"], o["cache"], compute, o["teacher"])
    cells, per_class = Cells(o["out"], settings, o["rows"].split(";")), [int(c) for c in o["per_class"].split(",")]
    other = other_images(o["other"], max(per_class) * TASK.classes) if o["other"] else None
    for seed in (int(s) for s in o["seeds"].split(",")):
        found = partial(teacher_accuracy, bench, seed)
        cells.fill(f"teacher/{seed}", partial(found, bench.images.test, bench.images.test_labels))
        cells.fill(f"teacher, training images/{seed}", partial(found, bench.images.train, bench.images.train_labels))
        for count in per_class:
            table_cells(bench, cells, seed, count, other)
            for steps in filter(None, o["view_steps"].split(",")):
                view_cells(bench, cells, seed, count, steps=int(steps), views=o["views"], student=o["student"])
        figure_cells(bench, cells, seed, o["out"])
        if o["fashion_root"]:
            transfer_cell(bench, cells, seed, o["fashion_root"], o["out"])
        real = bench.images.train[random_images(bench.images, 1, seed)]
        variation_cells(bench, cells, seed, {"real": real} | ({} if other is None else {"other": other[:10]}))
    print(f"teacher {TEACHER}: {[v for n, v in cells.cells.items() if n.startswith('teacher/')]} % test accuracy\n")
    print(markdown(cells.cells, per_class))


if __name__ == "__main__":
    main()
