"""Figures 2, 5 and 7 of the paper, as numbers and pictures; see ``paper.py``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from benchmarks.cifar import TASK
from benchmarks.paper_cells import Bench, Cells, save_set
from deploy.inspect import contact_sheet
from deploy.sheet import sheet
from dsv import class_accuracies, class_sums, predict, rank_correlation, synthesize, write_picture


def figure_cells(bench: Bench, cells: Cells, seed: int, pictures: Path) -> None:
    """Figures 2, 5 and 7 of one teacher, at 10 images per class."""
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
        save_set(bench, f"figure-2-{seed}", found)
        return [round(curve[(len(curve) - 1) * part // 10], 4) for part in range(11)]

    def correlation() -> dict[str, Any]:
        seen = predict(teacher.model.to(bench.device), bench.images.test, TASK, device=bench.device)
        accuracies = class_accuracies(seen, bench.images.test_labels)
        chosen = bench.selection(teacher, seed)
        sums = class_sums(chosen.multipliers, chosen.labels, TASK.classes)
        return {
            "sum_of_lambda": [round(float(v), 4) for v in sums],
            "test_accuracy": [round(float(v), 4) for v in accuracies],
            "rank_correlation": round(rank_correlation(sums, accuracies), 3),
        }

    def ablation(name: str, change: dict[str, float]) -> dict[str, Any]:
        config = dataclasses.replace(bench.synthesis(1), **change)
        found = synthesize(teacher.model, TASK, config, seed=seed, compute=bench.compute)
        write_picture(pictures / f"figure-5-{name}.png", contact_sheet(found))
        confidence = found.soft_labels[torch.arange(len(found)), found.labels].mean()
        return {
            "confidence": round(float(confidence), 4),
            "accuracy": bench.students(teacher, found.images, found.labels),
        }

    cells.get(f"figure 2a, entropy over the run/{seed}", entropy)
    cells.get(f"figure 5, primal alone/{seed}", lambda: ablation("primal", {"stationarity_weight": 0.0}))
    cells.get(f"figure 5, stationarity alone/{seed}", lambda: ablation("stationarity", {"primal_weight": 0.0}))
    cells.get(f"figure 5, both/{seed}", lambda: ablation("both", {}))
    if bench.settings.selection_images:
        cells.get(f"figure 2b, sum of lambda and accuracy/{seed}", correlation)
        chosen = bench.images.train[bench.selection(teacher, seed).coreset(5)]
        write_picture(pictures / "figure-7-selected.png", sheet(chosen.split(5)))
