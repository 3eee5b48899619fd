"""Where releases live. A release is a file named by its digest; it is there whole or not at all."""

from __future__ import annotations

import os
import re
import tempfile
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from dsv import DsvError
from protos import artefact

SUFFIX = ".dsv"
_DIGEST = re.compile(r"[0-9a-f]{64}")


class UnknownReleaseError(DsvError):
    """The store has no release of that digest."""


@dataclass(frozen=True)
class StoredRelease:
    """A release in a store."""

    digest: str
    size_bytes: int
    published_unix_s: int


class ReleaseStore(ABC):
    """A set of releases; publishing the same bytes twice is publishing them once."""

    @abstractmethod
    def publish(self, content: bytes) -> str:
        """Add a release and return its digest.

        Raises:
            ArtefactError: ``content`` is no valid release file; nothing is stored.
            DsvError: it cannot be written; nothing is stored.
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


class MemoryStore(ReleaseStore):
    """Releases that go with the process; for tests and notebooks."""

    def __init__(self) -> None:
        self._contents: dict[str, bytes] = {}

    def publish(self, content: bytes) -> str:
        artefact.decode(content)
        name = artefact.digest(content)
        self._contents.setdefault(name, content)
        return name

    def list(self) -> list[StoredRelease]:
        newest_first = reversed(self._contents.items())
        return [StoredRelease(name, len(content), 0) for name, content in newest_first]

    def read(self, digest: str) -> bytes:
        if digest not in self._contents:
            raise UnknownReleaseError(
                f"no release {digest[:80]!r} in the store; list the releases to see what there is"
            )
        return self._contents[digest]


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
        return self._folder / (digest + SUFFIX)

    def state_path(self, name: str) -> Path:
        """Where an unfinished synthesis may keep its state; no release, and never listed."""
        return self._folder / f".unfinished-{name}.state"

    def publish(self, content: bytes) -> str:
        artefact.decode(content)
        name = artefact.digest(content)
        if not self.path(name).exists():
            self._write_atomically(self.path(name), content)
        return name

    def list(self) -> list[StoredRelease]:
        found = [(path.stem, path.stat()) for path in self._folder.glob(f"*{SUFFIX}") if _DIGEST.fullmatch(path.stem)]
        found.sort(key=lambda entry: (-entry[1].st_mtime_ns, entry[0]))
        return [StoredRelease(name, stat.st_size, int(stat.st_mtime)) for name, stat in found]

    def read(self, digest: str) -> bytes:
        if not _DIGEST.fullmatch(digest) or not self.path(digest).exists():
            raise UnknownReleaseError(
                f"no release {digest[:80]!r} in the store; list the releases to see what there is"
            )
        return self.path(digest).read_bytes()

    def _write_atomically(self, path: Path, content: bytes) -> None:
        """Write beside, flush to disk, rename: a reader or a crash never sees half a release."""
        temporary = ""
        try:
            with tempfile.NamedTemporaryFile(dir=self._folder, prefix=".publishing-", delete=False) as opened:
                temporary = opened.name
                opened.write(content)
                opened.flush()
                os.fsync(opened.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except OSError as error:
            if temporary:
                Path(temporary).unlink(missing_ok=True)
            raise DsvError(f"cannot publish into {self._folder}: {error.strerror}; free space or rights") from None
