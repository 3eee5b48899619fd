"""The federations of ``zero_shot.py``, fixed once; their round models are its input and are kept on disk.

A federation here is what ``dsv simulate`` runs (the same partition, local training and averaging by number of images),
in this process and without Flower's messages, and it also keeps every client's model of every round: those reach a
server anyway. ``central`` is one client with everything, the paper's setting.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.students import trained_form
from client.data import open_split
from client.partition import partition_of
from dsv import ModelSpec, Task, build_model, train
from protos.checkpoint import Checkpoint, save_checkpoint
from protos.settings import IMAGEFOLDER, RunSettings

State = dict[str, Tensor]


@dataclass(frozen=True)
class Federation:
    """Settings of the federation, its number of clients, and how many training images it shares (0: all)."""

    settings: RunSettings
    clients: int
    training_images: int = 0


def _small(**changes: object) -> RunSettings:
    return replace(RunSettings(), **changes)  # type: ignore[arg-type]


def _large(data: str, architecture: str, **changes: object) -> RunSettings:
    base = RunSettings(data=data, architecture=architecture, rounds=20, local_epochs=1, local_learning_rate=0.05)
    return replace(base, **changes)  # type: ignore[arg-type]


def _fashion(architecture: str = "convnet:32", **changes: object) -> RunSettings:
    return _large("fashionmnist", architecture, **changes)


def _cifar(architecture: str = "convnet:128", **changes: object) -> RunSettings:
    return _large("cifar10", architecture, **changes)


def _one_shot(alpha: float, architecture: str = "convnet:128", *, local_epochs: int = 20) -> Federation:
    """One upload of every client after long training, as in DENSE (arXiv:2112.12371)."""
    return Federation(_cifar(architecture, rounds=1, local_epochs=local_epochs, dirichlet_alpha=alpha), 5)


FEDERATIONS: dict[str, Federation] = {
    "digits": Federation(_small(), 8),
    "digits-iid": Federation(_small(partitioner="iid", rounds=20, local_epochs=2), 8),
    "digits-few": Federation(_small(partitioner="iid", local_epochs=20), 2, 100),
    "digits-batch-norm": Federation(_small(architecture="convnet:64:batch", partitioner="iid"), 8),
    "digits-one-shot-0.1": Federation(_small(rounds=1, local_epochs=40, dirichlet_alpha=0.1), 5),
    "digits-one-shot-0.3": Federation(_small(rounds=1, local_epochs=40, dirichlet_alpha=0.3), 5),
    "digits-one-shot-0.5": Federation(_small(rounds=1, local_epochs=40, dirichlet_alpha=0.5), 5),
    "fashion-iid": Federation(_fashion(partitioner="iid"), 10, 10_000),
    "fashion-0.5": Federation(_fashion(), 10, 10_000),
    "cifar10-narrow-iid": Federation(_cifar("convnet:32", partitioner="iid"), 10),
    "cifar10-iid": Federation(_cifar(partitioner="iid"), 10),
    "cifar10-0.5": Federation(_cifar(), 10),
    "cifar10-narrow-one-shot-0.1": _one_shot(0.1, "convnet:32", local_epochs=40),
    "cifar10-narrow-one-shot-0.3": _one_shot(0.3, "convnet:32", local_epochs=40),
    "cifar10-narrow-one-shot-0.5": _one_shot(0.5, "convnet:32", local_epochs=40),
    "cifar10-one-shot-0.1": _one_shot(0.1),
    "cifar10-one-shot-0.3": _one_shot(0.3),
    "cifar10-one-shot-0.5": _one_shot(0.5),
    "cifar10-central": Federation(_cifar(partitioner="iid"), 1),
}
"""By name. Those at full width take hours on a CPU, minutes on a GPU."""


@dataclass(frozen=True)
class Images:
    """(N, C, H, W) uint8 and (N,) int64 of what the federation trains on and is tested on."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


