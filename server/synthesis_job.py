"""From a trained model to published releases."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import nn

from dsv import (
    Anchors,
    Checkpointing,
    Ensemble,
    KktTerms,
    Ranks,
    Start,
    SupportSet,
    SynthesisConfig,
    ViewPlan,
    end_point_anchors,
    model_digest,
    synthesize,
)
from protos import artefact
from protos.checkpoint import Checkpoint
from protos.encodings import ImageEncoding
from protos.settings import NOISE, RunSettings
from server.client_models import load_client_models, usable
from server.events import IterationDone, LeavesDrawn, Published, ViewsLabelled
from server.frames import frame_keeper
from server.labeller import Labeller
from server.start_images import starts_of
from server.store import DirectoryStore
from server.view_labels import plan_of

Told = IterationDone | LeavesDrawn | ViewsLabelled | Published


def publish_releases(
    teacher: Checkpoint,
    settings: RunSettings,
    store: DirectoryStore,
    *,
    on_event: Callable[[Told], None],
    ranks: Ranks | None = None,
    client_models: Path | None = None,
    classes: Sequence[int] | None = None,
    run_dir: Path | None = None,
) -> None:
    """Synthesise every DSV set that ``settings`` ask for from ``teacher`` and publish each as soon as it is made.

    The state of an unfinished synthesis lies in the store, and so does a note of each release that is out: the same
    call again goes on from there.

    Args:
        ranks: processes that share the synthesis; the first one publishes.
        client_models: folder of the clients' own models, whose end points the DSVs shall satisfy and whose ensemble
            gives the labels; the teacher's end point and its labels when None.
        classes: that DSVs are made of, each once; all of the task when None.
        run_dir: folder of the run, which takes a few frames of every synthesis for its report.

    Raises:
        DsvError: as ``synthesize``, ``starts_of``, ``plan_of``, ``load_client_models``, ``usable``,
            ``ImageEncoding.check_works`` and ``DirectoryStore``'s methods.
    """
    compute, ranks = settings.compute(), ranks or Ranks()
    tell = on_event if ranks.rank == 0 else lambda event: None
    compute.place(teacher.model)
    clients = usable(load_client_models(client_models, teacher)) if client_models else []
    labeller = Labeller.of(teacher, clients, compute.device)
    job = _Job(teacher, settings, _anchors(clients, labeller.model), labeller, ranks, tell, classes, run_dir)
    images = max(settings.releases) * len(classes or teacher.task.class_names)
    ImageEncoding(settings.image_encoding).check_works(teacher.task, images)  # not only once the synthesis is done
    plan = plan_of(settings.views, teacher.task, settings.seed)
    starts = starts_of(
        settings.start,
        teacher.task,
        settings.releases,
        seed=settings.seed,
        label=labeller.probabilities,
        classes=classes,
        on_drawn=lambda done, total: tell(LeavesDrawn(done, total)),
    )
    names = {count: job.name(count, starts[count]) for count in settings.releases}
    for count, name in names.items():
        digest = store.finished(name)
        if digest is None:
            checkpointing = Checkpointing(store.state_path(name))
            support_set = job.synthesised(count, starts[count], checkpointing)
            if ranks.rank != 0:
                continue
            digest = store.publish(job.encoded(support_set, count, plan))
            store.mark_finished(name, digest)
            checkpointing.clear()
        path = store.path(digest)
        tell(Published(digest, count, path.stat().st_size, str(path.absolute())))
    if ranks.rank == 0:
        store.forget_finished(names.values())


def _anchors(clients: Sequence[Checkpoint], labelling: nn.Module) -> Anchors | None:
    """Of the clients' own end points, with the counts that their ensemble told from their weights."""
    if not isinstance(labelling, Ensemble):
        return None
    return end_point_anchors([client.model.state_dict() for client in clients], labelling.counts)


@dataclass(frozen=True)
class _Job:
    """What all releases of one run share."""

    teacher: Checkpoint
    settings: RunSettings
    anchors: Anchors | None
    labeller: Labeller
    ranks: Ranks
    tell: Callable[[Told], None]
    classes: Sequence[int] | None
    run_dir: Path | None

    @cached_property
    def _digests(self) -> list[str]:
        """Of the teacher and of what labels; the same for every release."""
        teacher, labelling = self.teacher.model, self.labeller.model
        of_teacher = model_digest(teacher)
        return [of_teacher, of_teacher if labelling is teacher else model_digest(labelling)]

    def name(self, count: int, start: Start | None) -> str:
        """Of the synthesis of ``count`` images a class: another one for all that would make another release."""
        settings, digest = self.settings, hashlib.sha256(start.images.numpy().tobytes() if start else b"")
        decided = [asdict(settings.synthesis(count)), settings.seed, settings.views, settings.image_encoding]
        decided += [asdict(self.teacher.task), str(self.teacher.spec), start.name if start else NOISE]
        decided += [asdict(settings.compute()), self._digests, self.ranks.count]
        decided += [] if self.classes is None else [list(self.classes)]
        digest.update(json.dumps(decided).encode())
        return f"{count}-per-class-{digest.hexdigest()[:16]}"

    def synthesised(self, count: int, start: Start | None, checkpointing: Checkpointing) -> SupportSet:
        """The DSV set of ``count`` images a class."""
        teacher, settings = self.teacher, self.settings
        config = settings.synthesis(count)
        labels = None if self.classes is None else torch.tensor(self.classes).repeat_interleave(count)
        return synthesize(
            teacher.model,
            teacher.task,
            config,
            seed=settings.seed,
            labels=labels,
            start=start,
            anchors=self.anchors,
            label=self.labeller.probabilities,
            teacher_architecture=str(teacher.spec),
            compute=settings.compute(),
            ranks=self.ranks,
            checkpointing=checkpointing,
            on_iteration=_reporter(config, self.tell) if self.ranks.rank == 0 else None,
            frames=frame_keeper(self.run_dir, teacher.task.classes, count, config.iterations) if self.run_dir else None,
        )

    def encoded(self, support_set: SupportSet, count: int, plan: ViewPlan | None) -> bytes:
        """The release, labelled anew as newcomers will see its images."""

        def counted(done: int, total: int) -> None:
            self.tell(ViewsLabelled(count, done, total))

        return artefact.encode(
            support_set,
            self.settings.image_encoding,
            relabel=self.labeller.probabilities,
            label_views=partial(self.labeller.views, plan=plan, on_labelled=counted) if plan else None,
        )


def _reporter(config: SynthesisConfig, on_event: Callable[[IterationDone], None]) -> Callable[[int, KktTerms], None]:
    def report(done: int, terms: KktTerms) -> None:
        on_event(
            IterationDone(
                images_per_class=config.images_per_class,
                iteration=done,
                iterations=config.iterations,
                total=float(terms.total.detach()),
                stationarity=float(terms.stationarity.detach()),
                primal=float(terms.primal.detach()),
                total_variation=float(terms.total_variation.detach()),
                norm=float(terms.norm.detach()),
                entropy=float(terms.entropy.detach()),
            )
        )

    return report
