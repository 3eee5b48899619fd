"""``dsv bootstrap``: one newcomer on its own machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from client.bootstrap import train_newcomer
from client.data import open_split
from client.download import ReleaseInfo, SlowServerError, download, list_releases
from client.server_link import BreakError, GoneError, Server
from client.verification import state_folder
from client.watch import new_releases
from deploy.progress import display
from deploy.units import exact_bytes
from dsv import DsvError, ModelSpec, accuracy, checked_device, newcomer_training
from protos.checkpoint import Checkpoint, save_checkpoint
from protos.files import check_output, write_output
from protos.transport import RELEASE_SUFFIX


@dataclass(frozen=True)
class NewcomerOptions:
    """Options of ``dsv bootstrap``; its help describes them."""

    server: Server
    state: Path | None
    release: str
    architecture: str
    labels: str
    newcomer_steps: int
    device: str
    seed: int
    save_release: Path | None
    save_model: Path | None
    data: str
    data_root: str
    quiet: bool


def bootstrap_newcomer(options: NewcomerOptions) -> None:
    """Download, train, test where there is something to test on.

    Raises:
        DsvError: anything that the user can mend.
    """
    checked_device(options.device)
    if options.data_root and not options.data:
        raise DsvError("--data-root is of the data that --data names; give that too, or leave it out")
    for path, what in ((options.save_release, "release"), (options.save_model, "model")):
        if path:
            check_output(path, what)
    chosen = _chosen(options)
    got = download(
        options.server, chosen.digest, size_bytes=_signed_size(options.server, chosen), folder=_folder(options)
    )
    task = got.support_set.task
    if options.save_release:
        write_output(options.save_release, got.content, "release")
    test = open_split(options.data, options.data_root, "test", task) if options.data else None
    with display(quiet=options.quiet) as shown:
        shown.say(f"downloaded {chosen.digest}: {len(got.support_set)} images, {exact_bytes(got.bytes_down)}")
        labels = options.labels or got.support_set.label_kinds[-1]
        targets = got.support_set.targets(labels)
        config = newcomer_training(options.newcomer_steps, targets)
        shown.say(f"training {options.architecture} towards {labels} labels")
        if not (options.save_model or options.data):
            shown.say("the model is thrown away afterwards: --save-model FILE keeps it, --data and --data-root test it")
        model = train_newcomer(
            options.architecture,
            got.support_set.images,
            targets,
            task,
            config,
            seed=options.seed,
            device=options.device,
            on_step=lambda done, loss: shown.update("training", done, config.steps, f"loss {loss:.3f}"),
        )
        if options.save_model:
            save_checkpoint(options.save_model, Checkpoint(model, ModelSpec.parse(options.architecture, task), task))
            shown.say(f"model: {options.save_model}")
        if test is not None:
            score = accuracy(model, test.images(), test.labels, task)
            shown.say(f"test accuracy on {options.data}: {score:.1%} of {len(test)} images")


def watch_releases(
    server: Server, folder: Path, count: int, say: Callable[[str], None], warn: Callable[[str], None]
) -> None:
    """Fetch every release into ``folder`` and each new one as it is published; ``count`` of them, 0 without end.

    Args:
        say: told the name of each file.
        warn: told why the server cannot be asked or a release not be had, once for every reason in a row. One that is
            gone is left out, one that cannot be had for now is tried again when the server is looked at anew.

    Raises:
        DsvError: anything that the user can mend.
    """
    told, number, known = "", 0, set[str]()

    def broken(error: DsvError, then: str = "trying on") -> None:
        nonlocal told
        if str(error) != told:
            told = str(error)
            warn(f"{told}; {then}")

    for release in new_releases(server, known, on_break=broken):
        try:  # patient by itself: what comes out of it has lasted for minutes
            download(server, release.digest, size_bytes=_signed_size(server, release), folder=folder)
        except GoneError as error:
            broken(error, f"going on without {release.digest}")
            continue
        except (BreakError, SlowServerError) as error:
            known.discard(release.digest)
            broken(error)
            continue
        told, number = "", number + 1
        say(str(folder / (release.digest + RELEASE_SUFFIX)))
        if number == count:
            return


def _signed_size(server: Server, release: ReleaseInfo) -> int | None:
    """A server's own word on the size is worth nothing."""
    return release.size_bytes if server.trust else None


def _folder(options: NewcomerOptions) -> Path | None:
    """Where releases are kept between runs: with trust in the federation's folder, else where the user says."""
    if options.server.trust:
        return state_folder(options.server.trust) / "releases"
    return options.state


def _chosen(options: NewcomerOptions) -> ReleaseInfo:
    releases = list_releases(options.server)
    if not releases:
        raise DsvError(f"server {options.server.address} has no release yet; publish one with 'dsv synthesize'")
    found = [entry for entry in releases if entry.digest.startswith(options.release)]
    if not found:
        raise DsvError(
            f"server {options.server.address} has no release {options.release}; it has: {releases[0].digest}, ..."
        )
    if options.release and len(found) > 1:
        raise DsvError(f"{options.release} names {len(found)} releases; give more digits")
    return found[0]
