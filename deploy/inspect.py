"""What a release holds, in words and as picture files."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from deploy.report import format_bytes
from deploy.sheet import new_folder, sheet
from dsv import DsvError, SupportSet, write_picture
from protos import artefact


def print_release(path: Path) -> None:
    """Print everything a release file holds but the pixels."""
    content = _bytes_of(path)
    support_set = artefact.load(path)
    task, origin = support_set.task, support_set.provenance
    console = Console(highlight=False)
    encoding = artefact.encoding_of(content)
    console.print(f"release {artefact.digest(content)}", soft_wrap=True)
    facts = {
        "file": f"{path} ({format_bytes(len(content))})",
        "images": f"{len(support_set)} of {task.channels} x {task.image_size_px} x {task.image_size_px}, {encoding}",
        "normalisation": f"mean {task.mean}, std {task.std}",
        "teacher": f"{origin.teacher_architecture}, sha256 {origin.teacher_sha256}",
        "start": f"{origin.start}, seed {origin.seed}",
        "options": ", ".join(f"{name} {value}" for name, value in sorted(origin.config.items())),
        "versions": ", ".join(f"{name} {value}" for name, value in sorted(origin.versions.items())),
    }
    for name, value in facts.items():
        console.print(f"  {name + ':':<15}{value}", soft_wrap=True, markup=False)
    console.print(_class_table(support_set))


def _class_table(support_set: SupportSet) -> Table:
    table = Table("class", "images", "sum of lambda", "lambda = 0", "teacher's confidence")
    for label, name in enumerate(support_set.task.class_names):
        own = support_set.labels == label
        multipliers, confidence = support_set.multipliers[own], support_set.soft_labels[own, label]
        mean = f"{float(confidence.mean()):.1%}" if len(confidence) else "-"
        zero = int((multipliers == 0).sum())
        table.add_row(Text(name), str(int(own.sum())), f"{float(multipliers.sum()):.3f}", str(zero), mean)
    return table


def export(path: Path, folder: Path) -> int:
    """Write a release's images as PNG in ImageFolder layout, and ``contact-sheet.png`` beside the class folders.

    Returns:
        Number of images written.

    Raises:
        DsvError: not a release, or the folder is not empty or cannot be made.
    """
    support_set = artefact.load(path)
    new_folder(folder)
    for label, name in enumerate(support_set.task.class_names):
        # A class name is text from the other side: it must not lead out of the folder.
        own_folder = folder / "images" / f"{label:04d}_{''.join(c if c.isalnum() else '_' for c in name)[:80]}"
        own_folder.mkdir(parents=True)
        own = torch.nonzero(support_set.labels == label).flatten().tolist()
        for rank, index in enumerate(sorted(own, key=lambda i: -float(support_set.multipliers[i]))):
            write_picture(own_folder / f"{rank:04d}.png", support_set.images[index])
    write_picture(folder / "contact-sheet.png", contact_sheet(support_set))
    return len(support_set)


def contact_sheet(support_set: SupportSet) -> torch.Tensor:
    """(C, H, W) uint8: a row for every class that has images, largest multiplier first."""
    rows = []
    for label in sorted(set(support_set.labels.tolist())):
        own = torch.nonzero(support_set.labels == label).flatten()
        order = own[torch.argsort(support_set.multipliers[own], descending=True, stable=True)]
        rows.append(support_set.images[order])
    return sheet(rows)


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DsvError(f"cannot read release {path}: {error.strerror}; name a .dsv file") from None
