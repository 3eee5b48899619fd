"""What a release holds, in words and as picture files."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table
from rich.text import Text

from deploy.console import table_console, table_of
from deploy.terminal import print_pictures
from deploy.units import exact_bytes
from dsv import DsvError, SupportSet, ranked
from protos import artefact


def print_release(path: Path, *, pictures: bool | None = None) -> None:
    """Print what a release file holds.

    Args:
        pictures: whether the images are drawn too; None draws them where the output is a terminal.

    Raises:
        DsvError: not a release.
    """
    content = _bytes_of(path)
    support_set = artefact.load(path)
    task, origin = support_set.task, support_set.provenance
    console = table_console()
    encoding = artefact.encoding_of(content)
    console.print(f"release {artefact.digest(content)}", soft_wrap=True)
    facts = {
        "file": f"{path} ({exact_bytes(len(content))})",
        "images": f"{len(support_set)} of {task.channels} x {task.image_size_px} x {task.image_size_px}, {encoding}",
        "labels": _labels_of(support_set),
        "normalisation": f"mean {task.mean}, std {task.std}",
        "teacher": f"{origin.teacher_architecture}, sha256 {origin.teacher_sha256}",
        "start": f"{origin.start}, seed {origin.seed}",
        "options": ", ".join(f"{name} {value}" for name, value in sorted(origin.config.items())),
        "versions": ", ".join(f"{name} {value}" for name, value in sorted(origin.versions.items())),
    }
    for name, value in facts.items():
        console.print(f"  {name + ':':<15}{value}", soft_wrap=True, markup=False)
    table = _class_table(support_set)
    console.print(table)
    if bare := task.classes - table.row_count:
        console.print(f"  no image of {bare} more class{'' if bare == 1 else 'es'}")
    if console.is_terminal if pictures is None else pictures:
        print_pictures(support_set, console)


def _labels_of(support_set: SupportSet) -> str:
    kinds = "class, teacher's probabilities"
    if support_set.views is None:
        return kinds
    plan = support_set.views.plan
    leaves = f", {plan.leaves_share:.0%} of their pictures dead leaves" if plan.leaves else ""
    return f"{kinds}, teacher's logits for {plan.count:,} views{leaves}"


def _class_table(support_set: SupportSet) -> Table:
    table = table_of("class", "images", "sum of lambda", "lambda = 0", "teacher's confidence")
    for label, own in ranked(support_set):
        multipliers, confidence = support_set.multipliers[own], support_set.soft_labels[own, label]
        name, zero = support_set.task.class_names[label], int((multipliers == 0).sum())
        numbers = f"{float(multipliers.sum()):.3f}", str(zero), f"{float(confidence.mean()):.1%}"
        table.add_row(Text(name), str(len(own)), *numbers)
    return table


def export(path: Path, folder: Path) -> int:
    """Write a release's images as PNG in ImageFolder layout, with ``contact-sheet.png`` and ``images.csv``.

    Returns:
        Number of images written.

    Raises:
        DsvError: not a release, or the folder is not empty or cannot be made.
    """
    return artefact.load(path).export(folder)


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DsvError(f"cannot read release {path}: {error.strerror}; name a .dsv file") from None
