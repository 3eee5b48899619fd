"""A run that was cut off goes on in its folder: after the last whole round, or with the synthesis."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid

from dsv import DsvError
from protos.checkpoint import Checkpoint, load_checkpoint
from protos.files import locked, write_output
from protos.settings import RunSettings, Scalar
from server.events import ClientNumbered, read_events
from server.run_folder import ROUNDS_FOLDER, SETTINGS_FILE, TEACHER_FILE
from server.strategy import GuardedFedAvg

_NOT_COMPARED = ("run-dir", "store")
_LET_GO_S = 30.0
"""A run that was stopped has so long to let go of its folder."""


@contextmanager
def claimed(run_dir: Path, settings: RunSettings) -> Iterator[None]:
    """Have ``run_dir`` alone, for a run with these settings or the rest of the one that is in it.

    Raises:
        DsvError: another process is at work in it, it holds a run with other settings, or it cannot be written.
    """
    wanted, path = _compared(settings), run_dir / SETTINGS_FILE
    with ExitStack() as stack:
        try:
            (run_dir / ROUNDS_FOLDER).mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(run_dir / ".lock", timeout_s=_LET_GO_S))
            found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else wanted
            if not isinstance(found, dict):
                raise ValueError(found)
        except BlockingIOError:
            raise DsvError(
                f"a run is at work in {run_dir}; await its end, or name another folder with run-dir"
            ) from None
        except (OSError, ValueError, RecursionError):
            raise DsvError(f"cannot use the run's folder {run_dir}; name another one with run-dir") from None
        differing = sorted(key for key in wanted if found.get(key) != wanted[key])
        if differing:
            raise DsvError(
                f"run folder {run_dir} holds a run with other settings ({', '.join(differing)}); give the same ones to "
                "go on with it, or name another folder with run-dir"
            )
        yield


def keep_settings(run_dir: Path, settings: RunSettings) -> None:
    """From now on ``run_dir`` is this run's, and another one's settings are refused.

    Raises:
        DsvError: it cannot be written.
    """
    path = run_dir / SETTINGS_FILE
    if not path.exists():
        write_output(path, (json.dumps(_compared(settings), indent=1) + "\n").encode(), "the run's settings")


def _compared(settings: RunSettings) -> dict[str, Scalar]:
    return {key: value for key, value in settings.to_run_config().items() if key not in _NOT_COMPARED}


def finished_teacher(run_dir: Path) -> Checkpoint | None:
    """The teacher, when the federation of this folder's run is over."""
    path = run_dir / TEACHER_FILE
    return load_checkpoint(path) if path.exists() else None


def rounds_done(run_dir: Path, checkpoint: Checkpoint) -> int:
    """Number of the last round in the folder, whose weights go into ``checkpoint``'s model; 0 when there is none."""
    numbers = (int(path.stem) for path in (run_dir / ROUNDS_FOLDER).glob("*.safetensors") if path.stem.isdigit())
    last = max(numbers, default=0)
    if last:
        checkpoint.model.load_state_dict(load_checkpoint(round_path(run_dir, last)).model.state_dict())
    return last


def numbered_clients(run_dir: Path) -> dict[int, int]:
    """The number of every client, by its node's id, that the folder's run has given out so far."""
    return {event.node: event.client for event in read_events(run_dir) if isinstance(event, ClientNumbered)}


def round_path(run_dir: Path, number: int) -> Path:
    """File of the global model after a round; 0 is the initial one."""
    return run_dir / ROUNDS_FOLDER / f"{number:04d}.safetensors"


class ResumedFedAvg(GuardedFedAvg):
    """The rest of a federation, whose first rounds are done.

    Flower counts every run's rounds from 1; clients and files see the federation's own numbers, on which learning
    rates and seeds depend.

    Args:
        done: rounds that are done.
        arguments: as GuardedFedAvg.
    """

    def __init__(self, *arguments: Any, done: int, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._done = done

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return super().configure_train(server_round + self._done, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        return super().aggregate_train(server_round + self._done, replies)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return super().configure_evaluate(server_round + self._done, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        return super().aggregate_evaluate(server_round + self._done, replies)
