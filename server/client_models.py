"""Every client's model of the last round, where a synthesis starts from these instead of their average.

They are kept as long as the run's folder is, and only when asked for (``synthesis-from clients``): docs/privacy.md says
what it means that a server looks at single clients.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from logging import WARNING
from pathlib import Path

import torch
from flwr.app import ArrayRecord
from flwr.supercore import log

from dsv import DsvError, Ensemble, draw_dead_leaves, estimated_counts, predict
from protos.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from protos.exchange import load_record

FOLDER = "client-models"
_ASKED = 32


@dataclass(frozen=True)
class Upload:
    """What one client sent: its tensors, and the number of images that it trained on."""

    arrays: ArrayRecord
    examples: int


def keep_client_models(run_dir: Path, teacher: Checkpoint, sent: Sequence[Upload]) -> None:
    """Write what the clients sent, in its order, as model files into ``run_dir``; an earlier round's are replaced."""
    folder, partial = run_dir / FOLDER, run_dir / f"{FOLDER}.partial"
    for stale in (partial, folder):
        shutil.rmtree(stale, ignore_errors=True)
    partial.mkdir(mode=0o700, parents=True)  # a single client's weights tell more of it than the average does
    for number, upload in enumerate(sent):
        checkpoint = replace(teacher, model=copy.deepcopy(teacher.model), examples=upload.examples)
        load_record(checkpoint.model, upload.arrays)
        save_checkpoint(partial / f"{number:04d}.safetensors", checkpoint)
    partial.rename(folder)


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
            log(WARNING, "left out client model %d of %d: its answers are not finite", number, len(clients))
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
