"""From a trained model to a published release."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from dsv import KktTerms, Start, SynthesisConfig, checked_device, synthesize
from protos import artefact
from protos.checkpoint import Checkpoint
from server.events import IterationDone
from server.start_images import load_start
from server.store import ReleaseStore


def synthesize_release(
    teacher: Checkpoint,
    config: SynthesisConfig,
    store: ReleaseStore,
    *,
    seed: int,
    start: str,
    device: str,
    on_iteration: Callable[[IterationDone], None],
) -> str:
    """Synthesise one DSV set from ``teacher`` and publish it.

    Args:
        start: ``noise``, or a folder of public images.
        device: ``cpu``, ``cuda`` or ``cuda:N``.

    Returns:
        The digest of the release.

    Raises:
        DsvError: as ``synthesize``, ``load_start``, ``checked_device`` and ``ReleaseStore.publish``.
    """
    chosen_device = checked_device(device)
    support_set = synthesize(
        teacher.model,
        teacher.task,
        config,
        seed=seed,
        start=None if start == "noise" else Start(start, _start(start, teacher, config)),
        teacher_architecture=str(teacher.spec),
        device=chosen_device,
        on_iteration=lambda done, terms: on_iteration(_event(config, done, terms)),
    )
    return store.publish(artefact.encode(support_set))


def _start(start: str, teacher: Checkpoint, config: SynthesisConfig) -> Tensor:
    return load_start(start, teacher.task, config.images_per_class)


def _event(config: SynthesisConfig, done: int, terms: KktTerms) -> IterationDone:
    return IterationDone(
        images_per_class=config.images_per_class,
        iteration=done,
        iterations=config.iterations,
        total=float(terms.total.detach()),
        stationarity=float(terms.stationarity.detach()),
        primal=float(terms.primal.detach()),
        total_variation=float(terms.total_variation.detach()),
        norm=float(terms.norm.detach()),
    )
