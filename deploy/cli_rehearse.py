"""The command that learns new classes beside a release's: ``dsv rehearse``."""

from __future__ import annotations

from pathlib import Path

import click

from deploy.options import QUIET, options_of
from protos.settings import RunSettings


@click.command()
@click.option("--release", required=True, type=click.Path(path_type=Path), help="Release file of the old classes.")
@click.option(
    "--images",
    required=True,
    type=click.Path(path_type=Path),
    help="Own images of new classes, <class>/* or train/<class>/*; a test/<class>/* beside train/ tests the model.",
)
@click.option(
    "--architecture", default="convnet:64", show_default=True, help="Model to train, name[:width[:norm[:pooling]]]."
)
@click.option(
    "--newcomer-steps",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="Optimiser steps of each training; 0 means a newcomer's, and ten passes over one's own images at least.",
)
@options_of(RunSettings, only=("device", "seed"))
@click.option("--save-model", required=True, type=click.Path(path_type=Path), help="Model file to write.")
@QUIET
def rehearse(
    *,
    release: Path,
    images: Path,
    architecture: str,
    newcomer_steps: int,
    device: str,
    seed: int,
    save_model: Path,
    quiet: bool,
) -> None:
    """Learn classes of one's own images without forgetting those of a RELEASE, of which nobody has images any more.

    Two models are trained, one of either side, and a third learns what both answer. Nothing leaves this machine; the
    model can be a teacher of 'dsv synthesize', so that the next release has all classes.
    """
    from client.class_folders import device_classes
    from client.data import images_to_test_on, own_classes
    from client.rehearsal import Own
    from client.rehearsal import rehearse as learn
    from deploy.progress import display
    from dsv import ModelSpec, accuracy, checked_device
    from protos import artefact
    from protos.checkpoint import Checkpoint, save_checkpoint
    from protos.files import check_output

    checked_device(device)
    check_output(save_model, "model")
    support_set = artefact.load(release)
    split, task = own_classes(images, support_set.task)
    with display(quiet=quiet) as shown:
        shown.say(f"release: {len(support_set)} images of {', '.join(support_set.task.class_names)}")
        shown.say(f"own: {len(split)} images of {', '.join(task.class_names)}")
        if known := sorted(set(device_classes(images)) & set(support_set.task.class_names)):
            shown.say(f"left out, since the release has them: {', '.join(known)}")
        model, joint = learn(
            support_set,
            Own(split.images(), split.labels, task),
            architecture,
            steps=newcomer_steps,
            seed=seed,
            device=device,
            on_step=lambda name, done, steps, loss: shown.update(name, done, steps, f"loss {loss:.3f}"),
        )
        save_checkpoint(save_model, Checkpoint(model, ModelSpec.parse(architecture, joint), joint))
        shown.say(f"model of {joint.classes} classes: {save_model}")
        test = images_to_test_on(images, joint)
        if test is not None:
            score = accuracy(model, test.images(), test.labels, joint)
            classes = len(set(test.labels.tolist()))
            shown.say(f"test accuracy: {score:.1%} of {len(test)} images of {classes} classes")
