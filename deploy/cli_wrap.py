"""The command that makes a teacher of weights from elsewhere: ``dsv wrap``."""

from __future__ import annotations

from pathlib import Path

import click

from dsv import Task


@click.command()
@click.option("--weights", required=True, type=click.Path(path_type=Path), help="State dict, a safetensors file.")
@click.option("--architecture", required=True, help="Such as resnet50, convnet:128, or any other model of torchvision.")
@click.option("--class-names", required=True, type=click.Path(path_type=Path), help="Text file, a name a line.")
@click.option("--image-size", default=224, show_default=True, help="Side of the images, in pixels.")
@click.option("--mean", default="0.485,0.456,0.406", show_default=True, help="Of each channel, of pixels from 0 to 1.")
@click.option("--std", default="0.229,0.224,0.225", show_default=True, help="The same.")
@click.option("--mirror/--no-mirror", default=True, show_default=True, help="Whether a mirrored image keeps its class.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Model file to write.")
def wrap(
    *,
    weights: Path,
    architecture: str,
    class_names: Path,
    image_size: int,
    mean: str,
    std: str,
    mirror: bool,
    out: Path,
) -> None:
    """Make a teacher of weights that were trained elsewhere, by default of one for ImageNet.

    Nothing is trained: the file gets what the other commands need beside the weights.
    """
    from deploy.arguments import numbers
    from deploy.plain_weights import read_class_names
    from deploy.plain_weights import wrap as write

    means, deviations = (tuple(numbers(text, name, ", one a channel")) for text, name in ((mean, "mean"), (std, "std")))
    task = Task(len(means), image_size, read_class_names(class_names), means, deviations, mirror=mirror)
    written = write(weights, task, architecture, out)
    click.echo(f"{out}: {written.spec}, {task.classes} classes, images of {image_size} px; give it as --teacher")
