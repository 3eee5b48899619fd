"""ImageNet scale, 224 x 224: what DeepKKT draws from a ResNet-50. One contact sheet and one JSON.

    python -m benchmarks.imagenet --weights resnet50.safetensors --images DIR --device cuda --out runs/imagenet

``--weights`` is any safetensors file with torchvision's ResNet-50 weights (its plain state dict, 1,000 classes);
``--images`` a tree with one folder of pictures per class and classes.txt, the 1,000 class names in label order. From
the preset ``imagenet``: one image from noise for every class of ``--classes``, images between the first two of them
(paper, Fig. 6 middle), and two real pictures turned into the first and second of them (Fig. 6 bottom).

ResNet-50 is a batch-norm network. It runs in eval mode: the running statistics that came with the weights are
constants, and no statistics of the candidates enter, so that one image's gradient does not depend on its neighbours.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from benchmarks.machine import this_machine
from deploy.arguments import class_indices
from deploy.options import options_of
from deploy.plain_weights import load_plain, read_class_names
from dsv import (
    PRESETS,
    Checkpointing,
    DsvError,
    KktTerms,
    ModelSpec,
    SupportSet,
    SynthesisConfig,
    Task,
    edit,
    interpolate,
    picture_paths,
    predict,
    read_picture,
    sheet,
    synthesize,
    write_picture,
)
from protos.settings import RunSettings

CLASSES = "goldfish,monarch,American_lobster,harp,balloon,Japanese_spaniel,volcano,pineapple,castle,school_bus"
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
EDITS = 2
EDIT_STEP = 0.01
"""Of pixels; at the preset's, which finds shapes in noise, nothing of the pictures is left."""
ARCHITECTURE = "resnet50"


@dataclass
class Piece:
    """One synthesis: its set, and what it took since it was last cut off."""

    found: SupportSet
    seconds_per_iteration: float | None
    losses: list[dict[str, float]]


