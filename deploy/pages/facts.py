"""What a folder tells of a run or of releases: read, checked, and nothing said about what it looks like."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from deploy.ledger import LEDGER_FILE, read_ledger
from deploy.result import ConfusionRow, LedgerRow, Result, read_result
from dsv import GIVEN_IMAGES, DsvError, SupportSet, class_sums
from protos import artefact
from protos.transport import RELEASE_SUFFIX
from server.events import FILE_NAME as EVENTS_FILE
from server.events import Event, Failed, IterationDone, Published, SynthesisDone, read_events, synthesis_curves
from server.frames import Frame, read_frames
from server.run_folder import RESULT_FILE, SETTINGS_FILE, STORE_FOLDER, TEACHER_FILE, is_run, run_folder_of

_Kind = TypeVar("_Kind")
LEFT_OUT = "is not shown: it was made of given pictures (dsv edit) and may still show them."

_ABSOLUTE = re.compile(r"(?<![\w./])/(?:[^\s,;:'\"]+/)*([^\s,;:'\"/]+)/?")


@dataclass(frozen=True)
class ReleaseFacts:
    """One release file.

    Args:
        digest: SHA-256 of the file.
        size_bytes: of the file.
        support_set: what it holds.
        frames: how its images grew; empty where nobody kept that.
    """

    digest: str
    size_bytes: int
    support_set: SupportSet
    frames: list[Frame] = field(default_factory=list)

    @property
    def shows_given_pictures(self) -> bool:
        """Whether it was edited from pictures that may be private: pages are shared, and leave its images out."""
        return self.support_set.provenance.start == GIVEN_IMAGES

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in label order."""
        return self.support_set.task.class_names

    def of_class(self, label: int) -> Tensor:
        """(n,) int64: places of a class's images, largest multiplier first."""
        own = torch.nonzero(self.support_set.labels == label).flatten()
        return own[torch.argsort(self.support_set.multipliers[own], descending=True, stable=True)]

    def sums(self) -> Tensor:
        """(K,) sum of lambda of every class."""
        return class_sums(self.support_set.multipliers, self.support_set.labels, self.support_set.task.classes)


