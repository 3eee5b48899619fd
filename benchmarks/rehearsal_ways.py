"""Ways to learn new classes without images of the old ones, ours and its rivals: each trains one model and tests it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.rehearsal_halves import RANDOM_SEED, Halves, Reached
from client.rehearsal import joining_for, rehearse, training_for
from deploy.quantised import FLOAT32, sent_as
from dsv import (
    Expert,
    LabelledViews,
    ModelSpec,
    SupportSet,
    TrainingConfig,
    build_model,
    consolidate,
    predict,
    to_uint8,
    train,
)
from dsv.lessons import Lesson, images_lesson, views_lesson
from dsv.training import teach
from protos import artefact
from protos.settings import RunSettings

_SOFTNESS = 2.0  # of learning without forgetting, its paper's


Way = Callable[[Halves, str, int], tuple[Reached, int]]
"""From an architecture and a seed to what it reaches, and the bytes that it takes of the old classes."""


def dsvs(halves: Halves, architecture: str, seed: int) -> tuple[Reached, int]:
    """Ours: ``client.rehearsal``."""
    return _rehearsed(halves, halves.release, architecture, seed)


def real_alike(halves: Halves, architecture: str, seed: int) -> tuple[Reached, int]:
    """The same with random real images, of which the teacher labelled the same views."""
    return _rehearsed(halves, halves.labelled_alike(halves.random_real(seed)[0]), architecture, seed)


def noise_alike(halves: Halves, architecture: str, seed: int) -> tuple[Reached, int]:
    """The same with noise."""
    generator = torch.Generator().manual_seed(RANDOM_SEED + seed)
    noise = to_uint8(torch.rand(len(halves.release), *halves.task.image_shape, generator=generator))
    return _rehearsed(halves, halves.labelled_alike(noise), architecture, seed)


def _rehearsed(halves: Halves, release: SupportSet, architecture: str, seed: int) -> tuple[Reached, int]:
    model, _ = rehearse(release, halves.own, architecture, steps=halves.steps, seed=seed, device=halves.device)
    return halves.tested_model(model), _release_bytes(release)


def dsvs_by_labels(halves: Halves, architecture: str, seed: int) -> tuple[Reached, int]:
    """Plain rehearsal: the DSVs' views and one's own images at once, each with its label among all classes."""
    release, config = halves.release, _joining(halves)
    views = release.views
    assert views is not None

    def loss(logits: Tensor, numbers: Tensor) -> Tensor:
        return views.loss(logits[:, : halves.old.classes], numbers) - _share_of_old(logits, halves.old.classes)

    def lesson(generator: torch.Generator) -> Lesson:
        size, device = config.batch_size, torch.device(halves.device)
        drawn = views_lesson(release.images, views, halves.old, batch_size=size, generator=generator, device=device)
        return dataclasses.replace(drawn, loss=loss)

    return _by_labels(halves, architecture, seed, config, lesson), len(
        artefact.encode(release, RunSettings().image_encoding)
    )


def _share_of_old(logits: Tensor, old: int) -> Tensor:
    """Mean log-probability of being of an old class."""
    return (logits[:, :old].logsumexp(dim=1) - logits.logsumexp(dim=1)).mean()


def real_by_labels(halves: Halves, architecture: str, seed: int) -> tuple[Reached, int]:
    """Plain rehearsal with random real images and their classes."""
    images, labels = halves.random_real(seed)
    config = _joining(halves)

    def lesson(generator: torch.Generator) -> Lesson:
        return _labelled(halves, images, labels, config, generator)

    return _by_labels(halves, architecture, seed, config, lesson), images.numel()


def nothing(halves: Halves, architecture: str, seed: int) -> tuple[Reached, int]:
    """One's own images alone."""
    return _by_labels(halves, architecture, seed, _joining(halves), None), 0


def without_forgetting(halves: Halves, architecture: str, seed: int) -> tuple[Reached, int]:
    """The teacher's weights: train on from them, towards their answers for one's own images too (Li and Hoiem)."""
    config, old = _joining(halves), halves.old.classes
    model = _fresh(halves, architecture, seed)
    started = model.state_dict()
    for name, tensor in halves.teacher.state_dict().items():
        started[name][: len(tensor)] = tensor  # of the last layer the old classes' rows
    model.load_state_dict(started)

    def lesson(drawn: Lesson) -> Lesson:
        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for batch, wanted in drawn.batches:
                with torch.no_grad():
                    answers = torch.softmax(halves.teacher(batch) / _SOFTNESS, dim=1)
                yield batch, torch.cat([answers, wanted], dim=1)

        def loss(logits: Tensor, wanted: Tensor) -> Tensor:
            kept = functional.cross_entropy(logits[:, :old] / _SOFTNESS, wanted[:, :old])
            return _SOFTNESS**2 * kept + functional.cross_entropy(logits, wanted[:, old:])

        return Lesson(batches(), loss)

    own = _own_lesson(halves, config, torch.Generator().manual_seed(seed))
    teach(model, [lesson(own)], config.suited_to(model, halves.task.classes))
    return halves.tested_model(model), _weights_bytes(halves)


