"""Newcomers and their rivals, trained and tested in the run that they are reported in."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from concurrent.futures import as_completed
from dataclasses import dataclass

import torch
from torch import Tensor

from client.bootstrap import newcomer_training, train_newcomer
from client.data import ImageSplit
from client.download import Download
from deploy.options import HarnessSettings
from deploy.result import NewcomerRow, RivalRow
from deploy.workers import workers
from dsv import ModelSpec, Task, accuracy, build_model, noise_pixels, predict, to_uint8
from protos import artefact
from protos.checkpoint import Checkpoint

Note = Callable[[int, int, str], None]
"""Called with trainings done, trainings in all, and a word on the last one."""


@dataclass(frozen=True)
class Bench:
    """What every training of one measurement shares."""

    teacher: Checkpoint
    train: ImageSplit
    test_images: Tensor
    test_labels: Tensor
    harness: HarnessSettings
    seed: int
    device: str


@dataclass(frozen=True)
class Job:
    """One row to come: its trainings differ in the seed alone. ``data`` goes from the seed to images and targets."""

    name: str
    architecture: str
    images_per_class: int
    labels: str
    downloaded_bytes: int
    digest: str
    data: Callable[[int], tuple[Tensor, Tensor]]


def measure(bench: Bench, downloads: dict[int, Download], note: Note) -> tuple[list[NewcomerRow], list[RivalRow]]:
    """Train and test every newcomer and every rival, several seeds each.

    Args:
        downloads: release by images per class, as it arrived.
    """
    newcomers = _newcomer_jobs(bench, downloads)
    rivals = [job for count in downloads for job in _rival_jobs(bench, count)]
    accuracies = run_jobs(bench, newcomers + rivals, note)
    rows = [summary(values) for values in accuracies]
    newcomer_rows = [
        NewcomerRow(j.architecture, j.images_per_class, j.labels, *row, j.downloaded_bytes, j.digest)
        for j, row in zip(newcomers, rows, strict=False)
    ]
    rival_rows = [
        RivalRow(j.name, j.architecture, j.images_per_class, *row, j.downloaded_bytes)
        for j, row in zip(rivals, rows[len(newcomers) :], strict=True)
    ]
    return newcomer_rows, [_untrained(bench, a) for a in bench.harness.architectures] + rival_rows


def _newcomer_jobs(bench: Bench, downloads: dict[int, Download]) -> list[Job]:
    jobs = []
    for architecture in bench.harness.architectures:
        for count, got in downloads.items():
            for labels in ("hard", "soft"):
                pair = (got.support_set.images, got.support_set.targets(labels))
                data = same_for_every_seed(*pair)
                jobs.append(Job("dsv", architecture, count, labels, got.bytes_down, artefact.digest(got.content), data))
    return jobs


def same_for_every_seed(images: Tensor, targets: Tensor) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Data of a job that draws none."""
    return lambda seed: (images, targets)


def _rival_jobs(bench: Bench, count: int) -> list[Job]:
    """The same number of other images: noise and random real ones. Bytes are those of the raw pixels and labels."""
    task, architecture = bench.teacher.task, bench.harness.architectures[0]
    images = count * task.classes
    pixel_bytes = images * task.channels * task.image_size_px**2
    hard_bytes, soft_bytes = pixel_bytes + 2 * images, pixel_bytes + 2 * images * task.classes

    def noise(seed: int) -> tuple[Tensor, Tensor]:
        drawn = to_uint8(noise_pixels(task, images, torch.Generator().manual_seed(seed)))
        return drawn, _soft(bench, drawn)

    def real_hard(seed: int) -> tuple[Tensor, Tensor]:
        indices = random_per_class(bench.train.labels, task, count, seed)
        return bench.train.load(indices), bench.train.labels[indices]

    def real_soft(seed: int) -> tuple[Tensor, Tensor]:
        drawn, _ = real_hard(seed)
        return drawn, _soft(bench, drawn)

    return [
        Job("noise_soft", architecture, count, "soft", soft_bytes, "", noise),
        Job("random_real_hard", architecture, count, "hard", hard_bytes, "", real_hard),
        Job("random_real_soft", architecture, count, "soft", soft_bytes, "", real_soft),
    ]


def _soft(bench: Bench, images: Tensor) -> Tensor:
    return predict(bench.teacher.model, images, bench.teacher.task, device=bench.device)


def random_per_class(labels: Tensor, task: Task, count: int, seed: int) -> list[int]:
    """Indices of ``count`` random images of every class; a class with fewer gives all it has."""
    generator = torch.Generator().manual_seed(seed)
    chosen: list[int] = []
    for label in range(task.classes):
        own = torch.nonzero(labels == label).flatten()
        chosen += own[torch.randperm(len(own), generator=generator)[:count]].tolist()
    return chosen


def _untrained(bench: Bench, architecture: str) -> RivalRow:
    spec = ModelSpec.parse(architecture, bench.teacher.task)
    seeds = range(bench.seed + 1, bench.seed + 1 + bench.harness.newcomer_seeds)
    values = [_test(bench, build_model(spec, seed=seed, device=bench.device)) for seed in seeds]
    return RivalRow("untrained", architecture, 0, *summary(values), 0)


def _test(bench: Bench, model: torch.nn.Module) -> float:
    return accuracy(model, bench.test_images, bench.test_labels, bench.teacher.task, device=bench.device)


def run_jobs(bench: Bench, jobs: list[Job], note: Note) -> list[list[float]]:
    """Accuracies of every job, one per seed. Seeds start beside the teacher's own."""
    harness, task = bench.harness, bench.teacher.task
    config = newcomer_training(harness.newcomer_steps)

    def once(job: Job, seed: int) -> float:
        images, targets = job.data(seed)
        model = train_newcomer(job.architecture, images, targets, task, config, seed=seed, device=bench.device)
        return _test(bench, model)

    seeds = range(bench.seed + 1, bench.seed + 1 + harness.newcomer_seeds)
    with workers(bench.device) as pool:
        futures = {pool.submit(once, job, seed): (at, k) for at, job in enumerate(jobs) for k, seed in enumerate(seeds)}
        results = [[0.0] * len(seeds) for _ in jobs]
        for done, future in enumerate(as_completed(futures), start=1):
            at, k = futures[future]
            results[at][k] = future.result()
            job = jobs[at]
            told = f"{job.name} {job.images_per_class}/class {job.labels} {job.architecture}: {results[at][k]:.1%}"
            note(done, len(futures), told)
    return results


def summary(values: list[float]) -> tuple[float, float]:
    """Mean and sample standard deviation."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
