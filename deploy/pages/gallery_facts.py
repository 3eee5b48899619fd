"""Every run and release below a folder, with the figures that any two of them are compared by."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deploy.pages import words
from deploy.pages.facts import LEFT_OUT, ReleaseFacts, RunFacts, collect_run, read_release
from deploy.pages.headline import best_newcomer, newcomer_in_words
from deploy.pages.provenance import options_of
from deploy.result import Result
from deploy.units import short_bytes
from dsv import DsvError
from protos.transport import RELEASE_SUFFIX
from server.run_folder import RUN_NAME, is_run, run_folder_of

MOST_ENTRIES = 60
_MOST_DEPTH = 4
_MOST_FOLDERS = 5_000
_LABELS = (
    "accuracy",
    "download",
    "newcomer",
    "as many random real images",
    "teacher's weights",
    "teacher",
    "images",
    "classes",
    "federation",
    "synthesis took",
    "seed",
    "options not default",
    "SHA-256",
)
"""What every entry says, in this order; what it does not know is a dash."""


@dataclass(frozen=True)
class Entry:
    """A run, or a release on its own.

    Args:
        name: of the run's folder, or the digest's beginning.
        kind: ``run`` or ``release``.
        release: the largest one; None where there is none, or none that a page may show.
        figures: (label, value), the same labels for every entry.
        missing: what could not be read, or is not shown.
    """

    name: str
    kind: str
    release: ReleaseFacts | None
    figures: list[tuple[str, str]]
    missing: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Found:
    """What is in a folder: entries newest first, how many there were, and files that are no releases."""

    entries: list[Entry]
    total: int
    unreadable: list[str]


def find_entries(folder: Path) -> Found:
    """Runs and releases at any depth up to four below ``folder``, links not followed.

    Raises:
        DsvError: no such folder, or neither a run nor a release in it.
    """
    if not folder.is_dir():
        raise DsvError(f"there is no folder {folder}; name one that holds runs or releases, such as runs")
    runs, files = _paths(folder)
    newest = sorted([*runs, *files], key=lambda path: (-_made_s(path), path.name))
    entries, unreadable = [], []
    for path in newest[:MOST_ENTRIES]:
        try:
            entries.append(_run_entry(path) if path in runs else _release_entry(path))
        except (DsvError, OSError) as error:
            unreadable.append(words.short(str(error).replace(f"{folder}{os.sep}", ""), 300))
    if not entries and not unreadable:
        raise DsvError(f"{folder} holds neither a run nor a {RELEASE_SUFFIX} file; name a folder such as runs")
    return Found(entries, len(newest), unreadable)


def _paths(folder: Path) -> tuple[set[Path], list[Path]]:
    runs: set[Path] = set()
    files: list[Path] = []
    depth = len(folder.parts)
    for number, (root, folders, names) in enumerate(os.walk(folder)):
        path = Path(root)
        if number > _MOST_FOLDERS:
            break
        if is_run(run_folder_of(path)):
            runs.add(path)
            folders.clear()  # its releases belong to it
            continue
        files += [path / name for name in names if name.endswith(RELEASE_SUFFIX)]
        if len(path.parts) - depth >= _MOST_DEPTH:
            folders.clear()
    return runs, files


def _made_s(path: Path) -> float:
    """When a run began, as its folder's name has it, or when a file was written."""
    with suppress(ValueError):
        return datetime.strptime(path.name, RUN_NAME).replace(tzinfo=UTC).timestamp()
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _run_entry(path: Path) -> Entry:
    run = collect_run(path)
    release = run.releases[-1] if run.releases else None
    figures = {**_of_release(release), **_of_settings(run.settings)}
    if run.result:
        figures |= _of_result(run, run.result)
    return Entry(run.name, "run", release, _ordered(figures), run.missing)


def _release_entry(path: Path) -> Entry:
    release = read_release(path)
    name, figures = release.digest[:12], _ordered(_of_release(release))
    if release.shows_given_pictures:
        return Entry(name, "release", None, figures, [f"The release {LEFT_OUT}"])
    return Entry(name, "release", release, figures)


def _ordered(figures: dict[str, str]) -> list[tuple[str, str]]:
    return [(label, figures.get(label, words.NONE)) for label in _LABELS]


def _of_release(release: ReleaseFacts | None) -> dict[str, str]:
    if release is None:
        return {}
    task, origin = release.support_set.task, release.support_set.provenance
    return {
        "images": f"{words.per_class(release.support_set.images_per_class)}, {release.size_bytes:,} bytes",
        "classes": f"{task.classes}, {task.channels} {words.TIMES} {task.image_size_px} {words.TIMES} "
        f"{task.image_size_px} pixels",
        "teacher": words.short(origin.teacher_architecture),
        "seed": str(origin.seed),
        "SHA-256": release.digest,
    }


def _of_settings(settings: dict[str, Any]) -> dict[str, str]:
    if not settings:
        return {}
    changed = [f"{option.name} {option.value}" for option in options_of(settings) if option.changed]
    return {"options not default": words.short(", ".join(changed), 600) or "none"}


def _of_result(run: RunFacts, result: Result) -> dict[str, str]:
    figures = {
        "teacher": f"{words.short(result.teacher.architecture)}, {words.share(result.teacher.accuracy)}",
        "teacher's weights": short_bytes(result.teacher.weights_bytes),
        "synthesis took": f"{result.seconds.synthesis:,.0f} s",
    }
    moved = [row for row in result.ledger if row.purpose == "weights"]
    if moved:
        up, down = (sum(row.bytes for row in moved if row.direction == way) for way in ("up", "down"))
        clients = words.plural(result.clients, "client")
        rounds = words.plural(max(row.round for row in moved), "round")
        figures["federation"] = f"{clients}, {rounds}, {short_bytes(up)} up, {short_bytes(down)} down"
    best = best_newcomer(result)
    if best:
        real = [
            rival
            for rival in result.rivals
            if rival.name.startswith("random_real") and rival.images_per_class == best.images_per_class
        ]
        figures["accuracy"] = words.share(best.accuracy_mean, best.accuracy_std)
        figures["download"] = short_bytes(best.downloaded_bytes)
        figures["newcomer"] = newcomer_in_words(best)
        if real:
            rival = max(real, key=lambda row: row.accuracy_mean)
            figures["as many random real images"] = (
                f"{words.share(rival.accuracy_mean, rival.accuracy_std)}, {short_bytes(rival.downloaded_bytes)}"
            )
    return figures