@dataclass(frozen=True)
class RunFacts:
    """One run's folder.

    Args:
        name: of the folder.
        result: what was measured; None where the run is not finished.
        releases: smallest first.
        events: in order.
        settings: every option that is known.
        ledger: what moved; of a run that nobody measured, Flower's messages, of a deployment what crossed its sockets.
        teacher_bytes: of the file of the teacher's weights; 0 where there is none.
        missing: what could not be read, or is not there, a sentence each.
    """

    name: str
    result: Result | None
    releases: list[ReleaseFacts]
    events: list[Event]
    settings: dict[str, Any]
    ledger: list[LedgerRow]
    teacher_bytes: int
    missing: list[str]

    def of_kind(self, kind: type[_Kind]) -> list[_Kind]:
        """Events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def curves(self) -> dict[int, list[IterationDone]]:
        """Iterations of every synthesis by images per class; a resumed one counts once."""
        return synthesis_curves(self.events)

    def confusion(self, model: str) -> list[ConfusionRow]:
        """Confusions of the teacher or of the newcomers."""
        return [row for row in self.result.confusions if row.model == model] if self.result else []


def collect_run(folder: Path) -> RunFacts:
    """Everything that is in a run's folder, or in a deployment's.

    Raises:
        DsvError: there is no such folder, or nothing of a run in it.
    """
    if not folder.is_dir():
        raise DsvError(f"there is no run folder {folder}; name one that 'dsv simulate' left, such as runs/latest")
    run_dir = run_folder_of(folder)
    if not is_run(run_dir):
        raise DsvError(
            f"{folder} holds no run ({RESULT_FILE}, {EVENTS_FILE} or {SETTINGS_FILE}); name a run's folder, or use "
            "'dsv gallery' for a folder of runs or releases"
        )
    missing: list[str] = []
    result = _result(run_dir, missing)
    events = _events(run_dir, missing)
    settings = result.settings if result else _settings(run_dir)
    ledger = result.ledger if result else _ledger(folder, missing)
    releases = _releases(run_dir, {run_dir, folder}, events, missing)
    if releases and not any(release.frames for release in releases):
        missing.append("No frames of the synthesis were kept, so the page cannot show how the images grew.")
    if result and not result.confusions:
        missing.append(f"{RESULT_FILE} has no confusions; a run with the present version records them.")
    name = folder.resolve().name
    # pages are shared: no folders of this machine
    told = [_ABSOLUTE.sub(r"…/\1", sentence.replace(str(run_dir), name)) for sentence in missing]
    teacher = run_dir / TEACHER_FILE
    teacher_bytes = teacher.stat().st_size if teacher.is_file() else 0
    return RunFacts(name, result, releases, events, settings, ledger, teacher_bytes, told)


def read_release(path: Path) -> ReleaseFacts:
    """A release file on its own.

    Raises:
        DsvError: it is none.
    """
    support_set = artefact.load(path)
    content = path.read_bytes()
    return ReleaseFacts(artefact.digest(content), len(content), support_set)


def _result(run_dir: Path, missing: list[str]) -> Result | None:
    path = run_dir / RESULT_FILE
    if not path.is_file():
        missing.append(
            f"There is no {RESULT_FILE}: the run is not finished, or it was no simulation. In a deployment, those "
            "alone who have images can test a newcomer: dsv bootstrap --data."
        )
        return None
    try:
        return read_result(path)
    except DsvError as error:
        missing.append(f"{error}.")
        return None


def _events(run_dir: Path, missing: list[str]) -> list[Event]:
    try:
        events = read_events(run_dir)
    except (DsvError, OSError):
        missing.append(f"The run's curves cannot be shown: {EVENTS_FILE} is damaged, or of another version.")
        return []
    if not events:
        missing.append(f"There is no {EVENTS_FILE}, or nothing in it: the curves of the run are missing.")
    over = max((at for at, event in enumerate(events) if isinstance(event, SynthesisDone)), default=-1)
    failed = [event for event in events[over + 1 :] if isinstance(event, Failed)]  # before: it went on afterwards
    missing += [f"The run ended early: {event.reason}" for event in failed]
    return events


def _ledger(folder: Path, missing: list[str]) -> list[LedgerRow]:
    try:
        return read_ledger(folder)
    except (DsvError, OSError) as error:
        damaged = (folder / LEDGER_FILE).exists()
        reason = str(error) if damaged else "there is no ledger and no message among its events"
        missing.append(f"What the run moved cannot be shown: {reason}.")
        return []


def _settings(run_dir: Path) -> dict[str, Any]:
    try:
        found = json.loads((run_dir / SETTINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return {str(name): value for name, value in found.items()} if isinstance(found, dict) else {}


def _releases(run_dir: Path, places: set[Path], events: list[Event], missing: list[str]) -> list[ReleaseFacts]:
    """Those of the stores in ``places``, and wherever else the run published."""
    stores = [place / STORE_FOLDER for place in places]
    paths = {path.stem: path for store in stores for path in sorted(store.glob(f"*{RELEASE_SUFFIX}"))}
    for event in events:
        if isinstance(event, Published) and event.digest not in paths:
            paths[event.digest] = Path(event.path)
    found = []
    for digest, path in paths.items():
        try:
            release = read_release(path)
        except (DsvError, OSError):
            missing.append(f"Release {digest[:12]}… is not in the folder, or its file was altered.")
            continue
        if release.shows_given_pictures:
            missing.append(f"Release {digest[:12]}… {LEFT_OUT}")
            continue
        frames = read_frames(run_dir, round(release.support_set.images_per_class))
        found.append(ReleaseFacts(release.digest, release.size_bytes, release.support_set, _fitting(frames, release)))
    if not found and not paths:
        missing.append("The run has published no release yet.")
    return sorted(found, key=lambda release: len(release.support_set))


def _fitting(frames: list[Frame], release: ReleaseFacts) -> list[Frame]:
    """Frames that can be of this release."""
    channels, count = release.support_set.task.channels, len(release.support_set)
    return [
        frame
        for frame in frames
        if frame.pixels.shape[1] == channels and int(frame.index.min()) >= 0 and int(frame.index.max()) < count
    ]
