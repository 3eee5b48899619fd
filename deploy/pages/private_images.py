"""DSVs beside the real images that their model rests on, where the owner of those has them at hand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from client.data import ImageSplit, open_split
from deploy.pages import words
from deploy.pages.facts import ReleaseFacts
from deploy.pages.pictures import encoded, fit
from dsv import DsvError

_PER_CLASS = 5
_MOST_CLASSES = 100
_MEAN_OF = 500


@dataclass(frozen=True)
class Selected:
    """A selection of ``dsv select``, with the images that it speaks of.

    Args:
        entries: (class, place in the training images, lambda), largest lambda of a class first.
        train: the private training images.
    """

    entries: list[tuple[int, int, float]]
    train: ImageSplit


@dataclass(frozen=True)
class Beside:
    """A class's DSVs and real images as data URIs with what is said of them, and the mean of either."""

    name: str
    dsvs: list[tuple[str, str]]
    real: list[tuple[str, str]]
    mean_dsv: str
    mean_real: str


def read_selection(path: Path, data: str, root: str, release: ReleaseFacts) -> Selected:
    """The output of ``dsv select`` and its images, which are opened here, on their owner's machine.

    Raises:
        DsvError: no such file, not a selection, or one of other images.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        entries = [(_whole(row["class"]), _whole(row["index"]), float(row["lambda"])) for row in found["coreset"]]
    except OSError as error:
        raise DsvError(f"cannot read the selection {path}: {error.strerror}; make it with 'dsv select'") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DsvError(f"{path} is no selection; make it with 'dsv select --out FILE.json'") from None
    train = open_split(data, root, "train", release.support_set.task)
    for label, index, _ in entries:
        if not 0 <= index < len(train) or int(train.labels[index]) != label:
            raise DsvError(
                f"{path} was not made from these images of {data} (no. {index}); give its own --data, --data-root"
            )
    entries.sort(key=lambda entry: (entry[0], -entry[2]))
    return Selected(entries, train)


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"{value!r} is no whole number")
    return value


def beside(selected: Selected, release: ReleaseFacts, told: dict[int, str], budget_chars: int) -> list[Beside]:
    """Rows of DSVs and real images, the largest multipliers of each class.

    Args:
        told: what to say of a DSV, by its place in the release.

    Raises:
        DsvError: an image cannot be decoded, or is not of the release's size.
    """
    shape = release.support_set.task.image_shape
    rows, groups = [], []
    for label, name in enumerate(release.class_names[:_MOST_CLASSES]):
        chosen = [(index, weight) for own, index, weight in selected.entries if own == label][:_PER_CLASS]
        places = release.of_class(label)[:_PER_CLASS]
        if not chosen or not len(places):
            continue
        real = selected.train.load([index for index, _ in chosen])
        if tuple(real.shape[1:]) != shape:
            raise DsvError(f"the real images are {tuple(real.shape[1:])}, the release's {shape}; give its own --data")
        every = torch.nonzero(selected.train.labels == label).flatten()[:_MEAN_OF].tolist()
        means = torch.stack(
            [
                release.support_set.images[release.of_class(label)].float().mean(dim=0),
                selected.train.load(every).float().mean(dim=0),
            ]
        )
        rows.append((name, places.tolist(), [weight for _, weight in chosen]))
        groups += [release.support_set.images[places], real, means.round().to(torch.uint8)]
    fitted = fit(groups, budget_chars)
    sources = [[encoded(image, fitted.coding) for image in group[: max(2, fitted.per_group)]] for group in groups]
    return [
        Beside(
            words.short(name),
            list(zip(sources[3 * at], [told[place] for place in places], strict=False)),
            list(zip(sources[3 * at + 1], [f"multiplier {weight:.3g}" for weight in weights], strict=False)),
            *sources[3 * at + 2],
        )
        for at, (name, places, weights) in enumerate(rows)
    ]
