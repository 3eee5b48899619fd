"""A finished run, read from its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from client.data import ImageSplit, open_split
from client.partition import partition_of
from deploy.options import HarnessSettings
from deploy.result import Result, read_result
from dsv import DsvError
from protos.checkpoint import Checkpoint, load_checkpoint
from protos.settings import RunSettings
from server.resume import round_path
from server.run_folder import PARTITION_FILE, RESULT_FILE, TEACHER_FILE, run_folder_of


@dataclass(frozen=True)
class RunData:
    """The images of a run, opened again, and which client has which."""

    train: ImageSplit
    test: ImageSplit
    parts: list[list[int]]


@dataclass(frozen=True)
class FinishedRun:
    """A run's folder with everything that ``result.json`` says."""

    folder: Path
    result: Result
    settings: RunSettings
    harness: HarnessSettings

    @classmethod
    def open(cls, folder: Path) -> FinishedRun:
        """Read a run's folder.

        Raises:
            DsvError: it holds no finished run, or is a deployment's, which has no newcomers.
        """
        if run_folder_of(folder) != folder:
            raise DsvError(f"{folder} is a deployment's and has no newcomers; name a folder that 'dsv simulate' left")
        result = read_result(folder / RESULT_FILE)
        own = HarnessSettings().to_config()
        harness = {name.replace("-", "_"): value for name, value in result.settings.items() if name in own}
        config = {name: value for name, value in result.settings.items() if name not in own}
        try:
            settings, options = RunSettings.from_run_config(config), HarnessSettings(**harness)
        except TypeError:
            raise DsvError(
                f"{folder / RESULT_FILE} has settings that are none; it was changed or is truncated"
            ) from None
        if not result.newcomers or not result.ledger:
            raise DsvError(f"{folder / RESULT_FILE} holds no newcomer or no ledger; name the folder of a finished run")
        return cls(folder, result, settings, options)

    def teacher(self) -> Checkpoint:
        """The final global model."""
        return load_checkpoint(self.folder / TEACHER_FILE)

    def after_round(self, number: int) -> Checkpoint:
        """The global model after a round, from 1; 0 is the initial one."""
        return load_checkpoint(round_path(self.folder, number))

    def data(self) -> RunData:
        """The run's images, from where they were.

        Raises:
            DsvError: they are no longer there.
        """
        task, own = self.settings.task(), self.settings
        train, test = (open_split(own.data, own.data_root, split, task) for split in ("train", "test"))
        moved = self.folder / PARTITION_FILE  # a run's folder may have been moved since
        settings = RunSettings.from_run_config({**own.to_run_config(), "partition-file": str(moved)})
        parts = partition_of(settings if moved.exists() else own, train.labels, self.harness.clients)
        return RunData(train, test, parts)
