"""A release's images as a page shows them: by class, largest multiplier first, and how they grew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from deploy.pages import words
from deploy.pages.facts import ReleaseFacts
from deploy.pages.pictures import Coding, encoded, fit, tile_px
from dsv import DEAD_LEAVES, SHARED_NOISE
from protos.settings import NOISE
from server.frames import Frame

MOST_IMAGES = 600
MOST_CLASSES = 200
_FEW = 10
DRAWN = (NOISE, DEAD_LEAVES, SHARED_NOISE)
"""Starts that show no picture of anybody's; any other is a folder's name."""


@dataclass(frozen=True)
class ImageView:
    """One DSV.

    Args:
        source: data URI.
        alt: everything of it in words.
        detail: its multiplier and what the teacher says of it.
        frames: data URIs of it on its way, by frame; empty where they were not kept.
    """

    source: str
    alt: str
    detail: str
    frames: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ClassView:
    """The DSVs of a class, largest multiplier first."""

    name: str
    images: list[ImageView]
    sum_of_lambda: str


@dataclass(frozen=True)
class ReleaseView:
    """A release.

    Args:
        key: unique in the page.
        title: DSVs per class.
        digest: of the file.
        facts: size, geometry, teacher, in words.
        classes: of those that have images.
        tile_px: side at which an image is shown.
        small_tile_px: the same on a phone.
        pixelated: whether its pixels are to stay square.
        iterations: of the frames, the end included; empty without frames.
        notes: what is not shown, or not as it is.
        frame_sources: for the page's script: of every shown image with frames, by its place in the page.
    """

    key: str
    title: str
    digest: str
    facts: str
    classes: list[ClassView]
    tile_px: int
    small_tile_px: int
    pixelated: bool
    iterations: list[int]
    notes: list[str]

    @property
    def frame_sources(self) -> dict[str, list[str]]:
        """Frames of every image that has some, by its place among the release's shown images."""
        images = [image for entry in self.classes for image in entry.images]
        return {str(place): image.frames for place, image in enumerate(images) if image.frames}


def release_view(
    release: ReleaseFacts, key: str, *, budget_chars: int, frame_budget_chars: int = 0, most: int = MOST_IMAGES
) -> ReleaseView:
    """What a page of limited size can show of a release.

    Args:
        budget_chars: of data URIs for the images.
        frame_budget_chars: the same for their frames; 0 shows none.
        most: images in all.
    """
    labels = [label for label in range(len(release.class_names)) if len(release.of_class(label))]
    shown = labels[:MOST_CLASSES]
    orders = [release.of_class(label) for label in shown]
    images = release.support_set.images
    fitted = fit([images[order] for order in orders], budget_chars, most=most)
    orders = [order[: fitted.per_group] for order in orders]
    frames = _frames(release.frames, orders, frame_budget_chars) if frame_budget_chars else {}
    classes = [
        ClassView(
            words.short(release.class_names[label]),
            [
                _image(release, place, rank, fitted.coding, frames.get(place, []))
                for rank, place in enumerate(order.tolist(), 1)
            ],
            f"{float(release.sums()[label]):.3g}",
        )
        for label, order in zip(shown, orders, strict=True)
    ]
    side = release.support_set.task.image_size_px
    return ReleaseView(
        key=key,
        title=words.per_class(release.support_set.images_per_class),
        digest=release.digest,
        facts=_facts(release),
        classes=classes,
        tile_px=tile_px(side, 72 if fitted.per_group <= _FEW else 48),
        small_tile_px=tile_px(side, 64 if fitted.per_group <= _FEW else 48),
        pixelated=side <= 64,
        iterations=[frame.iteration for frame in release.frames] + [_iterations(release)] if frames else [],
        notes=_notes(release, fitted.coding, orders, len(labels)) + _growth_notes(orders, frames),
    )


def told(release: ReleaseFacts, place: int) -> str:
    """Multiplier, the teacher's confidence, and what it would say next."""
    support_set = release.support_set
    label, soft = int(support_set.labels[place]), support_set.soft_labels[place]
    multiplier, confidence = float(support_set.multipliers[place]), words.share(float(soft[label]))
    text = f"multiplier {multiplier:.3g}, teacher's confidence {confidence}"
    values, tops = soft.topk(min(2, len(soft)))
    other = next(((int(t), float(v)) for v, t in zip(values, tops, strict=True) if int(t) != label), None)
    if other and other[1] >= 0.001:
        text += f", next guess {words.short(release.class_names[other[0]], 30)} ({words.share(other[1])})"
    return text


