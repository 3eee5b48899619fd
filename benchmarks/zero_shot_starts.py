"""Pictures that a server may use, for ``zero_shot_methods.py``: crops of public ones and dead leaves."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.zero_shot_bench import Bench, Made, class_labels
from dsv import Start, dead_leaves_start, draw_dead_leaves, picture_paths, predict, read_picture
from dsv.dead_leaves import POOL


def _crops(bench: Bench, count: int, generator: torch.Generator) -> Tensor:
    """Random square crops, a quarter to the whole of the side, of the public pictures, (count, C, H, W) uint8."""
    if bench.crops_folder is None:
        raise ValueError("public crops need --crops, a folder of public pictures")
    task = bench.trajectory.task
    large = replace(task, image_size_px=max(128, task.image_size_px))
    pictures = torch.stack([read_picture(path, large) for path in picture_paths(bench.crops_folder)])
    crops = []
    for _ in range(count):
        picture = pictures[int(torch.randint(len(pictures), (1,), generator=generator))]
        side = int(large.image_size_px * float(0.25 + 0.75 * torch.rand(1, generator=generator)))
        room = large.image_size_px - side + 1
        top, left = (int(torch.randint(room, (1,), generator=generator)) for _ in range(2))
        crop = picture[None, :, top : top + side, left : left + side].float()
        crops.append(functional.interpolate(crop, task.image_size_px, mode="area").round().to(torch.uint8))
    return torch.cat(crops)


def random_crops(bench: Bench, per_class: int, seed: int) -> Made:
    """Hard labels are what the teacher takes each crop for."""
    count = len(class_labels(bench, per_class))
    drawn = _crops(bench, count, torch.Generator().manual_seed(seed))
    return Made(drawn, predict(bench.teacher.model, drawn, bench.trajectory.task).argmax(dim=1), "public", 0)


def best_crops(bench: Bench, per_class: int, seed: int) -> Made:
    """For every class the crops that the teacher is surest of, of as many as of dead leaves."""
    labels = class_labels(bench, per_class)
    pool = _crops(bench, max(POOL, 20 * len(labels)), torch.Generator().manual_seed(seed))
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
