"""Learning new classes beside old ones of which nobody has the images any more: rehearsal, from a DSV set.

Of the old classes there is a DSV set, of the new ones there are images. Training on both with their labels teaches a
model to tell synthetic pictures from real ones, and little of the classes (measured in docs/rehearsal.md; why: Smith et
al., arXiv:2106.09701). So a model of each side answers for all pictures, and a third one learns both answers side by
side: no label says of a picture that it is of no class of the other side.

Source: deep model consolidation, Zhang et al., arXiv:1903.07864, with the two sides' own pictures in the place of
public ones; without forgetting, Li and Hoiem, arXiv:1606.09282.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from dsv.device import device_of
from dsv.errors import DsvError
from dsv.fits import check_fits, check_teacher
from dsv.lessons import Lesson, images_lesson, views_lesson
from dsv.pixels import from_uint8
from dsv.support_set import SupportSet
from dsv.task import Task
from dsv.training import TrainingConfig, teach
from dsv.views import LabelledViews, centred

_TEMPERATURE = 1.0  # deviations of an expert's logits
_SCALED_ON = 1_000  # pictures
_AT_ONCE = 250
_LEAST_SHARE = 1e-6  # a row of nothing but zeros is no probability


@dataclass(frozen=True, eq=False)
class Expert:
    """A model, and pictures of the classes that it knows.

    Args:
        model: (B, C, S, S) normalised float32 to (B, k) logits; it is put in eval mode and, when it is asked, on the
            device of the model that learns from it.
        task: its k classes.
        images: (N, C, S, S) uint8 of these classes: a DSV set's, or one's own.
        views: of the images; None: they are augmented anew each time. Their labels are not read.

    Raises:
        DsvError: a model that does not fit the task, or no image.
    """

    model: nn.Module
    task: Task
    images: Tensor
    views: LabelledViews | None = None

    def __post_init__(self) -> None:
        if len(self.images) == 0:
            raise DsvError("an expert needs at least one image of what it knows")
        check_teacher(self.model.eval(), self.task)


def joint_task(tasks: Sequence[Task]) -> Task:
    """One task of all their classes, in their order; all else is the first one's.

    Raises:
        DsvError: no task, a class of two of them, or images of different geometry or normalisation.
    """
    if not tasks:
        raise DsvError("there is no task to join; give at least one")
    first, *others = tasks
    names = first.class_names
    for other in others:
        if replace(other, class_names=first.class_names, mirror=first.mirror) != first:
            raise DsvError("classes can be joined for images of one size, channels and normalisation alone")
        if known := set(names) & set(other.class_names):
            raise DsvError(f"class {min(known)!r} was given twice; leave it out on one side")
        names += other.class_names
    return replace(first, class_names=names)


def of_shown_classes(support_set: SupportSet) -> SupportSet:
    """The same set for a task of those classes alone that have images: a synthesis may have left others without.

    Probabilities and views' logits of the others are left out, as if the teacher did not know them.

    Raises:
        DsvError: a single class has images, of which alone there is nothing to learn.
    """
    if bool(support_set.shown.all()):
        return support_set
    shown = torch.nonzero(support_set.shown).flatten()
    if len(shown) < 2:
        name = support_set.task.class_names[int(shown)]
        raise DsvError(f"the set has images of {name!r} alone; a task needs two classes, so take a set that has more")
    names = tuple(support_set.task.class_names[label] for label in shown.tolist())
    soft_labels = support_set.soft_labels[:, shown].clamp_min(_LEAST_SHARE)
    views = support_set.views
    return replace(
        support_set,
        labels=torch.searchsorted(shown, support_set.labels),
        soft_labels=soft_labels / soft_labels.sum(dim=1, keepdim=True),
        task=replace(support_set.task, class_names=names),
        views=None if views is None else replace(views, levels=views.levels[:, shown]),
    )


def consolidate(
    model: nn.Module,
    experts: Sequence[Expert],
    config: TrainingConfig,
    *,
    seed: int,
    on_step: Callable[[int, float], None] | None = None,
) -> float:
    """Train ``model`` in place towards what every expert answers for the pictures of all of them.

    Args:
        model: (B, C, S, S) normalised float32 to (B, K) logits for the classes of ``joint_task``, in its order.
        experts: of different classes.
        config: images that are no views are augmented as it says, but not mixed up.
        seed: of the order of the pictures and the augmentation.
        on_step: see ``teach``.

    Returns:
        The mean loss of the last tenth of the steps.

    Raises:
        DsvError: fewer than two experts, or one whose answers are not finite, or all the same; a model that does not
            fit the joint task; else as ``joint_task``, ``views_lesson`` and ``teach``.
    """
    if len(experts) < 2:
        raise DsvError(f"at least two experts are brought together, got {len(experts)}")
    task, device = joint_task([expert.task for expert in experts]), device_of(model)
    check_fits(model.eval(), task)
    asked = [_answers_of(expert, experts, device) for expert in experts]

    def answers(batch: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([ask(batch) for ask in asked], dim=1)

    generator = torch.Generator().manual_seed(seed)
    lessons = [Lesson(_answered(_pictures(expert, config, generator, device), answers), _towards) for expert in experts]
    return teach(model, lessons, config.suited_to(model, task.classes), on_step=on_step)


def _pictures(expert: Expert, config: TrainingConfig, generator: torch.Generator, device: torch.device) -> Lesson:
    task, size = expert.task, config.batch_size
    if expert.views is not None:
        return views_lesson(expert.images, expert.views, task, batch_size=size, generator=generator, device=device)
    return images_lesson(
        expert.images,
        torch.zeros(len(expert.images), dtype=torch.int64),  # nobody asks
        task,
        batch_size=size,
        augment=config.augmentation(task),
        mixup=0.0,
        generator=generator,
        device=device,
    )


def _answered(lesson: Lesson, answers: Callable[[Tensor], Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    return ((batch, answers(batch)) for batch, _ in lesson.batches)


def _towards(logits: Tensor, wanted: Tensor) -> Tensor:
    return functional.cross_entropy(logits / _TEMPERATURE, torch.softmax(wanted / _TEMPERATURE, dim=1))


def _answers_of(expert: Expert, experts: Sequence[Expert], device: torch.device) -> Callable[[Tensor], Tensor]:
    """The expert's logits, in deviations of those for the others' pictures.

    How large logits grow, training leaves to chance. Of pictures that it knows nothing of, a model's answers are of the
    same kind whatever it was trained on; for its own they are surer where these are synthetic, and the others would
    never be heard (measured in docs/rehearsal.md).
    """
    model = expert.model.to(device).eval()
    with torch.no_grad():
        parts = (part for other in experts if other is not expert for part in _some_pictures(other))
        found = [centred(model(part.to(device))) for part in parts]
    scale = float(torch.cat(found).square().mean().sqrt())
    if not (math.isfinite(scale) and scale > 0):
        raise DsvError("an expert's answers are not finite, or all the same; train it first")
    return lambda batch: centred(model(batch)) / scale


def _some_pictures(expert: Expert) -> Iterator[Tensor]:
    """(n, C, S, S) normalised float32 at a time, evenly spaced."""
    if expert.views is not None:
        views = expert.views.of(expert.images, expert.task)
        for numbers in torch.split(_evenly(views.plan.count), _AT_ONCE):
            yield views.draw(numbers)
    else:
        for numbers in torch.split(_evenly(len(expert.images)), _AT_ONCE):
            yield from_uint8(expert.images[numbers], expert.task, dtype=torch.float32)


def _evenly(count: int) -> Tensor:
    """Some of so many numbers."""
    return torch.arange(0, count, -(-count // _SCALED_ON))
