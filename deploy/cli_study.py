"""The commands that play with class labels as latent variables: ``dsv interpolate``, ``dsv edit``, ``dsv mix``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from deploy.options import QUIET, SYNTHESIS, TEACHER, options_of, preset_option
from protos.settings import RunSettings

_IMAGES = click.option(
    "--images", required=True, type=click.Path(path_type=Path), help="A picture, or a folder of pictures."
)
_OUT = click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write; new or empty.")
_SHOWN = "what is in {} may still show the pictures that you gave: it is for those alone who may see them"
_STEPS = "0,0.25,0.5,0.75,1"


@click.command()
@TEACHER
@click.option("--classes", "pair", required=True, help="Two classes, A,B: names or indices.")
@click.option("--weights", default=_STEPS, show_default=True, help="Shares of B in the label, 0 to 1.")
@click.option(
    "--images-per-weight", default=1, show_default=True, type=click.IntRange(1), help="Images of every mixture."
)
@preset_option
@options_of(RunSettings, only=SYNTHESIS, without=("images_per_class",))
@_OUT
@QUIET
def interpolate(
    *, teacher: Path, pair: str, weights: str, images_per_weight: int, out: Path, quiet: bool, **values: Any
) -> None:
    """Synthesise images between two classes of a trained model, from mixed labels and one noise."""
    from deploy.latents import run_interpolation
    from deploy.progress import display

    settings = RunSettings(**values, images_per_class=str(images_per_weight))
    with display(quiet=quiet) as shown:
        run_interpolation(teacher, settings, pair=pair, weights=weights, out=out, shown=shown)


@click.command()
@TEACHER
@_IMAGES
@click.option("--target", required=True, help="Class to turn them into: name or index.")
@preset_option
@options_of(RunSettings, only=SYNTHESIS, without=("images_per_class", "coarse_stages"))
@_OUT
@QUIET
def edit(*, teacher: Path, images: Path, target: str, out: Path, quiet: bool, **values: Any) -> None:
    """Turn pictures towards a class of a trained model; a small --image-step, such as 0.01, keeps more of them."""
    from deploy.latents import run_edit
    from deploy.progress import display

    settings = RunSettings(**values)
    with display(quiet=quiet) as shown:
        run_edit(teacher, settings, images=images, target=target, out=out, shown=shown)
    click.echo(_SHOWN.format(out))


@click.command()
@TEACHER
@click.option("--release", required=True, type=click.Path(path_type=Path), help="Release file made from the teacher.")
@_IMAGES
@click.option("--class", "wanted", default="", help="Class of the DSV: name or index; the strongest DSV of all if not.")
@click.option("--shares", default=_STEPS, show_default=True, help="Shares of the DSV in the blend, 0 to 1.")
@options_of(RunSettings, only=("device",))
@_OUT
def mix(*, teacher: Path, release: Path, images: Path, wanted: str, shares: str, out: Path, **values: Any) -> None:
    """Blend a release's strongest DSV into pictures and watch the model change its mind."""
    from deploy.latents import run_mix

    run_mix(teacher, RunSettings(**values), release=release, images=images, wanted=wanted, shares=shares, out=out)
    click.echo(_SHOWN.format(out))
