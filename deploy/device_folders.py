"""ImageFolder trees of several devices, made of the bundled digits: for trials of a deployment without data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from client.data import open_split
from dsv import KNOWN_TASKS, write_picture
from protos.settings import IMAGEFOLDER, RunSettings

TASK = KNOWN_TASKS["digits"]


def digit_settings(settings: RunSettings) -> RunSettings:
    """``settings`` for devices that hold trees of digits."""
    classes, side = ",".join(TASK.class_names), TASK.image_size_px
    return replace(settings, data=IMAGEFOLDER, classes=classes, channels=TASK.channels, image_size_px=side)


def write_digit_folders(folder: Path, devices: int) -> list[Path]:
    """Write ``folder/device0`` and so on, with every image of the training split on one of them.

    The first device has no image of the last class, as a device may never have met a class.
    There are at least two.
    """
    split = open_split("digits", "", "train", TASK)
    images, last = split.images(), TASK.classes - 1
    roots = [folder / f"device{number}" for number in range(devices)]
    for number, (image, label) in enumerate(zip(images, split.labels.tolist(), strict=True)):
        device = number % devices if label != last else 1 + number % (devices - 1)
        place = roots[device] / "train" / TASK.class_names[label]
        place.mkdir(parents=True, exist_ok=True)
        write_picture(place / f"{number:04d}.png", image)
    return roots
