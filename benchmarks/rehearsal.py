"""New classes learnt beside old ones of which only a release is left, ours beside every rival:

    python -m benchmarks.rehearsal --data digits [--data-root DIR] [--teacher convnet:64] [--students convnet:64,...]

A teacher learns the first half of the classes; from its weights the product makes a release with every default. A
student then has all images of the other half and that release, or whatever its way takes instead. Rows go to
``docs/results/rehearsal.json`` as soon as they are there and are not computed twice; ``--table`` prints them.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.cifar import Images
from benchmarks.json_rows import read_rows, write_rows
from benchmarks.machine import this_machine
from benchmarks.rehearsal_halves import Halves
from benchmarks.rehearsal_ways import OF_THE_TEACHERS_ARCHITECTURE, WAYS
from client.data import open_split
from dsv import KNOWN_TASKS, accuracy
from protos.settings import IMAGEFOLDER


@dataclass(frozen=True)
class Row:
    """What one student reached; accuracies are shares of the test images."""

    data: str
    teacher: str
    teacher_accuracy: float
    per_class: int
    views: int
    steps: int
    way: str
    student: str
    seed: int
    every: float
    old: float
    new: float
    size_bytes: int
    machine: str


def load(data: str, root: str) -> Images:
    """Both splits of a data set."""
    task, tree = KNOWN_TASKS[data], bool(root) and (Path(root) / "train").is_dir()
    train, test = (open_split(IMAGEFOLDER if tree else data, root, split, task) for split in ("train", "test"))
    return Images(train.images(), train.labels, test.images(), test.labels)


def markdown(rows: Iterable[Row]) -> str:
    """A table: a line for every way and student, mean and deviation over the seeds in per cent."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row.way, row.student), []).append(row)
    lines = ["| way | student | all | old | new | bytes | seeds |", "|---|---|---|---|---|---|---|"]
    for (way, student), own in found.items():
        figures = " | ".join(_figure([getattr(row, name) for row in own]) for name in ("every", "old", "new"))
        size = f"{statistics.fmean(row.size_bytes for row in own):,.0f}"
        lines.append(f"| {way} | {student} | {figures} | {size} | {len(own)} |")
    return "\n".join(lines)


def _figure(values: list[float]) -> str:
    mean = f"{100 * statistics.fmean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


@click.command()
@click.option("--data", type=click.Choice(list(KNOWN_TASKS)), required=True)
@click.option("--data-root", default="", help="Folder of the data set.")
@click.option("--teacher", default="convnet:64", show_default=True, help="Architecture of the teacher.")
@click.option("--students", default="", help="Architectures; the teacher's own when empty.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--per-class", default=10, show_default=True)
@click.option("--steps", default=0, show_default=True, help="Of each training; 0: as many as suit.")
@click.option("--seeds", default="1,2,3", show_default=True, help="Of the students.")
@click.option("--ways", default="", help="Names separated by semicolons; all when empty.")
@click.option("--cache", type=click.Path(path_type=Path), default=Path("runs/rehearsal"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/results/rehearsal.json"), show_default=True)
@click.option("--table/--no-table", default=False, show_default=True, help="Print the table and compute nothing.")
def main(**o: Any) -> None:
    """Compute the rows that are missing and print the table."""
    data, task = o["data"], KNOWN_TASKS[o["data"]]
    if not o["table"]:
        cache = o["cache"] / f"{data}-{o['per_class']}"
        images = load(data, o["data_root"])
        halves = Halves(images, task, o["teacher"], o["per_class"], o["steps"], cache, o["device"])
        for seed in map(int, o["seeds"].split(",")):
            for student in (o["students"] or o["teacher"]).split(","):
                for way in filter(None, o["ways"].split(";")) if o["ways"] else WAYS:
                    if way in OF_THE_TEACHERS_ARCHITECTURE and student != o["teacher"]:
                        continue
                    _add(o["out"], halves, data=data, way=way, student=student, seed=seed)
    print(markdown(row for row in read_rows(Row, o["out"]) if row.data == data and row.teacher == o["teacher"]))


def _add(out: Path, halves: Halves, *, data: str, way: str, student: str, seed: int) -> None:
    wanted = (data, halves.architecture, halves.per_class, halves.steps, way, student, seed)
    if wanted in {(r.data, r.teacher, r.per_class, r.steps, r.way, r.student, r.seed) for r in read_rows(Row, out)}:
        return
    reached, size_bytes = WAYS[way](halves, student, seed)
    of_old = halves.images.test_labels < halves.old.classes
    teacher = accuracy(halves.teacher, halves.images.test[of_old], halves.images.test_labels[of_old], halves.old)
    views = halves.release.views
    figures = {name: round(value, 4) for name, value in asdict(reached).items()}
    row = Row(
        data=data,
        teacher=halves.architecture,
        teacher_accuracy=round(teacher, 4),
        per_class=halves.per_class,
        views=views.plan.count if views else 0,
        steps=halves.steps,
        way=way,
        student=student,
        seed=seed,
        size_bytes=size_bytes,
        machine=this_machine(halves.device),
        **figures,
    )
    print(f"{way}, {student}, seed {seed}: {reached.every:.1%} ({reached.old:.1%}, {reached.new:.1%})", file=sys.stderr)
    rows = [*read_rows(Row, out), row]  # read anew: another process may have added to it
    rows.sort(key=lambda r: (r.data, r.student, list(WAYS).index(r.way), r.seed))
    write_rows(out, rows)


if __name__ == "__main__":
    main()