def imagenet_task(names: Path) -> Task:
    """ImageNet-1k as torchvision's models see it."""
    return Task(3, 224, read_class_names(names), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def timed(name: str, make: Callable[..., SupportSet], config: SynthesisConfig, out: Path, **options: Any) -> Piece:
    """What ``make`` makes, with its losses at some fifty places and its time; its state is kept in ``out``."""
    losses: list[dict[str, float]] = []
    every = max(1, config.iterations // 50)
    started, first = time.perf_counter(), 0

    def report(done: int, terms: KktTerms) -> None:
        nonlocal first
        first = first or done
        if done % every == 0 or done in (1, config.iterations):
            losses.append({"iteration": done, **{term: float(value) for term, value in vars(terms).items()}})
            took = (time.perf_counter() - started) / (done - first + 1)
            print(f"{name} {done}/{config.iterations} loss {losses[-1]['total']:.3f}, {took:.2f} s each", flush=True)

    state = Checkpointing(out / f".{name.replace(' ', '-')}.state")  # kept to the end: the next piece may be cut off
    found = make(config=config, checkpointing=state, on_iteration=report, **options)
    seconds = (time.perf_counter() - started) / (config.iterations - first + 1) if first else None
    return Piece(found, seconds, losses)


def described(piece: Piece, targets: list[int]) -> dict[str, Any]:
    """A piece for the JSON; ``targets`` are the classes whose probability is told of every image."""
    names = piece.found.task.class_names
    images = [
        {
            "label": names[int(label)],
            "P(label)": round(float(row[label]), 4),
            **{f"P({names[target]})": round(float(row[target]), 4) for target in targets},
            "most_probable": names[int(row.argmax())],
            "P(most_probable)": round(float(row.max()), 4),
            "multiplier": round(float(multiplier), 4),
        }
        for label, row, multiplier in zip(
            piece.found.labels, piece.found.soft_labels, piece.found.multipliers, strict=True
        )
    ]
    return {"seconds_per_iteration": piece.seconds_per_iteration, "losses": piece.losses, "images": images}


def real_pictures(folder: Path, task: Task) -> tuple[list[Path], Tensor]:
    """Pictures from all over the tree."""
    paths = picture_paths(folder)
    if len(paths) < EDITS:
        raise DsvError(f"{folder} has {len(paths)} pictures, {EDITS} are needed; name another folder")
    chosen = [paths[(2 * number + 1) * len(paths) // (2 * EDITS)] for number in range(EDITS)]
    return chosen, torch.stack([read_picture(path, task) for path in chosen])


def edited(
    paths: list[Path], pictures: Tensor, targets: list[int], config: SynthesisConfig, out: Path, **shared: Any
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Each picture beside its edit, (2 * N, C, H, W) uint8, and what there is to tell of each."""
    task = shared["task"]
    before = predict(shared["model"], pictures, task)
    row, told = [], []
    for path, picture, old, target in zip(paths, pictures, before, targets, strict=True):
        piece = timed(f"edit {path.name}", edit, config, out, images=picture[None], target=target, **shared)
        row += [picture, piece.found.images[0]]
        seen = int(old.argmax())
        started = {
            "picture": path.name,
            "most_probable_before": task.class_names[seen],
            "P(most_probable_before)_before": round(float(old[seen]), 4),
            "P(label)_before": round(float(old[target]), 4),
        }
        told.append({**started, **described(piece, [seen])})
    return torch.stack(row), told


@click.command(help=(__doc__ or "").split("\n", maxsplit=1)[0])
@click.option("--weights", required=True, type=click.Path(path_type=Path), help="torchvision's ResNet-50, safetensors.")
@click.option("--images", required=True, type=click.Path(path_type=Path), help="Folder of pictures and classes.txt.")
@click.option("--classes", default=CLASSES, show_default=True, help="Names or indices; the first two serve every row.")
@options_of(RunSettings, only=("device", "micro_batch", "precision", "compiled", "seed"))
@click.option(
    "--iterations", default=PRESETS["imagenet"].iterations, show_default=True, help="Optimiser steps of each."
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write, and to go on in.")
def main(*, weights: Path, images: Path, classes: str, iterations: int, out: Path, **values: Any) -> None:
    """Everything, in the order of the sheet's rows."""
    settings, config = RunSettings(**values), replace(PRESETS["imagenet"], iterations=iterations)
    task, compute = imagenet_task(images / "classes.txt"), settings.compute()
    labels = class_indices(classes, task)
    if len(labels) < 2:
        raise DsvError(f"at least two classes are needed, got {classes!r}")
    paths, pictures = real_pictures(images, task)
    model = compute.place(load_plain(weights, ModelSpec.parse(ARCHITECTURE, task)))
    out.mkdir(parents=True, exist_ok=True)
    shared = {"model": model, "task": task, "seed": settings.seed, "compute": compute}
    shared["teacher_architecture"] = ARCHITECTURE
    noise = timed("from noise", synthesize, config, out, labels=torch.tensor(labels), **shared)
    report: dict[str, Any] = {
        "settings": {
            **asdict(config),
            **asdict(compute),
            "seed": settings.seed,
            "architecture": ARCHITECTURE,
            "edit_image_step": EDIT_STEP,
        },
        "machine": this_machine(compute.device),
        "sheet_rows": ["from noise", "interpolation", "picture, its edit, picture, its edit"],
        "from_noise": described(noise, []),
    }
    rows = [noise.found.images]
    write(out, rows, report)  # after each, for it may take hours
    pair = (labels[0], labels[1])
    between = timed("interpolation", interpolate, config, out, between=pair, weights=WEIGHTS, **shared)
    report["interpolation"] = {"weights": WEIGHTS, **described(between, labels[:2])}
    rows.append(between.found.images)
    write(out, rows, report)
    gentle = replace(config, image_step=EDIT_STEP)
    turned, report["edits"] = edited(paths, pictures, labels[:EDITS], gentle, out, **shared)
    write(out, [*rows, turned], report)
    for state in out.glob(".*.state"):
        state.unlink()


def write(out: Path, rows: list[Tensor], report: dict[str, Any]) -> None:
    """The sheet of ``rows``, (n, C, H, W) uint8 each, and the figures."""
    write_picture(out / "sheet.jpg", sheet(rows))
    (out / "imagenet.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
