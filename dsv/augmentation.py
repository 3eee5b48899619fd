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
        count = images.shape[0]

        def uniform(low: float, high: float) -> Tensor:
            drawn = torch.rand(count, generator=generator, dtype=torch.float64) * (high - low) + low
            return drawn.to(images)

        zoom = 1 - uniform(0, self.crop)
        flip = torch.where(uniform(0, 1) < self.mirror, -1.0, 1.0).to(images)
        # A crop window may lie anywhere inside the picture; translation moves it beyond the edge.
        shift_x = 2 * uniform(-self.translate, self.translate) + uniform(-1, 1) * (1 - zoom)
        shift_y = 2 * uniform(-self.translate, self.translate) + uniform(-1, 1) * (1 - zoom)
        affine = images.new_zeros(count, 2, 3)
        affine[:, 0, 0], affine[:, 0, 2] = zoom * flip, shift_x
        affine[:, 1, 1], affine[:, 1, 2] = zoom, shift_y
        grid = functional.affine_grid(affine, list(images.shape), align_corners=False)
        moved = functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        if self.cutout > 0:
            moved = moved * self._cutout_mask(moved, uniform(0, 1), uniform(0, 1))
        if self.noise > 0:
            moved = moved + self.noise * torch.randn(moved.shape, generator=generator).to(moved)
        return moved

    def _cutout_mask(self, images: Tensor, centre_x: Tensor, centre_y: Tensor) -> Tensor:
        """(N, 1, H, W) mask that is 0 inside one square per image and 1 elsewhere."""
        height, width = images.shape[-2:]
        rows = (torch.arange(height, device=images.device) + 0.5) / height
        columns = (torch.arange(width, device=images.device) + 0.5) / width
        inside_y = (rows[None, :] - centre_y[:, None]).abs() <= self.cutout / 2
        inside_x = (columns[None, :] - centre_x[:, None]).abs() <= self.cutout / 2
        return 1 - (inside_y[:, None, :, None] & inside_x[:, None, None, :]).to(images)
