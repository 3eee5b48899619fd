"""What can be mended or refused before anything is trained."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from dsv import DsvError, build_model, chosen_parameters
from protos.encodings import ImageEncoding
from protos.settings import IMAGEFOLDER, RunSettings, key_of
from server.start_images import check_start, is_folder
from server.view_labels import plan_of

_OF_IMAGE_FOLDERS = ("classes", "channels", "image_size_px")
"""Options that describe what an ImageFolder tree does not tell by itself."""


def with_absolute_paths(settings: RunSettings) -> RunSettings:
    """Flower's processes run in folders of their own, and what is measured later may be measured from anywhere."""
    names = [name for name in ("backbone", "data_root", "partition_file") if getattr(settings, name)]
    names += ["start"] if is_folder(settings.start) else []
    absolute: dict[str, Any] = {name: str(Path(getattr(settings, name)).absolute()) for name in names}
    return replace(settings, **absolute)


def folder_option_given(settings: RunSettings) -> str:
    """The first of the options that describe an ImageFolder tree that is not its default; empty where all are."""
    own = (entry for entry in fields(settings) if entry.name in _OF_IMAGE_FOLDERS)
    return next((key_of(entry) for entry in own if getattr(settings, entry.name) != entry.default), "")


def check_options(settings: RunSettings) -> None:
    """Raise DsvError where options do not fit each other, on whichever machine they are given."""
    given = folder_option_given(settings)
    if given and settings.data != IMAGEFOLDER:
        raise DsvError(f"{given} is for data imagefolder alone; {settings.data} has its own")
    if settings.partitioner == "iid" and settings.dirichlet_alpha != RunSettings.dirichlet_alpha:
        raise DsvError("dirichlet-alpha is for partitioner dirichlet alone; leave it out, or partitioner iid")
    if settings.backbone_sha256 and not settings.backbone:
        raise DsvError("backbone-sha256 is of no backbone; give backbone too, or leave it out")
    model = build_model(settings.model_spec(), seed=0)
    chosen_parameters(model, settings.trainable)
    for count in settings.releases:
        chosen_parameters(model, settings.synthesis(count).stationary_parameters)
    plan_of(settings.views, settings.task(), settings.seed)


def check_machine(settings: RunSettings) -> None:
    """Raise DsvError where this machine, which will synthesise, lacks what the options need: a device, the images to
    start from, or a picture format."""
    settings.compute()
    check_start(settings.start, settings.task(), max(settings.releases))
    task = settings.task()
    ImageEncoding(settings.image_encoding).check_works(task, task.classes * max(settings.releases))


def check_clients(settings: RunSettings, clients: int) -> None:
    """Raise DsvError where rounds would wait for more than ``clients``, for ever."""
    for name in ("min_train_nodes", "min_available_nodes"):
        if getattr(settings, name) > clients:
            wanted = f"{name.replace('_', '-')} {getattr(settings, name)}"
            raise DsvError(f"{wanted} is more than the {clients} clients; rounds would wait for ever")
