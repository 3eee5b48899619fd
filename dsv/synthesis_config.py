"""Options of a synthesis, and presets of them."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from dsv.augmentation import Augmentation
from dsv.deepkkt import DISTANCES, KktWeights
from dsv.errors import DsvError
from dsv.task import Task


@dataclass(frozen=True)
class SynthesisConfig:
    """Options of a synthesis; the defaults are measured ones (docs/results.md).

    Args:
        images_per_class: candidates for every class, at least 1; not read where labels are given.
        iterations: optimiser steps, at least 1.
        image_step: Adam's step size for pixels in [0, 1]; falls to 0 along a cosine.
        multiplier_step: the same for the multipliers, which start uniformly in [0, 1).
        distance: D of Eq. 8, a key of ``DISTANCES``.
        primal_weight, total_variation_weight, norm_weight, augmented_weight, stationarity_weight: see ``KktWeights``.
        stationary_parameters: patterns of the parameters that stationarity speaks of, see ``chosen_parameters``.
        coarse_stages: 1 optimises at full resolution from the start; with n, the run is cut into n equal parts, the
            first at a side of 1 / 2^(n-1), each next one at twice the side, enlarged bilinearly.
        translate, crop, cutout, noise: of the augmented copy, see ``Augmentation``; mirroring follows the task.

    Raises:
        DsvError: an option is out of its range.
    """

    images_per_class: int = 10
    iterations: int = 300
    image_step: float = 0.03
    multiplier_step: float = 0.1
    distance: str = "layer-cosine"
    primal_weight: float = 0.1
    total_variation_weight: float = 0.0
    norm_weight: float = 0.0
    augmented_weight: float = 1.0
    stationarity_weight: float = 1.0
    stationary_parameters: str = "*"
    coarse_stages: int = 1
    translate: float = 0.125
    crop: float = 0.2
    cutout: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.images_per_class < 1:
            raise DsvError(f"images per class must be at least 1, got {self.images_per_class}")
        if self.iterations < 1:
            raise DsvError(f"iterations must be at least 1, got {self.iterations}")
        if self.distance not in DISTANCES:
            raise DsvError(f"unknown distance {self.distance!r}; choose one of: {', '.join(DISTANCES)}")
        if not (self.image_step > 0 and self.multiplier_step > 0):
            raise DsvError("image step and multiplier step must be positive")
        if not 1 <= self.coarse_stages <= 8:
            raise DsvError(f"coarse stages must be 1 to 8, got {self.coarse_stages}")
        if self.iterations < self.coarse_stages:
            raise DsvError(f"{self.coarse_stages} coarse stages need as many iterations, got {self.iterations}")
        self._check_reals()

    def _check_reals(self) -> None:
        for f in dataclasses.fields(self):
            name, value = f.name.replace("_", " "), getattr(self, f.name)
            if isinstance(f.default, float) and not math.isfinite(value):
                raise DsvError(f"{name} must be a finite number, got {value}")
            if (f.name.endswith("_weight") or f.name == "noise") and value < 0:
                raise DsvError(f"{name} must not be negative, got {value}")
            if f.name in {"translate", "crop", "cutout"} and not 0 <= value < 1:
                raise DsvError(f"{name} is a fraction of the side, from 0 to below 1, got {value}")

    @property
    def weights(self) -> KktWeights:
        """Weights of Eq. 9."""
        return KktWeights(
            primal=self.primal_weight,
            total_variation=self.total_variation_weight,
            norm=self.norm_weight,
            augmented=self.augmented_weight,
            stationarity=self.stationarity_weight,
        )

    def augmentation(self, task: Task) -> Augmentation:
        """A of Algorithm 1 for ``task``."""
        return Augmentation(self.translate, self.crop, 0.5 if task.mirror else 0.0, self.cutout, self.noise)

    def side(self, iteration: int, full_px: int) -> int:
        """Side of the candidates in the step from ``iteration`` to ``iteration + 1``, in pixels."""
        stage = iteration * self.coarse_stages // self.iterations
        return max(1, -(-full_px >> (self.coarse_stages - 1 - stage)))


PRESETS: dict[str, SynthesisConfig] = {
    "small": SynthesisConfig(),
    "paper-cifar": SynthesisConfig(
        iterations=2000, distance="mean-l1", primal_weight=2e-3, augmented_weight=5.0, noise=0.01
    ),
    "imagenet": SynthesisConfig(
        images_per_class=1,
        iterations=1000,
        image_step=0.05,
        primal_weight=1.0,
        total_variation_weight=1.0,
        coarse_stages=5,
        cutout=0.15,
        noise=0.01,
    ),
}
"""``small``: CIFAR-like and smaller images, the default. ``imagenet``: 224 pixels, batch norm. ``paper-cifar``: what
Appendix D gives (alpha: primal, eta: augmented) beside our step sizes and noise, which it does not give. What it gives
for ImageNet is no preset: its weight of total variation, 40, is of a term whose scale it does not give, and drowns all
else in ours (docs/results.md)."""
