"""What a synthesis starts from."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

GIVEN_IMAGES = "given images"
"""The start's name of a set that ``edit`` made of somebody's pictures: it may still show them."""
SHARED_NOISE = "noise, the same for every label"
"""That of ``interpolate``'s sets."""


@dataclass(frozen=True)
class Start:
    """Given images that the candidates start from, instead of noise.

    Args:
        name: for the provenance.
        images: (N, C, H, W) uint8, one per candidate, in the order of the labels.
    """

    name: str
    images: Tensor
