"""Where a run keeps what: the names inside ``runs/<UTC time>/``."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from dsv import DsvError
from server.events import FILE_NAME as EVENTS_FILE

TEACHER_FILE = "teacher.safetensors"
ROUNDS_FOLDER = "rounds"
STORE_FOLDER = "releases"
RESULT_FILE = "result.json"
SETTINGS_FILE = "settings.json"
PARTITION_FILE = "partition.json"
FLOWER_LOG = "flower.log"
LATEST = "latest"
DEPLOYED_RUN, CERTIFICATES_FOLDER = "run", "certs"
"""In the folder of a ``dsv deploy local``, the run's own and its certificates'."""
RUN_NAME = "%Y-%m-%dT%H-%M-%S.%fZ"
"""A run's folder is named by the time at which it began, UTC."""


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run, finished or not."""
    return any((folder / name).is_file() for name in (RESULT_FILE, EVENTS_FILE, SETTINGS_FILE))


def run_folder_of(folder: Path) -> Path:
    """The run's folder: this one, or where it is a deployment's, the one in it."""
    inside = folder / DEPLOYED_RUN
    deployed = (folder / CERTIFICATES_FOLDER).is_dir() and not is_run(folder)
    return inside if deployed and is_run(inside) else folder


def new_run_dir(base: Path) -> Path:
    """Make ``base/<UTC time>`` and point ``base/latest`` at it.

    Raises:
        DsvError: it cannot be made.
    """
    run_dir = base / datetime.now(UTC).strftime(RUN_NAME)
    try:
        run_dir.mkdir(parents=True)
        link = base / f".{LATEST}-{run_dir.name}"
        link.symlink_to(run_dir.name)
        link.replace(base / LATEST)
    except OSError as error:
        raise DsvError(f"cannot make the run's folder {run_dir}: {error.strerror}; choose another with --out") from None
    return run_dir