def teacher_joined(halves: Halves, architecture: str, seed: int) -> tuple[Reached, int]:
    """The teacher's weights in our way: brought together with an expert, on one's own images alone."""
    model = _fresh(halves, architecture, seed)
    experts = [
        Expert(halves.teacher, halves.old, halves.own.images),
        Expert(halves.new_expert(architecture, seed), halves.own.task, halves.own.images),
    ]
    consolidate(model, experts, _joining(halves), seed=seed)
    return halves.tested_model(model), _weights_bytes(halves)


def both_kept(halves: Halves, architecture: str, seed: int) -> tuple[Reached, int]:
    """The teacher's weights beside an expert: two models are run for each image, the surer one's answer is taken."""
    pairs = ((halves.teacher, halves.old), (halves.new_expert(architecture, seed), halves.own.task))
    answers = [predict(model, halves.images.test, task) for model, task in pairs]
    return halves.tested(torch.cat(answers, dim=1)), _weights_bytes(halves)


def all_real(halves: Halves, architecture: str, seed: int) -> tuple[Reached, int]:
    """All images of all classes: what nobody has."""
    images = halves.images
    model = _fresh(halves, architecture, seed)
    config = training_for(len(images.train), images.train_labels, halves.steps)
    config = dataclasses.replace(config, steps=max(config.steps, 2 * _joining(halves).steps))  # others see two batches
    train(model, images.train, images.train_labels, halves.task, config, seed=seed)
    return halves.tested_model(model), halves.old_images[0].numel()


def _release_bytes(release: SupportSet) -> int:
    return len(artefact.encode(release, RunSettings().image_encoding))


def _weights_bytes(halves: Halves) -> int:
    return sent_as(halves.teacher, FLOAT32).size_bytes


def _joining(halves: Halves) -> TrainingConfig:
    views = halves.release.views
    assert isinstance(views, LabelledViews)
    return joining_for(len(halves.own.images), views, halves.steps)


def _fresh(halves: Halves, architecture: str, seed: int) -> nn.Module:
    return build_model(ModelSpec.parse(architecture, halves.task), seed=seed, device=halves.device)


def _labelled(
    halves: Halves, images: Tensor, labels: Tensor, config: TrainingConfig, generator: torch.Generator
) -> Lesson:
    task = halves.task
    return images_lesson(
        images,
        labels,
        task,
        batch_size=config.batch_size,
        augment=config.augmentation(task),
        mixup=config.mixup,
        generator=generator,
        device=torch.device(halves.device),
    )


def _own_lesson(halves: Halves, config: TrainingConfig, generator: torch.Generator) -> Lesson:
    return _labelled(halves, halves.own.images, halves.own.labels + halves.old.classes, config, generator)


def _by_labels(
    halves: Halves,
    architecture: str,
    seed: int,
    config: TrainingConfig,
    old: Callable[[torch.Generator], Lesson] | None,
) -> Reached:
    model, generator = _fresh(halves, architecture, seed), torch.Generator().manual_seed(seed)
    lessons = [_own_lesson(halves, config, generator), *([old(generator)] if old else [])]
    teach(model, lessons, config.suited_to(model, halves.task.classes))
    return halves.tested_model(model)


WAYS: dict[str, Way] = {
    "DSVs": dsvs,
    "DSVs, plainly by their labels": dsvs_by_labels,
    "random real images, labelled alike": real_alike,
    "random real images, plainly by their labels": real_by_labels,
    "noise, labelled alike": noise_alike,
    "own images alone": nothing,
    "the teacher's weights, learning without forgetting": without_forgetting,
    "the teacher's weights, brought together with an expert": teacher_joined,
    "the teacher's weights, kept beside an expert (two models)": both_kept,
    "all real images": all_real,
}
OF_THE_TEACHERS_ARCHITECTURE = frozenset({"the teacher's weights, learning without forgetting"})
