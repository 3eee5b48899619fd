"""Training and testing on the images of this device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy
import torch
from torch import Tensor, nn

from client.data import device_images, open_split
from client.device import Device
from client.partition import partition_of
from dsv import DsvError, accuracy, train
from protos.settings import RunSettings

_VALIDATION_SEED = 0  # fixed: an image that is kept from training is kept from it in every round and run


def train_locally(model: nn.Module, device: Device, *, round_number: int) -> tuple[int, float]:
    """Train ``model`` in place on this device's images.

    Returns:
        Number of images, mean loss of the last steps.
    """
    settings = device.settings
    (images, labels), _ = _own_images(device)
    seed = int(numpy.random.SeedSequence((settings.seed, round_number, device.client)).generate_state(1)[0])
    config = settings.local_training(round_number, len(images))
    return len(images), train(model, images, labels, settings.task(), config, seed=seed)


def evaluate_locally(model: nn.Module, device: Device) -> tuple[int, float]:
    """Number of images kept from training, and the share of them that ``model`` gets right, 0 to 1.

    Raises:
        DsvError: none is kept.
    """
    _, (images, labels) = _own_images(device)
    if len(images) == 0:
        raise DsvError("this device has too few images to keep any from training; nothing to evaluate on")
    return len(images), accuracy(model, images, labels, device.settings.task())


@lru_cache(maxsize=32)  # a simulation's process trains several clients, round after round
def _own_images(device: Device) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Images and labels to train on, and those to validate with."""
    settings = device.settings
    if device.data_root:
        split = device_images(device.data_root, settings.task())
        own = list(range(len(split)))
    else:
        split = open_split(settings.data, settings.data_root, "train", settings.task())
        own = partition_of(settings, split.labels, device.clients)[device.client]
    training, validation = [(split.load(part), split.labels[part]) for part in held_apart(own, settings)]
    return training, validation


def held_apart(own: Sequence[int], settings: RunSettings) -> tuple[list[int], list[int]]:
    """Of a client's indices those that it trains on, and those that ``validation_share`` keeps from it."""
    order = torch.randperm(len(own), generator=torch.Generator().manual_seed(_VALIDATION_SEED)).tolist()
    kept = set(order[: int(settings.validation_share * len(own))])
    training = [index for number, index in enumerate(own) if number not in kept]
    return training, [index for number, index in enumerate(own) if number in kept]
