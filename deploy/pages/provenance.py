"""Where a run comes from and how to do it again. Folders of this machine are cut to their names: pages are shared."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from deploy.options import HarnessSettings
from deploy.pages import words
from deploy.pages.facts import ReleaseFacts, RunFacts
from protos.settings import IMAGEFOLDER, RunSettings

_OF_THE_RUN = ("run-dir", "store")
_PATHS = ("data-root", "partition-file", "backbone", "start", "run-dir", "store")
_OF_FOLDERS = ("classes", "channels", "image-size-px")
_MADE_BY_THE_RUN = "partition.json"
_MOST_CHARS = 400


@dataclass(frozen=True)
class Option:
    """One option of a run; ``changed`` where it is not the default."""

    name: str
    value: str
    changed: bool


@dataclass(frozen=True)
class ReleaseOrigin:
    """What a release says of itself."""

    title: str
    digest: str
    teacher_sha256: str
    teacher: str
    seed: int
    versions: str


@dataclass(frozen=True)
class Provenance:
    """The last section of a report."""

    releases: list[ReleaseOrigin]
    versions: list[tuple[str, str]]
    seconds: list[tuple[str, str]]
    options: list[Option]
    commands: list[str]


def provenance_of(run: RunFacts) -> Provenance:
    """Digests, versions, times, options, and the commands that do the run again."""
    seconds = vars(run.result.seconds) if run.result else {}
    return Provenance(
        releases=[_origin(release) for release in run.releases],
        versions=sorted(run.result.versions.items()) if run.result else [],
        seconds=[(name, f"{value:,.1f} s") for name, value in seconds.items()],
        options=options_of(run.settings),
        commands=commands_of(run),
    )


def options_of(settings: Mapping[str, Any]) -> list[Option]:
    """Every option with its value; paths without their folders."""
    defaults = _defaults()
    found = []
    for key, value in _told(settings):
        changed = key not in defaults or defaults[key] != value
        found.append(Option(key, words.short(_without_folders(key, value), _MOST_CHARS), changed))
    return sorted(found, key=lambda option: (not option.changed, option.name))


def commands_of(run: RunFacts) -> list[str]:
    """Commands for a shell, made of the options that are not defaults."""
    if not run.result:  # a deployment's devices are not to be had by a command, nor is what was cut off
        return []
    known = _defaults()
    changed = sorted((key, value) for key, value in _told(run.settings) if known.get(key, value) != value)
    simulate = " ".join(["dsv simulate", *(_argument(key, value) for key, value in changed)])
    return [simulate if changed else "dsv demo", "dsv report runs/latest"]


def _argument(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"--{key}" if value else f"--no-{key}"
    return f"--{key} {shlex.quote(_without_folders(key, value))}"


def _told(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Options that say what was done, by the command line's names; not where it was written."""
    made_here = PurePath(str(settings.get("run-dir") or "")) / _MADE_BY_THE_RUN
    for key, value in settings.items():
        made = key == "partition-file" and PurePath(str(value)) == made_here
        unread = key in _OF_FOLDERS and settings.get("data") != IMAGEFOLDER  # a known data set has its own
        if key not in _OF_THE_RUN and not made and not unread:
            yield key, value


def _without_folders(key: str, value: Any) -> str:
    text = "".join(c if c.isprintable() else "�" for c in str(value))
    path = PurePath(text)
    return f"…/{path.name}" if key in _PATHS and path.is_absolute() else text


def _defaults() -> dict[str, Any]:
    return {**RunSettings().to_run_config(), **HarnessSettings().to_config()}


def _origin(release: ReleaseFacts) -> ReleaseOrigin:
    origin = release.support_set.provenance
    versions = ", ".join(f"{name} {value}" for name, value in sorted(origin.versions.items()))
    return ReleaseOrigin(
        title=words.per_class(release.support_set.images_per_class),
        digest=release.digest,
        teacher_sha256=words.short(origin.teacher_sha256, 64),
        teacher=words.short(origin.teacher_architecture),
        seed=origin.seed,
        versions=words.short(versions, _MOST_CHARS),
    )
