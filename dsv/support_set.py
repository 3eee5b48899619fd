"""The DSV set: the compact data set that is published, redistributed and trained from."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from dsv.errors import DsvError
from dsv.fits import check_fits, check_teacher
from dsv.measured import usual_views
from dsv.pixels import from_uint8
from dsv.show import Picture, export_images, picture_of
from dsv.task import Task
from dsv.training import TrainingConfig, newcomer_training, train
from dsv.views import LabelledViews, Targets, ViewPlan, label_views

Model = TypeVar("Model", bound=nn.Module)

_SUM_TOLERANCE = 0.01  # of probabilities that were rounded to float16, however many there are


@dataclass(frozen=True)
class Provenance:
    """Where a DSV set comes from. Holds no time and no machine, so that the same run gives the same bytes.

    Args:
        teacher_architecture: name of the model whose DeepKKT conditions the set satisfies.
        teacher_sha256: ``model_digest`` of that model, 64 hex digits.
        start: ``noise``, or what the candidates started from.
        seed: of the synthesis, 0 to 2^63 - 1.
        config: every option of the synthesis by name.
        versions: of the software by name.

    Raises:
        DsvError: a field is of another type or out of its range, a text is not printable, or a number in ``config`` is
            not finite.
    """

    teacher_architecture: str
    teacher_sha256: str
    start: str
    seed: int
    config: Mapping[str, int | float | str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Provenance also comes out of files that strangers wrote, so the annotations alone do not hold.
        texts = (self.teacher_architecture, self.teacher_sha256, self.start)
        if not all(_is_printable(text) for text in texts) or type(self.seed) is not int:
            raise DsvError("a provenance's architecture, digest and start must be printable text, its seed a number")
        if not re.fullmatch("[0-9a-f]{64}", self.teacher_sha256) or not 0 <= self.seed < 2**63:
            raise DsvError("a provenance's digest must be 64 hexadecimal digits, its seed 0 to 2^63 - 1")
        for name, mapping, valid in (("config", self.config, _is_option), ("versions", self.versions, _is_printable)):
            if not isinstance(mapping, Mapping) or not all(_is_printable(k) and valid(v) for k, v in mapping.items()):
                raise DsvError(f"a provenance's {name} must map names to plain values")


def _is_printable(value: object) -> bool:
    return isinstance(value, str) and value.isprintable()


def _is_option(value: object) -> bool:
    return _is_printable(value) or type(value) is int or (type(value) is float and math.isfinite(value))


@dataclass(frozen=True, eq=False)
class SupportSet(Dataset[tuple[Tensor, int]]):
    """Deep Support Vectors of a trained model; also a ``torch.utils.data.Dataset`` of (image, class).

    Args:
        images: (N, C, H, W) uint8.
        labels: (N,) int64, the class each image supports.
        soft_labels: (N, K) float32, the teacher's class probabilities for the stored images; rows add up to 1.
        multipliers: (N,) float32, lambda >= 0.
        task: image geometry, class names and normalisation.
        provenance: where the set comes from.
        views: the teacher's logits for augmented and pasted copies of the images, or None.

    Items are ((C, H, W) normalised float32, int); an index beyond them is an ``IndexError``.

    Raises:
        DsvError: shapes, dtypes or values that do not fit each other, or no image; the message names the field.
    """

    images: Tensor
    labels: Tensor
    soft_labels: Tensor
    multipliers: Tensor
    task: Task
    provenance: Provenance
    views: LabelledViews | None = None

    def __post_init__(self) -> None:
        count, classes = self.images.shape[0] if self.images.ndim else 0, self.task.classes
        expected = {
            "images": (torch.uint8, (count, *self.task.image_shape)),
            "labels": (torch.int64, (count,)),
            "soft_labels": (torch.float32, (count, classes)),
            "multipliers": (torch.float32, (count,)),
        }
        for name, (dtype, shape) in expected.items():
            tensor: Tensor = getattr(self, name)
            if tensor.dtype != dtype or tuple(tensor.shape) != shape:
                raise DsvError(
                    f"a DSV set's {name} must be {dtype} of shape {shape}, "
                    f"got {tensor.dtype} of shape {tuple(tensor.shape)}"
                )
        if count == 0:
            raise DsvError("a DSV set needs at least one image")
        if int(self.labels.min()) < 0 or int(self.labels.max()) >= classes:
            raise DsvError(f"a DSV set's labels must lie in 0 to {classes - 1}")
        for name in ("soft_labels", "multipliers"):
            tensor = getattr(self, name)
            if not bool(torch.isfinite(tensor).all()) or bool((tensor < 0).any()):
                raise DsvError(f"a DSV set's {name} must be finite and not negative")
        if bool(((self.soft_labels.sum(dim=1) - 1).abs() > _SUM_TOLERANCE).any()):
            raise DsvError("a DSV set's soft_labels must add up to 1 in every row")
        if self.views is not None and self.views.levels.shape[1] != classes:
            raise DsvError(
                f"a DSV set's views have {self.views.levels.shape[1]} logits each; the task has {classes} classes"
            )

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        views = "" if self.views is None else f", {len(self.views.levels)} labelled views"
        shape = " x ".join(map(str, self.task.image_shape))
        return f"<SupportSet: {len(self)} images, {shape}, of {len(set(self.labels.tolist()))} classes{views}>"

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is outside a DSV set of {len(self)} images")
        return from_uint8(self.images[index][None], self.task, dtype=torch.float32)[0], int(self.labels[index])

    @property
    def label_kinds(self) -> tuple[str, ...]:
        """What ``targets`` takes; a set that has labelled views was made to be trained from with them."""
        return ("hard", "soft") if self.views is None else ("hard", "soft", "view")

    def targets(self, kind: str = "") -> Targets:
        """``hard``: (N,) int64 classes; ``soft``: (N, K) float32 probabilities; ``view``: the labelled views.

        When empty, the last of ``label_kinds``: what a newcomer trains towards unless told otherwise.

        Raises:
            DsvError: another kind, or the set has no labelled views.
        """
        kind = kind or self.label_kinds[-1]
        if kind not in self.label_kinds:
            raise DsvError(f"this set has {', '.join(self.label_kinds)} labels, not {kind!r}; choose one of them")
        if self.views is not None and kind == "view":
            return self.views
        return self.labels if kind == "hard" else self.soft_labels

    def with_views(
        self, teacher: nn.Module, plan: ViewPlan | None = None, *, device: torch.device | str = "cpu"
    ) -> SupportSet:
        """The same set with a teacher's logits for views of its images: newcomers learn most from these.

        Args:
            teacher: what the set was synthesised from; it is moved to the device and put in eval mode.
            plan: how many, of what kind; those of ``usual_views`` when None.
            device: where to compute.

        Raises:
            DsvError: as ``label_views``, or the teacher does not fit the images and classes, or no number is usual for
                images of that size.
        """
        plan = plan or usual_views(self.task)
        if plan is None:
            raise DsvError(f"no number of views is usual for {self.task.image_size_px} px; give a dsv.ViewPlan")
        check_teacher(teacher.to(device).eval(), self.task)
        return dataclasses.replace(self, views=label_views(teacher, self.images, self.task, plan, device=device))

    def show(self, *, per_class: int = 10) -> Picture:
        """A picture of the set: a row for every class, largest multiplier first. Notebooks draw what this returns.

        Args:
            per_class: images of a class that are shown, at least 1; 20 classes at most are.

        Raises:
            DsvError: ``per_class`` is below 1.
        """
        return picture_of(self, per_class)

    def train(
        self,
        model: Model,
        *,
        labels: str = "",
        config: TrainingConfig | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> Model:
        """Train a newcomer of any architecture from the set, in place, and return it in eval mode.

        Args:
            model: (N, C, H, W) normalised float to (N, K) logits; the parameters that require a gradient are trained.
            labels: ``view`` (the teacher's logits for every view), ``soft`` (its probabilities) or ``hard`` (the
                classes); when empty, views where the set has them, else soft.
            config: how; ``newcomer_training()`` when None.
            seed: of the order of the images and the augmentation.
            device: where to train; the model is moved there.

        Raises:
            DsvError: the model does not fit the images and classes, the set has no such labels, its views are not the
                labelled ones, or the loss is not finite.
        """
        model.to(device).eval()
        check_fits(model, self.task)
        targets = self.targets(labels)
        config = config or newcomer_training(targets=targets)
        train(model, self.images, targets, self.task, config, seed=seed)
        return model

    def export(self, folder: Path | str) -> int:
        """Write the images as PNG in ImageFolder layout, ``contact-sheet.png``, and ``images.csv``.

        The table holds each image's file, class, multiplier and soft labels. A release file is written by
        ``protos.artefact.save``.

        Returns:
            Number of images written.

        Raises:
            DsvError: the folder is not empty, is named like a release (``.dsv``), or cannot be written.
        """
        return export_images(self, Path(folder))

    @property
    def shown(self) -> Tensor:
        """(K,) bool: which classes the set has images of."""
        return self.labels.bincount(minlength=self.task.classes) > 0

    @property
    def images_per_class(self) -> float:
        """Mean number of images of a class, of those that the set has images of."""
        return len(self) / len(set(self.labels.tolist()))


def model_digest(model: nn.Module) -> str:
    """``state_digest`` of the model's state."""
    return state_digest(model.state_dict())


def state_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over name, dtype, shape and little-endian bytes of every tensor of a model's state, in name order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