@dataclass(frozen=True)
class Trajectory:
    """What a server holds after a federation.

    Args:
        rounds: the global model before the first round and after each.
        clients: for every round, each client's model after its local training.
        counts: how many images each client was trained on.
    """

    spec: ModelSpec
    task: Task
    rounds: list[State]
    clients: list[list[State]]
    counts: list[int]

    @property
    def one_shot(self) -> bool:
        """Whether every client uploaded once."""
        return len(self.clients) == 1 and len(self.counts) > 1

    def checkpoint(self, state: State) -> Checkpoint:
        """A model with that state, in eval mode."""
        model = build_model(self.spec, seed=0)
        model.load_state_dict(state)
        return Checkpoint(model.eval(), self.spec, self.task)


def load_images(federation: Federation, root: str, cache: Path) -> Images:
    """The data set, decoded once into ``cache``; the federation's share of its training images."""
    data, task = federation.settings.data, federation.settings.task()
    path = cache / f"{data}.safetensors"
    if not path.exists():
        tree = root and (Path(root) / "train").is_dir()
        tensors: State = {}
        for split in ("train", "test"):
            opened = open_split(IMAGEFOLDER if tree else data, root, split, task)
            tensors |= {split: opened.images(), f"{split}_labels": opened.labels}
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path)
    images = Images(**load_file(path))
    if not federation.training_images:
        return images
    order = torch.randperm(len(images.train_labels), generator=torch.Generator().manual_seed(0))
    chosen = order[: federation.training_images]
    return replace(images, train=images.train[chosen], train_labels=images.train_labels[chosen])


def folder_of(name: str, cache: Path, *, bfloat16: bool) -> Path:
    """Where a federation is kept; trained in bfloat16 it is another one."""
    return cache / (f"{name}-bfloat16" if bfloat16 else name)


def federate(
    name: str, images: Images, cache: Path, device: str, *, compiled: bool = False, bfloat16: bool = False
) -> Trajectory:
    """The federation's trajectory; what of it is in ``cache`` is not trained again.

    Args:
        compiled: see ``trained_form``.
        bfloat16: see ``TrainingConfig``.
    """
    federation = FEDERATIONS[name]
    settings, task = federation.settings, federation.settings.task()
    parts = [part for part in partition_of(settings, images.train_labels, federation.clients) if part]
    model = build_model(settings.model_spec(), seed=settings.seed, device=device)
    runs = trained_form(model, compiled=compiled)
    folder = folder_of(name, cache, bfloat16=bfloat16)
    rounds, clients = [_cpu(model.state_dict())], list[list[State]]()
    for number in range(1, settings.rounds + 1):
        clients.append([])
        for client, part in enumerate(parts):
            path = folder / f"{number:04d}-{client:02d}.safetensors"
            if not path.exists():
                model.load_state_dict(rounds[-1])
                config = replace(settings.local_training(number, len(part)), bfloat16=bfloat16)
                own, seed = torch.tensor(part), 1_000 * number + client
                train(runs, images.train[own], images.train_labels[own], task, config, seed=seed)
                path.parent.mkdir(parents=True, exist_ok=True)
                save_file(_cpu(model.state_dict()), path)
                print(f"{name}: round {number}: client {client + 1} of {len(parts)}", file=sys.stderr, flush=True)
            clients[-1].append(load_file(path))
        rounds.append(_average(clients[-1], [len(part) for part in parts]))
    trajectory = Trajectory(settings.model_spec(), task, rounds, clients, [len(part) for part in parts])
    save_checkpoint(folder / "teacher.safetensors", trajectory.checkpoint(rounds[-1]))  # for other commands
    return trajectory


def _cpu(state: State) -> State:
    return {key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in state.items()}


def _average(states: list[State], counts: list[int]) -> State:
    """Federated averaging; whole numbers (batch norm counts its batches) are the first client's."""
    shares = [count / sum(counts) for count in counts]
    return {
        key: sum((share * s[key] for share, s in zip(shares, states, strict=True)), torch.zeros_like(first))
        if first.is_floating_point()
        else first
        for key, first in states[0].items()
    }
