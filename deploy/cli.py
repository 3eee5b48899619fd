"""The console command ``dsv``."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import click

from deploy import cli_deploy, cli_distribution, cli_pages, cli_rehearse, cli_savings, cli_study, cli_wrap, evidence
from deploy.options import QUIET, SYNTHESIS, TEACHER, Group, HarnessSettings, options_of, preset_option
from dsv import DsvError, ranks_of_torchrun
from protos.settings import RunSettings

_OUT = click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Folder for runs."
)


_OF_SIMULATIONS = ("matplotlib", "sklearn", "flwr_datasets", "jinja2", "ray")
"""Packages that the extra ``simulation`` has and ``server`` lacks."""


class _Commands(Group):
    """Prints what the user can mend as one line, without a traceback, and exits with 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DsvError as error:
            raise click.ClickException(str(error)) from None
        except BrokenPipeError:
            raise  # who reads has had enough: click ends without a word
        except OSError as error:
            raise click.ClickException(_of_the_system(error)) from None
        except (MemoryError, RuntimeError) as error:
            # torch's allocators, of the CPU and of CUDA, have no exception of their own in common
            if isinstance(error, RuntimeError) and not re.search("out of memory|allocate memory", str(error)):
                raise
            raise click.ClickException(
                "not enough memory; choose fewer or smaller images, or a smaller model"
            ) from None
        except ModuleNotFoundError as error:
            extra = "simulation" if error.name in _OF_SIMULATIONS else "server"
            remedy = f"install feddsv with its extra '{extra}'"
            raise click.ClickException(f"this command needs {error.name}, which is not installed; {remedy}") from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="feddsv")
def cli() -> None:
    """Federated edge-to-server distillation with Deep Support Vectors.

    Images stay on the devices; the server gets model weights, synthesises a few images a class from them, and
    newcomers of any architecture train from those.
    """


@cli.command()
@QUIET
@_OUT
def demo(quiet: bool, out: Path) -> None:
    """The main job on the bundled handwritten digits, end to end, with every default."""
    _simulate(RunSettings(), HarnessSettings(), out, quiet)


@cli.command()
@preset_option
@options_of(RunSettings, without=("run_dir", "store"))
@options_of(HarnessSettings)
@_OUT
@QUIET
def simulate(out: Path, quiet: bool, **values: Any) -> None:
    """A federation on this machine: train, synthesise, publish, distribute, measure newcomers and rivals."""
    names = set(HarnessSettings.__dataclass_fields__)
    harness = HarnessSettings(**{name: value for name, value in values.items() if name in names})
    _simulate(RunSettings(**{name: value for name, value in values.items() if name not in names}), harness, out, quiet)


def _simulate(settings: RunSettings, harness: HarnessSettings, out: Path, quiet: bool) -> None:
    from deploy.pages.run_page import write_report
    from deploy.progress import display
    from deploy.report import print_report
    from deploy.simulate import simulate as run

    with display(quiet=quiet) as shown:
        run_dir, result = run(settings, harness, out, shown)
    print_report(result, run_dir)
    click.echo(f"report: {write_report(run_dir)}")


@cli.command()
@TEACHER
@click.option("--store", required=True, type=click.Path(path_type=Path), help="Folder to publish into.")
@preset_option
@click.option(
    "--client-models",
    type=click.Path(path_type=Path),
    help="Folder of clients' models to satisfy instead of the teacher: client-models/ of a run's folder.",
)
@click.option("--classes", default="", help="Make DSVs of these alone: names or indices, A,B,...; of all if not.")
@options_of(RunSettings, only=(*SYNTHESIS, "start", "image_encoding", "views"))
@QUIET
def synthesize(
    *, teacher: Path, store: Path, client_models: Path | None, classes: str, quiet: bool, **values: Any
) -> None:
    """Synthesise releases from a trained model's file and publish them into a store.

    A run that was killed goes on where it was when the same command is given again. Under torchrun, every process
    takes its share of the DSVs.
    """
    from deploy.arguments import class_indices
    from deploy.progress import display
    from protos.checkpoint import load_checkpoint
    from server.progress import show_event
    from server.store import DirectoryStore
    from server.synthesis_job import publish_releases

    settings, checkpoint, releases = RunSettings(**values), load_checkpoint(teacher), DirectoryStore(store)
    with ranks_of_torchrun(settings.device) as ranks, display(quiet=quiet) as shown:
        publish_releases(
            checkpoint,
            settings,
            releases,
            on_event=lambda event: show_event(event, shown),
            ranks=ranks,
            client_models=client_models,
            classes=sorted(class_indices(classes, checkpoint.task)) if classes else None,
        )


@cli.command()
@click.argument("release", type=click.Path(path_type=Path))
@click.option(
    "--pictures/--no-pictures", default=None, help="Draw the images too; by default where the output is a terminal."
)
def inspect(release: Path, pictures: bool | None) -> None:
    """Print what a RELEASE file holds, and draw its images."""
    from deploy.inspect import print_release

    print_release(release, pictures=pictures)


@cli.command()
@click.argument("release", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
def export(release: Path, folder: Path) -> None:
    """Write a RELEASE's images into FOLDER: PNGs in ImageFolder layout, and a contact sheet."""
    from deploy.inspect import export as write

    click.echo(f"{write(release, folder)} images in {folder}/images, contact sheet {folder}/contact-sheet.png")


for _command in (cli_distribution.serve, cli_distribution.keys, cli_distribution.bootstrap, cli_distribution.watch):
    cli.add_command(_command)
cli.add_command(cli_wrap.wrap)
cli.add_command(cli_rehearse.rehearse)
cli.add_command(evidence.select)
cli.add_command(evidence.characterise)
cli.add_command(cli_study.interpolate)
cli.add_command(cli_study.edit)
cli.add_command(cli_study.mix)
cli.add_command(cli_pages.report)
cli.add_command(cli_pages.gallery)
for _command in (cli_savings.ledger, cli_savings.savings, cli_savings.tensorboard):
    cli.add_command(_command)
cli.add_command(cli_deploy.certs)
cli_deploy.deploy.add_command(cli_savings.meter)
cli.add_command(cli_deploy.deploy)
cli.add_command(cli_deploy.doctor)


def _of_the_system(error: OSError) -> str:
    """A full disk, a missing right and the like, wherever they show."""
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror or error}; free space, or see to the rights"


def _terminated(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)  # unwinds, so that every process that was started is ended


def main() -> None:
    """Entry point."""
    signal.signal(signal.SIGTERM, _terminated)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup leaves it
        signal.signal(signal.SIGHUP, _terminated)
    cli()


if __name__ == "__main__":
    main()
