"""Accuracy of newcomers against bytes, for images per class and image encodings; and the rivals in the same encodings.

    dsv demo
    python -m benchmarks.encodings --teacher runs/latest/teacher.safetensors --data digits --cache DIR [--labels soft]
    python -m benchmarks.encodings --teacher FILE --data imagefolder --data-root DIR/cifar10 --name cifar10 --cache DIR

Every cell is kept in docs/results/encodings.json as soon as it is there; the same command again goes on. The figure is
drawn by ``benchmarks/encodings_figure.py``. Sizes are those of whole release files: header, multipliers and labels
included. A newcomer has the teacher's architecture and trains as ``dsv bootstrap`` does, on what the decoder gives and
the labelled views that a release has by default, or the soft labels, as from a release made with ``--views 0``.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from client.bootstrap import train_newcomer
from client.data import ImageSplit, open_split
from deploy.rivals import random_per_class
from dsv import (
    DsvError,
    SupportSet,
    SynthesisConfig,
    ViewPlan,
    accuracy,
    model_digest,
    newcomer_training,
    synthesize,
    usual_views,
)
from protos import artefact
from protos.checkpoint import Checkpoint, load_checkpoint
from protos.settings import AUTO
from server.labeller import Labeller
from server.start_images import starts_of

RESULTS = Path("docs/results/encodings.json")
COUNTS = (1, 2, 5, 10, 20, 50)
ENCODINGS = ("raw", "2-bit", "4-bit", "1-bit", "avif:50", "webp:50", "3-bit")
SAME_PIXELS = ("png", "webp")
"""Lossless: the same pixels as raw, so the sizes alone are of interest."""
SEEDS = (1, 2, 3)


Cells = dict[str, Any]
Keep = Callable[[str, Callable[[], dict[str, Any]]], None]


@dataclass(frozen=True)
class Plan:
    """Which cells are wanted."""

    counts: tuple[int, ...]
    encodings: tuple[str, ...]

    def cells(self) -> Iterator[tuple[str, str, int]]:
        """Source, encoding, images per class."""
        decisive = [("dsv", "raw"), ("dsv", "2-bit"), ("real", "raw"), ("real", "2-bit")]
        wanted = [pair for pair in decisive if pair[1] in self.encodings]
        wanted += [("dsv", name) for name in (*self.encodings, *SAME_PIXELS) if ("dsv", name) not in wanted]
        return ((source, encoding, count) for source, encoding in wanted for count in self.counts)


@dataclass(frozen=True)
class Bench:
    """What every cell needs."""

    teacher: Checkpoint
    train: ImageSplit
    test_images: Tensor
    test_labels: Tensor
    plan: ViewPlan | None  # of labelled views; soft labels when None
    cache: Path

    @cached_property
    def labeller(self) -> Labeller:
        """The teacher as one."""
        return Labeller.of(self.teacher, [], "cpu")

    def synthesised(self, count: int) -> SupportSet:
        """The default DSVs, made once."""
        path = self.cache / f"{model_digest(self.teacher.model)[:12]}-{count}.dsv"
        if not path.exists():
            self.cache.mkdir(parents=True, exist_ok=True)
            found = synthesize(
                self.teacher.model,
                self.teacher.task,
                SynthesisConfig(images_per_class=count),
                seed=0,
                start=starts_of(AUTO, self.teacher.task, (count,), seed=0, label=self.labeller.probabilities)[count],
                teacher_architecture=str(self.teacher.spec),
            )
            path.write_bytes(artefact.encode(found))
        return artefact.load(path)

    def real(self, like: SupportSet, count: int, seed: int) -> SupportSet:
        """As many random training images of every class, with the teacher's soft labels."""
        chosen = random_per_class(self.train.labels, self.teacher.task, count, seed)
        images = self.train.load(chosen)
        soft = self.labeller.probabilities(images)
        return replace(like, images=images, labels=self.train.labels[torch.tensor(chosen)], soft_labels=soft)

    def encoded(self, support_set: SupportSet, encoding: str) -> bytes:
        """The release file, labelled for the pixels that it gives back."""
        views = partial(self.labeller.views, plan=self.plan) if self.plan else None
        return artefact.encode(support_set, encoding, relabel=self.labeller.probabilities, label_views=views)

    def newcomer(self, content: bytes, seed: int) -> float:
        """Test accuracy in percent of a fresh model, trained from a release file."""
        got, task = artefact.decode(content), self.teacher.task
        targets = got.targets()
        training = newcomer_training(targets=targets)
        model = train_newcomer(str(self.teacher.spec), got.images, targets, task, training, seed=seed)
        return round(100 * accuracy(model, self.test_images, self.test_labels, task), 2)


