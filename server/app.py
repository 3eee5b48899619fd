"""The Flower ServerApp: federated averaging, then synthesis, then publication."""

from __future__ import annotations

import time
from logging import INFO
from pathlib import Path

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.supercore import log

from dsv import DsvError
from protos.checkpoint import Checkpoint, save_checkpoint
from protos.exchange import as_record, exchanged_tensors, load_record, starting_model
from protos.settings import CLIENTS, RunSettings
from server.client_models import FOLDER as CLIENT_MODELS_FOLDER
from server.events import EventLog, Failed, FederationDone, SynthesisDone
from server.progress import PlainLines, show_event
from server.resume import (
    ResumedFedAvg,
    claimed,
    finished_teacher,
    keep_settings,
    numbered_clients,
    round_path,
    rounds_done,
)
from server.run_check import check_machine, check_options
from server.run_folder import STORE_FOLDER, TEACHER_FILE, new_run_dir
from server.store import DirectoryStore
from server.strategy import Participation
from server.synthesis_job import Told, publish_releases
from server.uploads import Upload, keep_client_models

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """One run, whole, or the rest of one that was cut off in the same folder.

    The folder holds the teacher, every round's model, the releases and the events.
    """
    settings = RunSettings.from_run_config(context.run_config)
    run_dir = Path(settings.run_dir) if settings.run_dir else new_run_dir(Path("runs"))
    with claimed(run_dir, settings):
        events = EventLog(run_dir)
        try:
            check_options(settings)
            check_machine(settings)
            keep_settings(run_dir, settings)  # after the checks: what they refuse may be mended in the same folder
            teacher = finished_teacher(run_dir) or _federate(grid, settings, run_dir, events)
            _publish(teacher, settings, run_dir, events)
        except DsvError as error:
            events.write(Failed(str(error)))
            raise


def _federate(grid: Grid, settings: RunSettings, run_dir: Path, events: EventLog) -> Checkpoint:
    started = time.perf_counter()
    checkpoint = Checkpoint(starting_model(settings), settings.model_spec(), settings.task())
    done = rounds_done(run_dir, checkpoint)
    if done:
        log(INFO, "going on after round %d of %d in %s", done, settings.rounds, run_dir)

    def keep(round_number: int, arrays: ArrayRecord) -> None:
        if round_number or not done:
            load_record(checkpoint.model, arrays)
            save_checkpoint(round_path(run_dir, round_number), checkpoint)

    def keep_clients(sent: list[Upload]) -> None:
        keep_client_models(run_dir, checkpoint, sent)

    initial = as_record(exchanged_tensors(checkpoint.model, settings.trainable))
    strategy = ResumedFedAvg(
        initial,
        rounds=settings.rounds,
        participation=_participation(settings),
        upload_dtype=settings.upload_dtype,
        on_event=events.write,
        on_round=keep,
        on_clients=keep_clients if settings.synthesis_from == CLIENTS else None,
        done=done,
        numbers=numbered_clients(run_dir),
    )
    result = strategy.start(grid, initial, num_rounds=settings.rounds - done, timeout=settings.round_timeout_s)
    if len(result.arrays) == 0 and not done:
        raise DsvError("no client returned usable weights in any round; the log names each reason")
    if settings.synthesis_from == CLIENTS and not (run_dir / CLIENT_MODELS_FOLDER).is_dir():
        # With a teacher the federation would pass for finished, and the same run would never come by its models.
        raise DsvError(
            "no client returned usable weights in the last round, which synthesis-from clients needs; mend what the "
            f"log names and run it again in {run_dir}, where the other rounds are kept"
        )
    save_checkpoint(run_dir / TEACHER_FILE, checkpoint)
    events.write(FederationDone(str(checkpoint.spec), time.perf_counter() - started))
    return checkpoint


def _participation(settings: RunSettings) -> Participation:
    return Participation(
        fraction_train=settings.fraction_train,
        min_train_nodes=settings.min_train_nodes,
        min_available_nodes=settings.min_available_nodes,
        evaluate=settings.validation_share > 0,
    )


def _publish(teacher: Checkpoint, settings: RunSettings, run_dir: Path, events: EventLog) -> None:
    started = time.perf_counter()

    shown = PlainLines(lambda line: log(INFO, "%s", line))

    def tell(event: Told) -> None:
        events.write(event)
        show_event(event, shown)

    store = Path(settings.store) if settings.store else run_dir / STORE_FOLDER
    clients = run_dir / CLIENT_MODELS_FOLDER if settings.synthesis_from == CLIENTS else None
    releases = DirectoryStore(store)
    publish_releases(teacher, settings, releases, on_event=tell, client_models=clients, run_dir=run_dir)
    events.write(SynthesisDone(time.perf_counter() - started))
