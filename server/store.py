"""Where releases live. A release is a file named by its digest; it is there whole or not at all."""

from __future__ import annotations

import io
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dsv import GIVEN_IMAGES, DsvError
from protos import artefact
from protos.files import TEMPORARY_PREFIX, write_atomically, write_output
from protos.transport import DIGEST, RELEASE_SUFFIX

METADATA_FOLDER = "metadata"
"""Signed metadata of a store's releases lies in this folder of it; server/publication.py writes it."""
_HOUR_S, _MONTH_S = 3600.0, 30 * 86_400.0
_UNFINISHED, _FINISHED = ".unfinished-", ".finished-"
_ABANDONED_AFTER_S = {
    f"{TEMPORARY_PREFIX}*": _HOUR_S,
    f"{_UNFINISHED}*.partial": _HOUR_S,
    f"{_UNFINISHED}*.state": _MONTH_S,
    f"{_FINISHED}*": _MONTH_S,
}
"""After so long without a change nobody can be at such a file, or is likely to go on with it."""


class UnknownReleaseError(DsvError):
    """The store has no release of that digest."""


@dataclass(frozen=True)
class StoredRelease:
    """A release in a store."""

    digest: str
    size_bytes: int
    published_unix_s: int
    modified_unix_ns: int = 0
    """Tells whether the file was written since it was last looked at."""


class ReleaseStore(ABC):
    """A set of releases; publishing the same bytes twice is publishing them once."""

    @abstractmethod
    def publish(self, content: bytes) -> str:
        """Add a release and return its digest.

        Raises:
            ArtefactError: ``content`` is no valid release file; nothing is stored.
            DsvError: it was made of given pictures, or cannot be written; nothing is stored.
        """

    @abstractmethod
    def list(self) -> list[StoredRelease]:
        """All releases, newest first."""

    @abstractmethod
    def read(self, digest: str) -> bytes:
        """The file of a release.

        Raises:
            UnknownReleaseError: there is none of that digest.
        """

    @abstractmethod
    def open(self, digest: str) -> BinaryIO:
        """The file of a release, open for reading; the caller closes it.

        Raises:
            UnknownReleaseError: there is none of that digest.
        """

    @property
    def metadata_folder(self) -> Path | None:
        """Where signed metadata lies, if this kind of store can have some."""
        return None


class MemoryStore(ReleaseStore):
    """Releases that go with the process; for tests and notebooks."""

    def __init__(self) -> None:
        self._contents: dict[str, bytes] = {}

    def publish(self, content: bytes) -> str:
        _check_publishable(content)
        name = artefact.digest(content)
        self._contents.setdefault(name, content)
        return name

    def list(self) -> list[StoredRelease]:
        newest_first = reversed(self._contents.items())
        return [StoredRelease(name, len(content), 0) for name, content in newest_first]

    def read(self, digest: str) -> bytes:
        if digest not in self._contents:
            raise _unknown(digest)
        return self._contents[digest]

    def open(self, digest: str) -> BinaryIO:
        return io.BytesIO(self.read(digest))


class DirectoryStore(ReleaseStore):
    """Releases as files ``<digest>.dsv`` of one folder, which is made when it is not there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DsvError(f"cannot make the store {folder}: {error.strerror}; choose another folder") from None

    def path(self, digest: str) -> Path:
        """Where the file of a release is."""
        return self._folder / (digest + RELEASE_SUFFIX)

    def state_path(self, name: str) -> Path:
        """Where an unfinished synthesis may keep its state, for a month; no release, and never listed."""
        return self._folder / f"{_UNFINISHED}{name}.state"

    def finished(self, name: str) -> str | None:
        """The digest that ``mark_finished`` noted under a name, where its release is still in the store."""
        with suppress(OSError):
            digest = self._mark(name).read_text("ascii", "replace")
            if DIGEST.fullmatch(digest) and self.path(digest).exists():
                return digest
        return None

    def mark_finished(self, name: str, digest: str) -> None:
        """Note which release came of a synthesis, for a run of several that is killed before its last.

        Raises:
            DsvError: it cannot be written.
        """
        write_output(self._mark(name), digest.encode("ascii"), "the mark")

    def forget_finished(self, names: Iterable[str]) -> None:
        """Take such notes away: the run is over."""
        for name in names:
            self._mark(name).unlink(missing_ok=True)

    def _mark(self, name: str) -> Path:
        return self._folder / f"{_FINISHED}{name}"

    @property
    def metadata_folder(self) -> Path:
        return self._folder / METADATA_FOLDER

    def publish(self, content: bytes) -> str:
        _check_publishable(content)
        name = artefact.digest(content)
        try:
            self._clear_abandoned()
            if not self._holds(name, content):
                write_atomically(self.path(name), content)
        except OSError as error:
            raise DsvError(f"cannot publish into {self._folder}: {error.strerror}; free space or rights") from None
        return name

    def list(self) -> list[StoredRelease]:
        found = []
        for name in os.listdir(self._folder):  # a glob would take a folder that it may not read for an empty one
            digest = name.removesuffix(RELEASE_SUFFIX)
            with suppress(FileNotFoundError):  # withdrawn in between
                if digest != name and DIGEST.fullmatch(digest):
                    found.append((digest, (self._folder / name).stat()))
        found.sort(key=lambda entry: (-entry[1].st_mtime_ns, entry[0]))
        return [StoredRelease(name, stat.st_size, int(stat.st_mtime), stat.st_mtime_ns) for name, stat in found]

    def read(self, digest: str) -> bytes:
        with self.open(digest) as opened:
            return opened.read()

    def open(self, digest: str) -> BinaryIO:
        if not DIGEST.fullmatch(digest):
            raise _unknown(digest)
        try:
            return self.path(digest).open("rb")
        except FileNotFoundError:
            raise _unknown(digest) from None

    def _holds(self, name: str, content: bytes) -> bool:
        """Whether the file is there unharmed; publishing again mends one that was altered."""
        try:
            return self.path(name).read_bytes() == content
        except OSError:
            return False

    def _clear_abandoned(self) -> None:
        """Remove what processes that were killed left, while publishing or in a synthesis."""
        for pattern, after_s in _ABANDONED_AFTER_S.items():
            for path in self._folder.glob(pattern):
                with suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime > after_s:
                        path.unlink()


def _check_publishable(content: bytes) -> None:
    if artefact.decode(content).provenance.start == GIVEN_IMAGES:
        raise DsvError(
            "this set was made of given pictures (dsv edit) and may still show them; publish another one, or give the "
            "file itself to whoever may see them"
        )


def _unknown(digest: str) -> UnknownReleaseError:
    return UnknownReleaseError(f"no release {digest[:80]!r} in the store; list the releases to see what there is")
