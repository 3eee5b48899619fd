"""Labelled views: pictures that everybody can draw alike from a set's images, with the teacher's logits for each.

A view is a cut-out of one picture, shifted and mirrored, with a square of another one pasted into it (CutMix, Yun et
al., arXiv:1905.04899). Only the logits travel, half a byte each: which pictures and which cut-outs follow from a seed.
Beside the set's images, pictures may be dead leaves, which are drawn from the seed too and travel not at all.

Sources: a label for every augmented copy is fast knowledge distillation (Shen and Xing, arXiv:2112.01528); that a
teacher's answers to unlike pictures carry over, Beyer et al., arXiv:2106.05237. Measured in docs/zero-shot.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy
import torch
from torch import Tensor
from torch.nn import functional

from dsv.augmentation import Augmentation
from dsv.dead_leaves import draw_dead_leaves
from dsv.errors import DsvError
from dsv.evaluation import asked_at_once
from dsv.pixels import from_uint8
from dsv.task import Task

LEVELS = 16
"""Values that a stored logit may have, evenly spaced from ``-scale`` to ``scale``."""
MAX_VIEWS = 1 << 18
MAX_LEAVES = 1 << 14
MAX_TEMPERATURE = 100.0
PROBES = 8
"""Views whose mean is stored, so that a reader who draws other ones notices."""

_CLIP = 3.0  # deviations; measured: 4 bits lose nothing then
_SCALES = (1e-6, 1e9)
_PER_VIEW = 19  # uniform numbers: which picture and how it is cut out, twice, and the square
_AT_ONCE = 500
_MAX_LEAF_BYTES = 1 << 28
_PROBE_UNITS, _PROBE_TOLERANCE = 1000, 20


@dataclass(frozen=True)
class ViewPlan:
    """Which views there are, which anyone draws alike from it, and how soft their labels are meant to be read.

    Args:
        count: V, 1 to ``MAX_VIEWS``.
        seed: of everything that is drawn, 0 to 2^63 - 1.
        crop, translate: of ``Augmentation``; mirroring follows the task.
        leaves: dead leaves that are drawn beside the set's images, 0 to ``MAX_LEAVES``.
        leaves_share: of the pictures, those that are dead leaves, 0 to 1; not read without leaves.
        temperature: of a newcomer's loss, in deviations of the teacher's logits, 0.01 to ``MAX_TEMPERATURE``; measured.

    Raises:
        DsvError: a value is out of its range or of another type.
    """

    count: int
    seed: int = 0
    crop: float = 0.5
    translate: float = 0.125
    leaves: int = 0
    leaves_share: float = 0.5
    temperature: float = 2.0

    def __post_init__(self) -> None:
        # Plans also come out of files that strangers wrote, so the annotations alone do not hold.
        limits = {"count": (1, MAX_VIEWS), "seed": (0, 2**63 - 1), "leaves": (0, MAX_LEAVES)}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise DsvError(f"a view plan's {name} must be a whole number from {low} to {high}, got {value!r:.40}")
        unit = (0.0, 1.0)
        ranges = {"crop": unit, "translate": unit, "leaves_share": unit, "temperature": (0.01, MAX_TEMPERATURE)}
        for name, (least, most) in ranges.items():
            value = getattr(self, name)
            if type(value) is not float or not least <= value <= most:
                raise DsvError(f"a view plan's {name} must be a number from {least} to {most}, got {value!r:.40}")


@dataclass(frozen=True, eq=False)
class LabelledViews:
    """The teacher's logits for every view of a plan.

    Args:
        plan: the views.
        levels: (V, K) uint8 below ``LEVELS``: logits, less the mean of their view, rounded.
        scale: the logit that the highest level stands for, from 1e-6 to 1e9.
        probe: mean of each of the first ``PROBES`` views (fewer where there are fewer), in thousandths.

    Raises:
        DsvError: shapes, dtypes or values that do not fit each other.
    """

    plan: ViewPlan
    levels: Tensor
    scale: float
    probe: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.levels.dtype != torch.uint8 or self.levels.ndim != 2 or len(self.levels) != self.plan.count:
            raise DsvError(
                f"labels of {self.plan.count} views must be uint8, a row for each, got {self.levels.dtype} of shape "
                f"{tuple(self.levels.shape)}"
            )
        if self.levels.numel() == 0 or int(self.levels.max()) >= LEVELS:
            raise DsvError(f"labels of views must be levels below {LEVELS}")
        if type(self.scale) is not float or not _SCALES[0] <= self.scale <= _SCALES[1]:
            raise DsvError(f"the scale of views' logits must be a number from 1e-6 to 1e9, got {self.scale!r:.40}")
        if len(self.probe) != min(PROBES, self.plan.count) or any(type(mean) is not int for mean in self.probe):
            raise DsvError(f"the probe of labelled views must be {min(PROBES, self.plan.count)} whole numbers")

    def logits(self, numbers: Tensor) -> Tensor:
        """(B, K) float32 for the views of the (B,) int64 ``numbers``."""
        return self.scale * (self.levels[numbers].float() * (2 / (LEVELS - 1)) - 1)

    def loss(self, logits: Tensor, numbers: Tensor) -> Tensor:
        """Cross-entropy of (B, K) logits towards the teacher's for the same views, both softened (a scalar).

        Source: Hinton et al., arXiv:1503.02531. The temperature follows the teacher's logits, whose size training
        leaves to chance.
        """
        temperature = self.plan.temperature * self.scale / _CLIP
        wanted = torch.softmax(self.logits(numbers).to(logits.device) / temperature, dim=1)
        return functional.cross_entropy(logits / temperature, wanted)

    def of(self, images: Tensor, task: Task) -> Views:
        """The views as pictures.

        Args:
            images: (N, C, S, S) uint8, those of the set.

        Raises:
            DsvError: they are not the views that the teacher labelled, so that its logits would mislead; else as
                ``Views``.
        """
        views = Views(images, task, self.plan)
        if any(abs(one - other) > _PROBE_TOLERANCE for one, other in zip(views.probe(), self.probe, strict=True)):
            raise DsvError(
                "these are not the views that were labelled: the images are others, or this torch draws otherwise; "
                "install the release's version of torch (dsv inspect names it), or train from soft labels"
            )
        return views


Targets = Tensor | LabelledViews
"""What a classifier is trained towards: (N,) int64 classes, (N, K) float32 probabilities, or labelled views."""


def label_views(
    logits_of: Callable[[Tensor], Tensor],
    images: Tensor,
    task: Task,
    plan: ViewPlan,
    *,
    device: torch.device | str = "cpu",
    on_labelled: Callable[[int, int], None] | None = None,
) -> LabelledViews:
    """Ask a teacher for every view of a plan.

    Args:
        logits_of: the teacher in eval mode, (B, C, S, S) normalised float32 to (B, K) logits.
        images: (N, C, S, S) uint8, as newcomers get them.
        device: where the teacher is.
        on_labelled: called with the number of views so far and in all.

    Raises:
        DsvError: the teacher's logits are not finite, or the plan's dead leaves take more memory than permitted.
    """
    views, found = Views(images, task, plan), []
    with torch.no_grad():
        for numbers in torch.split(torch.arange(plan.count), min(_AT_ONCE, asked_at_once(task))):
            found.append(centred(logits_of(views.draw(numbers).to(device)).float()).cpu())
            if on_labelled is not None:
                on_labelled(int(numbers[-1]) + 1, plan.count)
    logits = torch.cat(found)
    scale = max(_CLIP * float(logits.square().mean().sqrt()), _SCALES[0])
    if not math.isfinite(scale):
        raise DsvError("the teacher's logits for the views are not finite; check its weights")
    levels = ((logits / scale).clamp(-1, 1) + 1) * ((LEVELS - 1) / 2)
    return LabelledViews(plan, levels.round().to(torch.uint8), scale, views.probe())


def centred(logits: Tensor) -> Tensor:
    """(B, K) logits less the mean of each row, which no probability depends on."""
    return logits - logits.mean(dim=1, keepdim=True)


@lru_cache(maxsize=1)
def _drawn_leaves(count: int, task: Task, seed: int) -> Tensor:
    """(L, C, S, S) uint8; kept, since they take seconds and every newcomer of a release draws the same ones."""
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.empty(0, *task.image_shape, dtype=torch.uint8)]
    for begin in range(0, count, _AT_ONCE):
        parts.append(draw_dead_leaves(min(_AT_ONCE, count - begin), task, generator))
    return torch.cat(parts)


class Views:
    """The views of a plan as pictures.

    Args:
        images: (N, C, S, S) uint8, N at least 1.
        task: normalisation, and whether a mirrored image keeps its class.
        plan: which views.

    Raises:
        DsvError: the plan's leaves do not fit into memory.
    """

    def __init__(self, images: Tensor, task: Task, plan: ViewPlan) -> None:
        if plan.leaves * math.prod(task.image_shape) > _MAX_LEAF_BYTES:
            raise DsvError(f"{plan.leaves} dead leaves take more than {_MAX_LEAF_BYTES} bytes; plan fewer")
        self.plan, self._images, self._task = plan, images, task
        self._leaves = _drawn_leaves(plan.leaves, task, plan.seed)
        # Of all generators at hand, Philox is the one that is specified (Salmon et al., SC 2011), in any language.
        raw = numpy.random.Philox(key=plan.seed).random_raw(plan.count * _PER_VIEW)
        self._drawn = torch.from_numpy((raw >> numpy.uint64(11)).astype(numpy.float64) * 2.0**-53).view(-1, _PER_VIEW)

    def draw(self, numbers: Tensor) -> Tensor:
        """(B, C, S, S) normalised float32 views of the (B,) int64 ``numbers``."""
        drawn = self._drawn[numbers].T
        ground, pasted = self._cut_out(drawn[:8]), self._cut_out(drawn[8:16])
        side = (1 - drawn[16].sqrt()).sqrt()  # a square of 1 - sqrt(u) of the picture's area: a third of it, on average
        ticks = (torch.arange(self._task.image_size_px) + 0.5) / self._task.image_size_px
        inside_x = (ticks[None] - drawn[17][:, None]).abs() < side[:, None] / 2
        inside_y = (ticks[None] - drawn[18][:, None]).abs() < side[:, None] / 2
        return torch.where((inside_y[:, :, None] & inside_x[:, None, :])[:, None], pasted, ground)

    def probe(self) -> tuple[int, ...]:
        """See ``LabelledViews``."""
        first = self.draw(torch.arange(min(PROBES, self.plan.count)))
        return tuple(round(_PROBE_UNITS * float(mean)) for mean in first.flatten(1).mean(dim=1))

    def _cut_out(self, drawn: Tensor) -> Tensor:
        """One augmented picture for each of the (8, B) uniform numbers' columns."""
        of_leaves = drawn[0] < (self.plan.leaves_share if self.plan.leaves else 0.0)
        pictures = self._images[(drawn[1] * len(self._images)).long()]
        if self.plan.leaves:
            leaves = self._leaves[(drawn[1] * len(self._leaves)).long()]
            pictures = torch.where(of_leaves.view(-1, 1, 1, 1), leaves, pictures)
        plan = self.plan
        augmentation = Augmentation(plan.translate, plan.crop, 0.5 if self._task.mirror else 0.0)
        normalised = from_uint8(pictures, self._task, dtype=torch.float32)
        grid = functional.affine_grid(
            augmentation.affine(drawn[2:8]).float(), list(pictures.shape), align_corners=False
        )
        return functional.grid_sample(normalised, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
