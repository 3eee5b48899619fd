"""Private images: the only place of the whole system that opens them."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from client.class_folders import device_classes, device_folder, existing_split
from dsv import KNOWN_TASKS, DsvError, Task, folders_by_name, folders_in, picture_paths, read_picture
from protos.settings import IMAGEFOLDER

_CHECK_BATCH = 500
_DIGITS_TEST_SHARE = 0.2
_DIGITS_SPLIT_SEED = 0  # fixed: the test images are the same whatever the run's seed


@dataclass(frozen=True)
class ImageSplit:
    """Labels of one split, and its images on demand.

    Args:
        labels: (N,) int64.
        load: from indices to (n, C, H, W) uint8; opens no other image.
        stored_bytes: from indices to the size of those images as they are stored.
        paths: their files, of data that has a file for every image; else empty.
    """

    labels: Tensor
    load: Callable[[Sequence[int]], Tensor]
    stored_bytes: Callable[[Sequence[int]], int]
    paths: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def images(self) -> Tensor:
        """All images, (N, C, H, W) uint8."""
        return self.load(range(len(self)))


def open_split(data: str, root: str, split: str, task: Task) -> ImageSplit:
    """The ``train`` or ``test`` images of a data set.

    Args:
        data: a name of ``RunSettings.data``.
        root: its folder; empty for digits, which come with scikit-learn.
        task: what the images must fit.

    Raises:
        DsvError: no data set of that name, missing folder, empty or unknown class, images of another size or number of
            classes, or files that are not there and cannot be downloaded. A corrupt image raises when it is loaded.
    """
    if data != IMAGEFOLDER and data not in KNOWN_TASKS:
        raise DsvError(f"data {data!r} is unknown; choose one of: {', '.join([*KNOWN_TASKS, IMAGEFOLDER])}")
    if data in KNOWN_TASKS:
        _check_fits(data, KNOWN_TASKS[data], task)
    if data == "digits":
        if root:
            raise DsvError(
                f"data digits comes with scikit-learn and is not read from {root}; name the data set that is in this "
                "folder, or leave the folder out"
            )
        return _digits(split)
    if data == IMAGEFOLDER:
        return _image_folder(root, split, task)
    return _torchvision(data, root, split)


def _check_fits(data: str, own: Task, task: Task) -> None:
    if (own.image_shape, own.classes) != (task.image_shape, task.classes):
        raise DsvError(
            f"data {data} ({own.classes} classes of {own.image_shape}) does not fit a model of "
            f"{task.classes} classes of {task.image_shape}; use data that does"
        )


def device_images(root: str, task: Task) -> ImageSplit:
    """A device's own images, those in its ``device_folder``. Not every class needs one: devices see different things.

    Raises:
        DsvError: as ``device_folder``, or a folder that is not one of the task's classes.
    """
    folder = device_folder(Path(root))
    found = [entry.name for entry in folders_in(folder)]
    if strange := sorted(set(found) - set(task.class_names)):
        raise DsvError(
            f"{folder / strange[0]} is not one of the federation's classes ({', '.join(task.class_names)[:200]}); "
            "rename or remove it"
        )
    return _of_files(list(_labelled_files(folder, task, empty=True)), task)


def own_classes(root: Path, known: Task) -> tuple[ImageSplit, Task]:
    """A device's images of classes that ``known`` does not have, and their task; those of known classes are left out.

    Raises:
        DsvError: as ``device_classes``, a class folder without an image, fewer than two new classes, or a ``test/`` of
            classes beside these.
    """
    folder = device_folder(root)
    tests = folders_by_name(root).get("test")
    if folder == root and tests and folders_in(tests):
        raise DsvError(f"{tests} lies beside classes and holds some; put the images to train on into {root}/train/")
    names = tuple(name for name in device_classes(root) if name not in known.class_names)
    if len(names) < 2:
        raise DsvError(
            f"{folder} has {len(names)} class folders that are not among the release's classes "
            f"({', '.join(known.class_names)[:200]}); put the images of two new classes or more there"
        )
    task = dataclasses.replace(known, class_names=names)
    return _of_files(list(_labelled_files(folder, task, empty=False)), task), task


def images_to_test_on(root: Path, task: Task) -> ImageSplit | None:
    """Images of the task's classes in the ``test/`` beside ``root``'s ``train/``; None without such a folder.

    Raises:
        DsvError: none of them is of these classes.
    """
    folder = root / "test"
    if device_folder(root) == root or not folder.is_dir():
        return None
    labelled = list(_labelled_files(folder, task, empty=True))
    if not labelled:
        raise DsvError(f"{folder} has no image of the model's classes; name its folders as in train/, or remove it")
    return _of_files(labelled, task)


def _labelled_files(folder: Path, task: Task, *, empty: bool) -> Iterator[tuple[int, Path]]:
    """Every picture with its class; raises DsvError for a class without one, unless it may be ``empty``."""
    here = folders_by_name(folder)
    for label, name in enumerate(task.class_names):
        files = picture_paths(here[name]) if name in here else []
        if not (files or empty):
            raise DsvError(f"class folder {folder / name} holds no image; add images or remove the class")
        yield from ((label, path) for path in files)


def broken_pictures(folder: Path) -> list[Path]:
    """Those picture files below a folder that training could not decode; every one is opened."""
    return [path for path in picture_paths(folder) if not _decodes(path)]


def _decodes(path: Path) -> bool:
    try:
        read_picture(path, KNOWN_TASKS["digits"])
    except DsvError:
        return False
    return True


def _digits(split: str) -> ImageSplit:
    """scikit-learn's bundled digits, read from its data file: importing the library takes four seconds, which every
    process of a simulation would spend."""
    found = importlib.util.find_spec("sklearn")
    folders = list(found.submodule_search_locations or []) if found else []
    if not folders:
        raise DsvError(
            "data digits comes with scikit-learn, which is not installed; install feddsv's extra 'simulation', or use "
            "other data"
        )
    table = numpy.loadtxt(Path(folders[0]) / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    pixels = numpy.rint(table[:, :-1].reshape(-1, 1, 8, 8) / 16 * 255).astype(numpy.uint8)
    labels = table[:, -1].astype(numpy.int64)
    order = numpy.random.default_rng(_DIGITS_SPLIT_SEED).permutation(len(labels))
    test_size = round(_DIGITS_TEST_SHARE * len(labels))
    chosen = {"test": order[:test_size], "train": order[test_size:]}[split]
    return _in_memory(torch.from_numpy(pixels[chosen]), torch.from_numpy(labels[chosen]))


def _in_memory(images: Tensor, labels: Tensor) -> ImageSplit:
    def load(indices: Sequence[int]) -> Tensor:
        return images[torch.as_tensor(list(indices), dtype=torch.int64)]

    return ImageSplit(labels, load, lambda indices: len(indices) * images[0].numel())


def _torchvision(data: str, root: str, split: str) -> ImageSplit:
    import torchvision.datasets as sets

    if not root:
        raise DsvError(f"data {data} needs the option data-root: the folder that holds its files, or takes them")
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "cifar10": (sets.CIFAR10, {"train": split == "train"}),
        "cifar100": (sets.CIFAR100, {"train": split == "train"}),
        "mnist": (sets.MNIST, {"train": split == "train"}),
        "fashionmnist": (sets.FashionMNIST, {"train": split == "train"}),
        "svhn": (sets.SVHN, {"split": split}),
    }
    kind, arguments = kinds[data]
    try:
        opened = kind(root, download=False, **arguments)
    except (RuntimeError, OSError, ValueError):
        opened = _downloaded(data, root, kind, arguments)
    images = torch.as_tensor(numpy.asarray(opened.data))
    if images.ndim == 3:
        images = images[:, None]
    elif images.shape[-1] == 3:
        images = images.permute(0, 3, 1, 2)
    labels = opened.labels if data == "svhn" else opened.targets
    return _in_memory(images.contiguous(), torch.as_tensor(labels, dtype=torch.int64))


def _downloaded(data: str, root: str, kind: Any, arguments: dict[str, Any]) -> Any:
    made = [folder for folder in (Path(root), *Path(root).parents) if not folder.exists()]
    try:
        return kind(root, download=True, **arguments)
    except Exception:  # urllib, socket and integrity errors alike: whatever it was, the files are not here
        if made:
            for entry in (*sorted(Path(root).rglob("*"), reverse=True), *made):
                with suppress(OSError):  # of a file, or of what holds one: that stays
                    entry.rmdir()
        folder = {"mnist": "MNIST/raw", "fashionmnist": "FashionMNIST/raw"}.get(data, "")
        tree = (
            f", or use the folders of images there with --data {IMAGEFOLDER}" if (Path(root) / "train").is_dir() else ""
        )
        raise DsvError(
            f"data {data} is not in {root} and cannot be downloaded; put torchvision's files of it into "
            f"{Path(root) / folder}{tree}"
        ) from None


def _image_folder(root: str, split: str, task: Task) -> ImageSplit:
    folder = existing_split(root, split)
    found = {entry.name for entry in folders_in(folder)}
    if found != set(task.class_names):
        missing, extra = sorted(set(task.class_names) - found), sorted(found - set(task.class_names))
        raise DsvError(f"{folder} must have one folder per class; missing: {missing[:5]}, not a class: {extra[:5]}")
    return _of_files(list(_labelled_files(folder, task, empty=False)), task)


def _of_files(labelled: list[tuple[int, Path]], task: Task) -> ImageSplit:
    def load(indices: Sequence[int]) -> Tensor:
        chosen = [read_picture(labelled[i][1], task) for i in indices]
        return torch.stack(chosen) if chosen else torch.empty(0, *task.image_shape, dtype=torch.uint8)

    return ImageSplit(
        torch.tensor([label for label, _ in labelled]),
        load,
        lambda indices: sum(labelled[i][1].stat().st_size for i in indices),
        tuple(path for _, path in labelled),
    )


def check_images(split: ImageSplit, on_progress: Callable[[int, int], None]) -> None:
    """Decode every image once and keep none.

    Args:
        on_progress: called with images checked and images in all.

    Raises:
        DsvError: one cannot be decoded.
    """
    total = len(split)
    for begin in range(0, total, _CHECK_BATCH):
        end = min(begin + _CHECK_BATCH, total)
        split.load(range(begin, end))
        on_progress(end, total)
