"""Clients' models, where a synthesis starts from these instead of their average; ``uploads.py`` keeps them.

Without Flower, so that a GPU box needs none to make releases of files.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from dsv import DsvError, Ensemble, draw_dead_leaves, estimated_counts, predict
from protos.checkpoint import Checkpoint, load_checkpoint

FOLDER = "client-models"
_ASKED = 32
_log = logging.getLogger("flwr")  # where the rest of a run's log goes


def load_client_models(folder: Path, teacher: Checkpoint) -> list[Checkpoint]:
    """All model files of ``folder``, in order of their names.

    Raises:
        DsvError: there is none, or one is not a model of the teacher's architecture and task.
    """
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise DsvError(
            f"{folder} holds no client's model; a run keeps them with synthesis-from clients, or use the global model"
        )
    found = [load_checkpoint(path) for path in paths]
    for path, checkpoint in zip(paths, found, strict=True):
        if (checkpoint.spec, checkpoint.task) != (teacher.spec, teacher.task):
            raise DsvError(f"{path} is not a model of the teacher's architecture and task; remove it from the folder")
    return found


def usable(clients: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Those whose answers are finite: weights may be finite, and pass the allow-list, and still answer NaN, by which
    one client would end the labels of all. Each of the others is named in the log.

    Args:
        clients: at least one, all of one task.

    Raises:
        DsvError: there is none.
    """
    found, task = [], clients[0].task
    pictures = draw_dead_leaves(_ASKED, task, torch.Generator().manual_seed(0))
    for number, client in enumerate(clients):
        if bool(torch.isfinite(predict(client.model, pictures, task)).all()):
            found.append(client)
        else:
            _log.warning("left out client model %d of %d: its answers are not finite", number, len(clients))
    if not found:
        raise DsvError("no client's model gives finite answers; synthesise from the global model")
    return found


def client_ensemble(clients: Sequence[Checkpoint], device: str) -> Ensemble:
    """All clients' models as one, each trusted with the classes that its weights have seen; on the device.

    Args:
        clients: at least one, all of one task.
    """
    members = [client.model for client in clients]
    told = [client.examples for client in clients if client.examples]
    sizes = told if len(told) == len(clients) else [1] * len(clients)  # files of an earlier version do not tell
    return Ensemble(members, estimated_counts(members, sizes, clients[0].task, device=device))
