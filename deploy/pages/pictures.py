"""Images as data URIs inside a page, no larger together than the page can carry."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

_TINY_PX = 16
_NATIVE_PX = 64
_SAMPLE = 12


@dataclass(frozen=True)
class Coding:
    """How images go into a page.

    Args:
        side_px: larger ones are made as small as this.
        quality: of lossy WebP, 1 to 100; 0 is lossless.
    """

    side_px: int
    quality: int

    def in_words(self, original_px: int) -> str:
        """What was done to images of that side; empty when they are as they were."""
        smaller = f"scaled down from {original_px} to {self.side_px} pixels" if self.side_px < original_px else ""
        lossy = "stored with losses" if self.quality else ""
        return " and ".join(part for part in (smaller, lossy) if part)


@dataclass(frozen=True)
class Fit:
    """What fits into a budget: a coding, and how many images of every group."""

    coding: Coding
    per_group: int


def codings(side_px: int) -> list[Coding]:
    """Codings of images of that side, best first."""
    lossless = [Coding(side_px, 0)] if side_px <= _NATIVE_PX else []
    lossy = [Coding(side, quality) for side, quality in ((160, 82), (96, 75), (_NATIVE_PX, 70), (40, 60))]
    return lossless + [Coding(min(c.side_px, side_px), c.quality) for c in lossy if side_px > _TINY_PX]


def fit(groups: Sequence[Tensor], budget_chars: int, *, most: int = 10_000) -> Fit:
    """The best coding and number of images of every group that stay within ``budget_chars`` of data URIs.

    Args:
        groups: (n, C, S, S) uint8 each; the first images of each matter most.
        most: images in all that a page can show.
    """
    longest = max((len(group) for group in groups), default=0)
    wanted = max(1, min(longest, most // max(1, len(groups))))
    samples = [group[index] for group in groups for index in (0, len(group) // 2) if len(group)]
    samples = samples[:: max(1, len(samples) // _SAMPLE)][:_SAMPLE]
    side = samples[0].shape[-1] if samples else 1
    for coding in codings(side):
        each = 1.15 * sum(len(encoded(image, coding)) for image in samples) / max(1, len(samples))
        if each * sum(min(len(group), wanted) for group in groups) <= budget_chars:
            return Fit(coding, wanted)
    while wanted > 1 and each * sum(min(len(group), wanted) for group in groups) > budget_chars:
        wanted //= 2
    return Fit(coding, wanted)


def encoded(image: Tensor, coding: Coding) -> str:
    """A (C, H, W) uint8 image as a data URI, WebP."""
    if image.shape[-1] > coding.side_px:
        image = functional.interpolate(image[None].float(), coding.side_px, mode="area")[0].round().to(torch.uint8)
    pixels = image.permute(1, 2, 0).numpy()
    content = io.BytesIO()
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
    if coding.quality:
        picture.save(content, "WEBP", quality=coding.quality)
    else:
        picture.save(content, "WEBP", lossless=True, quality=60)
    return "data:image/webp;base64," + base64.b64encode(content.getvalue()).decode()


def tile_px(side_px: int, wanted_px: int = 64) -> int:
    """Side at which a page shows an image: a whole multiple of a small one's, so that its pixels stay square."""
    return side_px * max(1, wanted_px // side_px) if side_px <= _NATIVE_PX else wanted_px * 3 // 2
