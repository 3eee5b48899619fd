"""A DSV set as a picture in a notebook, and as picture files. Needs no library for either."""

from __future__ import annotations

import base64
import csv
import html
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dsv.errors import DsvError
from dsv.png import png_bytes
from dsv.sheet import enlargement, sheet

if TYPE_CHECKING:
    from dsv.support_set import SupportSet

_CLASSES_SHOWN = 20


@dataclass(frozen=True)
class Picture:
    """What ``SupportSet.show`` returns: notebooks draw it, as a table with names or, where they cannot, as an image.

    Args:
        image: (C, H, W) uint8, the whole sheet.
        table: the same as HTML.
        caption: in words, for a console.
    """

    image: Tensor
    table: str
    caption: str

    def save(self, path: Path | str) -> None:
        """Write the sheet as PNG."""
        Path(path).write_bytes(png_bytes(self.image))

    def _repr_png_(self) -> bytes:
        return png_bytes(self.image)

    def _repr_html_(self) -> str:
        return self.table

    def __repr__(self) -> str:
        return self.caption


def ranked(support_set: SupportSet) -> Iterator[tuple[int, Tensor]]:
    """Each class that has images, with their indices, largest multiplier first."""
    for label in sorted(set(support_set.labels.tolist())):
        own = torch.nonzero(support_set.labels == label).flatten()
        yield label, own[torch.argsort(support_set.multipliers[own], descending=True, stable=True)]


def contact_sheet(support_set: SupportSet) -> Tensor:
    """(C, H, W) uint8: a row for every class that has images, with its name, largest multiplier first."""
    return _sheet_of(support_set, list(ranked(support_set)))


def _sheet_of(support_set: SupportSet, rows: list[tuple[int, Tensor]]) -> Tensor:
    names = [support_set.task.class_names[label] for label, _ in rows]
    return sheet([support_set.images[order] for _, order in rows], names=names)


def picture_of(support_set: SupportSet, per_class: int) -> Picture:
    """As ``SupportSet.show`` says."""
    if per_class < 1:
        raise DsvError(f"at least one image of a class must be shown, got {per_class}")
    rows = [(label, order[:per_class]) for label, order in ranked(support_set)][:_CLASSES_SHOWN]
    scale = enlargement(support_set.task.image_size_px)
    lines = []
    for label, order in rows:
        name = html.escape(support_set.task.class_names[label])
        cells = "".join(_cell(support_set, int(index), scale) for index in order)
        lines.append(f'<tr><th style="text-align:right">{name}</th>{cells}</tr>')
    shown = sum(len(order) for _, order in rows)
    classes = len(set(support_set.labels.tolist()))
    left_out = f" (shown: {shown}, of {len(rows)} classes)" if shown < len(support_set) else ""
    caption = f"{len(support_set)} Deep Support Vectors of {classes} classes{left_out}; λ is each one's multiplier"
    table = f"<table>{''.join(lines)}</table><p>{caption}</p>"
    return Picture(_sheet_of(support_set, rows), table, caption)


def _cell(support_set: SupportSet, index: int, scale: int) -> str:
    image, multiplier = support_set.images[index], float(support_set.multipliers[index])
    label = int(support_set.labels[index])
    sure = float(support_set.soft_labels[index, label])
    name = html.escape(support_set.task.class_names[label])
    encoded = base64.b64encode(png_bytes(image)).decode()
    size = image.shape[1] * scale
    return (
        f'<td style="text-align:center;padding:2px"><img src="data:image/png;base64,{encoded}" '
        f'style="width:{size}px;height:{size}px;image-rendering:pixelated" '
        f'alt="{name}, multiplier {multiplier:.2f}" title="{name}: teacher {sure:.0%} sure">'
        f"<br><small>λ {multiplier:.2f}</small></td>"
    )


def export_images(support_set: SupportSet, folder: Path) -> int:
    """As ``SupportSet.export`` says."""
    if folder.suffix == ".dsv":
        raise DsvError(f"{folder} would be a release: write it with protos.artefact.save(support_set, path)")
    table: list[list[str]] = [["file", "class", "multiplier", *(f"P({name})" for name in support_set.task.class_names)]]
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise DsvError(f"{folder} is not an empty folder; name a new one")
        (folder / "images").mkdir(parents=True)
        (folder / "contact-sheet.png").write_bytes(png_bytes(contact_sheet(support_set)))
        for label, order in ranked(support_set):
            table += _export_class(support_set, folder, label, order)
        with (folder / "images.csv").open("w", newline="", encoding="utf-8") as opened:
            csv.writer(opened).writerows(table)
    except OSError as error:
        raise DsvError(f"cannot write images into {folder}: {error.strerror}; name another folder") from None
    return len(support_set)


def _export_class(support_set: SupportSet, folder: Path, label: int, order: Tensor) -> list[list[str]]:
    """Write the images of one class; its lines of the table."""
    # A class name may be text from the other side: it must not lead out of the folder.
    name = support_set.task.class_names[label]
    own = Path("images") / f"{label:04d}_{''.join(c if c.isalnum() else '_' for c in name)[:80]}"
    (folder / own).mkdir()
    lines = []
    for rank, index in enumerate(order.tolist()):
        file = own / f"{rank:04d}.png"
        (folder / file).write_bytes(png_bytes(support_set.images[index]))
        shares = [f"{share:.4f}" for share in support_set.soft_labels[index].tolist()]
        lines.append([file.as_posix(), name, f"{float(support_set.multipliers[index]):.6g}", *shares])
    return lines
