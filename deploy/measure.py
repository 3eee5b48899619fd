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
from deploy.result import ConfusionRow, NewcomerRow, RivalRow
from deploy.workers import workers
from dsv import ModelSpec, Task, accuracy, build_model, confusion_counts, noise_pixels, predict, share_correct, to_uint8
from protos import artefact
from protos.checkpoint import Checkpoint
from protos.encodings import ImageEncoding
from server.client_models import ensemble_predict

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
    clients: tuple[Checkpoint, ...] = ()  # whose mean gives the soft labels, in place of the teacher


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

    def __str__(self) -> str:
        """For the progress, in the words that there are."""
        count = f"{self.images_per_class}/class" if self.images_per_class else ""
        return " ".join(word for word in (self.name, count, self.labels, self.architecture) if word)


@dataclass(frozen=True)
class Measured:
    """Rows of result.json, in its order."""

    newcomers: list[NewcomerRow]
    rivals: list[RivalRow]
    confusions: list[ConfusionRow]


@dataclass(frozen=True)
class Outcome:
    """One trained model on the test images."""

    accuracy: float
    confusion: Tensor  # (K, K) int64


def measure(bench: Bench, downloads: dict[int, Download], note: Note) -> Measured:
    """Train and test every newcomer and every rival, several seeds each.

    Args:
        downloads: release by images per class, as it arrived.
    """
    newcomers = _newcomer_jobs(bench, downloads)
    rivals = [job for count in downloads for job in _rival_jobs(bench, count)]
    outcomes = run_jobs(bench, newcomers + rivals, note)
    rows = [summary([outcome.accuracy for outcome in own]) for own in outcomes]
    newcomer_rows = [
        NewcomerRow(j.architecture, j.images_per_class, j.labels, *row, j.downloaded_bytes, j.digest)
        for j, row in zip(newcomers, rows, strict=False)
    ]
    rival_rows = [
        RivalRow(j.name, j.architecture, j.images_per_class, *row, j.downloaded_bytes)
        for j, row in zip(rivals, rows[len(newcomers) :], strict=True)
    ]
    untrained = [_untrained(bench, a) for a in bench.harness.architectures]
    confusions = [
        confusion_row("newcomer", j.architecture, j.images_per_class, j.labels, [o.confusion for o in own])
        for j, own in zip(newcomers, outcomes, strict=False)
    ]
    return Measured(newcomer_rows, untrained + rival_rows, confusions)


def confusion_row(
    model: str, architecture: str, images_per_class: int, labels: str, counts: list[Tensor]
) -> ConfusionRow:
    """The sum of some (K, K) counts as the cells that are not 0."""
    total = torch.stack(counts).sum(dim=0)
    cells = [(int(true), int(seen), int(total[true, seen])) for true, seen in torch.nonzero(total).tolist()]
    return ConfusionRow(model, architecture, images_per_class, labels, cells)


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
    """The same number of other images, noise and random real ones, in the releases' encoding.

    Bytes are those of the encoded pixels and the labels, of the first seed's images.
    """
    task, architecture = bench.teacher.task, bench.harness.architectures[0]
    images = count * task.classes

    def noise(seed: int) -> tuple[Tensor, Tensor]:
        drawn, _ = released(bench, to_uint8(noise_pixels(task, images, torch.Generator().manual_seed(seed))))
        return drawn, _soft(bench, drawn)

    def real_hard(seed: int) -> tuple[Tensor, Tensor]:
        indices = random_per_class(bench.train.labels, task, count, seed)
        return released(bench, bench.train.load(indices))[0], bench.train.labels[indices]

    def real_soft(seed: int) -> tuple[Tensor, Tensor]:
        drawn, _ = real_hard(seed)
        return drawn, _soft(bench, drawn)

    def job(name: str, labels: str, data: Callable[[int], tuple[Tensor, Tensor]]) -> Job:
        first = data(bench.seed + 1)[0]
        label_bytes = len(first) * bench.encoding.label_bytes(task, soft=labels == "soft")
        return Job(name, architecture, count, labels, released(bench, first)[1] + label_bytes, "", data)

    return [
        job("noise_soft", "soft", noise),
        job("random_real_hard", "hard", real_hard),
        job("random_real_soft", "soft", real_soft),
    ]


def released(bench: Bench, images: Tensor) -> tuple[Tensor, int]:
    """The images as a release gives them back, and the bytes that they take in it."""
    content = bench.encoding.encode(images)
    count, channels, height, width = images.shape
    return bench.encoding.decode(content, (count, channels, height, width)), len(content)


def _soft(bench: Bench, images: Tensor) -> Tensor:
    if bench.clients:
        return ensemble_predict(bench.clients, images, bench.device)
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


def client_ensemble(bench: Bench, weights_bytes: int) -> RivalRow:
    """What a newcomer of the teacher's architecture could have instead of DSVs of the clients: all their models.

    Args:
        weights_bytes: of one model.
    """
    seen = _soft(bench, bench.test_images)
    score = share_correct(seen, bench.test_labels)
    count = len(bench.clients)
    return RivalRow("client_ensemble", str(bench.teacher.spec), 0, score, 0.0, count * weights_bytes)


def _test(bench: Bench, model: torch.nn.Module) -> float:
    return accuracy(model, bench.test_images, bench.test_labels, bench.teacher.task, device=bench.device)


def run_jobs(bench: Bench, jobs: list[Job], note: Note) -> list[list[Outcome]]:
    """Outcomes of every job, one per seed. Seeds start beside the teacher's own."""
    harness, task = bench.harness, bench.teacher.task
    config = newcomer_training(harness.newcomer_steps)

    def once(job: Job, seed: int) -> Outcome:
        images, targets = job.data(seed)
        model = train_newcomer(job.architecture, images, targets, task, config, seed=seed, device=bench.device)
        seen = predict(model, bench.test_images, task, device=bench.device)
        return Outcome(share_correct(seen, bench.test_labels), confusion_counts(seen, bench.test_labels))

    seeds = range(bench.seed + 1, bench.seed + 1 + harness.newcomer_seeds)
    with workers(bench.device) as pool:
        futures = {pool.submit(once, job, seed): (at, k) for at, job in enumerate(jobs) for k, seed in enumerate(seeds)}
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
