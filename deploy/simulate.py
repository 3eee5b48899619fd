"""The main job, end to end, on one machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import flwr
import torch

from client.class_folders import folder_classes
from client.data import ImageSplit, check_images, open_split
from client.download import Download, download
from client.partition import partition_of, write_partition
from deploy.curves import FOLDER as CURVES_FOLDER
from deploy.curves import Curves, check_tensorboard, curves
from deploy.flower import Simulation, simulation
from deploy.ledger import message_rows
from deploy.measure import confusion_row, measure, weights_rivals
from deploy.options import HarnessSettings
from deploy.result import LedgerRow, Result, Seconds, TeacherRow
from deploy.trainings import Bench
from dsv import DsvError, ModelSpec, build_model, checked_device, confusion_counts, predict, share_correct
from protos.checkpoint import load_checkpoint
from protos.encodings import ImageEncoding
from protos.exchange import WHOLE, as_record, exchanged_tensors, starting_model
from protos.settings import CLIENTS, IMAGEFOLDER, RunSettings
from server.client_models import FOLDER as CLIENT_MODELS
from server.client_models import load_client_models
from server.distribution import run_server
from server.events import (
    BytesMoved,
    Event,
    EventReader,
    Failed,
    FederationDone,
    Published,
    SynthesisDone,
    read_events,
)
from server.message_bytes import WEIGHTS
from server.progress import Display, show_event
from server.run_check import check_clients, check_machine, check_options, with_absolute_paths
from server.run_folder import (
    FLOWER_LOG,
    PARTITION_FILE,
    RESULT_FILE,
    STORE_FOLDER,
    TEACHER_FILE,
    new_run_dir,
)
from server.store import DirectoryStore


@dataclass(frozen=True)
class _Data:
    train: ImageSplit
    test: ImageSplit
    parts: list[list[int]]


def simulate(settings: RunSettings, harness: HarnessSettings, out: Path, display: Display) -> tuple[Path, Result]:
    """Federate, synthesise, publish, distribute, bootstrap newcomers, measure.

    Returns:
        The run's folder and what stands in its result.json.

    Raises:
        DsvError: anything that the user can mend; found as early as it can be.
    """
    settings = _with_folder_classes(with_absolute_paths(settings))
    _check_options(settings, harness)
    with simulation() as flower:
        data = _open_data(settings, harness, display)
        run_dir = new_run_dir(out)
        display.say(f"run folder: {run_dir}")
        settings = replace(settings, run_dir=str(run_dir.absolute()))
        if not settings.partition_file:
            # Every simulated client would spend seconds on the import of the partitioner's library.
            write_partition(run_dir / PARTITION_FILE, data.parts)
            settings = replace(settings, partition_file=str((run_dir / PARTITION_FILE).absolute()))
        _federate(flower, settings, harness, run_dir, display)
        result = _measure(settings, harness, run_dir, data, display)
    result.write(run_dir / RESULT_FILE)
    return run_dir, result


def _with_folder_classes(settings: RunSettings) -> RunSettings:
    if settings.data != IMAGEFOLDER or settings.classes:
        return settings
    return replace(settings, classes=",".join(folder_classes(settings.data_root)))


def _check_options(settings: RunSettings, harness: HarnessSettings) -> None:
    if harness.tensorboard:
        check_tensorboard()
    check_clients(settings, harness.clients)
    check_options(settings)
    check_machine(settings)
    starting_model(settings)
    for architecture in harness.architectures:
        build_model(ModelSpec.parse(architecture, settings.task()), seed=0)


def _open_data(settings: RunSettings, harness: HarnessSettings, display: Display) -> _Data:
    """The data, every image of it decoded once, so that a fault shows before anything is trained."""
    task = settings.task()
    train = open_split(settings.data, settings.data_root, "train", task)
    test = open_split(settings.data, settings.data_root, "test", task)
    for name, split in (("train", train), ("test", test)):
        check_images(split, _progress(display, f"check {name} images"))
    return _Data(train, test, partition_of(settings, train.labels, harness.clients))


def _progress(display: Display, name: str) -> Callable[[int, int], None]:
    return lambda done, total: display.update(name, done, total, "")


def _federate(
    flower: Simulation, settings: RunSettings, harness: HarnessSettings, run_dir: Path, display: Display
) -> None:
    reader = EventReader(run_dir)
    done: list[Event] = []

    def finished(into: Curves | None) -> bool:
        for event in reader.new():
            if isinstance(event, Failed):
                raise DsvError(event.reason)
            if isinstance(event, SynthesisDone):
                done.append(event)
            if into is not None:
                into.add(event)
            show_event(event, display)
        return bool(done)

    display.say(f"Flower simulates {harness.clients} clients; its log: {run_dir / FLOWER_LOG}")
    log = run_dir / FLOWER_LOG
    with curves(run_dir / CURVES_FOLDER) if harness.tensorboard else nullcontext() as into:
        flower.run(
            settings.to_run_config(),
            clients=harness.clients,
            device=settings.device,
            log=log,
            finished=lambda: finished(into),
        )


def _measure(settings: RunSettings, harness: HarnessSettings, run_dir: Path, data: _Data, display: Display) -> Result:
    events = read_events(run_dir)
    teacher = load_checkpoint(run_dir / TEACHER_FILE)
    device = checked_device(settings.device)
    teacher.model.to(device)
    test_images = data.test.images()
    encoding = ImageEncoding(settings.image_encoding)
    clients = tuple(load_client_models(run_dir / CLIENT_MODELS, teacher)) if settings.synthesis_from == CLIENTS else ()
    bench = Bench(
        teacher, data.train, test_images, data.test.labels, harness, settings.seed, settings.device, encoding, clients
    )
    published = {e.images_per_class: e.digest for e in events if isinstance(e, Published)}
    started = time.perf_counter()
    downloads, rows = _distribute(run_dir, harness, published)
    distributed = time.perf_counter()
    measured = measure(
        bench, downloads, lambda done, total, note: display.update("newcomers and rivals", done, total, note)
    )
    finished = time.perf_counter()
    moved = [e for e in events if isinstance(e, BytesMoved)]
    seen = predict(teacher.model, test_images, teacher.task)
    score = share_correct(seen, data.test.labels)
    weights_bytes = max(e.bytes for e in moved if (e.purpose, e.direction) == (WEIGHTS, "down"))
    if settings.trainable != WHOLE:  # a newcomer holds no backbone: taking the teacher means taking all of it
        weights_bytes = as_record(exchanged_tensors(teacher.model, WHOLE)).count_bytes()
    row = TeacherRow(str(teacher.spec), score, weights_bytes)
    return Result(
        teacher=row,
        newcomers=measured.newcomers,
        rivals=[*measured.rivals, *weights_rivals(bench, row)],
        ledger=message_rows(moved) + rows + _raw_upload(data),
        seconds=Seconds(
            federation=next(e.seconds for e in events if isinstance(e, FederationDone)),
            synthesis=next(e.seconds for e in events if isinstance(e, SynthesisDone)),
            distribution=distributed - started,
            bootstrap=finished - distributed,
        ),
        confusions=[
            confusion_row("teacher", row.architecture, 0, "", [confusion_counts(seen, data.test.labels)]),
            *measured.confusions,
        ],
        settings={**settings.to_run_config(), **harness.to_config()},
        versions={"torch": str(torch.__version__), "flwr": flwr.__version__},
    )


def _distribute(
    run_dir: Path, harness: HarnessSettings, published: dict[int, str]
) -> tuple[dict[int, Download], list[LedgerRow]]:
    """Each newcomer downloads each release over gRPC from a server on loopback."""
    downloads: dict[int, Download] = {}
    rows: list[LedgerRow] = []
    with run_server(DirectoryStore(run_dir / STORE_FOLDER)) as address:
        for architecture in harness.architectures:
            for count, digest in published.items():
                got = downloads[count] = download(address, digest)
                newcomer = f"newcomer {architecture}"
                rows.append(LedgerRow(0, newcomer, "dsv_download", "up", got.bytes_up))
                rows.append(LedgerRow(0, newcomer, "dsv_download", "down", got.bytes_down))
    return downloads, rows


def _raw_upload(data: _Data) -> list[LedgerRow]:
    """What sending the images themselves, as they are stored, would have taken: the thing that is not done."""
    return [
        LedgerRow(0, client, "raw_images_instead", "up", data.train.stored_bytes(indices))
        for client, indices in enumerate(data.parts)
    ]
