"""Training on the images of this device."""

from __future__ import annotations

from functools import lru_cache

import numpy
from torch import Tensor, nn

from client.data import open_split
from client.partition import partition_of
from dsv import train
from protos.settings import RunSettings


def train_locally(
    model: nn.Module, settings: RunSettings, *, round_number: int, client: int, clients: int
) -> tuple[int, float]:
    """Train ``model`` in place on client ``client``'s share of ``clients``.

    Returns:
        Number of images, mean loss of the last steps.
    """
    images, labels = _own_images(settings, client, clients)
    task = settings.task()
    seed = int(numpy.random.SeedSequence((settings.seed, round_number, client)).generate_state(1)[0])
    config = settings.local_training(round_number, len(images))
    return len(images), train(model, images, labels, task, config, seed=seed, device=settings.device)


@lru_cache(maxsize=32)  # a simulation's process trains several clients, round after round
def _own_images(settings: RunSettings, client: int, clients: int) -> tuple[Tensor, Tensor]:
    split = open_split(settings.data, settings.data_root, "train", settings.task())
    indices = partition_of(settings, split.labels, clients)[client]
    return split.load(indices), split.labels[indices]