def cells(bench: Bench, plan: Plan, stored: Cells, keep: Keep) -> None:
    """Every cell that is not stored yet; the ones that decide come first."""
    for source, encoding, count in plan.cells():
        name = f"{source} {encoding} {count}"
        if name in stored:
            continue
        made = bench.synthesised(count)
        sets = [made] if source == "dsv" else [bench.real(made, count, seed) for seed in SEEDS]
        contents = [bench.encoded(one, encoding) for one in sets]
        keep(name, partial(_cell, bench, contents, trained=encoding not in SAME_PIXELS))


def _cell(bench: Bench, contents: list[bytes], *, trained: bool) -> dict[str, Any]:
    sizes = {
        "bytes": round(statistics.fmean(len(content) for content in contents)),
        "image_bytes": round(statistics.fmean(_image_bytes(content) for content in contents)),
    }
    if not trained:
        return sizes
    each = contents * (len(SEEDS) // len(contents))
    accuracies = [bench.newcomer(content, seed) for content, seed in zip(each, SEEDS, strict=True)]
    mean, std = round(statistics.fmean(accuracies), 2), round(statistics.stdev(accuracies), 2)
    return {**sizes, "accuracies": accuracies, "mean": mean, "std": std}


def _image_bytes(content: bytes) -> int:
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    begin, end = header["images"]["data_offsets"]
    return int(end - begin)


def weights(bench: Bench) -> dict[str, Any]:
    """The rival that just sends the teacher: accuracy, and bytes of its weights at 4, 2 and 1 byte each."""
    numbers = sum(tensor.numel() for tensor in bench.teacher.model.state_dict().values())
    score = accuracy(bench.teacher.model, bench.test_images, bench.test_labels, bench.teacher.task)
    return {"accuracy": round(100 * score, 2), "fp32": 4 * numbers, "fp16": 2 * numbers, "int8": numbers}


@click.command()
@click.option("--teacher", required=True, type=click.Path(path_type=Path))
@click.option("--data", default="digits", show_default=True)
@click.option("--data-root", default="")
@click.option("--name", default="", help="What the results are filed under, with the labels; the data's when empty.")
@click.option("--labels", type=click.Choice(["view", "soft"]), default="view", show_default=True)
@click.option("--cache", required=True, type=click.Path(path_type=Path), help="Folder for the DSVs.")
@click.option("--counts", default=",".join(map(str, COUNTS)), show_default=True)
@click.option("--encodings", default=",".join(ENCODINGS), show_default=True)
def main(teacher: Path, counts: str, encodings: str, labels: str, **where: Any) -> None:
    """Measure one data set."""
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(teacher)
    data, root = where["data"], where["data_root"]
    train, test = (open_split(data, root, split, checkpoint.task) for split in ("train", "test"))
    name = f"{where['name'] or data}, {labels} labels"
    views = usual_views(checkpoint.task) if labels == "view" else None
    bench = Bench(checkpoint, train, test.images(), test.labels, views, where["cache"])
    digest = model_digest(checkpoint.model)
    part = _stored().get(name) or {
        "teacher": str(checkpoint.spec),
        "teacher_sha256": digest,
        "weights": weights(bench),
        "cells": {},
    }
    if part.get("teacher_sha256", digest) != digest:
        raise DsvError(f"what is filed under {name!r} is of another teacher; give another --name")

    def keep(cell: str, compute: Callable[[], dict[str, Any]]) -> None:
        began = time.perf_counter()
        part["cells"][cell] = compute()
        print(f"{cell}: {part['cells'][cell]} ({time.perf_counter() - began:.0f} s)", file=sys.stderr, flush=True)
        # read anew: another data set may be at it too
        RESULTS.write_text(json.dumps({**_stored(), name: part}, indent=1) + "\n")

    plan = Plan(tuple(int(count) for count in counts.split(",")), tuple(encodings.split(",")))
    cells(bench, plan, part["cells"], keep)


def _stored() -> dict[str, Any]:
    return dict(json.loads(RESULTS.read_text())) if RESULTS.exists() else {}


if __name__ == "__main__":
    main()
