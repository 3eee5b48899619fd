"""What a newcomer learns from a few images per class, ours beside every rival on the same federation:

    python -m benchmarks.zero_shot --federation digits --cache runs/zero-shot [--data-root DIR] [--crops DIR]
        [--per-class 1,10] [--methods "random real;DSV, end point"] [--students convnet:64,resnet18:16] [--device cuda]

One recipe for every row, ``dsv.newcomer_training``, ``--student-steps`` long, the same seeds; hard, soft and views'
labels alike, which are the same teacher's for all. Rows go to ``docs/results/zero_shot.json`` as soon as they are there
and are not computed twice, whatever the options that they do not name (iterations, seeds, test images): with others of
these give another ``--out``. ``--table`` prints those of a federation as Markdown.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from benchmarks.students import all_at_once, in_bfloat16, student_accuracy
from benchmarks.zero_shot_bench import Bench, Made
from benchmarks.zero_shot_federations import FEDERATIONS, load_images
from benchmarks.zero_shot_methods import make, methods_of
from benchmarks.zero_shot_table import Row, Students, Table, markdown
from deploy.quantised import FLOAT16, FLOAT32, INT8, sent_as
from dsv import (
    Ensemble,
    LabelledViews,
    ModelSpec,
    Provenance,
    SupportSet,
    Targets,
    accuracy,
    build_model,
    label_views,
    model_digest,
    newcomer_training,
    predict,
    share_correct,
)
from protos import artefact
from protos.settings import AUTO
from server.labeller import Labeller
from server.view_labels import plan_of

UNTRAINED, VIEW = "untrained", "view"


def trained(
    bench: Bench, images: Tensor, targets: Targets, architecture: str, students: Students
) -> tuple[float, float]:
    """Mean and deviation of the students' test accuracy."""
    task = bench.trajectory.task
    config = dataclasses.replace(newcomer_training(students.steps), bfloat16=bench.bfloat16)
    every = -(-len(bench.images.test) // students.test_images)  # the first ones may be of a few classes
    ways = [
        partial(
            student_accuracy,
            *(ModelSpec.parse(architecture, task), task, images, targets, config),
            test=(bench.images.test[::every], bench.images.test_labels[::every]),
            weights_seed=seed,
            training_seed=seed,
            device=bench.device,
            compiled=bench.compute.compiled,
        )
        for seed in range(1, students.seeds + 1)
    ]
    found = all_at_once(ways, students.processes)
    return round(statistics.fmean(found), 4), round(statistics.stdev(found), 4) if len(found) > 1 else 0.0


def targets_of(bench: Bench, made: Made, labels: str) -> Targets:
    """What students are trained towards; every method's images are labelled alike."""
    if labels == "ensemble":
        return bench.labeller.probabilities(made.images)
    if labels == VIEW:
        assert bench.views is not None
        model = bench.labeller.model
        logits_of = in_bfloat16(model) if bench.bfloat16 else model
        return label_views(logits_of, made.images, bench.trajectory.task, bench.views, device=bench.device)
    return made.labels if labels == "hard" else predict(bench.teacher.model, made.images, bench.trajectory.task)


def release_bytes(bench: Bench, made: Made, targets: Targets) -> int:
    """Size of the set as a release of ours, soft labels included: the same file format for every method."""
    teacher = bench.teacher
    soft = predict(teacher.model, made.images, teacher.task)
    provenance = Provenance(str(teacher.spec), model_digest(teacher.model), made.start, 0)
    support_set = SupportSet(made.images, made.labels, soft, torch.ones(len(made.labels)), teacher.task, provenance)
    if isinstance(targets, LabelledViews):
        support_set = dataclasses.replace(support_set, views=targets)
    return len(artefact.encode(support_set))


def fixed_rows(bench: Bench, federation: str, students: Students) -> list[Row]:
    """Rows without images: students as they are drawn, and the teacher itself at several precisions."""
    images, task, teacher = bench.images, bench.trajectory.task, bench.teacher
    base = _row(bench, federation, UNTRAINED, students)
    rows = []
    for architecture in students.architectures:
        spec, seeds = ModelSpec.parse(architecture, task), range(1, students.seeds + 1)
        drawn = [build_model(spec, seed=seed, device=bench.device) for seed in seeds]
        found = [accuracy(model.eval(), images.test, images.test_labels, task) for model in drawn]
        deviation = statistics.stdev(found) if len(found) > 1 else 0.0
        rows.append(
            dataclasses.replace(
                base,
                student=architecture,
                accuracy_mean=round(statistics.fmean(found), 4),
                accuracy_std=round(deviation, 4),
            )
        )
    for precision in (FLOAT32, FLOAT16, INT8):
        sent = sent_as(teacher.model, precision)
        reached = accuracy(sent.model, images.test, images.test_labels, task)
        rows.append(
            dataclasses.replace(
                base,
                method=f"teacher's weights, {precision}",
                student=str(teacher.spec),
                student_steps=0,
                accuracy_mean=round(reached, 4),
                release_bytes=sent.size_bytes,
            )
        )
    return [*rows, *_ensemble_rows(bench, base)] if bench.trajectory.one_shot else rows


def _ensemble_rows(bench: Bench, base: Row) -> list[Row]:
    """All clients' models, for whoever can run them: their mean, and freed of each client's shares of the classes."""
    teacher, images = bench.teacher, bench.images
    plain = Labeller(Ensemble([client.model for client in bench.clients]), teacher.task, bench.device)
    named = {"mean of the clients' weights": plain, "ensemble of the clients' weights": bench.labeller}
    return [
        dataclasses.replace(
            base,
            method=name,
            student=str(teacher.spec),
            student_steps=0,
            accuracy_mean=round(share_correct(labeller.probabilities(images.test), images.test_labels), 4),
            release_bytes=sent_as(teacher.model, FLOAT32).size_bytes * len(bench.clients),
        )
        for name, labeller in named.items()
    ]


def method_rows(
    bench: Bench, federation: str, method: str, per_class: int, students: Students, *, kinds: list[str]
) -> list[Row]:
    """Make one method's set and train every student on it, with each kind of labels."""
    made, seconds = make(bench, method, per_class, seed=0)
    base = dataclasses.replace(
        _row(bench, federation, method, students),
        images_per_class=per_class,
        start=made.start,
        synthesis_s=round(seconds, 1),
        seen_real_images=made.seen_real_images,
        warmup=newcomer_training().warmup,
    )
    rows = []
    for labels in kinds:
        targets = targets_of(bench, made, labels)
        size_bytes = release_bytes(bench, made, targets)
        for architecture in students.architectures:
            mean, deviation = trained(bench, made.images, targets, architecture, students)
            rows.append(
                dataclasses.replace(
                    base,
                    labels=labels,
                    student=architecture,
                    accuracy_mean=mean,
                    accuracy_std=deviation,
                    release_bytes=size_bytes,
                    views=targets.plan.count if isinstance(targets, LabelledViews) else 0,
                )
            )
            told = f"{method}, {per_class}/class, {labels}, {architecture}: {mean:.1%} ± {deviation:.1%}"
            print(told, file=sys.stderr, flush=True)
    return rows


def _label_kinds(bench: Bench) -> list[str]:
    return ["hard", "soft", *(["ensemble"] if bench.trajectory.one_shot else []), *([VIEW] if bench.views else [])]


def _row(bench: Bench, federation: str, method: str, students: Students) -> Row:
    """A row with what all of them share."""
    teacher, reached = bench.teacher, bench.teacher_accuracy
    data = FEDERATIONS[federation].settings.data
    return Row(
        federation, method, data, str(teacher.spec), round(reached, 4), 0, "-", "-", "-", students.steps, 0.0, 0.0, 0,
        0.0, 0, bfloat16=bench.bfloat16,
    )  # fmt: skip


@click.command()
@click.option("--federation", type=click.Choice(list(FEDERATIONS)), required=True)
@click.option("--data-root", default="", help="Folder of the data set.")
@click.option("--crops", type=click.Path(path_type=Path), help="Folder of public pictures.")
@click.option("--cache", type=click.Path(path_type=Path), default=Path("runs/zero-shot"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/results/zero_shot.json"), show_default=True)
@click.option("--methods", default="", help="Names separated by semicolons; all that the federation permits.")
@click.option("--per-class", default="1,10", show_default=True)
@click.option("--students", default="", help="Architectures; the teacher's own when empty.")
@click.option("--student-seeds", default=3, show_default=True)
@click.option("--processes", default=1, show_default=True, help="Students that train at the same time.")
@click.option("--student-steps", default=newcomer_training().steps, show_default=True)
@click.option("--test-images", default=10_000, show_default=True, help="At most so many test images, evenly spaced.")
@click.option("--iterations", default=300, show_default=True, help="Of a synthesis from the teacher.")
@click.option("--rival-iterations", default=300, show_default=True, help="Of rivals that see real images.")
@click.option("--selection-images", default=0, show_default=True, help="That a selection looks at; 0: all.")
@click.option("--labels", default="", help="Of hard, soft, ensemble, view; all that there are when empty.")
@click.option("--views", default=AUTO, show_default=True, help="Views that the teacher labels, as in dsv simulate.")
@click.option(
    "--compiled/--no-compiled", default=False, show_default=True, help="By torch.compile: syntheses and students."
)
@click.option("--bfloat16/--float32", default=False, show_default=True, help="Of trainings and of the labels of views.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--table/--no-table", default=False, show_default=True, help="Print the table and compute nothing.")
def main(**o: Any) -> None:
    """Compute the rows that are missing and print the table."""
    table, name = Table(o["out"]), o["federation"]
    if not o["table"]:
        images = load_images(FEDERATIONS[name], o["data_root"], o["cache"])
        views = plan_of(o["views"], FEDERATIONS[name].settings.task(), seed=0)
        chosen = {n: o[n] for n in ("compiled", "bfloat16", "iterations", "rival_iterations", "selection_images")}
        bench = Bench.of(name, images, o["cache"], o["device"], crops_folder=o["crops"], views=views, **chosen)
        methods = methods_of(bench, o["methods"])
        architectures = tuple(filter(None, o["students"].split(","))) or (str(bench.trajectory.spec),)
        kinds = list(filter(None, o["labels"].split(","))) or _label_kinds(bench)
        students = Students(architectures, o["student_seeds"], o["student_steps"], o["test_images"], o["processes"])
        if table.missing(name, UNTRAINED, 0, students, ["-"], bfloat16=bench.bfloat16):
            table.add(fixed_rows(bench, name, students))
        for method in methods:
            for per_class in (int(count) for count in o["per_class"].split(",")):
                missing = table.missing(
                    *(name, method, per_class, students, kinds),
                    views=views.count if views else 0,
                    warmup=newcomer_training().warmup,
                    bfloat16=bench.bfloat16,
                )
                if missing:
                    table.add(method_rows(bench, name, method, per_class, students, kinds=missing))
                else:
                    print(f"{method}, {per_class}/class: in {o['out']} already", file=sys.stderr, flush=True)
    print(markdown(table.rows, name))


if __name__ == "__main__":
    main()
