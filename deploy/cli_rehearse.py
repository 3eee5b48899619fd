"""The command that learns new classes beside a release's: ``dsv rehearse``."""

from __future__ import annotations

from pathlib import Path

import click

from deploy.options import LABELS, QUIET, options_of
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
    help="Optimiser steps of each of three trainings; 0 means a newcomer's, with ten passes over one's own images at "
    "least where they are learnt, and one where both sides are brought together.",
)
@LABELS
@options_of(RunSettings, only=("device", "seed"))
@click.option("--save-model", required=True, type=click.Path(path_type=Path), help="Model file to write.")
@QUIET
def rehearse(
    *,
    release: Path,
    images: Path,
    architecture: str,
    newcomer_steps: int,
    labels: str,
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
    from dsv import ModelSpec, accuracy, checked_device, joint_task, of_shown_classes
    from protos import artefact
    from protos.checkpoint import Checkpoint, save_checkpoint
    from protos.files import check_output

    checked_device(device)
    check_output(save_model, "model")
    known = of_shown_classes(artefact.load(release))
    split, task = own_classes(images, known.task)
    test = images_to_test_on(images, joint_task([known.task, task]))
    own = Own(split.images(), split.labels, task)
    tested = None if test is None else (test.images(), test.labels)  # a broken picture ends it now
    with display(quiet=quiet) as shown:
        shown.say(f"release: {len(known)} images of {', '.join(known.task.class_names)}")
        shown.say(f"own: {len(split)} images of {', '.join(task.class_names)}")
        if both := sorted(set(device_classes(images)) & set(known.task.class_names)):
            shown.say(f"left out, since the release has them: {', '.join(both)}")
        model, joint = learn(
            known,
            own,
            architecture,
            labels=labels,
            steps=newcomer_steps,
            seed=seed,
            device=device,
            on_step=lambda name, done, steps, loss: shown.update(name, done, steps, f"loss {loss:.3f}"),
        )
        save_checkpoint(save_model, Checkpoint(model, ModelSpec.parse(architecture, joint), joint), private=True)
        shown.say(
            f"model of {joint.classes} classes: {save_model} (it holds your class folders' names, and its weights tell "
            "of your images; so does a release that is made of it)"
        )
        if tested is not None:
            score, seen = accuracy(model, *tested, joint), tested[1].tolist()
            shown.say(f"test accuracy: {score:.1%} of {len(seen)} images of {len(set(seen))} classes")
