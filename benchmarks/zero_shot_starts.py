"""Pictures that a server may use, for ``zero_shot_methods.py``: crops of public ones and dead leaves."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks import crops
from benchmarks.zero_shot_bench import Bench, Made, class_labels
from dsv import Start, dead_leaves_start, draw_dead_leaves, predict
from dsv.dead_leaves import POOL


def _crops(bench: Bench, count: int, seed: int) -> Tensor:
    """Of the public pictures, (count, C, H, W) uint8."""
    if bench.crops_folder is None:
        raise ValueError("public crops need --crops, a folder of public pictures")
    return crops.random_crops(bench.crops_folder, bench.trajectory.task, count, torch.Generator().manual_seed(seed))


def random_crops(bench: Bench, per_class: int, seed: int) -> Made:
    """Hard labels are what the teacher takes each crop for."""
    count = len(class_labels(bench, per_class))
    drawn = _crops(bench, count, seed)
    return Made(drawn, predict(bench.teacher.model, drawn, bench.trajectory.task).argmax(dim=1), "public", 0)


def best_crops(bench: Bench, per_class: int, seed: int) -> Made:
    """For every class the crops that the teacher is surest of, of as many as of dead leaves."""
    labels = class_labels(bench, per_class)
    pool = _crops(bench, max(POOL, 20 * len(labels)), seed)
    seen = predict(bench.teacher.model, pool, bench.trajectory.task)
    return Made(pool[seen.topk(per_class, dim=0).indices.T.flatten()], labels, "public", 0)


def leaves_start(bench: Bench, per_class: int, seed: int) -> Start:
    """The dead leaves that a synthesis of the product starts from."""
    return dead_leaves_start(bench.labeller.probabilities, bench.trajectory.task, per_class, seed=seed)


def random_leaves(bench: Bench, per_class: int, seed: int) -> Made:
    """Hard labels are what the teacher takes each picture for."""
    count = len(class_labels(bench, per_class))
    drawn = draw_dead_leaves(count, bench.trajectory.task, torch.Generator().manual_seed(seed))
    return Made(drawn, predict(bench.teacher.model, drawn, bench.trajectory.task).argmax(dim=1), "noise", 0)


def best_leaves(bench: Bench, per_class: int, seed: int) -> Made:
    """Those dead leaves as they are."""
    return Made(leaves_start(bench, per_class, seed).images, class_labels(bench, per_class), "noise", 0)


def public_start(bench: Bench, per_class: int, seed: int) -> Start:
    """The best crops, to start a synthesis from."""
    return Start("public-crops", best_crops(bench, per_class, seed).images)
