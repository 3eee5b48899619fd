"""Which class folders a data root has. Lists folders and opens no image."""

from __future__ import annotations

from pathlib import Path

from dsv import DsvError, folders_in, picture_paths


def device_folder(root: Path) -> Path:
    """Where a device's class folders are: ``root``'s ``train`` where there is one, else ``root`` itself.

    A ``train`` that holds pictures and no folder is a class of that name.

    Raises:
        DsvError: no such folder, no folder with an image in it, or one that cannot be read.
    """
    try:
        inside = folders_in(root)
    except (FileNotFoundError, NotADirectoryError):
        raise DsvError(f"data folder {root} of this device does not exist; name the folder of its images") from None
    train = root / "train"
    folder = train if train in inside and (folders_in(train) or not picture_paths(train)) else root
    # A list: every folder is looked into, so that one that cannot be read is told now and not in the first round.
    if not any([picture_paths(entry) for entry in folders_in(folder)]):
        raise DsvError(f"{folder} has no class folder with an image in it; put images into {folder}/<class>/")
    return folder


def device_classes(root: Path) -> tuple[str, ...]:
    """Names of a device's class folders, sorted; it may have a single one.

    Raises:
        DsvError: as ``device_folder``, or a name with a comma, or a space at an end.
    """
    return _class_names(device_folder(root))


def folder_classes(root: str) -> tuple[str, ...]:
    """Class names of an ImageFolder tree: the sorted folders of ``train/``.

    Raises:
        DsvError: no root, no ``train/`` in it, no class in that, or a name with a comma, or a space at an end.
    """
    train = existing_split(root, "train")
    names = _class_names(train)
    if len(names) < 2:
        raise DsvError(f"{train} holds {len(names)} class folders; put each class's images into a folder of its own")
    return names


def existing_split(root: str, split: str) -> Path:
    """The folder ``train`` or ``test`` of an ImageFolder tree.

    Raises:
        DsvError: no root named, or none of the two there.
    """
    if not root:
        raise DsvError("data imagefolder needs the option data-root: a folder with train/ and test/ in it")
    if not Path(root).is_dir():
        raise DsvError(f"data root {root} does not exist; name a folder with train/ and test/ in it")
    folder = Path(root) / split
    if not folder.is_dir():
        raise DsvError(f"data root {root} has no {split}/ folder; put {split}/<class>/<images> into it")
    return folder


def _class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(entry.name for entry in folders_in(folder))
    if any("," in name or name != name.strip() for name in names):  # which --classes could not list
        raise DsvError(f"{folder} has a class folder with a comma in its name, or a space at an end; rename it")
    return names
