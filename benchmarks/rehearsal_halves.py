"""A data set in two halves of its classes: a teacher and its release of the old half, experts of the new one."""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.cifar import Images
from client.bootstrap import train_newcomer
from client.rehearsal import Own, training_for
from dsv import ModelSpec, SupportSet, Task, build_model, label_views, predict
from protos import artefact
from protos.checkpoint import Checkpoint
from protos.encodings import ImageEncoding
from protos.files import write_atomically
from protos.settings import RunSettings
from server.store import DirectoryStore
from server.synthesis_job import publish_releases

_ENCODING = ImageEncoding(RunSettings().image_encoding)
RANDOM_SEED = 100
"""Of the random images; the newcomer's seed is added."""


@dataclass(frozen=True)
class Reached:
    """Shares of the test images that a model gets right: of all, of the old and of the new classes."""

    every: float
    old: float
    new: float


@dataclass(frozen=True)
class Halves:
    """A data set whose classes come in two halves; the old half's images are the teacher's alone.

    Args:
        images: of all classes.
        task: all classes.
        architecture: of the teacher.
        per_class: DSVs, and random images, of an old class.
        steps: of each training; 0: as many as suit.
        cache: folder for the teacher and the release.
        device: where everything is computed.
    """

    images: Images
    task: Task
    architecture: str
    per_class: int
    steps: int
    cache: Path
    device: str = "cpu"

    @property
    def old(self) -> Task:
        """The first half of the classes."""
        return dataclasses.replace(self.task, class_names=self.task.class_names[: self.task.classes // 2])

    @cached_property
    def old_images(self) -> tuple[Tensor, Tensor]:
        """What the teacher saw, and nobody after it."""
        chosen = self.images.train_labels < self.old.classes
        return self.images.train[chosen], self.images.train_labels[chosen]

    @cached_property
    def own(self) -> Own:
        """Images of the new classes."""
        chosen, count = self.images.train_labels >= self.old.classes, self.old.classes
        task = dataclasses.replace(self.task, class_names=self.task.class_names[count:])
        return Own(self.images.train[chosen], self.images.train_labels[chosen] - count, task)

    @cached_property
    def teacher(self) -> nn.Module:
        """A model of the old classes."""
        images, labels = self.old_images
        return self.expert(self.architecture, images, labels, self.old, seed=0)

    @cached_property
    def release(self) -> SupportSet:
        """What the product makes of the teacher's weights with every default, as newcomers get it."""
        path = self.cache / f"{self.architecture.replace(':', '-')}-{self.steps}.dsv"
        if path.exists():
            return artefact.load(path)
        settings = RunSettings(images_per_class=str(self.per_class), device=self.device)
        spec = ModelSpec.parse(self.architecture, self.old)
        with tempfile.TemporaryDirectory() as name:
            store = DirectoryStore(Path(name))
            publish_releases(Checkpoint(self.teacher, spec, self.old), settings, store, on_event=lambda event: None)
            content = store.read(store.list()[0].digest)
        write_atomically(path, content)
        return artefact.decode(content)

    def expert(self, architecture: str, images: Tensor, targets: Tensor, task: Task, seed: int) -> nn.Module:
        """A model of one half, trained as the product trains it, once."""
        path = self.cache / f"{architecture.replace(':', '-')}-{task.class_names[0]}-{self.steps}-{seed}.pt"
        if path.exists():
            model = build_model(ModelSpec.parse(architecture, task), seed=seed)
            model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
            return model.to(self.device).eval()
        config = training_for(len(images), targets, self.steps)
        model = train_newcomer(architecture, images, targets, task, config, seed=seed, device=self.device)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), path)
        return model

    def new_expert(self, architecture: str, seed: int) -> nn.Module:
        """What every way that needs one has of the new classes."""
        return self.expert(architecture, self.own.images, self.own.labels, self.own.task, seed)

    def random_real(self, seed: int) -> tuple[Tensor, Tensor]:
        """As many random images of the old classes as the release has DSVs."""
        images, labels = self.old_images
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(RANDOM_SEED + seed))
        chosen = torch.cat([order[labels[order] == label][: self.per_class] for label in range(self.old.classes)])
        return images[chosen], labels[chosen]

    def labelled_alike(self, images: Tensor) -> SupportSet:
        """The release with other images, stored like its own, of which the teacher labelled the same views."""
        release, images = self.release, _stored(images)
        assert release.views is not None
        views = label_views(self.teacher, images, self.old, release.views.plan, device=self.device)
        labels = torch.arange(self.old.classes).repeat_interleave(self.per_class)
        return dataclasses.replace(release, images=images, labels=labels, views=views)

    def tested(self, probabilities: Tensor) -> Reached:
        """Of (N, K) values for the test images, the largest of a row being the answer."""
        right = (probabilities.argmax(dim=1) == self.images.test_labels).float()
        old = self.images.test_labels < self.old.classes
        return Reached(float(right.mean()), float(right[old].mean()), float(right[~old].mean()))

    def tested_model(self, model: nn.Module) -> Reached:
        """The same of a model of all classes."""
        return self.tested(predict(model, self.images.test, self.task))


def _stored(images: Tensor) -> Tensor:
    count, channels, height, width = images.shape
    return _ENCODING.decode(_ENCODING.encode(images), (count, channels, height, width))
