"""The commands that write pages: ``dsv report`` and ``dsv gallery``."""

from __future__ import annotations

from pathlib import Path

import click

from dsv import DsvError


@click.command()
@click.argument("run", type=click.Path(path_type=Path), default=Path("runs/latest"))
@click.option("--out", type=click.Path(path_type=Path), help="File to write; report.html in the run's folder if not.")
@click.option(
    "--selected",
    type=click.Path(path_type=Path),
    help="File of 'dsv select': sets those PRIVATE images beside the DSVs. The page then holds them.",
)
@click.option("--data", default="", help="Data set of the selection; the run's own if not.")
@click.option("--data-root", default="", help="Its folder; the run's own if not.")
def report(run: Path, out: Path | None, selected: Path | None, data: str, data_root: str) -> None:
    """One page on a RUN (default: runs/latest): what it saves, its DSVs, bytes, losses. Opens without a network."""
    from deploy.pages.run_page import Private, write_report

    if (data or data_root) and not selected:
        raise DsvError("--data and --data-root are of the images that --selected names; give it, or leave them out")
    page = write_report(run, out=out, private=Private(selected, data, data_root) if selected else None)
    if selected:
        click.secho("This page holds private images: do not pass it on.", bold=True, err=True)
    click.echo(f"report: {page}")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path("runs"))
@click.option("--out", type=click.Path(path_type=Path), help="File to write; gallery.html in FOLDER if not.")
def gallery(folder: Path, out: Path | None) -> None:
    """One page on all runs and releases in FOLDER (default: runs), any two side by side."""
    from deploy.pages.gallery_page import write_gallery

    click.echo(f"gallery: {write_gallery(folder, out=out)}")
