"""Training on the images of this device."""

from __future__ import annotations

from functools import lru_cache

import numpy
from torch import Tensor, nn

from client.data import open_device_folder, open_split
from client.partition import partition_of
from dsv import train
from protos.settings import RunSettings


def train_locally(
    model: nn.Module, settings: RunSettings, *, round_number: int, client: int, clients: int, own_folder: str = ""
) -> tuple[int, float]:
    """Train ``model`` in place on client ``client``'s share of ``clients``, or on a device's own folder.

    Args:
        own_folder: an ImageFolder tree whose ``train/`` is all of this device's data; empty in a simulation.

    Returns:
        Number of images, mean loss of the last steps.
    """
    images, labels = _own_images(settings, client, clients, own_folder)
    task = settings.task()
    seed = int(numpy.random.SeedSequence((settings.seed, round_number, client)).generate_state(1)[0])
    config = settings.local_training(round_number, len(images))
    return len(images), train(model, images, labels, task, config, seed=seed, device=settings.device)


@lru_cache(maxsize=32)  # a simulation's process trains several clients, round after round
def _own_images(settings: RunSettings, client: int, clients: int, own_folder: str) -> tuple[Tensor, Tensor]:
    if own_folder:
        own = open_device_folder(own_folder, settings.task())
        return own.images(), own.labels
    split = open_split(settings.data, settings.data_root, "train", settings.task())
    indices = partition_of(settings, split.labels, clients)[client]
    return split.load(indices), split.labels[indices]