def _image(release: ReleaseFacts, place: int, rank: int, coding: Coding, frames: list[str]) -> ImageView:
    label = int(release.support_set.labels[place])
    name = words.short(release.class_names[label])
    detail = told(release, place)
    return ImageView(
        source=encoded(release.support_set.images[place], coding),
        alt=f"DSV of class {name}, {words.ordinal(rank)} of {len(release.of_class(label))}: {detail}",
        detail=detail,
        frames=frames,
    )


def _frames(frames: Sequence[Frame], orders: list[Tensor], budget_chars: int) -> dict[int, list[str]]:
    """Frames by an image's place in the release: as many of each class's first images as there is room for."""
    if not frames:
        return {}
    kept = set(frames[0].index.tolist()).intersection(*(set(frame.index.tolist()) for frame in frames))
    own = [[place for place in order.tolist() if place in kept] for order in orders]
    side = max(frame.pixels.shape[-1] for frame in frames)
    last = {int(place): pixels for place, pixels in zip(frames[-1].index, frames[-1].pixels, strict=True)}
    groups = [torch.stack([last[place] for place in places]) for places in own if places]
    if not groups:
        return {}
    fitted = fit(groups, budget_chars // len(frames))
    coding = fitted.coding if side <= 16 else Coding(min(side, fitted.coding.side_px), fitted.coding.quality or 75)
    wanted = {place for places in own for place in places[: fitted.per_group]}
    found: dict[int, list[str]] = {place: [] for place in sorted(wanted)}
    for frame in frames:
        pixels = {int(place): image for place, image in zip(frame.index, frame.pixels, strict=True)}
        for place, sources in found.items():
            sources.append(encoded(pixels[place], coding))
    return found


def _iterations(release: ReleaseFacts) -> int:
    """Steps of the whole synthesis, as far as the release tells."""
    told_of = release.support_set.provenance.config.get("iterations")
    return int(told_of) if isinstance(told_of, int) else release.frames[-1].iteration + 1


def _facts(release: ReleaseFacts) -> str:
    task = release.support_set.task
    colour, side = "grey" if task.channels == 1 else "colour", task.image_size_px
    labelled = release.support_set.views
    views = f"{labelled.plan.count:,} views labelled by the teacher; " if labelled else ""
    return (
        f"{words.plural(len(release.support_set), 'image')} of {side} {words.TIMES} {side} pixels, "
        f"{colour}; {words.plural(task.classes, 'class')}; {views}{release.size_bytes:,} bytes"
    )


def _notes(release: ReleaseFacts, coding: Coding, orders: list[Tensor], classes: int) -> list[str]:
    notes = []
    start = release.support_set.provenance.start
    if start not in DRAWN:
        notes.append(f"These images grew from pictures of “{words.short(start)}” and may still show them.")
    shown, whole = sum(len(order) for order in orders), len(release.support_set)
    if classes > len(orders):
        notes.append(f"The first {len(orders)} of {classes} classes are shown.")
    if shown < whole:
        notes.append(f"{shown} of {whole} images are shown, those of the largest multipliers of their class.")
    changed = coding.in_words(release.support_set.task.image_size_px)
    if changed:
        notes.append(f"To keep this file small, images are {changed} here; the release holds them as they are.")
    return notes


def _growth_notes(orders: list[Tensor], frames: dict[int, list[str]]) -> list[str]:
    shown = sum(len(order) for order in orders)
    own = sum(place in frames for order in orders for place in order.tolist())
    return [f"Of {own} of these {shown} images there are frames; the others fade as the slider moves."] * (
        0 < own < shown
    )


def mean_images(images: Tensor, labels: Tensor, names: Sequence[str], budget_chars: int) -> list[tuple[str, str]]:
    """(class, data URI) of the mean image of every class that has images.

    Args:
        images: (N, C, S, S) uint8.
        labels: (N,) int64.
    """
    own = [(name, images[labels == label]) for label, name in enumerate(names[:MOST_CLASSES])]
    means = [(name, group.float().mean(dim=0).round().to(torch.uint8)) for name, group in own if len(group)]
    fitted = fit([mean[None] for _, mean in means], budget_chars)
    return [(words.short(name), encoded(mean, fitted.coding)) for name, mean in means]
