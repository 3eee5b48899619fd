"""Pictures of overlapping random shapes: what a synthesis of photographs starts from, without an image of anybody's.

Source: the dead leaves model (Matheron; Lee, Mumford and Huang, *Occlusion Models for Natural Images*, IJCV 2001),
whose edges and spectrum are those of natural images; as training data in Baradad et al., *Learning to See by Looking
at Noise* (arXiv:2106.05963). Measured in docs/zero-shot.md: a gain for photographs, none for grey pictures on black.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from dsv.pixels import to_uint8
from dsv.start import Start
from dsv.task import Task

DEAD_LEAVES = "dead-leaves"
"""Name of the start in a set's provenance."""

LEAVES = 24
POOL = 20_000
_LARGEST_PX = 64  # larger pictures are drawn at this side and enlarged: of their detail a synthesis leaves nothing
_PART = 500  # pictures drawn at once: the pool need not fit into memory


def draw_dead_leaves(count: int, task: Task, generator: torch.Generator) -> Tensor:
    """Draw pictures: a ground, ``LEAVES`` ellipses and rounded rectangles over one another, and a fine texture.

    Args:
        count: N, at least 0.
        task: gives C (grey is the mean of three colours) and the side S.
        generator: a CPU generator.

    Returns:
        (N, C, S, S) uint8.
    """
    side = min(task.image_size_px, _LARGEST_PX)
    colours = _Colours(count, generator)
    pixels = colours.draw().expand(count, 3, side, side)
    pixels = pixels + 0.2 * _uniform(generator, count, 1, 1, 1) * _texture(count, side, generator, (0.5, 3.0))
    for place in range(LEAVES):
        # The later a leaf falls, the smaller it is, or nothing would be left to see of the others.
        largest = 1 - 0.6 * place / LEAVES
        pixels = _fallen_leaf(pixels, largest, colours, generator)
    pixels = pixels + 0.12 * _uniform(generator, count, 1, 1, 1) * _texture(count, side, generator, (0.8, 2.0))
    pixels = pixels if task.channels == 3 else pixels.mean(dim=1, keepdim=True)
    if side < task.image_size_px:
        pixels = functional.interpolate(pixels, task.image_size_px, mode="bilinear")
    return to_uint8(pixels)


def dead_leaves_start(
    label: Callable[[Tensor], Tensor],
    task: Task,
    images_per_class: int,
    *,
    seed: int,
    on_drawn: Callable[[int, int], None] | None = None,
) -> Start:
    """For every class, those of ``POOL`` pictures (or twenty for each that is wanted) that a teacher is surest of.

    Args:
        label: from (N, C, S, S) uint8 images to the teacher's probabilities, (N, K) float32.
        images_per_class: n, at least 1.
        seed: of the pictures.
        on_drawn: called with the number of pictures drawn so far and in all; it takes a while.

    Returns:
        A start of that name, with (K * n, C, S, S) uint8 pictures, sorted by class, the surest first.
    """
    generator = torch.Generator().manual_seed(seed)
    images = torch.empty(task.classes, 0, *task.image_shape, dtype=torch.uint8)
    sureness = torch.empty(task.classes, 0)
    every_class = torch.arange(task.classes)[:, None]
    total = max(POOL, 20 * task.classes * images_per_class)
    for done in range(0, total, _PART):
        drawn = draw_dead_leaves(min(_PART, total - done), task, generator)
        seen, places = label(drawn).T.topk(min(images_per_class, len(drawn)), dim=1)
        images, sureness = torch.cat([images, drawn[places]], dim=1), torch.cat([sureness, seen], dim=1)
        sureness, kept = sureness.topk(min(images_per_class, sureness.shape[1]), dim=1)
        images = images[every_class, kept]
        if on_drawn is not None:
            on_drawn(done + len(drawn), total)
    return Start(DEAD_LEAVES, images.flatten(0, 1))


class _Colours:
    """The colours of each picture: a mean of its own, and how far others lie from it in brightness and in hue."""

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self._count, self._generator = count, generator
        self._mean = 0.2 + 0.6 * _uniform(generator, count, 3, 1, 1)
        self._spread = 0.05 + 0.35 * _uniform(generator, count, 1, 1, 1)

    def draw(self) -> Tensor:
        """(N, 3, 1, 1): one colour for each picture."""
        brightness = torch.randn(self._count, 1, 1, 1, generator=self._generator, dtype=torch.float32)
        hue = torch.randn(self._count, 3, 1, 1, generator=self._generator, dtype=torch.float32)
        return self._mean + self._spread * (brightness + 0.45 * hue)


def _fallen_leaf(pixels: Tensor, largest: float, colours: _Colours, generator: torch.Generator) -> Tensor:
    """``pixels`` with one more leaf on seven of ten, of a radius of 0.06 to 0.56 of the side, times ``largest``."""
    count, side = len(pixels), pixels.shape[-1]

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * _uniform(generator, count, 1, 1)

    ticks = (torch.arange(side) + 0.5) / side
    radius = (0.06 + 0.5 * uniform(0, 1) ** 1.5) * largest
    x, y = ticks[None, None, :] - uniform(-0.1, 1.1), ticks[None, :, None] - uniform(-0.1, 1.1)
    angle, stretch = uniform(0, math.pi), uniform(-0.8, 0.8).exp()
    along = (angle.cos() * x + angle.sin() * y) / stretch
    across = (angle.cos() * y - angle.sin() * x) * stretch
    power = torch.where(uniform(0, 1) < 0.5, 2.0, 6.0)  # of a superellipse: an ellipse, or a rounded rectangle
    distance = ((along / radius).abs() ** power + (across / radius).abs() ** power).clamp(max=4) ** (1 / power)
    mask = torch.sigmoid((1 - distance) * 1.4 * side * radius) * (uniform(0, 1) < 0.7)  # an edge of about a pixel
    slopes = torch.randn(2, count, 1, 1, generator=generator, dtype=torch.float32)
    shade = 0.4 * (slopes[0] * along + slopes[1] * across)
    return torch.lerp(pixels, colours.draw() + shade[:, None], mask[:, None])


def _texture(count: int, side: int, generator: torch.Generator, falls: tuple[float, float]) -> Tensor:
    """(N, 3, S, S) noise of deviation 1, whose amplitudes fall with the frequency to a power drawn from ``falls``."""
    frequency = (torch.fft.fftfreq(side)[:, None] ** 2 + torch.fft.rfftfreq(side)[None] ** 2).sqrt()
    power = falls[0] + (falls[1] - falls[0]) * _uniform(generator, count, 1, 1, 1)
    amplitude = frequency.clamp(min=1 / side) ** -power
    amplitude[..., 0, 0] = 0
    white = torch.fft.rfft2(torch.randn(count, 3, side, side, generator=generator, dtype=torch.float32))
    noise = torch.fft.irfft2(white * amplitude, s=(side, side))
    mixing = 0.3 * torch.randn(count, 3, 3, generator=generator, dtype=torch.float32) + _uniform(generator, count, 1, 1)
    coloured = torch.einsum("nij,njhw->nihw", mixing, noise)
    return coloured / coloured.flatten(1).std(dim=1).clamp(min=1e-6).view(-1, 1, 1, 1)


def _uniform(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=generator, dtype=torch.float32)
