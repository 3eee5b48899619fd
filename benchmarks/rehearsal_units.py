"""In what units the answers of two models of different classes compare best:

    python -m benchmarks.rehearsal_units --data digits [--data-root DIR] [--students convnet:64,resnet18:16]

The halves of ``benchmarks.rehearsal``: a newcomer of the release and an expert of the own images answer side by side
for the test images of all classes, the larger answer is taken. Each one's logits are divided by their deviation, for
several choices of the pictures that it is taken of. Prints a Markdown table, in per cent.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor, nn

from benchmarks.rehearsal import load
from benchmarks.rehearsal_halves import Halves
from client.bootstrap import train_newcomer
from client.rehearsal import training_for
from dsv import KNOWN_TASKS, Task, from_uint8
from dsv.views import centred

_AT_ONCE, _SCALED_ON = 500, 1_000


def logits_of(model: nn.Module, normalised: Tensor) -> Tensor:
    """(N, k), less the mean of each row."""
    with torch.no_grad():
        return torch.cat([centred(model(part)) for part in torch.split(normalised, _AT_ONCE)])


def deviation(logits: Tensor) -> float:
    """Root of the mean square."""
    return float(logits.square().mean().sqrt())


def shares(halves: Halves, architecture: str, seed: int) -> dict[str, float]:
    """Share of the test images that the two get right, by the unit."""
    release, task = halves.release, halves.task
    views = release.views
    assert views is not None
    config = training_for(len(release), views, halves.steps)
    old = train_newcomer(architecture, release.images, views, release.task, config, seed=seed)
    new = halves.new_expert(architecture, seed)
    own = halves.own.images[:: max(1, len(halves.own.images) // _SCALED_ON)]
    dsvs, images = _normalised(release.images, task), _normalised(own, task)
    drawn = views.of(release.images, release.task).draw(torch.arange(min(views.plan.count, _SCALED_ON)))
    of_old, of_new = (
        {name: deviation(logits_of(model, shown)) for name, shown in (("dsv", dsvs), ("view", drawn), ("own", images))}
        for model in (old, new)
    )
    units = {
        "the other side's pictures (taken)": (of_old["own"], of_new["view"]),
        "the pictures of both sides": (math.hypot(of_old["own"], of_old["view"]), math.hypot(*_two(of_new))),
        "its own pictures: DSVs, images": (of_old["dsv"], of_new["own"]),
        "its own pictures: views, images": (of_old["view"], of_new["own"]),
        "one's own images": (of_old["own"], of_new["own"]),
        "the views": (of_old["view"], of_new["view"]),
        "none is divided by": (1.0, 1.0),
    }
    test = _normalised(halves.images.test, task)
    answers = [logits_of(model, test) for model in (old, new)]
    return {
        name: halves.tested(torch.cat([answers[0] / one, answers[1] / other], dim=1)).every
        for name, (one, other) in units.items()
    }


def _two(found: dict[str, float]) -> tuple[float, float]:
    return found["own"], found["view"]


def _normalised(images: Tensor, task: Task) -> Tensor:
    return from_uint8(images, task, dtype=torch.float32)


@click.command()
@click.option("--data", type=click.Choice(list(KNOWN_TASKS)), required=True)
@click.option("--data-root", default="", help="Folder of the data set.")
@click.option("--teacher", default="convnet:64", show_default=True, help="Architecture of the teacher.")
@click.option("--students", default="", help="Architectures of the two; the teacher's when empty.")
@click.option("--steps", default=0, show_default=True, help="Of each training; 0: as many as suit.")
@click.option("--seeds", default="1,2", show_default=True)
@click.option("--cache", type=click.Path(path_type=Path), default=Path("runs/rehearsal"), show_default=True)
def main(**o: Any) -> None:
    """Print the table: a line for every unit, mean over the seeds."""
    students, seeds = (o["students"] or o["teacher"]).split(","), [int(seed) for seed in o["seeds"].split(",")]
    cache = o["cache"] / f"{o['data']}-10"
    halves = Halves(load(o["data"], o["data_root"]), KNOWN_TASKS[o["data"]], o["teacher"], 10, o["steps"], cache)
    found = {student: [shares(halves, student, seed) for seed in seeds] for student in students}
    print(f"| deviation of a model's logits for | {' | '.join(students)} |\n|---|{'---|' * len(students)}")
    for name in found[students[0]][0]:
        means = [f"{100 * sum(one[name] for one in found[student]) / len(seeds):.1f}" for student in students]
        print(f"| {name} | {' | '.join(means)} |")


if __name__ == "__main__":
    main()
