"""Between stored pixels (uint8) and what models see (normalised float)."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from dsv.task import Task


def _statistics(task: Task, like: Tensor) -> tuple[Tensor, Tensor]:
    return _column(task.mean, like.device, like.dtype), _column(task.std, like.device, like.dtype)


@lru_cache(maxsize=64)
def _column(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """(1, C, 1, 1). Kept: a card would wait for it at every step."""
    with torch.inference_mode(False):  # what is made in there serves no derivative later
        return torch.tensor(values, device=device, dtype=dtype).view(1, -1, 1, 1)


def normalise(pixels: Tensor, task: Task) -> Tensor:
    """(pixels - mean) / std for (N, C, H, W) float pixels in [0, 1]. Differentiable."""
    mean, std = _statistics(task, pixels)
    return (pixels - mean) / std


def from_uint8(images: Tensor, task: Task, *, device: torch.device | str = "cpu", dtype: torch.dtype) -> Tensor:
    """Normalised (N, C, H, W) of ``dtype`` on ``device`` from uint8 images of that shape (or float ones, 0 to 255)."""
    return normalise(images.to(device=device, dtype=dtype) / 255, task)


def to_uint8(pixels: Tensor) -> Tensor:
    """The nearest uint8, on the CPU, of float pixels of any shape in [0, 1]; what lies outside is cut to it."""
    return (pixels.detach().clamp(0, 1) * 255).round().to(device="cpu", dtype=torch.uint8)


def noise_pixels(task: Task, count: int, generator: torch.Generator, *, side_px: int = 0) -> Tensor:
    """(count, C, S, S) float32 pixels whose normalised values are N(0, 1) (Algorithm 1), cut to the valid range.

    The side S is the task's unless ``side_px`` gives another.
    """
    side = side_px or task.image_size_px
    drawn = torch.randn(count, task.channels, side, side, generator=generator, dtype=torch.float32)
    mean, std = _statistics(task, drawn)
    return (drawn * std + mean).clamp(0, 1)
