"""What a newcomer could have trained from instead: as many noise images, as many random real ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from deploy.trainings import Bench, Job
from dsv import SupportSet, Targets, Task, noise_pixels, to_uint8
from protos.label_bytes import level_size_bytes
from server.labeller import Labeller


def compared_kinds(support_set: SupportSet) -> tuple[str, ...]:
    """The least that a label can say, a class, and what the set was made to be trained from with."""
    return ("hard", support_set.label_kinds[-1])


def rival_jobs(bench: Bench, count: int, release: SupportSet) -> list[Job]:
    """The same number of other images, noise and random real ones, in the releases' encoding.

    Bytes are those of the encoded pixels and the labels, of the first seed's images.

    Args:
        release: whose kinds of labels they get; where it has labelled views, as many of theirs.
    """
    labeller, task, images = labeller_of(bench), bench.teacher.task, count * bench.teacher.task.classes
    views = release.views

    def noise(seed: int) -> Tensor:
        return released(bench, to_uint8(noise_pixels(task, images, torch.Generator().manual_seed(seed))))[0]

    def indices(seed: int) -> list[int]:
        return random_per_class(bench.train.labels, task, count, seed)

    def real(seed: int) -> Tensor:
        return released(bench, bench.train.load(indices(seed)))[0]

    def job(name: str, pixels: Callable[[int], Tensor], labels: str) -> Job:
        def data(seed: int) -> tuple[Tensor, Targets]:
            drawn = pixels(seed)
            if labels == "hard":
                return drawn, bench.train.labels[indices(seed)]
            if labels == "view" and views:
                return drawn, labeller.views(drawn, views.plan)
            return drawn, labeller.probabilities(drawn)

        drawn = pixels(bench.seed + 1)
        if labels == "view" and views:
            label_bytes = level_size_bytes(views.levels.numel())
        else:
            label_bytes = len(drawn) * bench.encoding.label_bytes(task, soft=labels == "soft")
        size_bytes = released(bench, drawn)[1] + label_bytes
        return Job(f"{name}_{labels}", bench.harness.architectures[0], count, labels, size_bytes, "", data)

    kinds = compared_kinds(release)
    return [job("noise", noise, kinds[-1]), *(job("random_real", real, labels) for labels in kinds)]


def released(bench: Bench, images: Tensor) -> tuple[Tensor, int]:
    """The images as a release gives them back, and the bytes that they take in it."""
    content = bench.encoding.encode(images)
    count, channels, height, width = images.shape
    return bench.encoding.decode(content, (count, channels, height, width)), len(content)


def labeller_of(bench: Bench) -> Labeller:
    """What labelled the releases labels rivals too."""
    return Labeller.of(bench.teacher, bench.clients, bench.device)


def random_per_class(labels: Tensor, task: Task, count: int, seed: int) -> list[int]:
    """Indices of ``count`` random images of every class; a class with fewer gives all it has."""
    generator = torch.Generator().manual_seed(seed)
    chosen: list[int] = []
    for label in range(task.classes):
        own = torch.nonzero(labels == label).flatten()
        chosen += own[torch.randperm(len(own), generator=generator)[:count]].tolist()
    return chosen
