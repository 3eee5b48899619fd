"""Differentiable image augmentation: the functions A of Algorithm 1, and of every training run here."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Augmentation:
    """Random translation, crop, mirroring, cutout and noise, drawn for every image of a batch on its own.

    Differentiable in the images (bilinear resampling). Ranges are those of the paper's Appendix D.

    Args:
        translate: largest shift, as a fraction of the side; pixels from outside are zero (the data's mean).
        crop: largest part of the side that is cut away before the rest is enlarged again.
        mirror: probability of a left-right flip.
        cutout: side of a square set to zero, as a fraction of the side.
        noise: standard deviation of additive Gaussian noise.
    """

    translate: float = 0.125
    crop: float = 0.2
    mirror: float = 0.5
    cutout: float = 0.0
    noise: float = 0.0

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Augment (N, C, H, W) normalised float images; ``generator`` is a CPU generator."""
        return self.draw(len(images), tuple(images.shape[1:]), generator)(images)

    def draw(self, count: int, image_shape: tuple[int, ...], generator: torch.Generator) -> DrawnAugmentation:
        """What happens to each of ``count`` images, drawn at once, to be applied to any part of them later, so that
        parts of any size see the same; noise, where there is any, takes the memory of one more copy of all images."""

        affine = self.affine(torch.rand(6, count, generator=generator, dtype=torch.float64))
        centres = torch.rand(2, count, generator=generator, dtype=torch.float64).T if self.cutout > 0 else None
        noise = None
        if self.noise > 0:
            noise = self.noise * torch.randn(count, *image_shape, generator=generator, dtype=torch.float32)
        return DrawnAugmentation(affine, self.cutout, centres, noise)

    def affine(self, uniform: Tensor) -> Tensor:
        """(N, 2, 3) maps from output to input coordinates, of (6, N) float64 numbers drawn uniformly from 0 to 1."""
        zoom = 1 - self.crop * uniform[0]
        flip = torch.where(uniform[1] < self.mirror, -1.0, 1.0).double()
        shift, place = 2 * self.translate * (2 * uniform[2::2] - 1), 2 * uniform[3::2] - 1
        # A crop window may lie anywhere inside the picture; translation moves it beyond the edge.
        shift_x, shift_y = shift + place * (1 - zoom)
        zero = torch.zeros_like(zoom)
        return torch.stack([zoom * flip, zero, shift_x, zero, zoom, shift_y], dim=1).view(-1, 2, 3)


@dataclass(frozen=True)
class DrawnAugmentation:
    """One drawn change for each of N images.

    Args:
        affine: (N, 2, 3) float64, from output to input coordinates, as ``affine_grid`` takes it.
        cutout: side of the square set to zero, as a fraction of the side.
        centres: (N, 2) float64 centres (x, y) of those squares in [0, 1], or None.
        noise: (N, C, H, W) float32 to be added, or None.
    """

    affine: Tensor
    cutout: float
    centres: Tensor | None
    noise: Tensor | None

    def __call__(self, images: Tensor, first: int = 0) -> Tensor:
        """Augment the (n, C, H, W) normalised float images ``first`` to ``first + n`` of the N."""
        own = slice(first, first + len(images))
        grid = functional.affine_grid(self.affine[own].to(images), list(images.shape), align_corners=False)
        moved = functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        if self.centres is not None:
            moved = moved * self._mask(moved, self.centres[own].to(images))
        return moved if self.noise is None else moved + self.noise[own].to(moved)

    def _mask(self, images: Tensor, centres: Tensor) -> Tensor:
        """(n, 1, H, W) mask that is 0 inside one square per image and 1 elsewhere."""
        height, width = images.shape[-2:]
        rows = (torch.arange(height, device=images.device) + 0.5) / height
        columns = (torch.arange(width, device=images.device) + 0.5) / width
        inside_x = (columns[None, :] - centres[:, :1]).abs() <= self.cutout / 2
        inside_y = (rows[None, :] - centres[:, 1:]).abs() <= self.cutout / 2
        return 1 - (inside_y[:, None, :, None] & inside_x[:, None, None, :]).to(images)
