"""Newcomers and rivals as trainings that differ in their data: several at once on a CPU."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from concurrent.futures import as_completed
from dataclasses import dataclass

import torch
from torch import Tensor

from client.bootstrap import train_newcomer
from client.data import ImageSplit
from deploy.options import HarnessSettings
from deploy.workers import workers
from dsv import Targets, confusion_counts, newcomer_training, predict, share_correct
from protos.checkpoint import Checkpoint
from protos.encodings import ImageEncoding

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
    encoding: ImageEncoding
    clients: tuple[Checkpoint, ...] = ()  # whose ensemble gives the labels, in place of the teacher


@dataclass(frozen=True)
class Job:
    """One row to come: its trainings differ in the seed alone. ``data`` goes from the seed to images and targets."""

    name: str
    architecture: str
    images_per_class: int
    labels: str
    downloaded_bytes: int
    digest: str
    data: Callable[[int], tuple[Tensor, Targets]]

    def __str__(self) -> str:
        """For the progress, in the words that there are."""
        count = f"{self.images_per_class}/class" if self.images_per_class else ""
        return " ".join(word for word in (self.name, count, self.labels, self.architecture) if word)


@dataclass(frozen=True)
class Outcome:
    """One trained model on the test images."""

    accuracy: float
    confusion: Tensor  # (K, K) int64


def same_for_every_seed(images: Tensor, targets: Targets) -> Callable[[int], tuple[Tensor, Targets]]:
    """Data of a job that draws none."""
    return lambda seed: (images, targets)


def run_jobs(bench: Bench, jobs: list[Job], note: Note) -> list[list[Outcome]]:
    """Outcomes of every job, one per seed. Seeds start beside the teacher's own."""
    harness, task = bench.harness, bench.teacher.task

    def once(job: Job, seed: int) -> Outcome:
        images, targets = job.data(seed)
        config = newcomer_training(harness.newcomer_steps, targets)
        model = train_newcomer(
            *(job.architecture, images, targets, task, config), seed=seed, device=bench.device, on_step=at_work.on_step
        )
        seen = predict(model, bench.test_images, task)
        return Outcome(share_correct(seen, bench.test_labels), confusion_counts(seen, bench.test_labels))

    seeds = range(bench.seed + 1, bench.seed + 1 + harness.newcomer_seeds)
    with workers(bench.device) as at_work:
        submit = at_work.pool.submit
        futures = {submit(once, job, seed): (at, k) for at, job in enumerate(jobs) for k, seed in enumerate(seeds)}
        results = [[Outcome(0.0, torch.empty(0))] * len(seeds) for _ in jobs]
        for done, future in enumerate(as_completed(futures), start=1):
            at, k = futures[future]
            results[at][k] = future.result()
            job, score = jobs[at], results[at][k].accuracy
            note(done, len(futures), f"{job}: {score:.1%}")
    return results


def summary(values: list[float]) -> tuple[float, float]:
    """Mean and sample standard deviation."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
