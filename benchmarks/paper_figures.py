"""Figures 2, 4, 5 and 7 of the paper, as numbers and pictures; see ``paper.py``."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.cifar import TASK
from benchmarks.paper_cells import Bench, Cells, draw_set
from client.data import open_split
from dsv import (
    KNOWN_TASKS,
    TrainingConfig,
    accuracy,
    class_accuracies,
    class_sums,
    predict,
    rank_correlation,
    sheet,
    synthesize,
    train,
    write_picture,
)

FROM_NOISE: dict[str, Any] = {
    "iterations": 600,
    "distance": "layer-cosine",
    "coarse_stages": 3,
    "total_variation_weight": 0.1,
}
"""What makes DSVs from noise that can be looked at (docs/results.md), for Figure 7."""


def picture_path(out: Path, name: str, seed: int) -> Path:
    """Of a figure, beside the JSON and named after it and after the teacher, so that no other run's is replaced."""
    return out.with_name(f"{out.stem}-{name}-{seed}.png")


def figure_cells(bench: Bench, cells: Cells, seed: int, out: Path) -> None:
    """Figures 2, 5 and 7 of one teacher, at 1 image per class; pictures go beside the file ``out``."""
    teacher = bench.teacher(seed)

    def entropy() -> list[float]:
        curve: list[float] = []
        found = synthesize(
            teacher.model,
            TASK,
            bench.synthesis(1),
            seed=seed,
            compute=bench.compute,
            on_iteration=lambda done, terms: curve.append(float(terms.entropy)),
        )
        draw_set(bench, f"figure-2-{seed}", found)
        return [round(curve[(len(curve) - 1) * part // 10], 4) for part in range(11)]

    def correlation(test: bool) -> dict[str, Any]:
        seen = predict(teacher.model, bench.images.test, TASK)
        accuracies = class_accuracies(seen, bench.images.test_labels)
        chosen = bench.selection(teacher, seed, variant="of test images" if test else "plain")
        sums = class_sums(chosen.multipliers, chosen.labels, TASK.classes)
        return {
            "sum_of_lambda": [round(float(v), 4) for v in sums],
            "test_accuracy": [round(float(v), 4) for v in accuracies],
            "rank_correlation": round(rank_correlation(sums, accuracies), 3),
        }

    def ablation(name: str, change: dict[str, Any]) -> dict[str, Any]:
        config = dataclasses.replace(bench.synthesis(1), **change)
        found = synthesize(teacher.model, TASK, config, seed=seed, compute=bench.compute)
        write_picture(picture_path(out, f"figure-5-{name}", seed), sheet([found.images], headings=TASK.class_names))
        confidence = found.soft_labels[torch.arange(len(found)), found.labels].mean()
        return {
            "confidence": round(float(confidence), 4),
            "accuracy": bench.students(teacher, found.images, found.labels),
        }

    def beside() -> str:
        config = dataclasses.replace(bench.synthesis(1), **FROM_NOISE)
        made = synthesize(teacher.model, TASK, config, seed=seed, compute=bench.compute)
        chosen = bench.images.train[bench.selection(teacher, seed).coreset(1)]
        path = picture_path(out, "figure-7", seed)
        write_picture(path, sheet([made.images, chosen], names=("synthesised", "selected"), headings=TASK.class_names))
        return path.name

    cells.fill(f"figure 2a, entropy over the run/{seed}", entropy)
    cells.fill(f"figure 5, primal alone/{seed}", lambda: ablation("primal", {"stationarity_weight": 0.0}))
    cells.fill(f"figure 5, stationarity alone/{seed}", lambda: ablation("stationarity", {"primal_weight": 0.0}))
    cells.fill(f"figure 5, both/{seed}", lambda: ablation("both", {}))
    if bench.settings.selection_images:
        # Section 5.1 says that lambda was trained for every test image, Appendix E that training images were selected.
        cells.fill(f"figure 2b, sum of lambda and accuracy/{seed}", lambda: correlation(test=False))
        cells.fill(f"figure 2b, of test images/{seed}", lambda: correlation(test=True))
        cells.fill(f"figure 7/{seed}", beside)


def transfer_cell(bench: Bench, cells: Cells, seed: int, root: str, out: Path) -> None:
    """Figure 4: only the last layer is trained on another data set, and stationarity speaks of that layer alone.

    The paper goes to SVHN; here it is Fashion-MNIST, enlarged to 32 px and repeated over three channels.
    """

    def colour(images: Tensor) -> Tensor:
        larger = functional.interpolate(images.float(), TASK.image_size_px, mode="bilinear").round().to(torch.uint8)
        return larger.expand(-1, 3, -1, -1).contiguous()

    def transfer() -> dict[str, Any]:
        own = KNOWN_TASKS["fashionmnist"]
        task = dataclasses.replace(TASK, class_names=own.class_names)
        splits = [open_split("fashionmnist", root, split, own) for split in ("train", "test")]
        train_images = colour(splits[0].load(range(10_000)))
        teacher = bench.teacher(seed)
        model = copy.deepcopy(teacher.model).requires_grad_(False)
        model.classifier.requires_grad_(True)
        training = TrainingConfig(300, "adam", 1e-3, True, 5e-3, 100, translate=0.0, crop=0.0)
        train(model, train_images, splits[0].labels[:10_000], task, training, seed=seed)
        config = dataclasses.replace(bench.synthesis(1), stationary_parameters="classifier.*")
        found = synthesize(model, task, config, seed=seed, compute=bench.compute)
        path = picture_path(out, "figure-4-last-layer", seed)
        write_picture(path, sheet([found.images], headings=task.class_names))
        confidence = found.soft_labels[torch.arange(len(found)), found.labels].mean()
        reached = accuracy(model, colour(splits[1].load(range(2_000))), splits[1].labels[:2_000], task)
        return {"accuracy after transfer": round(reached, 4), "confidence": round(float(confidence), 4)}

    cells.fill(f"figure 4, last layer alone/{seed}", transfer)
